"""Two models on the same rows: exact tests, intervals that hold what they promise, and what a bootstrap of shares gets wrong."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from lora_edu.errors import DataError
from lora_edu.evaluation import Score, paired_bootstrap, paired_gain, share, sign_test, token_perplexity
from lora_edu.evaluation.paired import share_gain


def answers(gained: int, lost: int, rows: int) -> tuple[Score, Score]:
    """The right answers of two models, of which so many rows changed; half of the others are right in both."""
    kept = [i % 2 == 0 for i in range(rows - gained - lost)]
    return share([False] * gained + [True] * lost + kept), share([True] * gained + [False] * lost + kept)


@pytest.mark.parametrize("gained, lost", [(4, 0), (0, 5), (6, 0), (7, 1), (3, 9), (10, 10), (40, 31), (0, 0)])
def test_the_sign_test_is_the_binomial_test(gained, lost):
    exact = binomtest(gained, gained + lost).pvalue if gained + lost else 1
    assert sign_test(gained, lost) == pytest.approx(exact)


def test_the_interval_of_a_published_table():
    """Airway responsiveness before and after a transplant, 1 and 7 of 21 changed (Bentur 2009): Tango in Fagerland 2014."""
    value, low, high = share_gain(1, 7, 21)
    assert (value, low, high) == pytest.approx((-6 / 21, -0.517, -0.026), abs=6e-4)


@pytest.mark.parametrize(
    "gained, lost, rows", [(24, 0, 24), (4, 0, 24), (3, 9, 30), (12, 2, 50), (60, 46, 200), (1, 0, 9)]
)
def test_at_a_bound_the_measured_gain_is_as_far_off_as_the_level_allows(gained, lost, rows):
    """The nuisance, how many rows change at all, is found by search and not by Tango's formula."""
    for bound in share_gain(gained, lost, rows)[1:]:
        if abs(bound) == 1:
            continue

        def unlikely(losing, gain=bound):
            parts = (losing + gain, losing, 1 - 2 * losing - gain)
            counts = (gained, lost, rows - gained - lost)
            return -sum(n * math.log(max(p, 1e-300)) for n, p in zip(counts, parts) if n)

        inside = (max(0, -bound) + 1e-12, (1 - bound) / 2 - 1e-12)
        losing = minimize_scalar(unlikely, bounds=inside, method="bounded", options={"xatol": 1e-10}).x
        spread = math.sqrt(rows * (2 * losing + bound - bound**2))
        assert abs(gained - lost - rows * bound) / spread == pytest.approx(1.96, abs=2e-3)


def test_the_interval_of_a_gain_is_right_in_nineteen_of_twenty_trials():
    draw = np.random.default_rng(0)
    for p_gained, p_lost, rows in ((0.2, 0.1, 30), (0.05, 0.02, 100), (0.6, 0.0, 24)):
        trials = draw.multinomial(rows, (p_gained, p_lost, 1 - p_gained - p_lost), size=1500)
        held = [paired_gain(*answers(g, lost, rows)).interval for g, lost, _ in trials]
        assert np.mean([low <= p_gained - p_lost <= high for _, low, high in held]) > 0.935


def test_all_gained_is_no_certainty_and_four_coins_are_no_finding():
    interval, p = paired_gain(*answers(24, 0, 24))
    assert interval.value == interval.high == 1 and 0.6 < interval.low < 0.9 and p == 2**-23
    assert paired_bootstrap(*answers(24, 0, 24))[0].low == 1, "which is what the bootstrap would have said"
    interval, p = paired_gain(*answers(4, 0, 24))
    assert p == 0.125 and interval.low == 0 < interval.high
    assert paired_bootstrap(*answers(4, 0, 24))[0].low > 0, "and the bootstrap is sure of it"
    assert str(paired_gain(*answers(4, 0, 24))) == "0.17 [0.00, 0.36], p = 0.12"
    assert str(paired_gain(*answers(24, 0, 24))).endswith("p < 0.001")


def test_the_interval_leaves_0_out_where_the_exact_test_does_and_only_there():
    for rows in (12, 24, 60):
        for changed in range(rows + 1):
            for gained in range(changed + 1):
                (value, low, high), p = paired_gain(*answers(gained, changed - gained, rows))
                assert (low > 0 or high < 0) == (p <= 0.05) and low <= value <= high
    strict = paired_gain(*answers(8, 1, 30), level=0.99)
    assert strict.p == pytest.approx(0.0390625) and strict.interval.low <= 0, "another level, another verdict"


def test_what_is_no_share_is_redrawn():
    hard = np.random.default_rng(0).normal(0, 10, size=50)
    gain, p = paired_gain(Score(hard), Score(hard + 1))
    assert gain == paired_bootstrap(Score(hard), Score(hard + 1))[0] and p == pytest.approx(2 / 1001)
    assert paired_gain(Score(hard), Score(hard))[1] == 1
    tokens = np.full((30, 1), 7.0)
    losses = np.random.default_rng(1).uniform(5, 30, size=(30, 1))
    before, after = (Score(np.hstack([each, tokens]), token_perplexity) for each in (losses, losses + 1))
    assert paired_gain(before, after).interval.low > 0 and paired_gain(before, after).p < 0.01


def test_other_rows_or_none_are_refused():
    for compare in (paired_gain, paired_bootstrap):
        with pytest.raises(DataError, match="same rows: 2 against 3"):
            compare(share([True, False]), share([True, False, True]))
    with pytest.raises(DataError, match="no rows"):
        paired_gain(share([]), share([]))
