"""Chapter 15's checkers take right answers in any style, and name wrong ones beyond those of `answers_15`."""

import answers_15 as answers
import pytest
from kit import ask


@pytest.mark.parametrize("id, answer", [(id, answer) for id, each in answers.RIGHT.items() for answer in each])
def test_a_right_answer_in_another_style_passes(id, answer):
    assert (result := ask(id, answer)).passed, str(result)


@pytest.mark.parametrize("id, answer, bug", answers.MORE_WRONG)
def test_a_wrong_answer_is_named(id, answer, bug):
    result = ask(id, answer)
    assert result.status == "wrong" and bug in result.bug, str(result)
