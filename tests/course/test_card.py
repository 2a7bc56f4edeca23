"""The card's glossary holds every new term that a chapter names, and says which chapter it is from."""

import re
from pathlib import Path

import nbformat
import pytest
from helpers import NOTEBOOKS

CHAPTERS = sorted(path for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def prose(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def new_terms(chapter: Path) -> list[str]:
    """The terms of the line "**New terms:** …", without what is said of them in brackets."""
    line = re.search(r"^\*\*New terms:\*\*(.*)$", prose(chapter), re.MULTILINE)
    if line is None:
        return []
    return [term.strip(" .`") for term in re.sub(r"\([^)]*\)", "", line[1]).split(",")]


def missing(terms: list[str], glossary: list[tuple[str, str]], number: str) -> list[str]:
    known = {term.lower() for term, chapter in glossary if chapter == number}
    return [term for term in terms if term.lower() not in known]


def glossary() -> list[tuple[str, str]]:
    """(term, chapter) of each row of the glossary."""
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| (\d\d) \|$", prose(NOTEBOOKS / "card.ipynb"), re.MULTILINE)
    assert len(rows) > 10
    return rows


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_every_new_term_of_a_chapter_is_on_the_card(chapter):
    assert missing(new_terms(chapter), glossary(), chapter.name[:2]) == []


def test_a_term_that_is_not_there_or_of_another_chapter_is_missing():
    rows = [("merge", "03"), ("rank", "01")]
    assert missing(["Merge", "rank", "dial"], rows, "03") == ["rank", "dial"]
