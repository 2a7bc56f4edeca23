"""Six runs of two ranks, spent by a learner: whether they are fair, and what was made of them. Exercise 08.3."""

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lora_edu.course.exercises import NotAttempted, Wrong, as_number, as_parts, as_whole, attempt
from lora_edu.course.values import apart, same

Losses = list[float]
MOST = 60  # runs after which a loop is stopped
_FAR = 1e-3  # between what is right and what any mistake leads to
_NEAR = 2e-6  # what single precision leaves of a difference of two losses of about 1, however small the difference


class Ledger:
    """One task's runs: `run` as the learner is given it, and what was asked of it."""

    def __init__(self, better: float, place: int, draw: torch.Generator) -> None:
        self.calls: list[tuple[int, float, int]] = []
        self.strange = ""  # a call with what is no rank, rate or seed
        self._losses: dict[int, dict[int, float]] = {}  # of each seed, the one first asked for first
        self._drawn, self._better, self._draw = _three(better, place, draw), better, draw

        def run(r: Any, rate: Any, seed: Any) -> float:
            return self._run(r, rate, seed)

        run.__qualname__ = "run"  # Python quotes it where an argument is missing
        self.run = run

    def _run(self, r: Any, rate: Any, seed: Any) -> float:
        if ... in (r, rate, seed):
            raise NotImplementedError  # as `attempt` takes it: this line is still to be written
        if len(self.calls) >= MOST:
            self.calls.append(self.calls[-1])
            raise ValueError("there were to be six runs")
        try:
            self.calls.append((as_whole(r, "r"), float(as_number(rate, "rate")), as_whole(seed, "seed")))
        except (Wrong, NotAttempted) as error:
            detail = error.detail if isinstance(error, Wrong) else f"{error.args[0]} is None"
            self.strange = self.strange or f"in `run(r, rate, seed)` {detail}"
            raise ValueError(self.strange) from None
        return self.loss(*self.calls[-1][::2])

    def loss(self, r: int, seed: int) -> float:
        if seed not in self._losses:
            new = self._drawn.pop(0) if self._drawn else _pair(self._better, self._draw)
            self._losses[seed] = dict(zip((8, 64), new))
        return self._losses[seed][64 if r == 64 else 8]

    def both(self) -> tuple[Losses, Losses]:
        eight, sixty_four = ([self.loss(r, seed) for seed in self._losses] for r in (8, 64))
        return eight, sixty_four


def _pair(better: float, draw: torch.Generator) -> tuple[float, float]:
    """The losses of r = 8 and of r = 64 with one seed: what they share varies more than what they do not."""
    common, of_8, of_64 = torch.randn(3, generator=draw).tolist()
    return 1.5 + 0.2 * common + 0.08 * of_8, 1.5 + 0.2 * common + 0.08 * of_64 - better


def _three(better: float, place: int, draw: torch.Generator) -> list[tuple[float, float]]:
    """Three such pairs, for which no mistake comes near the right answer by chance.

    The median gain stands at `place`, the lowest loss of r = 8 behind it and the highest before it (round a circle of three), so that
    over three tasks with three places none of these is the loss of one and the same seed. In one task the two sides' lowest losses
    have two seeds, in another their highest: who sorts both sides, or takes the best of each, has torn the pairs apart there. And the
    pairs are worth keeping together: without them the error is larger.
    """
    while True:
        pairs = [_pair(better, draw) for _ in range(3)]
        both = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        gains, mean, error = _right(both)
        others = [(mean, _GAINS), (error, _ERRORS)]
        if (
            gains.index(statistics.median(gains)) == place
            and _order(both[0]) == [(place + step) % 3 for step in (1, 0, 2)]
            and (place == 2 or _order(both[0])[2 * place] != _order(both[1])[2 * place])
            and error < 0.8 * _unpaired(*both)
            and min(map(min, pairs)) > 0.2
            and abs(mean) > 0.01
            and (mean > 0) == (better > 0)
            and all(
                abs(value - want) > _FAR
                for want, bugs in others
                for bug, values in bugs.items()
                if bug not in _SOMETIMES_RIGHT
                for value in values(*both)
            )
        ):
            return pairs


def _order(losses: Losses) -> list[int]:
    return sorted(range(len(losses)), key=losses.__getitem__)


def _right(both: tuple[Losses, Losses]) -> tuple[Losses, float, float]:
    gains = [a - b for a, b in zip(*both)]
    return gains, statistics.fmean(gains), statistics.stdev(gains) / math.sqrt(3)


def _unpaired(eight: Losses, big: Losses) -> float:
    return math.sqrt((statistics.variance(eight) + statistics.variance(big)) / 3)


_Values = Callable[[Losses, Losses], Sequence[float]]


def _gains(eight: Losses, big: Losses) -> Losses:
    return [a - b for a, b in zip(eight, big)]


def _mean(eight: Losses, big: Losses) -> float:
    return statistics.fmean(_gains(eight, big))


def _spread(eight: Losses, big: Losses) -> float:
    return statistics.stdev(_gains(eight, big))


def _ratios(eight: Losses, big: Losses) -> list[float]:
    a, b, gain = statistics.fmean(eight), statistics.fmean(big), _mean(eight, big)
    pairs = list(zip(eight, big))
    each = [statistics.fmean(x / y for x, y in pairs), statistics.fmean(y / x for x, y in pairs)]
    shares = [gain / a, gain / b, 1 - each[1], each[0] - 1]
    return [a / b, b / a, *each, *shares, *(100 * share for share in shares)]


# What each mistake makes of the losses, in one or several ways. A way counts where it explains the learner's answer in all three tasks.
_GAINS: dict[str, _Values] = {
    "the sign is turned": lambda eight, big: [-_mean(eight, big)],
    "the gain, without its sign": lambda eight, big: [abs(_mean(eight, big)), statistics.fmean(map(abs, _gains(eight, big)))],
    "a sum, not a mean": lambda eight, big: [3 * _mean(eight, big), -3 * _mean(eight, big)],
    "a ratio, not a difference": _ratios,
    "divided by six runs, not by three pairs": lambda eight, big: [_mean(eight, big) / 2],
    "divided by n − 1, not by n": lambda eight, big: [_mean(eight, big) * 1.5],
    "the median, not the mean": lambda eight, big: [statistics.median(_gains(eight, big)), statistics.median(eight) - statistics.median(big)],
    "the best run of each side, not all": lambda eight, big: [min(eight) - min(big), max(eight) - max(big)],
    "the largest gain, or the smallest, not the mean": lambda eight, big: [max(_gains(eight, big)), min(_gains(eight, big))],
    "one side's loss, not the gain": lambda eight, big: [statistics.fmean(eight), statistics.fmean(big)],
    "not all seeds are used": lambda eight, big: [
        *_gains(eight, big), *(statistics.fmean(two) for two in itertools.combinations(_gains(eight, big), 2))
    ],
    "the gain is rounded": lambda eight, big: [round(_mean(eight, big), digits) for digits in range(1, 6)],
}  # fmt: skip
_ERRORS: dict[str, _Values] = {
    "the standard deviation, not that of the mean": lambda eight, big: [_spread(eight, big)],
    "divided by n inside, not by n − 1": lambda eight, big: [
        statistics.pstdev(_gains(eight, big)) / root for root in (math.sqrt(3), 1, 3)
    ],
    "divided by n, not by its root": lambda eight, big: [_spread(eight, big) / 3],
    "multiplied by the root of n": lambda eight, big: [_spread(eight, big) * math.sqrt(3)],
    "n − 1 counts twice": lambda eight, big: [_spread(eight, big) / math.sqrt(2)],
    "divided by six runs, not by three pairs": lambda eight, big: [_spread(eight, big) / math.sqrt(6), _spread(eight, big) / 6],
    "a variance, without the root": lambda eight, big: [
        how(_gains(eight, big)) / n for how in (statistics.variance, statistics.pvariance) for n in (1, 3)
    ],
    "an interval, not the error": lambda eight, big: [
        _spread(eight, big) / math.sqrt(3) * times for times in (2, 1.96, 1.959963985, 4.3, 4.303, 4.302652730)
    ],
    "half the distance of the extremes": lambda eight, big: [
        (max(_gains(eight, big)) - min(_gains(eight, big))) / part for part in (1, 2)
    ],
    "the pairs are not used": lambda eight, big: [
        *(math.sqrt((how(eight) + how(big)) / n) for how in (statistics.variance, statistics.pvariance) for n in (1, 3, 6)),
        statistics.stdev(eight + big) / math.sqrt(6),
        (statistics.stdev(eight) + statistics.stdev(big)) / math.sqrt(3),
        abs(statistics.stdev(eight) - statistics.stdev(big)) / math.sqrt(3),
    ],
    "one side's error, not the gain's": lambda eight, big: [statistics.stdev(side) / math.sqrt(3) for side in (eight, big)],
    "the pairs do not share a seed": lambda eight, big: [
        *(_spread(eight, list(order)) / math.sqrt(3) for order in itertools.permutations(big)),
        _spread(sorted(eight), sorted(big)) / math.sqrt(3),  # not one order in all three tasks
    ],
    "the error is rounded": lambda eight, big: [round(_spread(eight, big) / math.sqrt(3), digits) for digits in range(1, 6)],
}  # fmt: skip
# These may well meet the right answer in one task, and not in all three.
_SOMETIMES_RIGHT = {
    "the gain, without its sign", "the pairs do not share a seed", "the gain is rounded", "the error is rounded"
}  # fmt: skip


def judge_six(function: Callable[..., Any], draw: torch.Generator) -> None:
    """A learner's `settle(run, rate)` on three tasks. Raises: Wrong, NotAttempted."""
    found: list[tuple[tuple[Losses, Losses], float, float]] = []
    for place, (better, rate) in enumerate(((0.3, 0.01), (-0.2, 0.003), (0.05, 0.03))):
        ledger = Ledger(better, place, draw)
        try:
            got = attempt(function, ledger.run, rate)
        except Wrong:
            _possible(ledger)
            raise
        _possible(ledger)
        names = ("gain", "error")
        gain, error = (float(as_number(part, name)) for part, name in zip(as_parts(got, names, "`settle`"), names))
        _fair(ledger.calls, rate)
        found.append((ledger.both(), gain, error))
    wanted = [_right(both)[1:] for both, _, _ in found]
    given = [(gain, error) for _, gain, error in found]
    if not _agree(given, wanted) and _agree(given, [want[::-1] for want in wanted]):
        raise Wrong("the two are swapped", "`settle` returns (gain, error), the gain first")
    for which, name, bugs in ((0, "gain", _GAINS), (1, "error", _ERRORS)):
        for mine, want in zip(given, wanted):
            if not _close(mine[which], want[which]):
                bug = _mistake([each[which] for each in given], [both for both, _, _ in found], bugs)
                of = "the mean of the three" if name == "gain" else "that of the mean"
                pair = apart(mine[which], want[which])
                raise Wrong(bug or f"another {name}", f"your {name} is {pair[0]}, and {of} is {pair[1]}")


def _possible(ledger: Ledger) -> None:
    """Raises Wrong where `run` was called with what cannot be run, or without an end."""
    if ledger.strange:
        raise Wrong("run is called with something else", ledger.strange) from None
    if len(ledger.calls) > MOST:
        raise Wrong("more than six runs", f"more than {MOST} were made") from None


def _close(got: float, want: float) -> bool:
    return abs(got - want) <= _NEAR


def _agree(given: Sequence[tuple[float, float]], wanted: Sequence[tuple[float, ...]]) -> bool:
    return all(_close(x, y) for mine, want in zip(given, wanted) for x, y in zip(mine, want))


def _mistake(given: Sequence[float], losses: Sequence[tuple[Losses, Losses]], bugs: dict[str, _Values]) -> str | None:
    """The mistake of which one way leads to what was given in every task, or None."""
    for bug, values in bugs.items():
        tasks = [values(*both) for both in losses]
        if any(all(map(_close, given, way)) for way in zip(*tasks)):
            return bug
    return None


def _fair(calls: Sequence[tuple[int, float, int]], rate: float) -> None:
    """Raises Wrong where the runs that were made cannot settle it."""
    if not calls:
        raise Wrong("no run is made", "you may make six; `run(r, rate, seed)` returns a loss")
    if len(calls) > 6:
        again = len(calls) - len(set(calls))
        repeated = f", {again} of them with a rank and a seed that had been run" if again else ""
        raise Wrong("more than six runs", f"{len(calls)} were made{repeated}")
    if (ranks := {r for r, _, _ in calls}) != {8, 64}:
        raise Wrong("not these two ranks", f"you ran r = {', '.join(map(str, sorted(ranks)))}")
    if others := sorted({f"{given:g}" for _, given, _ in calls if not same(given, rate)}):
        raise Wrong("another rate", f"you ran the rate {', '.join(others)}; {rate:g} was chosen for both ranks")
    seeds = {r: sorted(seed for other, _, seed in calls if other == r) for r in (8, 64)}
    said = f"seeds of r = 8: {seeds[8]}, of r = 64: {seeds[64]}"
    if any(len(set(each)) < len(each) for each in seeds.values()):
        raise Wrong("one run, made again", f"{said}; the same seed gives the same run")
    if len(seeds[8]) != len(seeds[64]):
        raise Wrong("not as many runs on either side", f"{len(seeds[8])} of r = 8, {len(seeds[64])} of r = 64")
    if seeds[8] != seeds[64]:
        raise Wrong("other seeds on either side", f"{said}: the pairs differ in two things")
    if len(calls) < 6:
        raise Wrong(
            "runs are left over", f"you made {len(calls)}; six were allowed, and each pair more narrows the error"
        )
