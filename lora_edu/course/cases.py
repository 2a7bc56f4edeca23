"""Which random cases a checker draws: new ones each time; or, where a copy bears a seat's number, always that seat's.

A teacher who hands out a copy for each seat (`lora-edu course release --roster`) can make a student's cases again, to the digit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from lora_edu.course.card import Card

_seat = ""  # the number of this copy; none: new cases each time
_drawing: list[str] = []  # the exercise that is being checked, and "." for each draw it has made


def seat(number: str) -> Card:
    """Make this copy the one of seat `number`: from now on every check draws the cases of that seat."""
    global _seat
    _seat = str(number)
    return Card(f"This copy is number {_seat}. Its exercises try your code on cases of their own, the same each time.")


def has_seat() -> bool:
    """Whether this copy was handed out with a number, and so without answers."""
    return bool(_seat)


@contextmanager
def seated(number: str) -> Iterator[None]:
    """Inside, checks draw the cases of seat `number`; "" is none."""
    global _seat
    before, _seat = _seat, str(number)
    try:
        yield
    finally:
        _seat = before


@contextmanager
def drawing_for(exercise: str) -> Iterator[None]:
    """Inside, draws are those of `exercise` at this seat, counted from the first."""
    before = list(_drawing)
    _drawing[:] = [exercise]
    try:
        yield
    finally:
        _drawing[:] = before


def drawn() -> int | None:
    """The next number (31 bits) of this seat for the exercise that is being checked; None where this copy has no seat."""
    if not _seat:
        return None
    number = sha256("\0".join((_seat, *_drawing)).encode()).digest()
    _drawing.append(".")
    return int.from_bytes(number[:4], "big") >> 1
