"""How many rows a claim needs, against trials that are played out."""

import numpy as np
import pytest

from lora_edu.errors import DataError
from lora_edu.evaluation import rows_needed, rows_needed_apart, rows_needed_mean, sign_test, sign_test_power


def found_by_trial(gain, changed, rows, trials=4000):
    """The share of trials in which the sign test says p ≤ 0.05; rows change at random."""
    chances = ((changed + gain) / 2, (changed - gain) / 2, 1 - changed)
    drawn = np.random.default_rng(0).multinomial(rows, chances, size=trials)
    return np.mean([sign_test(int(g), int(lost)) <= 0.05 for g, lost, _ in drawn])


@pytest.mark.parametrize("gain, changed, rows", [(0.1, 0.2, 150), (0.05, 0.3, 400), (0.3, 0.3, 24), (-0.2, 0.5, 80)])
def test_the_power_is_that_of_trials_played_out(gain, changed, rows):
    assert sign_test_power(gain, changed, rows) == pytest.approx(found_by_trial(gain, changed, rows), abs=0.025)


@pytest.mark.parametrize("gain, changed", [(0.1, 0.2), (0.05, 0.06), (0.3, 0.5), (0.5, 0.5), (0.9, 1)])
def test_so_many_rows_find_it_four_times_in_five_and_fewer_do_not(gain, changed):
    rows = rows_needed(gain, changed)
    assert sign_test_power(gain, changed, rows) >= 0.8 > sign_test_power(gain, changed, rows - 1)
    assert all(sign_test_power(gain, changed, more) >= 0.8 for more in range(rows, rows + 30)), "and it stays found"
    assert found_by_trial(gain, changed, rows) > 0.77
    assert rows_needed(-gain, changed) == rows


def test_the_exact_count_is_near_the_formula_where_rows_are_many():
    """Connor 1987, a little below: the exact test is the stricter one."""
    formula = (1.959964 * 0.2**0.5 + 0.841621 * (0.2 - 0.02**2) ** 0.5) ** 2 / 0.02**2
    assert formula < rows_needed(0.02, 0.2) < 1.03 * formula
    assert rows_needed(0.001, 0.2) > 1_000_000


def test_pairing_needs_fewer_rows_than_two_samples():
    apart = rows_needed_apart(0.70, 0.75)
    assert apart == 1251, "Fleiss 1981, his formula without a continuity correction: 1,250.1"
    draw = np.random.default_rng(0)
    hits = draw.binomial(apart, 0.70, 5000) / apart, draw.binomial(apart, 0.75, 5000) / apart
    pooled = (hits[0] + hits[1]) / 2
    z = (hits[1] - hits[0]) / np.sqrt(2 * pooled * (1 - pooled) / apart)
    assert np.mean(abs(z) > 1.96) == pytest.approx(0.8, abs=0.02)
    assert rows_needed(0.05, 0.10) < apart / 3


def test_rows_for_a_mean():
    rows = rows_needed_mean(0.2, 1.0)
    assert rows == 197  # (1.96 + 0.84)² · 25 = 196.2
    z = np.random.default_rng(0).normal(0.2, 1.0, size=(4000, rows)).mean(axis=1) * rows**0.5
    assert np.mean(z > 1.96) == pytest.approx(0.8, abs=0.02)
    assert rows_needed_mean(0.2, 1.0, power=0.9) > rows < rows_needed_mean(0.2, 1.0, level=0.99)


@pytest.mark.parametrize(
    "ask, words",
    [
        (lambda: rows_needed(0.2, 0.1), "at least the gain"),
        (lambda: rows_needed(0, 0.1), "not 0"),
        (lambda: rows_needed(0.1, 0.2, power=1), "power"),
        (lambda: rows_needed_apart(0.5, 0.5), "two different shares"),
        (lambda: rows_needed_mean(0.1, 0), "standard deviation above 0"),
    ],
)
def test_what_cannot_be_is_named(ask, words):
    with pytest.raises(DataError, match=words):
        ask()
