"""Chapter 10's checkers take right answers in any style, and name wrong ones beyond those of `ANSWERS`, whatever is drawn."""

import answers_10 as answers
import pytest
from kit import ask

from lora_edu.course import exercises


@pytest.mark.parametrize("id, answer", [(id, answer) for id, each in answers.RIGHT.items() for answer in each])
def test_a_right_answer_in_another_style_passes(id, answer):
    assert (result := ask(id, answer)).passed, str(result)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("id, answer, bug", answers.MORE_WRONG)
def test_more_wrong_answers_are_named(id, answer, bug):
    result = ask(id, answer)
    assert result.status == "wrong" and bug in (result.bug or ""), str(result)
    assert "The check met" not in str(result)


@pytest.mark.parametrize("seed", range(1, 6))
def test_so_it_is_whatever_is_drawn(seed, monkeypatch):
    monkeypatch.setattr(exercises.secrets, "randbits", lambda bits: seed)
    for id, each in answers.RIGHT.items():
        for answer in each:
            assert (result := ask(id, answer)).passed, str(result)
    for id, answer, bug in answers.MORE_WRONG:
        assert bug in ((result := ask(id, answer)).bug or "it passes"), str(result)
