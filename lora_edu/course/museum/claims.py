"""The ledger: what popular pages say of LoRA, in our words, with a verdict, a source, and the cell that tests it. Chapter 16.

The pages: five widely read tutorials (1 to 5), courses and blogs of model makers ("course"), programs that people serve adapters with
("systems"), and habits of comparing ("practice"). A row is tested by an exhibit, by a cell of another chapter, or says why nothing can test it.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lora_edu.course.card import Card
from lora_edu.course.museum.hall import catalogue
from lora_edu.course.museum.specimen import ROOMS, ExhibitError
from lora_edu.tables import html_table, text_table

VERDICTS = ("correct", "misleading", "wrong", "untestable")
CHAPTER = "16"
_FILE = Path(__file__).with_name("ledger.jsonl")


@dataclass(frozen=True)
class Claim:
    """One row. Of `exhibit`, `cell` ("chapter:cell id") and `untestable` (a reason) exactly one is not empty."""

    id: str
    page: str
    room: str
    said: str
    verdict: str
    why: str
    source: str
    exhibit: str = ""
    cell: str = ""
    untestable: str = ""

    @property
    def tested_by(self) -> tuple[str, str] | None:
        """(chapter, id of the cell there), or None where nothing tests it."""
        if self.exhibit:
            return CHAPTER, f"{CHAPTER}-{self.exhibit}"
        chapter, _, cell = self.cell.partition(":")
        return (chapter, cell) if cell else None

    @property
    def breaks(self) -> str:
        """The law, or the chapter's rule, that is broken by whoever follows it; "" for what is correct or not tested by an exhibit."""
        return catalogue()[self.exhibit].breaks if self.exhibit and self.verdict != "correct" else ""


@cache
def ledger() -> tuple[Claim, ...]:
    """Every row, in the order of the pages. Raises ExhibitError for a row that does not fit."""
    rows = tuple(Claim(**json.loads(line)) for line in _FILE.read_text("utf-8").splitlines())
    for row in rows:
        if row.room not in ROOMS or row.verdict not in VERDICTS:
            raise ExhibitError(f"ledger, row {row.id}: room {row.room!r} or verdict {row.verdict!r} is not known")
        if sum(map(bool, (row.exhibit, row.cell, row.untestable))) != 1:
            raise ExhibitError(
                f"ledger, row {row.id}: name an exhibit, a cell, or why nothing can test it: one of them"
            )
    if twice := [id for id, count in Counter(row.id for row in rows).items() if count > 1]:
        raise ExhibitError(f"ledger: {', '.join(twice)} stands there twice")
    return rows


def claims_table(rows: Sequence[Claim]) -> Card:
    """Rows of the ledger as a table: what is said, the verdict and why, the source, and what tests it."""

    def test(row: Claim) -> str:
        return row.exhibit or (f"{row.cell.replace(':', ', cell ')}" if row.cell else f"untestable: {row.untestable}")

    head = ("row", "said", "verdict", "why", "source", "tested by")
    lines = [(row.id, row.said, row.verdict, row.why, row.source, test(row)) for row in rows]
    return Card(text_table([head, *lines]), html_table(head, lines, f"The ledger: {len(rows)} rows"))
