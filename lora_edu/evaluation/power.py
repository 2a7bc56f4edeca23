"""How many rows a claim needs: reckoned before anything is measured. Chapter 13.

The power of a comparison is the chance that it finds (p ≤ 1 − level, two-sided) a gain that is there. A test with too few rows finds
little, and what it finds is too large.
"""

import math
from statistics import NormalDist

import numpy as np

from lora_edu.errors import DataError

MOST_ROWS = 10_000_000


def sign_test_power(gain: float, changed: float, rows: int, level: float = 0.95) -> float:
    """The chance that the exact sign test finds a gain of `gain` on `rows` rows of which a share `changed` changes.

    Of all rows (changed + gain)/2 go from wrong to right and (changed − gain)/2 the other way. Exact, up to 1e-9: the number of changed
    rows is binomial, and of those the number gained. Source: McNemar 1947; Miettinen 1968 for the power.
    """
    from scipy.stats import binom

    _check_shares(gain, changed)
    spread = 8 * math.sqrt(rows * changed * (1 - changed)) + 8
    m = np.arange(max(0, int(rows * changed - spread)), min(rows, int(rows * changed + spread)) + 1)  # rows that change
    most = binom.ppf((1 - level) / 2, m, 0.5)  # the fewest on one side that may still be called a finding, or one more
    most = np.where(binom.cdf(most, m, 0.5) > (1 - level) / 2, most - 1, most)
    right = (1 + gain / changed) / 2
    found = binom.cdf(most, m, right) + binom.cdf(most, m, 1 - right)  # either side: −1 where none can be a finding
    return float(np.sum(binom.pmf(m, rows, changed) * found))


def rows_needed(gain: float, changed: float, power: float = 0.8, level: float = 0.95) -> int:
    """Rows for a *paired* comparison of two shares: both models on the same rows, judged by the exact sign test. Chapter 13.

    gain: the difference to be found (0.05: five more right in a hundred). changed: the share of rows that go one way or the other, at
    least |gain|; two models that agree on most rows need few. The smallest number from which on the power stays reached, so that it
    does not fall back at the next row. Raises DataError for what cannot be.
    """
    _check_shares(gain, changed)
    _check_power(power, level)
    z, zp = _z(level), NormalDist().inv_cdf(power)
    d = abs(gain)
    guess = (z * math.sqrt(changed) + zp * math.sqrt(max(0.0, changed - d * d))) ** 2 / (d * d)  # Connor 1987
    if guess > 200_000:  # there the exact test and the formula differ by less than 1 %
        return math.ceil(guess)
    low, high = max(1, int(guess * 0.5)), int(guess * 1.5) + 40
    while high - low > 1:  # the power wobbles with the rows by less than this stride
        middle = (low + high) // 2
        low, high = (low, middle) if sign_test_power(gain, changed, middle, level) >= power else (middle, high)
    for rows in range(high + 40, max(1, high - 40), -1):  # the last that falls short, then one more
        if sign_test_power(gain, changed, rows, level) < power:
            return rows + 1
    return max(1, high - 40)


def rows_needed_apart(before: float, after: float, power: float = 0.8, level: float = 0.95) -> int:
    """Rows *each* for an unpaired comparison of two shares: each model on rows of its own (or the pairing thrown away).

    (z √(2 p̄ q̄) + z_power √(p₁q₁ + p₂q₂))² / (p₂ − p₁)². Source: Fleiss 1981. Raises DataError for what cannot be.
    """
    _check_power(power, level)
    if not (0 <= before <= 1 and 0 <= after <= 1) or before == after:
        raise DataError(f"two different shares from 0 to 1 are needed, not {before} and {after}")
    middle = (before + after) / 2
    noise = _z(level) * math.sqrt(2 * middle * (1 - middle))
    noise += NormalDist().inv_cdf(power) * math.sqrt(before * (1 - before) + after * (1 - after))
    return math.ceil(noise**2 / (after - before) ** 2)


def rows_needed_mean(gain: float, sd: float, power: float = 0.8, level: float = 0.95) -> int:
    """Rows for the mean of anything (a loss, ROUGE): ((z + z_power) · sd / gain)², for 30 rows or more.

    sd: of the rows' *differences* for a paired comparison; √(sd₁² + sd₂²) of the two models' own rows for an unpaired one (rows each).
    """
    _check_power(power, level)
    if not gain or sd <= 0 or not math.isfinite(gain) or not math.isfinite(sd):
        raise DataError(f"gain = {gain} and sd = {sd}: a gain other than 0 and a standard deviation above 0")
    return min(MOST_ROWS, math.ceil(((_z(level) + NormalDist().inv_cdf(power)) * sd / gain) ** 2))


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _check_shares(gain: float, changed: float) -> None:
    if not 0 < abs(gain) <= changed <= 1:
        raise DataError(
            f"gain = {gain} with changed = {changed}: the share of rows that change is at least the gain (and the gain is not 0) and at most 1"
        )


def _check_power(power: float, level: float) -> None:
    if not 0.5 <= power < 1 or not 0 < level < 1:
        raise DataError(f"power = {power}, level = {level}: a power from 0.5 to below 1, a level between 0 and 1")
