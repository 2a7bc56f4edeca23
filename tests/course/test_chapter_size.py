"""An hour has room for so much: chapters 07 to 17 keep to nine sections, 2,200 words and 50 code cells before their optional part."""

import nbformat
import pytest
from helpers import NOTEBOOKS
from nbformat.v4 import new_code_cell, new_markdown_cell

MOST = {"sections": 9, "words": 2_200, "code cells": 50}
NEW = sorted(path for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb") if 7 <= int(path.name[:2]) <= 17)
OLDER = {"14"}  # written before there was a limit: counted, not judged


def in_the_hour(cells):
    """The cells before the first that belongs to the optional part, without the sources at the end of the page."""
    first = next((i for i, cell in enumerate(cells) if "optional" in cell.metadata.get("tags", ())), len(cells))
    return [cell for cell in cells[:first] if not cell.source.startswith("## Sources")]


def size(cells) -> dict[str, int]:
    prose = [cell.source for cell in cells if cell.cell_type == "markdown"]
    return {
        "sections": sum(line.startswith("## ") for text in prose for line in text.splitlines()),
        "words": sum(len(text.split()) for text in prose),
        "code cells": sum(cell.cell_type == "code" for cell in cells),
    }


def too_much(cells) -> list[str]:
    found = size(in_the_hour(cells))
    return [f"{found[what]} {what}, at most {most}" for what, most in MOST.items() if found[what] > most]


@pytest.mark.parametrize("path", [p for p in NEW if p.name[:2] not in OLDER], ids=lambda path: path.stem)
def test_a_chapter_fits_into_its_hour(path):
    assert too_much(nbformat.read(path, as_version=4).cells) == []


def test_there_are_chapters_to_count():
    assert NEW


def test_each_limit_is_counted_and_the_optional_part_is_not():
    sections = [new_markdown_cell(f"## {n}") for n in range(10)]
    words = [new_markdown_cell("word " * 2_201)]
    code = [new_code_cell("1")] * 51
    for cells, what in ((sections, "sections"), (words, "words"), (code, "code cells")):
        assert [line for line in too_much(cells) if what in line] == too_much(cells) != []
        optional = new_markdown_cell("## Optional", metadata={"tags": ["optional"]})
        assert too_much([optional, *cells]) == [] == too_much(cells[:1] if what != "words" else [])
