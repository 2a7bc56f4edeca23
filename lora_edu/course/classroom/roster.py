"""A class: its students' names, the folder of each, and the number of each one's seat."""

import csv
import re
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from lora_edu.errors import LoRAEduError

KEY = "lora-edu"  # what seats are drawn from where a teacher names nothing else
_MOST = 2_000  # students


class ClassroomError(LoRAEduError, ValueError):
    """A roster, a path or a folder of submissions that cannot be used."""


class Seat(NamedTuple):
    """A student, as the roster and the folder call them, and the number that their copies bear: it says nothing of the name."""

    student: str
    number: str


def seat_number(student: str, key: str = KEY) -> str:
    """The same for the same name and key, on every machine; eight characters."""
    return sha256(f"{key}\0{student}".encode()).hexdigest()[:8]


def read_roster(path: Path, key: str = KEY) -> list[Seat]:
    """The seats of a text file with a name on each line, or of a CSV whose first column is the name (a heading "name" or "student" is one).

    Raises:
        ClassroomError: no names, a name twice, or one that cannot be a folder's.
    """
    try:
        rows = list(csv.reader(path.read_text("utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ClassroomError(
            f"cannot read the roster {path}: {error}. It is a text file with a name on each line"
        ) from None
    names = [row[0].strip() for row in rows if row and row[0].strip()]
    if names and names[0].casefold() in {"name", "student", "id"}:
        names = names[1:]
    if not names:
        raise ClassroomError(f"the roster {path} names nobody: write a name on each line")
    if len(names) > _MOST:
        raise ClassroomError(f"the roster {path} has {len(names):,} names, more than {_MOST:,}: is it the right file?")
    seen: dict[str, str] = {}
    for name in names:
        if not is_folder_name(name):
            raise ClassroomError(
                f"{name!r} in {path} cannot be a folder's name: use letters, figures, spaces, . _ - and @, and no dot at the end"
            )
        if name.casefold() in seen:
            raise ClassroomError(f"{path} names {name!r} twice: tell the two apart, as in “{name} 2”")
        seen[name.casefold()] = name
    seats = [Seat(name, seat_number(name, key)) for name in names]
    if len({seat.number for seat in seats}) < len(seats):
        raise ClassroomError("two students would have one seat: give another --key")
    return seats


def is_folder_name(name: str) -> bool:
    """Whether every system takes `name` for a folder inside another: no path, nothing hidden, nothing that ends in a dot."""
    return bool(re.fullmatch(r"[\w@-][\w .@'-]{0,79}", name)) and not name.endswith((".", " ")) and not _reserved(name)


def _reserved(name: str) -> bool:
    return bool(re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name))
