"""No word before its explanation: where each term of the card's glossary is first used, and where a page explains it.

A term is explained in the cell that sets it in **bold**, or by a bracket right behind it. A use before that has to point to the chapter that
explains it ("chapter 04"). Headings and aims may name what is to come.
"""

import ast
import re
from collections.abc import Iterator

import nbformat
import pytest
from helpers import NOTEBOOKS

PAGES = {path.name[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
FORMS = {
    "factors A and B": r"factor",
    "frozen weight": r"frozen",
    "shift by one": r"shift(?:ed)? by one|the next token",
}  # as pages write them
LEFT_OUT = {
    ("factors A and B", "01"): "as in arithmetic",
    ("factors A and B", "02"): "as in arithmetic",
    ("overlap", "00"): "of two ranges of numbers",
    ("overlap", "02"): "of two ranges of numbers",
    ("overlap", "04"): "of two ranges of numbers",
    **{("grid", chapter): "of runs" for chapter in ("04", "07", "08", "09", "10")},
    **{("miss", chapter): "the verb" for chapter in ("01", "07", "09", "10")},
    **{("power", chapter): "of two" for chapter in ("08", "10")},
    ("QLoRA", "04"): "a paper's title",
    **{("GGUF", chapter): "in the sources, of the file that the weights come from" for chapter in ("01", "11")},
}


def plain(text: str) -> str:
    """Lower case, one blank between words, no hyphens, no plural: "All-linear layers" and "all linear layer" are the same."""
    text = re.sub(r"`[^`]*`|\$+[^$]*\$+|\]\([^)]*\)", " ", text)
    words = re.findall(r"\*\*|[^\W_]+(?:/[^\W_]+)?|\S", re.sub(r"[-–]", " ", text.lower()))
    return " ".join(re.sub(r"(?<=ch)es$|(?<=\w{3})(?<!s)s$", "", word) for word in words)


def said(cell: nbformat.NotebookNode) -> str:
    """What a cell says to a reader: its prose, or the words of the question that it asks."""
    if cell.cell_type == "markdown":
        return re.sub(
            r"^#+ .*$|^\*\*New terms:\*\*.*$|^\*\*You will be able to\*\*\n\n(?:- .*\n)+", "", cell.source, flags=re.M
        )
    try:
        tree = ast.parse(cell.source)
    except SyntaxError:
        return ""
    asked = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "predict"]
    parts = [part for call in asked for argument in call.args[1:] for part in ast.walk(argument)]
    return "\n".join(part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str))


def glossary() -> dict[str, str]:
    """{term: the chapter that explains it}."""
    cells = nbformat.read(NOTEBOOKS / "card.ipynb", as_version=4).cells
    card = "\n".join(cell.source for cell in cells)
    return dict(re.findall(r"^\| ([^|\d][^|]+) \| [^|]+ \| (\d\d)[^|]* \|$", card, re.MULTILINE))


def too_early(term: str, home: str, pages: dict[str, list[str]]) -> Iterator[str]:
    """Where a term is used without an explanation. pages: {chapter: what its cells say, in order}, in the order of reading."""
    form = FORMS.get(term)
    word = re.compile(rf"(?<!\w)(?:{form or re.escape(plain(term))})(?!\w)")
    for chapter, cells in pages.items():
        for number, cell in enumerate(map(plain, cells)):
            if not word.search(cell):
                continue
            bold = re.findall(r"\*\*(.*?)\*\*", cell)
            if any(map(word.search, bold)) or cell[word.search(cell).end() :].startswith(" ("):
                return  # explained from here on
            if chapter >= home and plain("this chapter") in cell:
                continue
            if chapter >= home:
                yield f"{chapter}, cell {number + 1}"
                return
            if f"chapter {home}" not in cell:
                yield f"{chapter}, cell {number + 1}, without a word of chapter {home}"
            break  # pointed to once: the rest of this page may say it
    yield "no page sets it in bold"


@pytest.fixture(scope="module")
def pages():
    return {number: [said(c) for c in nbformat.read(path, as_version=4).cells[1:]] for number, path in PAGES.items()}


@pytest.mark.parametrize("term", glossary())
def test_no_term_before_its_explanation(term, pages):
    home = glossary()[term]
    found = [place for place in too_early(term, home, pages) if (term, place[:2]) not in LEFT_OUT]
    assert found == [], f"“{term}” (the card: chapter {home})"


def test_the_rule_can_fail():
    pages = {"03": ["A merge is what chapter 07 does.", "All-linear layers."], "04": ["Now **all linear** it is."]}
    assert list(too_early("all-linear", "04", pages)) == ["03, cell 2, without a word of chapter 04"]
    assert list(too_early("merges", "07", pages)) == ["no page sets it in bold"]
    assert list(too_early("layer", "03", pages)) == ["03, cell 2"]
    pages["03"][1] = "Chapter 04 tells of All-linear layers."
    assert list(too_early("all-linear", "04", pages)) == []
