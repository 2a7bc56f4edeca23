"""Exercises 13.1 to 13.3 take right answers in any style, and name wrong ones beyond those of `ANSWERS`, whatever is drawn."""

import pytest
from answers_13 import MORE_WRONG, RIGHT
from kit import ask

from lora_edu.course import exercises


@pytest.mark.parametrize("id, answer", RIGHT)
def test_a_right_answer_in_another_style_passes(id, answer):
    assert (result := ask(id, answer)).passed, str(result)


@pytest.mark.parametrize("id, answer, bug", MORE_WRONG)
def test_more_wrong_answers_are_named(id, answer, bug):
    result = ask(id, answer)
    assert result.status == "wrong" and bug in (result.bug or ""), str(result)


@pytest.mark.parametrize("seed", range(1, 6))
def test_so_it_is_whatever_is_drawn(seed, monkeypatch):
    monkeypatch.setattr(exercises.secrets, "randbits", lambda bits: seed)
    for id, answer in RIGHT:
        assert (result := ask(id, answer)).passed, str(result)
    for id, answer, bug in MORE_WRONG:
        assert bug in ((result := ask(id, answer)).bug or "it passes"), str(result)
