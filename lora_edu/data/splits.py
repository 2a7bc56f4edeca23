"""Training, validation and test rows that share no input. Chapters 05 and 13."""

import random
import re
import unicodedata
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import NamedTuple, TypeVar

from lora_edu.data.rows import Row
from lora_edu.errors import DataError

T = TypeVar("T")


class Splits(NamedTuple):
    train: list[Row]
    valid: list[Row]
    test: list[Row]


def normalise(text: str) -> str:
    """Lower case, one space between words, no punctuation: two inputs that differ in less are the same input."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded)) or folded.strip()


def input_key(row: Row) -> str:
    """What `split` keeps on one side: the user's turns, normalised (the whole text of a plain row)."""
    return normalise(
        row.answer if row.is_text else "\n".join(m["content"] for m in row.messages if m["role"] == "user")
    )


def split(
    rows: Sequence[Row],
    valid: float | int = 0.1,
    test: float | int = 0.1,
    seed: int = 0,
    key: Callable[[Row], str] = input_key,
) -> Splits:
    """Split by a hash of the input, so that the same input (the same `key`) is never on two sides.

    `valid` and `test` are both shares (floats: a row keeps its side when others are added) or both counts (ints: at
    least so many). The result does not depend on the order of `rows`, except among rows with the same key; each part
    comes in hash order, so any beginning of it is a fair sample. Raises `DataError` if a part would be empty.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)

    def place(name: str) -> float:
        return int.from_bytes(sha256(f"{seed}\0{name}".encode()).digest()[:8]) / 2**64

    parts = Splits([], [], [])
    shares = isinstance(valid, float) and isinstance(test, float)
    if min(valid, test) < 0 or (isinstance(valid, float) != isinstance(test, float)):
        raise DataError("valid and test must be two shares (0.1) or two counts (100), none below 0")
    for name in sorted(groups, key=lambda name: (place(name), name)):
        if place(name) < test if shares else len(parts.test) < test:
            part = parts.test
        elif place(name) < test + valid if shares else len(parts.valid) < valid:
            part = parts.valid
        else:
            part = parts.train
        part.extend(groups[name])
    for wanted, part, title in ((1, parts.train, "train"), (valid, parts.valid, "valid"), (test, parts.test, "test")):
        if wanted and not part:
            raise DataError(f"{len(rows)} rows with {len(groups)} different inputs leave nothing for {title}")
    return parts


def mix(rows: Sequence[T], replay: Sequence[T], share: float, seed: int = 0) -> list[T]:
    """`rows` and as many of `replay` as make up `share` of the result, shuffled (replay is the cure of chapter 13).

    Replay rows repeat, each about equally often, when there are too few of them.
    """
    if not 0 <= share < 1 or (share and not replay):
        raise DataError(f"share must be from 0 to below 1, with rows to replay; got {share} and {len(replay)} rows")
    wanted = round(len(rows) * share / (1 - share))
    order = random.Random(seed)
    drawn: list[T] = []
    while len(drawn) < wanted:
        drawn += order.sample(list(replay), min(len(replay), wanted - len(drawn)))
    mixed = [*rows, *drawn]
    order.shuffle(mixed)
    return mixed
