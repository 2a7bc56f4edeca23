"""Chapter 17's judge says what is open, counts lines and ties files in; and our own answer is what it says it is."""

from pathlib import Path

import nbformat
import pytest
from helpers import NOTEBOOKS
from kit import ask

import answers_17 as answers  # isort: skip
from lora_edu.course import thirty_lines
from lora_edu.course.blank_page import Page, lines_of, load_page
from lora_edu.course.lawbook.runner import LayerFileError

SOURCE = Path(thirty_lines.__file__).read_text("utf-8")


def test_what_is_open_is_named():
    result = ask("17.3", Page(layer=thirty_lines.LoRA, inject=thirty_lines.inject))
    assert result.status == "not attempted" and "`save`, `merge`" in str(result)


def test_our_thirty_lines_are_thirty():
    assert lines_of(answers.OURS) == lines_of(SOURCE) == 30


def test_the_solutions_show_the_same_lines():
    book = nbformat.read(NOTEBOOKS / "solutions" / "17_solutions.ipynb", as_version=4)
    cell = "\n".join(cell.source for cell in book.cells if "class LoRA(" in cell.source or "def train(" in cell.source)
    assert cell[cell.index("class LoRA") :].split() == SOURCE[SOURCE.index("class LoRA") :].split()


@pytest.mark.parametrize(
    "text, lines",
    [
        ("import torch\n\n# nothing\ndef f(x):\n    '''What it does.\n    '''\n    return x\n", 2),
        ("a = 1; b = 2; c = 3", 3),
        (f"a = {'1 + ' * 60}1", 3),
        ("if a: b = 1", 1),
        ("page = Page(\n    f, g,\n    h\n)\n", 0),
    ],
)
def test_lines_are_counted_so_that_packing_them_gains_nothing(text, lines):
    assert lines_of(text) == lines


def test_a_file_is_tied_in_by_its_page_or_by_its_names(tmp_path):
    by_names, by_page, short = tmp_path / "names.py", tmp_path / "page.py", tmp_path / "short.py"
    by_names.write_text(SOURCE, "utf-8")
    by_page.write_text(
        "from lora_edu.course.blank_page import Page\nfrom lora_edu.course.thirty_lines import *\n"
        "page = Page(LoRA, inject, loss, train, save, merge)\n"
    )
    short.write_text(SOURCE[: SOURCE.index("def merge")], "utf-8")
    for path in (by_names, by_page):
        assert ask("17.2", load_page(path)).passed
    with pytest.raises(LayerFileError, match="has no merge"):
        load_page(short)
