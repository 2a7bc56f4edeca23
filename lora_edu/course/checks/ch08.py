"""Exercises of chapter 08, α, r and the learning rate."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Adam, Optimizer

from lora_edu.course.checks.five_runs import judge_pairs
from lora_edu.course.checks.six_runs import judge_six
from lora_edu.course.exercises import Wrong, as_number, attempt, generator, register, told
from lora_edu.course.values import same


class Rates(NamedTuple):
    """One case of 08.1, and the rates that the learner's groups give to all A's and to all B's."""

    alpha: float
    r: int
    rate: float
    a: float
    b: float


# What each mistake multiplies A's and B's rate by. A mistake is named only where it explains every case, so that no coincidence in one
# case (s = 1 is no scale at all, 16/8 is 2) gives it another one's name.
_FACTORS: dict[str, Callable[[float, int], Sequence[tuple[float, float]]]] = {
    "nothing is changed": lambda alpha, r: [(1, 1)],
    "A's rate is changed, not B's": lambda alpha, r: [(alpha / r, 1)],
    "A's rate is divided by s, and B's left": lambda alpha, r: [(r / alpha, 1)],
    "both rates are changed": lambda alpha, r: [(alpha / r, alpha / r)],
    "B's rate is divided by s": lambda alpha, r: [(1, r / alpha)],
    "both rates are divided by s": lambda alpha, r: [(r / alpha, r / alpha)],
    "s counts twice, as it would under SGD": lambda alpha, r: [(1, (alpha / r) ** 2)],
    "the root of s": lambda alpha, r: [(1, (alpha / r) ** 0.5)],
    "s is shared out among both": lambda alpha, r: [((alpha / r) ** 0.5,) * 2, ((r / alpha) ** 0.5, (alpha / r) ** 0.5)],
    "A's rate is divided, beside B's": lambda alpha, r: [(r / alpha, alpha / r)],
    "A's rate is multiplied, beside B's division": lambda alpha, r: [(alpha / r, r / alpha)],
    "α, not α/r": lambda alpha, r: [(1, alpha), (alpha, 1), (alpha, alpha)],
    "α/√r, not α/r": lambda alpha, r: [(1, alpha / r**0.5)],
    "α is left out": lambda alpha, r: [(1, 1 / r), (1, r)],
    "multiplied by r, not divided": lambda alpha, r: [(1, alpha * r)],
    "s is rounded, or never below 1": lambda alpha, r: [
        (1, how(alpha / r)) for how in (math.floor, math.ceil, round, lambda s: max(s, 1), lambda s: max(s // 1, 1), lambda s: max(round(s), 1))
    ],
    "r is always 8": lambda alpha, r: [(1, alpha / 8)],
    "α is always 16": lambda alpha, r: [(1, 16 / r)],
}  # fmt: skip


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
    draw, found = generator(), []
    for alpha, r, rate in ((16.0, 8, 1e-3), (24.0, 16, 3e-3), (2.0, 8, 5e-4), (32.0, 32, 1e-2), (7.0, 3, 4e-4)):
        As, Bs = ([nn.Parameter(torch.randn(shape, generator=draw)) for _ in range(3)] for shape in ((r, 5), (6, r)))
        before = [p.detach().clone() for p in (*As, *Bs)]
        got = attempt(_without_unset(function), list(As), list(Bs), alpha, r, rate)
        said = _said(alpha, r, rate)
        rates = _rates_of(got, As, Bs, rate, said)
        if any(not p.requires_grad or not torch.equal(p, was) for p, was in zip((*As, *Bs), before)):
            raise Wrong(
                "a factor is changed", f"{said}: the groups name the factors; their numbers, and that they train, stay"
            )
        found.append(Rates(alpha, r, rate, *rates))
    wrong = [each for each in found if not (same(each.a, each.rate) and same(each.b, each.alpha / each.r * each.rate))]
    if wrong:
        alpha, r, rate, a, b = wrong[0]
        raise Wrong(
            _mistake(found),
            f"{_said(alpha, r, rate)}: you give A the rate {a:.4g} and B the rate {b:.4g}; with these it is another run",
        )


def _said(alpha: float, r: int, rate: float) -> str:
    return f"for α = {alpha:g}, r = {r} and rate {rate:g}"


def _mistake(found: Sequence[Rates]) -> str:
    """The mistake that leads to these rates in every case, or "other rates"."""
    for bug, factors in _FACTORS.items():
        each = [factors(case.alpha, case.r) for case in found]
        for i in range(len(each[0])):
            if all(
                same(case.a, at[i][0] * case.rate) and same(case.b, at[i][1] * case.rate)
                for case, at in zip(found, each)
            ):
                return bug
    if all(same(case.b, case.alpha / case.r) for case in found):
        return "the rate is forgotten"
    for many in ([case.a for case in found], [case.b for case in found]):
        if all(same(each, many[0]) for each in many):
            return "one rate for every run"
    if all(
        same(case.a / case.rate, found[0].a / found[0].rate) and same(case.b / case.rate, found[0].b / found[0].rate)
        for case in found
    ):
        return "one factor for every α and r"
    return "other rates"


def _without_unset(function: Any) -> Any:
    """`function`, and where it returns an optimiser's own `param_groups`, without the settings that are None there: they are not open."""
    if not callable(function):
        return function

    def tidied(*given: Any) -> Any:
        got = function(*given)
        if not isinstance(got, list | tuple) or not all(isinstance(group, dict) for group in got):
            return got
        return [{k: v for k, v in group.items() if v is not None or k in ("params", "lr")} for group in got]

    tidied.__name__ = getattr(function, "__name__", type(function).__name__)
    return tidied


def _rates_of(got: Any, As: Sequence[Any], Bs: Sequence[Any], rate: float, said: str) -> tuple[float, float]:
    """The rate that Adam would use for all A's, and that for all B's. Raises: Wrong where these groups are no groups of these factors."""
    call = f"`torch.optim.Adam(groups(…), lr={rate:g})`"
    if isinstance(got, Optimizer):
        raise Wrong("an optimiser, not its groups", f"return the list of groups alone; {call} is called with it")
    try:
        given = [dict(group) if isinstance(group, dict) else group for group in got]
        for group in given:  # an iterator of parameters can be gone through only once
            if isinstance(group, dict) and hasattr(group.get("params"), "__next__"):
                group["params"] = list(group["params"])
        _stand_once(given, said)
        optimizer = Adam([dict(group) if isinstance(group, dict) else group for group in given], lr=rate)
    except Wrong:
        raise
    except Exception as error:
        raise Wrong("no parameter groups", f"{call} says: {told(error)}") from None
    rates = {
        id(p): as_number(group["lr"], "the `lr` of a group") for group in optimizer.param_groups for p in group["params"]
    }  # fmt: skip
    missing = {what: sum(id(p) not in rates for p in factors) for what, factors in (("A", As), ("B", Bs))}
    others = len(rates) + sum(missing.values()) - len(As) - len(Bs)
    for what, count in missing.items():
        if count and others:
            raise Wrong(
                "copies, not the factors",
                f"{said}: {count} of the {len(As)} {what}'s are in no group, and parameters are that you were not given; what is trained has to be the factor itself",
            )
        if count:
            raise Wrong("a factor is left out", f"{said}: {count} of the {len(As)} {what}'s are in no group")
    if others:
        raise Wrong("something else trains", f"{said}: the groups hold a parameter that you were not given")
    _nothing_else(optimizer, given)
    found = [sorted({rates[id(p)] for p in factors}) for factors in (As, Bs)]
    if max(map(len, found)) > 1:
        raise Wrong("one factor, several rates", f"{said}: the rates of the A's are {found[0]}, of the B's {found[1]}")
    return found[0][0], found[1][0]


def _stand_once(given: Sequence[Any], said: str) -> None:
    every = [
        id(p)
        for group in given
        if isinstance(group, dict) and isinstance(group.get("params"), list | tuple)
        for p in group["params"]
    ]
    if twice := len(every) - len(set(every)):
        raise Wrong(
            "a factor stands twice",
            f"{said}: {twice} of the factors are named a second time; which of two rates would be theirs?",
        )


def _nothing_else(optimizer: Optimizer, given: Sequence[Any]) -> None:
    """Raises Wrong where a group changes Adam in more than its rate, or names the rate by a key that Adam does not read."""
    for group, written in zip(optimizer.param_groups, given):
        strange = set(written) - {"params", "param_names", *optimizer.defaults}
        if "lr" not in written and (strange := {key for key in strange if not isinstance(written[key], str)}):
            raise Wrong("a rate that does not stand under `lr`", f"Adam does not read {', '.join(f'`{key}`' for key in sorted(map(str, strange)))}; the learning rate of a group has the key `lr`")  # fmt: skip
        for key, default in optimizer.defaults.items():
            value = tuple(group[key]) if isinstance(group[key], list) else group[key]
            if key != "lr" and value != default:
                raise Wrong("another setting of Adam", f"a group has `{key}` = {value} and the run had {default}")


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
def find_pair(function: Callable[..., Any]) -> None:
    judge_pairs(function, generator())


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
    judge_six(function, generator())
