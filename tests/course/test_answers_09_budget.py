"""The judge of exercise 09.3: what a run costs, and which one is the best buy."""

import math

import torch

from lora_edu.course.checks.ch09_budget import Case, best_buy, cases, cost


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
