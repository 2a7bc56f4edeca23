"""Solutions: one notebook for each chapter with exercises, an answer for each exercise, and every answer passes its check."""

import ast
from pathlib import Path

import nbformat
import pytest
from helpers import NOTEBOOKS

from lora_edu import course
from lora_edu.course.notebooks.guard import checked_exercises


def exercises_in(path: Path) -> set[str]:
    return checked_exercises(nbformat.read(path, as_version=4))


CHAPTERS = [path for path in sorted(NOTEBOOKS.glob("*.ipynb")) if exercises_in(path)]
SOLUTIONS = sorted((NOTEBOOKS / "solutions").glob("*.ipynb"))


def test_there_are_chapters_to_look_at():
    assert any(path.name.startswith("03") for path in CHAPTERS)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_each_exercise_of_a_chapter_has_a_solution(chapter):
    solutions = NOTEBOOKS / "solutions" / f"{chapter.name[:2]}_solutions.ipynb"
    assert solutions.exists(), f"{chapter.name} has exercises: write notebooks/solutions/{solutions.name}"
    assert exercises_in(solutions) == exercises_in(chapter)


def passed_checks(path: Path) -> dict[str, bool]:
    """Run a solutions notebook here, and say of each exercise whether every answer to it passed."""
    results: dict[str, bool] = {}

    def check(id, *answers):
        result = course.check(id, *answers)
        results[id] = results.get(id, True) and result.passed
        return result

    names: dict = {"__name__": "__main__"}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            exec(compile(ast.parse(cell.source), str(path), "exec"), names)
            if "check" in names:  # imported just now: look over its shoulder
                names["check"] = check
    return results


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_every_solution_passes_its_check(path, monkeypatch):
    monkeypatch.setenv("LORA_EDU_PROGRESS", "off")
    results = passed_checks(path)
    assert set(results) == exercises_in(path)
    assert all(results.values()), results


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_blank_answers_in_their_place_do_not_pass(path, monkeypatch):
    """The test above can fail: the same notebook passes nothing when its answers are taken away."""
    monkeypatch.setenv("LORA_EDU_PROGRESS", "off")
    ask = course.check
    monkeypatch.setattr(course, "check", lambda id, *answers: ask(id, *(... for _ in answers)))
    results = passed_checks(path)
    assert results and not any(results.values()), results
