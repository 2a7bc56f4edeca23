"""Chapter 11's checkers take right answers in any style, and name wrong ones beyond those of `answers_11`."""

import answers_11 as answers
import numpy as np
import pytest
from kit import ask


@pytest.mark.parametrize(
    "id, answer",
    [
        ("11.1", lambda *given: answers.round_blocks(*given).tolist()),
        ("11.1", lambda *given: answers.round_blocks(*given).numpy()),
        ("11.2", lambda *given: np.asarray(answers.left_along(*given))),
        ("11.2", lambda W0, d, rounding: answers.left_along(W0.double(), d.double(), lambda W: rounding(W.float()).double())),
        *((id, answer) for id, each in answers.RIGHT.items() for answer in each),
    ],
)  # fmt: skip
def test_a_right_answer_in_another_style_passes(id, answer):
    assert (result := ask(id, answer)).passed, str(result)


@pytest.mark.parametrize("id, answer, bug", answers.MORE_WRONG)
def test_a_wrong_answer_is_named(id, answer, bug):
    result = ask(id, answer)
    assert result.status == "wrong" and bug in result.bug, str(result)
