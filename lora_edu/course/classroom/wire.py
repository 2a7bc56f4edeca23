"""Messages between the grader and a student's process: a length, then one encoded value; nothing that is read can run."""

import socket
import time
from typing import Any

from lora_edu.course.classroom.crossing import MOST_BYTES, CannotCross, decode, encode


class Silence(Exception):
    """The other side said nothing in time (`late`), or is gone."""

    def __init__(self, late: bool) -> None:
        super().__init__("late" if late else "gone")
        self.late = late


def send(wire: socket.socket, value: Any) -> None:
    """Raises CannotCross for what is no plain data, Silence where nobody reads."""
    message = encode(value)
    try:
        wire.sendall(len(message).to_bytes(8, "big") + message)
    except TimeoutError:
        raise Silence(late=True) from None
    except OSError:
        raise Silence(late=False) from None


def receive(wire: socket.socket, deadline: float | None = None) -> Any:
    """The next message; `deadline` as `time.monotonic()` counts. Raises Silence, and CannotCross for a forged or a huge one."""
    size = int.from_bytes(_read(wire, 8, deadline), "big")
    if size > MOST_BYTES:
        raise CannotCross(f"a message of {size:,} bytes")
    return decode(_read(wire, size, deadline))


def _read(wire: socket.socket, size: int, deadline: float | None) -> bytes:
    got = bytearray()
    while len(got) < size:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise Silence(late=True)
        try:
            wire.settimeout(left)
            part = wire.recv(min(size - len(got), 1 << 20))
        except TimeoutError:
            raise Silence(late=True) from None
        except OSError:
            raise Silence(late=False) from None
        if not part:
            raise Silence(late=False)
        got += part
    return bytes(got)
