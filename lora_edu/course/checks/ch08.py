"""Exercises of chapter 08, α, r and the learning rate."""

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from lora_edu.course.exercises import Wrong, as_number, as_parts, as_whole, attempt, generator, register, told
from lora_edu.course.values import apart, same

Run = dict[str, Any]


@register(
    "08.1",
    title="The same run at α = r",
    stars=1,
    minutes=8,
    task="Somebody trained with `alpha` and one `rate` for both factors, with Adam. You want the very same run from an adapter with α = r, that is s = 1. "
    "Write `groups(As, Bs, alpha, r, rate)`: from the lists of all A's and all B's, the list of parameter groups for "
    "`torch.optim.Adam(groups(…), lr=rate)`. A group is a dict with `params` and, where it is not `rate`, `lr`.",
    wants="groups",
    shows="An α of any size is written as a learning rate of B.",
    hints=(
        "s·B is what the layer uses. At α = r the factor s is gone: whose steps have to be s times as long?",
        "A starts where it started, and moves as it moved: Adam does not see how large a gradient is.",
        'Two groups: {"params": As, "lr": …} and {"params": Bs, "lr": …}. One of the two rates is `rate`.',
    ),
)
def groups(function: Callable[..., Any]) -> None:
    draw = generator()
    for alpha, r, rate in ((16.0, 8, 1e-3), (24.0, 16, 2e-3), (2.0, 8, 5e-4), (32.0, 32, 1e-2), (7.0, 3, 3e-4)):
        As, Bs = ([nn.Parameter(torch.randn(shape, generator=draw)) for _ in range(3)] for shape in ((r, 5), (6, r)))
        got = attempt(function, list(As), list(Bs), alpha, r, rate)
        said = f"for α = {alpha:g}, r = {r} and rate {rate:g}"
        rates = _rates_of(got, rate)
        for what, factors in (("A", As), ("B", Bs)):
            if missing := sum(id(p) not in rates for p in factors):
                raise Wrong("a factor is left out", f"{said}: {missing} of the {len(factors)} {what}'s are in no group")
        if len(rates) > len(As) + len(Bs):
            raise Wrong("something else trains", f"{said}: the groups hold a parameter that you were not given")
        found = [sorted({rates[id(p)] for p in factors}) for factors in (As, Bs)]
        if max(map(len, found)) > 1:
            raise Wrong(
                "one factor, several rates", f"{said}: the rates of the A's are {found[0]}, of the B's {found[1]}"
            )
        a, b = found[0][0], found[1][0]
        s = alpha / r
        if same(a, rate) and same(b, s * rate):
            continue
        bugs = {
            "nothing is changed": (1.0, 1.0),
            "A's rate is changed, not B's": (s, 1.0),
            "both rates are changed": (s, s),
            "B's rate is divided by s": (1.0, 1 / s),
            "both rates are divided by s": (1 / s, 1 / s),
            "s counts twice, as it would under SGD": (1.0, s * s),
            "the root of s": (1.0, math.sqrt(s)),
            "s is shared out among both": (math.sqrt(s), math.sqrt(s)),
            "A's rate is divided, beside B's": (1 / s, s),
            "α, not α/r": (1.0, alpha),
            "always twice": (1.0, 2.0),
        }
        bug = next((name for name, (x, y) in bugs.items() if same(a, x * rate) and same(b, y * rate)), "other rates")
        raise Wrong(bug, f"{said}: you give A the rate {a:.4g} and B the rate {b:.4g}; with these it is another run")


def _rates_of(got: Any, rate: float) -> dict[int, float]:
    """Of each parameter (by its id) the rate that Adam would use."""
    try:
        optimizer = torch.optim.Adam(list(got), lr=rate)
        return {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    except (TypeError, ValueError, KeyError) as error:
        raise Wrong("no parameter groups", f"`torch.optim.Adam(groups(…), lr={rate:g})` says: {told(error)}") from None


@register(
    "08.3",
    title="Six runs for one claim",
    stars=2,
    minutes=10,
    task="“r = 64 beats r = 8.” You may make six runs. Write `settle(run, rate)`: `run(r, rate, seed)` trains once and returns the loss on held-out digits; `rate` "
    "is the rate that validation rows chose for both ranks. Return (gain, error): what r = 64 gains over r = 8 in loss (above zero: 64 is better), as a mean over "
    "seeds, and the standard error of that mean.",
    wants="settle",
    shows="Six runs, spent on pairs that differ in nothing but r.",
    hints=(
        "The rate is settled. What else has to be equal within a pair of runs, and what has to differ between pairs?",
        "Three seeds, both ranks with each: the gains are three differences, run(8, rate, seed) − run(64, rate, seed).",
        "The standard error of a mean of n numbers: their standard deviation (divide by n − 1 inside) over √n.",
    ),
)
def settle(function: Callable[..., Any]) -> None:
    draw = generator()
    for better, rate in ((0.3, 0.01), (-0.2, 0.003), (0.02, 0.03)):
        numbers = torch.randn(200, 3, generator=draw).tolist()
        calls: list[tuple[Any, Any, Any]] = []

        def run(
            r: Any, rate: Any, seed: Any, calls: Any = calls, numbers: Any = numbers, better: Any = better
        ) -> float:
            if len(calls) > 60:
                raise ValueError("there were to be six runs")
            calls.append((r, rate, seed))
            common, of_8, of_64 = numbers[int(seed) % len(numbers)]
            return float(1.0 + 0.3 * common + 0.06 * (of_64 if r == 64 else of_8) - (better if r == 64 else 0.0))

        got = attempt(function, run, rate)
        gain, error = (
            as_number(each, name) for each, name in zip(as_parts(got, ("gain", "error"), "`settle`"), ("gain", "error"))
        )
        _fair(calls, rate)
        seeds = sorted({seed for _, _, seed in calls})
        eight, sixty_four = ([run(r, rate, seed) for seed in seeds] for r in (8, 64))
        gains = [a - b for a, b in zip(eight, sixty_four)]
        mean, spread = statistics.fmean(gains), statistics.stdev(gains)
        want = spread / math.sqrt(3)
        if not same(gain, mean):
            bugs = {
                "the sign is turned": -mean,
                "a sum, not a mean": 3 * mean,
                "a ratio, not a difference": [
                    statistics.fmean(eight) / statistics.fmean(sixty_four),
                    mean / statistics.fmean(eight),
                ],
                "not all seeds are used": [*gains, min(eight) - min(sixty_four)],
                "the median, not the mean": statistics.median(gains),
            }
            raise Wrong(
                _which(gain, bugs, "another gain"),
                "your gain is {}, and the mean of the three is {}".format(*apart(gain, mean)),
            )
        if not same(error, want):
            unpaired = math.sqrt((statistics.variance(eight) + statistics.variance(sixty_four)) / 3)
            pairs = [[a - b for a, b in zip(eight, order)] for order in itertools.permutations(sixty_four)]
            bugs = {
                "the standard deviation, not that of the mean": spread,
                "divided by n inside": [statistics.pstdev(gains) / math.sqrt(3), statistics.pstdev(gains)],
                "the pairs are not used": [
                    unpaired,
                    statistics.stdev(eight + sixty_four) / math.sqrt(6),
                    unpaired / math.sqrt(2),
                ],
                "divided by n, not by its root": spread / 3,
                "divided by six runs, not by three pairs": spread / math.sqrt(6),
                "a variance, without the root": [statistics.variance(gains), statistics.variance(gains) / 3],
                "half the distance of the extremes": [(max(gains) - min(gains)) / 2, max(gains) - min(gains)],
                "the pairs do not share a seed": [statistics.stdev(each) / math.sqrt(3) for each in pairs],
            }
            raise Wrong(
                _which(error, bugs, "another error"),
                "your error is {}, and that of the mean is {}".format(*apart(error, want)),
            )


def _which(got: float, bugs: dict[str, Any], otherwise: str) -> str:
    return next(
        (bug for bug, each in bugs.items() if any(same(got, x) for x in (each if isinstance(each, list) else [each]))),
        otherwise,
    )


def _fair(calls: Sequence[tuple[Any, Any, Any]], rate: float) -> None:
    """Raises Wrong where the runs that were made cannot settle it."""
    if len(calls) > 6:
        raise Wrong("more than six runs", f"{'more than 60' if len(calls) > 60 else len(calls)} were made")
    if {r for r, _, _ in calls} != {8, 64}:
        raise Wrong(
            "not these two ranks",
            f"you ran r = {', '.join(str(r) for r in sorted({r for r, _, _ in calls})) or 'nothing'}",
        )
    if others := {given for _, given, _ in calls} - {rate}:
        raise Wrong("another rate", f"you ran rates {sorted(others)} too; {rate:g} was chosen for both ranks")
    seeds = {r: sorted(seed for other, _, seed in calls if other == r) for r in (8, 64)}
    if any(len(set(each)) < len(each) for each in seeds.values()):
        raise Wrong(
            "one run, made again",
            f"seeds of r = 8: {seeds[8]}, of r = 64: {seeds[64]}; the same seed gives the same run",
        )
    if len(seeds[8]) != len(seeds[64]):
        raise Wrong("not as many runs on either side", f"{len(seeds[8])} of r = 8, {len(seeds[64])} of r = 64")
    if seeds[8] != seeds[64]:
        raise Wrong(
            "other seeds on either side",
            f"seeds of r = 8: {seeds[8]}, of r = 64: {seeds[64]}: the pairs differ in two things",
        )
    if len(calls) < 6:
        raise Wrong(
            "runs are left over", f"you made {len(calls)}; six were allowed, and each pair more narrows the error"
        )


def _scale(run: Run) -> float:
    return float(run["alpha"]) / (math.sqrt(run["r"]) if run["rslora"] else float(run["r"]))


def _key(run: Run) -> tuple[float, ...]:
    return run["rate_A"] / run["start"], _scale(run) * run["start"] * run["rate_B"]


# What each way to compare two runs wrongly looks at, and a change of a run that it does not see. The first two look at one number of the two.
_BLIND: dict[str, tuple[Callable[[Run], tuple[float, ...]], dict[str, float]]] = {
    "B's rate is not looked at": (lambda run: _key(run)[:1], {"rate_B": 4.0}),
    "A's rate is not looked at": (lambda run: _key(run)[1:], {"rate_A": 2.0}),
    "α is forgotten": (lambda run: (run["rate_A"] / run["start"], run["start"] * run["rate_B"]), {"alpha": 4.0}),
    "A's start is forgotten": (lambda run: (run["rate_A"], _scale(run) * run["rate_B"]), {"start": 2.0}),
    "rsLoRA is forgotten": (
        lambda run: (run["rate_A"] / run["start"], run["alpha"] / run["r"] * run["start"] * run["rate_B"]),
        {"rslora": 1.0},
    ),
    "A's rate is multiplied by its start": (
        lambda run: (run["rate_A"] * run["start"], _key(run)[1]),
        {"start": 2.0, "rate_A": 0.5, "alpha": 0.5},
    ),
    "the rates go with the squares, as under SGD": (
        lambda run: (run["rate_A"] / run["start"] ** 2, (_scale(run) * run["start"]) ** 2 * run["rate_B"]),
        {"start": 2.0, "rate_A": 4.0, "alpha": 0.5},
    ),
}  # fmt: skip


def _changed(run: Run, by: dict[str, float]) -> Run:
    """Each number times what `by` says; `rslora` turned over where it is named."""
    return {
        name: not value if name == "rslora" and name in by else value * by.get(name, 1) if name != "rslora" else value
        for name, value in run.items()
    }


def _equal_pairs(runs: Sequence[Run], key: Callable[[Run], tuple[float, ...]]) -> set[tuple[int, int]]:
    keys = [key(run) for run in runs]
    return {(i, j) for i, j in itertools.combinations(range(len(runs)), 2) if all(map(math.isclose, keys[i], keys[j]))}


Pair = tuple[int, int]


def _places(order: list[int], one: int, other: int) -> Pair:
    first, second = sorted((order.index(one), order.index(other)))
    return first, second


def five_runs(blind: str, draw: torch.Generator) -> tuple[list[Run], Pair, Pair]:
    """Five runs of which two are one; where these stand; and where two others stand that are one only to who makes the mistake `blind`."""

    def power(low: int, high: int) -> float:
        return 2.0 ** int(torch.randint(low, high + 1, (1,), generator=draw))

    def some(r: int) -> Run:
        return {
            "alpha": 8 * power(-1, 4), "r": r, "rslora": power(0, 1) > 1, "start": power(-2, 2),
            "rate_A": 1e-3 * power(-2, 4), "rate_B": 1e-3 * power(-2, 4),
        }  # fmt: skip

    wrong, unseen = _BLIND[blind]
    later = [key for key, _ in list(_BLIND.values())[list(_BLIND).index(blind) + 1 :]]
    while True:
        r = (4, 16, 64)[int(torch.randint(3, (1,), generator=draw))]
        one, mistaken, alone = some(r), some(r), some(r)
        p, q = power(1, 2), power(-2, -1)
        other = _changed(one, {"start": p, "rate_A": p, "rate_B": q, "alpha": 1 / (p * q)})
        if power(0, 1) > 1:  # the same scale under the other rule
            other["rslora"] = not other["rslora"]
            other["alpha"] *= r**-0.5 if other["rslora"] else r**0.5
        order = torch.randperm(5, generator=draw).tolist()
        runs = [[one, other, mistaken, _changed(mistaken, unseen), alone][i] for i in order]
        right, trap = _places(order, 0, 1), _places(order, 2, 3)
        seen = _equal_pairs(runs, wrong)
        if (
            _equal_pairs(runs, _key) == {right}
            and trap in seen <= {trap, right}
            and trap != (right[0] + 1, right[1] + 1)  # or who counts from 1 would walk into it
            and not any(trap in _equal_pairs(runs, key) for key in later)
            and (len(seen) == 1 or trap < right)  # who takes the first pair that agrees walks into it
        ):
            return runs, right, trap


@register(
    "08.2",
    title="Two of five",
    stars=2,
    minutes=8,
    task="Five configurations of one adapter, to be trained with Adam. Two of them are the same run. Write `find_pair(runs)` that returns their two positions, counted from 0. "
    "A run is a dict: `alpha`, `r` (the same in all five), `rslora` (True: the scale is α/√r, False: α/r), `start` (A's start, as a multiple of the usual one), `rate_A`, `rate_B`.",
    wants="find_pair",
    shows="Four knobs and a rule, read as two numbers.",
    hints=(
        "Write a small function that turns a run into two numbers; runs that agree in both are one.",
        "First the scale: α/r, or α/√r with `rslora`. Then A's rate in units of its start, and the scale times the start times B's rate.",
        "Compare all pairs, `itertools.combinations(range(5), 2)`, with `math.isclose`.",
    ),
)
def find_pair(function: Callable[[list[Run]], Any]) -> None:
    draw, first_fault = generator(), None
    for blind in _BLIND:  # a mistake shows its name in its own case; until then any fault is kept
        for _ in range(2):
            runs, right, trap = five_runs(blind, draw)
            try:
                _judge(attempt(function, [dict(run) for run in runs]), runs, right, trap, blind)
            except Wrong as wrong:
                if wrong.bug == blind:
                    raise
                first_fault = first_fault or wrong
    if first_fault:
        raise first_fault


def _judge(got: Any, runs: Sequence[Run], right: Pair, trap: Pair, blind: str) -> None:
    if got is None:
        raise Wrong("no pair is found", "`find_pair` returned None, and two of the five are the same run")
    first, second = (as_whole(each, "a position") for each in as_parts(got, ("first", "second"), "`find_pair`"))
    pair = (min(first, second), max(first, second))
    if pair == right:
        return
    if first == second:
        raise Wrong("a run, and itself", f"you say {first} and {second}")
    if pair == (right[0] + 1, right[1] + 1):
        raise Wrong("counted from 1", f"you say {pair}; positions are counted from 0")
    if not 0 <= pair[0] < pair[1] < 5:
        raise Wrong("no position", f"you say {pair}; there are five runs, 0 to 4")
    said = "; ".join(f"{i}: {', '.join(f'{name} {value:g}' for name, value in runs[i].items())}" for i in pair)
    raise Wrong(blind if pair == trap else "another pair", f"these two are not the same run: {said}")
