"""What runs for one answer: its cell and what it leans on, and nothing else of the page."""

import nbformat
import pytest
from helpers import NOTEBOOKS
from one_answer import page_with

from lora_edu.course.classroom.answer_cells import answers, program
from lora_edu.course.exercises import exercises
from lora_edu.course.notebooks.guard import checked_exercises


def page(*cells):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])


def test_every_exercise_of_every_chapter_is_found_with_its_stub_and_its_check():
    found = {}
    for path in NOTEBOOKS.glob("[01]*.ipynb"):
        notebook = nbformat.read(path, 4)
        assert set(answers(notebook)) == checked_exercises(notebook), path.name
        found |= answers(notebook)
    for exercise, answer in found.items():
        assert answer.check == f'check("{exercise}", {exercises()[exercise].wants})' and (
            answer.written or exercise[:2] == "17"
        )  # 17: cells above it


def test_only_what_the_answer_leans_on_runs():
    notebook = page(
        "import time\nfrom slow import model\nimport math as m\n%matplotlib inline",
        "def helper(x):\n    return m.sqrt(x + offset)",
        "offset = 1\nrows = []\nrows.append(offset)\nprint('hello')",
        "offset += 1\nmodel.train()",
        "predict('03-x', 'Which?', ['a', 'b'])",
        "def answer(model, x):\n    time = model\n    return [helper(row) for row in rows]\n\ncheck('03.4', answer)",
        "offset = 7",
    )
    assert program(notebook, "03.4").splitlines() == [
        "import math as m", "", "def helper(x):", "    return m.sqrt(x + offset)", "offset = 1", "rows = []", "rows.append(offset)",
        "offset += 1", "", "def answer(model, x):", "    time = model", "    return [helper(row) for row in rows]", "hand_in('03.4', answer)",
    ]  # fmt: skip
    assert program(notebook, "03.1") is None


def test_another_exercise_and_what_only_asks_are_left_out():
    notebook = page(
        "def f(): return 1\ncheck('03.2', f)", "exercise('03.4')", "hint('03.4')\nx = f()\ncheck('03.4', x)"
    )
    assert program(notebook, "03.4") == "def f():\n    return 1\nx = f()\nhand_in('03.4', x)"


def test_an_answer_that_is_no_python_says_so():
    with pytest.raises(SyntaxError):
        program(page_with("def merged_weight(W0, A, B, alpha, r:\n    return W0"), "03.4")
    broken = page_with("def merged_weight(W0, A, B, alpha, r:\n    return W0")
    assert program(broken, "03.2") is not None, "another answer of the page does not suffer"
