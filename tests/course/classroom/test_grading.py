"""A folder of submissions becomes a table with a row for each student and exercise, and a page without names."""

import csv
import os
import re
import sys

import nbformat
import pytest
from command_line import run, said
from one_answer import MERGED, page_with

from lora_edu.course.classroom import grading
from lora_edu.course.classroom.confine import SHIELDS
from lora_edu.course.classroom.grading import BUGS, GRADES, grade
from lora_edu.course.classroom.roster import ClassroomError

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="the grader needs a Unix")]


@pytest.fixture
def submitted(tmp_path):
    """Five students: right, wrong (twice the same), a message that a spreadsheet would compute, nothing, no notebook."""
    folder = tmp_path / "submitted"
    answers = {
        "Ada": MERGED,
        "Blaise": MERGED.replace("alpha / r", "alpha"),
        "Carl": MERGED.replace("alpha / r", "alpha"),
        "Dora": "raise ValueError('<b>=1+1</b>')",
    }
    for student, written in answers.items():
        (folder / student / "ch03").mkdir(parents=True)
        nbformat.write(page_with(written), folder / student / "ch03" / "my 03.ipynb")
    (folder / "Emmy").mkdir()
    (folder / "Emmy" / "03.ipynb").write_text("{", "utf-8")
    (folder / "Emmy" / "link.ipynb").symlink_to(folder / "Ada" / "ch03" / "my 03.ipynb")
    return folder


def test_a_class_is_graded(submitted, tmp_path):
    result = run("course", "grade", submitted, "--out", tmp_path / "out", "--key", "k", "--seconds", "30")
    assert result.exit_code == 0, result.output
    assert (
        "Ada: 1 of 4 solved" in said(result)
        and "Not read: Emmy/03.ipynb" in said(result)
        and "it is a link" in said(result)
    )
    assert "Walls around every answer that ran: " in said(result) and "new key" not in said(result)
    assert ("You are root" in said(result)) is (os.geteuid() == 0)
    with open(tmp_path / "out" / GRADES, newline="", encoding="utf-8") as file:
        rows = {(row["student"], row["exercise"]): row for row in csv.DictReader(file)}
    assert len(rows) == 5 * 4
    last = {student: rows[student, "03.4"] for student in ("Ada", "Blaise", "Carl", "Dora", "Emmy")}
    assert [row["solved"] for row in last.values()] == ["1", "0", "0", "0", "0"]
    assert [row["status"] for row in last.values()] == ["passed", "wrong", "wrong", "stopped", "missing"]
    assert last["Ada"]["held_back"] == "3 of 3" and last["Blaise"]["bug"] == "α is not divided by r"
    assert rows["Ada", "03.2"]["status"] == "not attempted"
    page = (tmp_path / "out" / BUGS).read_text("utf-8")
    assert not any(student in page for student in last) and re.search("α is not divided by r</th><td [^>]*>2</td>", page)
    assert "&lt;b&gt;=1+1&lt;/b&gt;" in page and "<b>=1" not in page


def test_a_cell_that_a_spreadsheet_would_compute_is_text():
    assert grading._no_formula("=1+1") == "'=1+1" and grading._no_formula("a\nb") == "a b"


def test_a_folder_without_submissions_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ClassroomError, match="folder"):
            grade(folder)


def test_a_course_that_changed_under_an_answer_grades_nobody(submitted, monkeypatch):
    marks = iter(["before", "after"])
    monkeypatch.setattr(grading, "_own_files", lambda: next(marks))
    with pytest.raises(ClassroomError, match=r"were changed while Ada's 03\.1 ran"):
        grade(submitted)


def test_what_was_drawn_for_a_grade_can_be_drawn_again(tmp_path, monkeypatch):
    seen = []

    def graded(folder, wanted, limits, secret, hidden, say):
        seen.append(secret)
        return grading.Graded([], [], [], grading._walls([])[0])

    monkeypatch.setattr(grading, "grade", graded)
    monkeypatch.delenv("LORA_EDU_CLASS_KEY", raising=False)
    first = said(run("course", "grade", tmp_path, "--out", tmp_path / "out"))
    assert len(seen[0]) == 32 and f"--key {seen[0]}" in first and "no answer was run" in first
    assert seen[0] not in said(run("course", "grade", tmp_path, "--out", tmp_path / "out", "--key", seen[0]))
    assert seen[0] == seen[1]


def test_the_page_of_bugs_lists_no_open_answer_and_counts_one_student():
    rows = [grading.Row("Ada", grading.Verdict("03.4", "not attempted", bug="open"))]
    page = "\n".join(grading._page(grading.Graded(rows, [], [], "")))
    assert "1 student." in page and "<table" not in page


def test_a_wall_counts_only_if_every_answer_had_it():
    def row(*shields):
        return grading.Row("Ada", grading.Verdict("03.4", "passed", shields=shields))

    missing = grading.Row("Ada", grading.Verdict("03.1", "missing"))
    held, open_to = grading._walls([row(*SHIELDS), row("network"), missing])
    assert held == "Walls around every answer that ran: it has no network." and len(open_to) == len(SHIELDS) - 1
    held, open_to = grading._walls([row(), missing])
    assert held.endswith("none.") and len(open_to) == len(SHIELDS), "a system without walls says so"
