"""What every request passes on its way in and out: who may come in, how much may be brought, what is counted and what is logged. Chapter 15.

The log has a line for each request: method, the route's pattern, status, milliseconds. Nothing of what was asked or answered is in it, no
query, no name, and no traceback, which would quote values.
"""

import asyncio
import hmac
import json
import logging
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from lora_edu.serving.asked import Refused
from lora_edu.serving.limits import Limits
from lora_edu.serving.metrics import Metrics

log = logging.getLogger("lora_edu.serving")
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

OPEN = {"/", "/page.css", "/page.js", "/health"}  # no key needed: they hold nothing
LOCAL = {"127.0.0.1", "localhost", "[::1]", "::1"}
FAILED = "the server failed at this request; it goes on"
_SWALLOWED = 20  # times the limit: what is read of a body that is too large, so that its sender hears why


class Door:
    """ASGI middleware, the outermost one. Without an `api_key` only requests that name this machine itself come in: a page of another
    site, opened in a browser here, could otherwise ask under a name of its own that leads to this machine (DNS rebinding)."""

    def __init__(self, app: Any, limits: Limits, metrics: Metrics, api_key: str | None) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self.key = api_key.encode() if api_key else None

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def counted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._may_enter(scope)
            await self.app(scope, await self._with_body(scope, receive), counted)
        except Refused as refused:
            if not status:
                await _answer(counted, refused)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            log.error("%s at %s:%s", type(error).__name__, where.filename.rpartition("/")[2], where.lineno)
            if not status:
                await _answer(counted, Refused(500, FAILED))
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            self.metrics.requests.labels(route, str(status or "gone")).inc()
            log.info("%s %s %s %.0f ms", scope["method"], route, status or "gone", 1000 * (time.monotonic() - began))

    def _may_enter(self, scope: Any) -> None:
        headers = {key.lower(): value for key, value in scope["headers"]}
        if self.key is None:
            host = headers.get(b"host", b"").decode("latin-1")
            name = host if host.endswith("]") or (host.count(":") != 1 and "]" not in host) else host.rpartition(":")[0]
            if name not in LOCAL:
                raise Refused(403, "without an API key this server answers to localhost alone", code="wrong_host")
        elif scope["path"] not in OPEN:
            given = headers.get(b"authorization", b"")
            kind, _, key = given.partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(key.strip(), self.key):
                raise Refused(
                    401, "a wrong API key, or none: send it as Authorization: Bearer KEY", code="invalid_api_key"
                )
        if scope["method"] == "POST" and not headers.get(b"content-type", b"").lower().startswith(b"application/json"):
            raise Refused(415, "send JSON, with Content-Type: application/json")  # which no form of another site can

    async def _with_body(self, scope: Any, receive: Receive) -> Receive:
        """`receive` that gives the whole body at once, and then what comes after it. Raises Refused (413, 408)."""
        if scope["method"] not in ("POST", "PUT", "PATCH", "DELETE"):
            return receive
        try:
            body = await asyncio.wait_for(self._body(receive), self.limits.body_seconds)
        except TimeoutError:
            raise Refused(408, f"the request did not arrive within {self.limits.body_seconds:g} s") from None
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Any:
            return waiting.pop() if waiting else await receive()

        return again

    async def _body(self, receive: Receive) -> bytes:
        limit, size, parts = self.limits.body_bytes, 0, []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(400, "the client hung up")
            size += len(message.get("body", b""))
            if size <= limit:
                parts.append(message.get("body", b""))
            if not message.get("more_body") or size > _SWALLOWED * limit:
                break
        if size > limit:
            raise Refused(413, f"a request may have {limit:,} bytes, and this one has more", code="request_too_large")
        return b"".join(parts)


async def _answer(send: Send, refused: Refused) -> None:
    body = json.dumps(refused.body(), ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refused.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refused.status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
