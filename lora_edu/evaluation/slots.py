"""Answers with parts: JSON objects or key=value lines, scored slot by slot. Chapters 07 and 13."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora_edu.errors import DataError
from lora_edu.evaluation.metrics import Score, same_length, share

Slots = Mapping[str, Any]


def json_slots(text: str) -> Slots | None:
    """The JSON object that `text` is; None where it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def pair_slots(text: str) -> Slots | None:
    """The pairs of `key=value` or `key: value`, one a line or parted by commas or semicolons; None where a part is no pair.

    A comma within a value ends it: use JSON for such values.
    """
    pairs = [
        re.fullmatch(r"\s*([\w .-]+?)\s*[=:]\s*(.*?)\s*", part) for part in re.split(r"[\n,;]", text) if part.strip()
    ]
    if not pairs or not all(pairs):
        return None
    return {pair[1]: pair[2] for pair in pairs if pair}


def slot_f1(
    outputs: Sequence[str], references: Sequence[str], read: Callable[[str], Slots | None] = json_slots
) -> Score:
    """Micro F1 of the slots, 2·right / (given + wanted) over all rows together: a slot is right if its value equals the reference's.

    `read` takes a text apart, or says None: an output that cannot be read gives nothing, so that its slots are missed (`readable` counts
    such outputs). The score's rows hold (right, given, wanted). Misleads where slots are not worth the same: two of three right earn 0.67,
    though a reminder for the wrong day is worth nothing (see exact match beside it). Raises DataError for a reference that `read` cannot read.
    """
    same_length(outputs, references)
    wanted = [read(reference) for reference in references]
    if bad := [number for number, want in enumerate(wanted, 1) if want is None]:
        raise DataError(f"the reference of row {bad[0]} cannot be read as slots: mend it, or give another `read`")
    counts = []
    for output, want in zip(outputs, wanted):
        got = read(output) or {}
        right = sum(key in got and got[key] == value for key, value in (want or {}).items())
        counts.append([right, len(got), len(want or {})])
    return Score(np.array(counts, dtype=float).reshape(-1, 3), _micro)


def readable(outputs: Sequence[str], read: Callable[[str], Slots | None] = json_slots) -> Score:
    """The share of outputs that `read` can take apart."""
    return share([read(output) is not None for output in outputs])


def _micro(values: NDArray[Any]) -> float:
    right, given, wanted = values.sum(axis=0)
    return float(2 * right / (given + wanted)) if given + wanted else 1.0
