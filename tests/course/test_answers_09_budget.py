"""Exercise 09.3 takes right answers in any style, and names wrong ones beyond those of `ANSWERS`, whatever is drawn."""

import math

import pytest
import torch
from answers_09_budget import MORE_WRONG, RIGHT
from kit import ask

from lora_edu.course import exercises
from lora_edu.course.checks.ch09_budget import Case, best_buy, cases, cost


@pytest.mark.parametrize("id, answer", RIGHT)
def test_a_right_answer_in_another_style_passes(id, answer):
    assert (result := ask(id, answer)).passed, str(result)


@pytest.mark.parametrize("id, answer, bug", MORE_WRONG)
def test_more_wrong_answers_are_named(id, answer, bug):
    result = ask(id, answer)
    assert result.status == "wrong" and bug in (result.bug or ""), str(result)


@pytest.mark.parametrize("seed", range(1, 4))
def test_so_it_is_whatever_is_drawn(seed, monkeypatch):
    monkeypatch.setattr(exercises.secrets, "randbits", lambda bits: seed)
    for id, answer in RIGHT:
        assert (result := ask(id, answer)).passed, str(result)


def test_the_best_buy_fits_and_has_not_diverged():
    for case in cases(torch.Generator().manual_seed(5)):
        run = case.runs[best_buy(case)]
        assert cost(run, case.prices) <= case.budget and all(map(math.isfinite, run["valid"]))


def test_a_cost_by_hand():
    run = {"rows": 10, "checked": True, "r": 4, "valid": [1.0], "test": [1.0], "rate": 0.1}
    prices = {"row": 2, "check": 3, "rank": 5}
    assert cost(run, prices) == 10 * 2 + 10 * 3 + 4 * 5 and cost(run | {"checked": False}, prices) == 40
    dear = run | {"r": 8, "valid": [0.5]}
    assert [best_buy(Case([run, dear], money, prices)) for money in (70, 89, 90)] == [0, 0, 1]
