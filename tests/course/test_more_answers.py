"""Right answers in other styles pass and further wrong ones are named, in every chapter that holds such: RIGHT and MORE_WRONG of its answers.

RIGHT is [(id, answer), …] or {id: [answer, …]}, MORE_WRONG [(id, answer, what the bug's name holds), …].
"""

import importlib
from pathlib import Path
from typing import Any

import pytest
from kit import ask

from lora_edu.course import exercises

HERE = Path(__file__).parent
BOOKS = {
    path.stem: book
    for path in sorted([*HERE.glob("answers_*.py"), *HERE.glob("programs_*.py")])
    if hasattr(book := importlib.import_module(path.stem), "MORE_WRONG")
}
DRAWS = {
    "answers_09_budget": 3,
    "answers_17": 0,
}  # of 09.3 only a few are quick; 17's are drawn twice in test_exercises.py


def right(book: Any) -> list[tuple[str, Any]]:
    if isinstance(book.RIGHT, dict):
        return [(id, answer) for id, styles in book.RIGHT.items() for answer in styles]
    return book.RIGHT


def named(id: str, answer: Any, bug: str) -> None:
    result = ask(id, answer)
    assert result.status == "wrong" and bug in (result.bug or ""), str(result)
    said = str(result)
    assert len(said) < 1_000 and not any(slip in said for slip in ("<locals>", " at 0x", "The check met")), said


def test_the_chapters_that_hold_such_are_found():
    assert {"programs_08", "answers_07", "answers_13", "answers_17"} <= set(BOOKS) and len(BOOKS) >= 10


@pytest.mark.parametrize("id, answer", [one for book in BOOKS.values() for one in right(book)])
def test_a_right_answer_in_another_style_passes(id, answer):
    assert (result := ask(id, answer)).passed, str(result)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "error::UserWarning", "error::RuntimeWarning"
)
@pytest.mark.parametrize("id, answer, bug", [one for book in BOOKS.values() for one in book.MORE_WRONG])
def test_a_wrong_answer_is_named(id, answer, bug):
    named(id, answer, bug)


@pytest.mark.slow
@pytest.mark.parametrize("name, seed", [(name, seed) for name in BOOKS for seed in range(1, 1 + DRAWS.get(name, 5))])
def test_so_it_is_whatever_is_drawn(name, seed, monkeypatch):
    monkeypatch.setattr(exercises.secrets, "randbits", lambda bits: seed)
    for id, answer in right(BOOKS[name]):
        assert (result := ask(id, answer)).passed, str(result)
    for wrong in BOOKS[name].MORE_WRONG:
        named(*wrong)
