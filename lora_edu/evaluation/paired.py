"""Two models on the same rows: the gain, its interval, and how easily chance alone would have made it. Chapters 13 and 14.

For a share of rows only the rows that *changed* speak: `gained` went from wrong to right, `lost` from right to wrong. A bootstrap
that redraws 24 gained rows of 24 can find nothing else and calls the gain "1.00 [1.00, 1.00]"; of four gained and none lost it says
"sure", where four coins fall alike one time in eight. So shares get an exact test and a score interval; all else is redrawn.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

from lora_edu.errors import DataError
from lora_edu.evaluation.metrics import Interval, Score, paired_bootstrap, redrawn_gains


class Gain(NamedTuple):
    """What `after` gained over `before`: the difference with its interval, and a two-sided p-value."""

    interval: Interval
    p: float

    def __str__(self) -> str:
        return f"{self.interval}, {'p < 0.001' if self.p < 0.001 else f'p = {self.p:.2g}'}"


def paired_gain(before: Score, after: Score, n: int = 1000, seed: int = 0, level: float = 0.95) -> Gain:
    """The gain of `after` over `before` on the same rows, row by row.

    Of two shares: Tango's score interval and the exact sign test. Of anything else: `paired_bootstrap` with `n` redraws, and
    twice the smaller share of redraws on one side of 0 as p, no smaller than 2 / (n + 1). The interval holds 0 where p says that
    0 cannot be excluded at this level. Raises DataError unless both hold the same number of rows, and at least one.
    """
    if len(before.values) != len(after.values):
        raise DataError(f"a paired comparison needs the same rows: {len(before.values)} against {len(after.values)}")
    if not len(after.values):
        raise DataError("there are no rows to compare")
    if before.is_share and after.is_share:
        gained = int((after.values > before.values).sum())
        lost = int((after.values < before.values).sum())
        p = sign_test(gained, lost)
        value, low, high = share_gain(gained, lost, len(after.values), level)
        if (
            p > 1 - level
        ):  # the score test is an approximation; where the exact test leaves 0 open, so does the interval
            low, high = min(low, 0.0), max(high, 0.0)
        return Gain(Interval(value, low, high), p)
    gains = redrawn_gains(before, after, n, seed)  # (n,)
    one_side = min((gains <= 0).sum(), (gains >= 0).sum())
    return Gain(paired_bootstrap(before, after, n, seed, level)[0], min(1.0, 2 * float(one_side + 1) / (n + 1)))


def sign_test(gained: int, lost: int) -> float:
    """How often as many coins as rows changed would fall at least as unevenly, either way. Exact and two-sided; 1 of no row.

    Source: McNemar 1947 asks the same question by approximation; the exact form is the binomial test of 1/2.
    """
    changed = gained + lost
    tail = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**changed)


def share_gain(gained: int, lost: int, rows: int, level: float = 0.95) -> Interval:
    """The difference of two shares of the same `rows`: all those that the score test does not reject, as Wilson's for one share.

    Source: Tango 1998. The bounds are found by halving, to 1e-9.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    value = (gained - lost) / rows

    def apart(gain: float) -> float:
        """The score of this true gain: how many standard deviations the measured one lies above it."""
        a, b = 2 * rows, (2 * rows - gained + lost) * gain - gained - lost
        losing = (math.sqrt(max(0.0, b * b + 4 * a * lost * gain * (1 - gain))) - b) / (
            2 * a
        )  # likeliest, given `gain`
        variance = rows * (2 * losing + gain * (1 - gain))
        above = gained - lost - rows * gain
        return above / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, above)

    def bound(end: float, inside: float) -> float:
        for _ in range(40):
            middle = (end + inside) / 2
            end, inside = (end, middle) if abs(apart(middle)) < z else (middle, inside)
        return (end + inside) / 2

    return Interval(value, -1.0 if value == -1 else bound(-1.0, value), 1.0 if value == 1 else bound(1.0, value))
