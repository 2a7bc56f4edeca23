"""A class's locked predictions as a histogram: what everybody expects, before anybody is told. No names are asked for or kept."""

import ast
import contextlib
import html
import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from lora_edu.course.card import number
from lora_edu.course.classroom.answer_cells import parse
from lora_edu.course.classroom.roster import ClassroomError
from lora_edu.course.notebooks.files import FOLDER, chapters, read
from lora_edu.course.predictions import Question, letter
from lora_edu.tables import html_table

MOST_VOTERS = 1_000
_VOTER = re.compile(r"[0-9a-f]{8,64}")
_BARS = 8  # of a histogram of numbers
_MOST_BYTES = 2_000_000  # of a file that is handed in


class Bar(NamedTuple):
    """One bar: an option, or a range of numbers, and how many chose it."""

    label: str
    votes: int


def questions(folder: Path = FOLDER) -> dict[str, Question]:
    """Every prediction that the chapters ask for, by id, as its cell writes it."""
    found = {}
    for page in chapters(folder=folder):
        for cell in read(page).cells if page.parent == folder else ():
            tree = parse(cell.source) if cell.cell_type == "code" and "predict(" in cell.source else None
            for node in ast.walk(tree) if tree else ():
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "predict":
                    with contextlib.suppress(
                        ValueError
                    ):  # its words are computed: the page must run before it can be asked
                        question = _question(node)
                        found[question.id] = question
    return found


def _question(call: ast.Call) -> Question:
    values = [ast.literal_eval(each) for each in call.args]
    named = {
        each.arg: ast.literal_eval(each.value)
        for each in call.keywords
        if each.arg in ("options", "unit", "tolerance", "within", "between")
    }
    options = values[2] if len(values) > 2 else named.pop("options", None)
    return Question(values[0], values[1], tuple(options or ()), **named)


class Box:
    """The answers of one class to one question at a time: each voter's first one counts."""

    def __init__(self, known: dict[str, Question]) -> None:
        self.known = known
        self.votes: dict[str, dict[str, str | float]] = {}

    def vote(self, question: str, voter: str, answer: Any) -> None:
        """Count an answer. Raises ClassroomError for an unknown question, an answer that is none of its, or a crowd."""
        if question not in self.known:
            raise ClassroomError(f"there is no prediction {str(question)[:60]!r}")
        if not _VOTER.fullmatch(str(voter)):
            raise ClassroomError("a voter is named by 8 to 64 hexadecimal figures of chance")
        cast = self.votes.setdefault(question, {})
        if voter not in cast and len(cast) >= MOST_VOTERS:
            raise ClassroomError(f"more than {MOST_VOTERS:,} voters: is the room's code out?")
        try:
            cast.setdefault(str(voter), self.known[question].parse(answer))
        except ValueError as error:
            raise ClassroomError(str(error)) from None

    def bars(self, question: str) -> list[Bar]:
        """The histogram of a question."""
        return histogram(self.known[question], self.votes.get(question, {}).values())


def histogram(question: Question, answers: Iterable[str | float]) -> list[Bar]:
    """A bar for each option, chosen or not; of numbers, bars of equal width from the least to the greatest."""
    given = list(answers)
    if question.options:
        counts = Counter(given)
        return [Bar(f"{letter(i)}) {option}", counts[option]) for i, option in enumerate(question.options)]
    values = sorted(float(each) for each in given if not isinstance(each, str) and math.isfinite(float(each)))
    if not values:
        return []
    low, high = values[0], values[-1]
    bars = min(_BARS, len(set(values)))
    width = (high - low) / bars
    if width == 0:
        return [Bar(f"{number(low)} {question.unit}".strip(), len(values))]
    place = [min(int((value - low) / width), bars - 1) for value in values]
    return [
        Bar(f"{number(low + i * width)} to {number(low + (i + 1) * width)} {question.unit}".strip(), place.count(i))
        for i in range(bars)
    ]


def gathered(paths: Iterable[Path], known: dict[str, Question]) -> tuple[Box, list[str]]:
    """The predictions in files that students handed in (their `progress.json`, under any name); and what could not be read of them.

    Raises:
        ClassroomError: no file at all.
    """
    box, unread, files = Box(known), [], 0
    for path in paths:
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            files += 1
            try:
                if file.stat().st_size > _MOST_BYTES:
                    raise ValueError(f"more than {_MOST_BYTES:,} bytes")
                read_ = json.loads(file.read_text("utf-8"))
                if not isinstance(read_, dict) or not isinstance(entries := read_.get("predictions"), dict):
                    raise ValueError("it is no progress.json: it has no table of predictions")
                for question, entry in entries.items():
                    if question in known:  # others are of an older course, or of a teacher's own pages
                        box.vote(question, f"{files:08x}", entry["answer"])
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ClassroomError) as error:
                said = f"an entry without {error}" if isinstance(error, KeyError) else error
                unread.append(f"{file}: {said}")
    if not files:
        raise ClassroomError("no file of predictions: name the files that were handed in, or their folder")
    return box, unread


def locked(count: int) -> str:
    """ "1 locked answer", "3 locked answers"."""
    return f"{count} locked answer{'s' * (count != 1)}"


def as_text(question: Question, bars: list[Bar]) -> str:
    """The histogram for a terminal."""
    most, wide = max((bar.votes for bar in bars), default=0), max((len(bar.label) for bar in bars), default=0)
    lines = [f"{question.id} · {question.text}", locked(sum(bar.votes for bar in bars))]
    return "\n".join(
        [*lines, *(f"  {bar.label:<{wide}}  {'█' * round(30 * bar.votes / max(most, 1))} {bar.votes}" for bar in bars)]
    )


def as_html(question: Question, bars: list[Bar]) -> str:
    """The same as a piece of a page; every bar's count stands in figures."""
    most, count = max((bar.votes for bar in bars), default=0), sum(bar.votes for bar in bars)
    rows = [(bar.label, str(bar.votes), "█" * round(30 * bar.votes / max(most, 1))) for bar in bars]
    return f"<h2>{html.escape(question.text)}</h2><p>{locked(count)}</p>{html_table((), rows)}"
