"""Answers of two models side by side, judged without knowing whose is whose. Chapter 13."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lora_edu.errors import DataError
from lora_edu.evaluation.generation import generate
from lora_edu.evaluation.leakage import bare_input
from lora_edu.evaluation.paired import sign_test
from lora_edu.evaluation.report import Report
from lora_edu.files import write_whole

LEFT, SAME, RIGHT = "left", "same", "right"
FEWEST = 6  # decided votes below which even unanimity is no finding: 2/2⁵ = 0.06


@dataclass(frozen=True)
class Pairs:
    """To each prompt two answers. `names`: what the first and the second model are called when the order is revealed.

    base: the base model's fingerprint; made_by: the command that makes them again (both for stored pairs). Raises DataError where the
    lists differ in length or are empty.
    """

    prompts: list[str]
    first: list[str]
    second: list[str]
    names: tuple[str, str] = ("base", "tuned")
    base: str = ""
    made_by: str = ""

    def __post_init__(self) -> None:
        if not self.prompts:
            raise DataError("a blind comparison needs at least one prompt")
        if not len(self.prompts) == len(self.first) == len(self.second):
            raise DataError(
                f"{len(self.prompts)} prompts have {len(self.first)} and {len(self.second)} answers: each needs one of either model"
            )

    @classmethod
    def of(cls, before: Report, after: Report, names: tuple[str, str] = ("base", "tuned")) -> Pairs:
        """From two reports on the same rows."""
        if [row.messages for row in before.rows] != [row.messages for row in after.rows]:
            raise DataError("the two reports are not about the same rows: evaluate both with the same split and limit")
        prompts = [bare_input(row) for row in after.rows if not row.is_text]
        return cls(prompts, list(before.outputs), list(after.outputs), names)

    @classmethod
    def read(cls, path: Path) -> Pairs:
        """Read what `write` wrote; DataError when a field is missing, unknown or does not fit the others."""
        try:
            found = json.loads(Path(path).read_text("utf-8"))
            return cls(**(found | {"names": tuple(found["names"])}))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path} holds no pairs of answers: {error}") from error

    def write(self, path: Path) -> None:
        """As JSON; `read` gives it back."""
        write_whole(Path(path), json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n")


def answer_pairs(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    other: Any = None,
    max_new_tokens: int = 64,
    system: str | None = "",
    names: tuple[str, str] = ("base", "tuned"),
) -> Pairs:
    """What two models say: `other`, or without it `model` with its adapter switched off (law 9), against `model` as it is."""
    from lora_edu.adapters.switching import disabled

    with disabled(model) if other is None else nullcontext():
        first = generate(model if other is None else other, tokenizer, prompts, max_new_tokens, system=system)
    second = generate(model, tokenizer, prompts, max_new_tokens, system=system)
    asked = [prompt if isinstance(prompt, str) else bare_input(prompt) for prompt in prompts]
    return Pairs(asked, first, second, names)


def swapped(pairs: int, seed: int = 0) -> list[bool]:
    """For each pair whether the second model stands on the left: half of them, in an order drawn by `seed`.

    Half and not each by a coin: who always prefers the left then prefers neither model.
    """
    draw = random.Random(seed)
    sides = [i % 2 == 0 for i in range(pairs)]
    if pairs % 2:  # the odd one by a coin, or the second model would stand on the left more often
        sides[-1] = draw.random() < 0.5
    draw.shuffle(sides)
    return sides


class Verdict(NamedTuple):
    """Votes for the first and the second model, votes for neither, how many went to the left side, and the exact sign test's p."""

    first: int
    second: int
    same: int
    left: int
    p: float


def verdict(votes: Mapping[int, str], sides: Sequence[bool]) -> Verdict:
    """Count votes (LEFT, SAME or RIGHT by the pair's number) when it is known who stood where (`swapped`). Ties decide nothing.

    Raises DataError for a vote that is none, or for a pair that is not there.
    """
    count = {"first": 0, "second": 0, "same": 0}
    for number, vote in votes.items():
        if vote not in (LEFT, SAME, RIGHT) or not 0 <= number < len(sides):
            raise DataError(
                f"the vote {vote!r} on pair {number}: use left, same or right, on pairs 0 to {len(sides) - 1}"
            )
        second = (vote == LEFT) == sides[number]
        count["same" if vote == SAME else "second" if second else "first"] += 1
    left = sum(vote == LEFT for vote in votes.values())
    p = sign_test(count["second"], count["first"])
    return Verdict(count["first"], count["second"], count["same"], left, p)


def preferred(pairs: Pairs, votes: Mapping[int, str], sides: Sequence[bool]) -> list[tuple[str, str, str]]:
    """(prompt, better answer, worse answer) for each decided vote: what `training.encode_preferences` takes. Ties are left out."""
    found = []
    for number, vote in sorted(votes.items()):
        if vote == SAME:
            continue
        both = (pairs.second[number], pairs.first[number])
        better, worse = both if (vote == LEFT) == sides[number] else both[::-1]
        found.append((pairs.prompts[number], better, worse))
    return found
