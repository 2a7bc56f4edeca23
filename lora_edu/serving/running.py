"""The server as a process: a port, a log, and an end in which nothing that was taken is lost. Chapter 15."""

import asyncio
import errno
import ipaddress
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lora_edu.errors import ServingError

log = logging.getLogger("lora_edu.serving")
EXTRA = "lora-edu serve needs packages of the extra `serve`: pip install 'lora-edu[serve]'"


def require_extra() -> None:
    """Raise ServingError, naming the extra, where FastAPI, uvicorn or prometheus-client are not installed."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ServingError(f"{EXTRA} ({error.name} is missing)") from None


def check_host(host: str, api_key: str | None) -> None:
    """Raise ServingError where others could reach the server and it asks for no key."""
    if api_key is not None:
        if len(api_key) < 16 or not api_key.isascii() or any(c.isspace() for c in api_key):
            raise ServingError(
                "the API key must have at least 16 ASCII characters and no blank: openssl rand -hex 16 makes one"
            )
        return
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise ServingError(
            f"on {host} others could reach this server: set an API key (the environment variable LORA_EDU_API_KEY), or leave --host out"
        )


def bind(host: str, port: int) -> socket.socket:
    """A socket on this address; port 0 takes a free one. Raises ServingError where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    place = socket.socket(family, socket.SOCK_STREAM)
    if sys.platform != "win32":  # where this would share the port with another server
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind((host, port))
        place.listen(512)  # at once, so that a second server is refused before it has read a model
    except (OSError, OverflowError) as error:
        place.close()
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise ServingError(
                f"port {port} is in use, perhaps by another server: choose another --port (0 takes a free one)"
            ) from None
        raise ServingError(f"there is no listening on {host}, port {port}: {error}") from None
    return place


def make_server(app: Any, close: Callable[[float], None], drain_seconds: float) -> Any:
    """A uvicorn server of `app` that ends as `run` says."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            # uvicorn's own raises the signal again in the end, and the process would die of it before it has cleaned up.
            if threading.current_thread() is not threading.main_thread():
                yield
                return
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            log.info("stopping: no more requests are taken, what was asked is answered (%g s at most)", drain_seconds)
            loop = asyncio.get_running_loop()
            ending = loop.run_in_executor(None, close, drain_seconds)
            await super().shutdown(sockets)
            if self.force_exit:  # a second Ctrl-C
                await loop.run_in_executor(None, close, 0.0)
            await ending
            log.info("stopped")

    return Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,  # it would write what stands behind the question mark
            server_header=False,
            date_header=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=20,
            timeout_graceful_shutdown=int(drain_seconds) + 10,
        )
    )


def run(app: Any, place: socket.socket, close: Callable[[float], None], drain_seconds: float) -> None:
    """Serve until SIGTERM or Ctrl-C. Then no connection is taken any more, and what was asked is answered within `drain_seconds`.

    `close(seconds)` ends the engines: it answers what they took and returns. A second Ctrl-C does not wait for the answers.
    """
    make_server(app, close, drain_seconds).run(sockets=[place])
