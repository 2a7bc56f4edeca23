"""Chapter 08's checkers: half-filled answers, and the runs that they draw."""

import itertools
import warnings

import pytest
import torch
from answers_08 import find_pair
from kit import ask
from programs_08 import one_line_left

from lora_edu.course.checks import five_runs, six_runs


def test_a_half_filled_answer_is_told_what_is_open():
    half = ask("08.1", lambda As, Bs, alpha, r, rate: [{"params": As, "lr": rate}, {"params": Bs, "lr": ...}])
    assert half.status == "not attempted" and "lr" in str(half), str(half)
    for answer in (one_line_left, lambda run, rate: [run(r, rate, ...) for r in (8, 64)]):
        assert ask("08.3", answer).status == "not attempted"
    assert "`error = ...` (line" in str(ask("08.3", one_line_left))


def test_nothing_is_printed_beside_what_is_said():
    with warnings.catch_warnings(record=True) as printed:
        warnings.simplefilter("always")
        ask("08.1", lambda As, Bs, alpha, r, rate: [{"params": As}, {"params": Bs + Bs, "lr": alpha / r * rate}])
    assert not printed


@pytest.mark.parametrize("mistake, early", [*itertools.product(five_runs._MISTAKES, (True, False))])
def test_five_runs_have_one_pair_and_one_that_a_mistake_takes_for_it(mistake, early):
    """In whichever order pairs are gone through, the mistake meets its own pair first in one of two cases."""
    key = five_runs._MISTAKES[mistake].key
    for seed in range(5):
        runs, right = five_runs.five_runs(mistake, early, torch.Generator().manual_seed(seed))
        assert find_pair(runs) == right and len({run["r"] for run in runs}) == 1
        (trap,) = five_runs._equal_pairs(runs, key) - {right}
        first, last = (trap, right) if early else (right, trap)
        assert all(x < y for x, y in zip(first, last))


@pytest.mark.parametrize("better, place", [(0.3, 0), (-0.2, 1), (0.05, 2)])
def test_three_pairs_of_runs_tell_every_mistake_from_the_right_answer(better, place):
    for seed in range(20):
        pairs = six_runs._three(better, place, torch.Generator().manual_seed(seed))
        both = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        _, mean, error = six_runs._right(both)
        assert min(map(min, both)) > 0 and (mean > 0) == (better > 0)
        assert error < six_runs._unpaired(*both), "pairs that are worth nothing"
        for want, bugs in ((mean, six_runs._GAINS), (error, six_runs._ERRORS)):
            for bug in set(bugs) - six_runs._SOMETIMES_RIGHT:
                assert min(abs(value - want) for value in bugs[bug](*both)) > 100 * six_runs._NEAR, bug
