"""Chapter 10's checkers take right answers in any style."""

import answers_10 as answers
import pytest
from kit import ask


@pytest.mark.parametrize("id, answer", [(id, answer) for id, each in answers.RIGHT.items() for answer in each])
def test_a_right_answer_in_another_style_passes(id, answer):
    assert (result := ask(id, answer)).passed, str(result)
