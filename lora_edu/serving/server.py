"""The HTTP API: OpenAI's /v1/chat/completions and /v1/models, adapters that come and go, health, metrics, and a page. Chapter 15."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from lora_edu.errors import AdapterError, BusyError, CheckpointError, LoRAEduError, ServingError
from lora_edu.serving import asked as reading
from lora_edu.serving.asked import Asked, Refused
from lora_edu.serving.catalogue import Catalogue
from lora_edu.serving.door import FAILED, Door
from lora_edu.serving.engine import Engine, Piece, Question, Ticket
from lora_edu.serving.metrics import Metrics

PAGE = {"/": ("index.html", "text/html"), "/page.css": ("page.css", "text/css"), "/page.js": ("page.js", "text/javascript")}  # fmt: skip
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def create_app(catalogue: Catalogue, api_key: str | None = None) -> Any:
    """The ASGI application that serves `catalogue`. With an `api_key` every request but health and the page must bring it."""
    metrics = Metrics()
    for engine in catalogue.engines:
        _watch(metrics, engine)
    metrics.watch("adapters", lambda: len(catalogue.all()) - 1)
    app = FastAPI(title="lora-edu", docs_url=None, redoc_url=None, openapi_url=None)
    app.exception_handler(HTTPException)(_unknown)
    app.exception_handler(Refused)(_refused)
    app.exception_handler(Exception)(_failed)

    @app.get("/health")
    async def health() -> Any:
        counts = {engine.name: engine.counts() for engine in catalogue.engines}
        return {
            "status": "ok",
            "engines": {name: {"waiting": waiting, "running": running} for name, (waiting, running) in counts.items()},
        }

    @app.get("/metrics")
    async def numbers() -> Any:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> Any:
        return {"object": "list", "data": [served.card() for served in catalogue.all()]}

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> Any:
        served, _ = catalogue.find(model)
        return served.card() | {"id": model}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Any:
        wanted = reading.read(reading.parse(await request.body()), catalogue.limits)
        _, engine, question = await run_in_threadpool(catalogue.question, wanted)
        talk = _Talk(engine, question, wanted, metrics)
        if wanted.stream:
            return StreamingResponse(
                talk.events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
            )
        return await talk.whole(request)

    @app.get("/v1/adapters")
    async def adapters() -> Any:
        return {"object": "list", "data": [served.card() for served in catalogue.all()[1:]]}

    @app.post("/v1/adapters", status_code=201)
    async def load_adapter(request: Request) -> Any:
        content = reading.parse(await request.body())
        name, folder = content.get("name"), content.get("folder")
        if set(content) - {"name", "folder"} or not isinstance(folder, str) or not folder:
            raise Refused(
                400, 'give {"folder": …} inside the folder that this server may load from, and a "name"', "folder"
            )
        path = catalogue.inside(folder)
        name = path.name if name is None else name
        if not isinstance(name, str) or len(name) > 100:
            raise Refused(400, "name must be a text of at most 100 characters", "name")
        try:
            served = await run_in_threadpool(catalogue.add, name, path)
        except (AdapterError, CheckpointError) as error:
            raise Refused(400, str(error), "folder") from None
        except ServingError as error:
            raise Refused(503, str(error)) from None
        except LoRAEduError as error:
            raise Refused(400, str(error), "folder") from None
        return served.card()

    @app.delete("/v1/adapters/{name}")
    async def unload_adapter(name: str) -> Any:
        try:
            await run_in_threadpool(catalogue.remove, name)
        except ServingError as error:
            raise Refused(503, str(error)) from None
        return {"id": name, "object": "model", "deleted": True}

    for path, (name, kind) in PAGE.items():
        app.add_api_route(path, _file(name, kind), methods=["GET"])
    return Door(app, catalogue.limits, metrics, api_key)


def _watch(metrics: Metrics, engine: Engine) -> None:
    metrics.watch("waiting", lambda: engine.counts()[0], engine.name)
    metrics.watch("running", lambda: engine.counts()[1], engine.name)


def _file(name: str, kind: str) -> Any:
    content = (files("lora_edu.serving") / "page" / name).read_bytes()

    async def page() -> Any:
        return Response(
            content, media_type=f"{kind}; charset=utf-8",
            headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"},
        )  # fmt: skip

    return page


async def _refused(request: Request, refused: Any) -> Any:
    headers = {"Retry-After": "1"} if refused.status in (429, 503) else None
    return JSONResponse(refused.body(), refused.status, headers)


async def _failed(request: Request, error: Exception) -> Any:
    return JSONResponse(Refused(500, FAILED).body(), 500)


async def _unknown(request: Request, error: Any) -> Any:
    words = {404: "there is nothing at this address", 405: "this address does not take that method"}
    refused = Refused(error.status_code, words.get(error.status_code, str(error.detail)))
    return JSONResponse(refused.body(), refused.status, error.headers)


class _Talk:
    """One question on its way through an engine, and its answer in OpenAI's form."""

    def __init__(self, engine: Engine, question: Question, asked: Asked, metrics: Metrics) -> None:
        self.engine, self.question, self.asked, self.metrics = engine, question, asked, metrics
        self.id, self.created, self.began = f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), time.monotonic()
        self.pieces: asyncio.Queue[Piece] = asyncio.Queue()
        self.ticket = self._submit()

    def _submit(self) -> Ticket:
        loop = asyncio.get_running_loop()

        def deliver(piece: Piece) -> None:  # in the engine's thread
            if not loop.is_closed():
                loop.call_soon_threadsafe(self.pieces.put_nowait, piece)

        try:
            return self.engine.submit(self.question, deliver)
        except BusyError as error:
            raise Refused(429, str(error), code="queue_full") from None
        except ServingError as error:
            raise Refused(503, str(error)) from None
        except AdapterError as error:
            raise Refused(400, str(error), "model") from None

    def _ended(self, piece: Piece) -> None:
        """Count an answer that has ended."""
        assert piece.finish is not None
        self.metrics.answers.labels(self.engine.name, piece.finish).inc()
        self.metrics.tokens.labels(self.engine.name, "prompt").inc(len(self.question.prompt))
        self.metrics.tokens.labels(self.engine.name, "completion").inc(piece.tokens)
        self.metrics.seconds.labels(self.engine.name).observe(time.monotonic() - self.began)

    def _fault(self, piece: Piece) -> Refused | None:
        """What an answer's end says of it, if that is no answer."""
        if piece.finish == "timeout":
            return Refused(
                504,
                f"no whole answer within {self.question.seconds:g} s: ask for fewer tokens, or again later",
                code="timeout",
            )
        if piece.finish in ("error", "cancelled"):
            return Refused(503, piece.error or "the answer was broken off: the server is closing")
        return None

    # -- at once ------------------------------------------------------------------------------------------------------
    async def whole(self, request: Request) -> Any:
        """The whole answer as one object; a client that hangs up meanwhile cancels it."""
        gone = asyncio.ensure_future(_hung_up(request))
        text = ""
        try:
            while True:
                next_piece = asyncio.ensure_future(self.pieces.get())
                await asyncio.wait({next_piece, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not next_piece.done():
                    next_piece.cancel()
                    self._ended(Piece("", 0, "cancelled"))
                    return Response(status_code=499)  # which nobody reads
                piece = next_piece.result()
                text += piece.text
                if piece.finish is not None:
                    break
        finally:
            gone.cancel()
            self.ticket.cancel()
        self._ended(piece)
        if fault := self._fault(piece):
            raise fault
        choice = {"index": 0, "message": {"role": "assistant", "content": text, "refusal": None}, "logprobs": None, "finish_reason": piece.finish}  # fmt: skip
        return JSONResponse(self._object("chat.completion", [choice]) | {"usage": self._usage(piece)})

    # -- as it comes --------------------------------------------------------------------------------------------------
    async def events(self) -> AsyncIterator[str]:
        """Server-sent events. When the client hangs up the generator is closed, which cancels the ticket."""
        ended = False
        try:
            yield self._event([self._delta({"role": "assistant", "content": ""})])
            while not ended:
                piece = await self.pieces.get()
                ended = piece.finish is not None
                if ended:
                    self._ended(piece)
                    if fault := self._fault(piece):
                        yield _sse(fault.body())
                        return
                if piece.text:
                    yield self._event([self._delta({"content": piece.text})])
            yield self._event([self._delta({}, piece.finish)])
            if self.asked.with_usage:
                yield _sse(self._object("chat.completion.chunk", []) | {"usage": self._usage(piece)})
            yield "data: [DONE]\n\n"
        finally:
            self.ticket.cancel()
            if not ended:
                self._ended(Piece("", 0, "cancelled"))

    def _delta(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}

    def _event(self, choices: list[dict[str, Any]]) -> str:
        more = {"usage": None} if self.asked.with_usage else {}
        return _sse(self._object("chat.completion.chunk", choices) | more)

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.asked.model, "choices": choices}

    def _usage(self, piece: Piece) -> dict[str, int]:
        read = len(self.question.prompt)
        return {"prompt_tokens": read, "completion_tokens": piece.tokens, "total_tokens": read + piece.tokens}


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _sse(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
