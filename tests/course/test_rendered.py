"""Chapters as HTML: folded cells stay folded, links lead to other pages."""

import re

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lora_edu.course.notebooks import render
from lora_edu.course.notebooks.__main__ import main
from lora_edu.course.notebooks.files import write
from lora_edu.errors import NotebookError


@pytest.fixture
def page(tmp_path):
    links = "[next](01_next.ipynb#part) [answers](solutions/00_solutions.ipynb) [out](https://example.org/a.ipynb)"
    cells = [
        new_markdown_cell(links),
        new_code_cell("plumbing = 'in the open'", metadata={"jupyter": {"source_hidden": True}}),
        new_code_cell("shown = 1"),
    ]
    path = tmp_path / "00_page.ipynb"
    write(new_notebook(cells=cells), path)
    return path


def test_what_is_folded_stays_folded_and_can_be_opened(page, tmp_path):
    html = render(page, tmp_path / "out").read_text("utf-8")
    folded = re.findall(r"<details.*?</details>", html, re.DOTALL)
    assert len(folded) == 1 and "plumbing" in folded[0] and "<summary>" in folded[0]
    assert html.count("plumbing") == 1 and "shown" in html.replace(folded[0], "")


def test_links_to_pages_lead_to_html_and_others_stay(page, tmp_path):
    html = render(page, tmp_path / "out").read_text("utf-8")
    for address in ("01_next.html#part", "solutions/00_solutions.html", "https://example.org/a.ipynb"):
        assert f'href="{address}"' in html


def test_a_page_that_is_none_is_refused_and_solutions_have_a_folder(page, tmp_path):
    with pytest.raises(NotebookError, match="cannot read"):
        render(tmp_path / "missing.ipynb", tmp_path)
    answers = tmp_path / "solutions" / "00_solutions.ipynb"
    answers.parent.mkdir()
    page.rename(answers)
    assert render(answers, tmp_path / "out") == tmp_path / "out" / "solutions" / "00_solutions.html"


def test_the_command_writes_where_it_is_told(tmp_path, capsys):
    assert main(["render", "card", "--to", str(tmp_path)]) == 0
    assert (tmp_path / "card.html").stat().st_size > 10_000 and "card.html" in capsys.readouterr().out
