"""Exercise 09.3: one budget, to be spent on rows, on cleaning or on rank; and what each mistake would buy instead."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from itertools import combinations, product
from typing import Any, NamedTuple

import torch

from lora_edu.course.exercises import Wrong, as_whole, attempt, generator, register

Run = dict[str, Any]
_CASES, _TRIES = 16, 100  # most draws will do


class Case(NamedTuple):
    """Measured runs, a budget and prices, as `spend` is given them."""

    runs: list[Run]
    budget: int
    prices: dict[str, int]


def cost(run: Run, prices: dict[str, int]) -> int:
    """What a run's rows, their checking and its rank cost."""
    return run["rows"] * (prices["row"] + prices["check"] * run["checked"]) + prices["rank"] * run["r"]


def _buy(case: Case, loss: Callable[[Run], float], price: Callable[..., float] | None = cost) -> int:
    """The affordable run of lowest loss, where `loss` and `price` say what these are; a loss that is nan is none."""
    fits = [i for i, run in enumerate(case.runs) if price is None or price(run, case.prices) <= case.budget]
    return min(fits, key=lambda i: loss(case.runs[i]) if math.isfinite(loss(case.runs[i])) else math.inf, default=-1)


def _mean(run: Run) -> float:
    return statistics.fmean(run["valid"])


def best_buy(case: Case) -> int:
    """What should be bought."""
    return _buy(case, _mean)


def _finite(run: Run) -> list[float]:
    return [loss for loss in run["valid"] if math.isfinite(loss)]


def _fitting(case: Case) -> list[int]:
    return [i for i, run in enumerate(case.runs) if cost(run, case.prices) <= case.budget]


def _sound(case: Case) -> list[int]:
    return [i for i, run in enumerate(case.runs) if math.isfinite(_mean(run))]


def _first_nan(case: Case) -> int:
    """What `argmin` finds: the first nan, or else the best."""
    return next((i for i in _fitting(case) if not math.isfinite(_mean(case.runs[i]))), best_buy(case))


def _counted(among: Callable[[Case], Iterable[int]]) -> Callable[[Case], int]:
    """The best buy's place among some of the runs; -1 where it is not among them."""
    return lambda case: {i: place for place, i in enumerate(among(case))}.get(best_buy(case), -1)


def _plan(run: Run) -> tuple[int, bool, int]:
    return run["rows"], run["checked"], run["r"]


def _mean_of_rates(run: Run, case: Case) -> float:
    return statistics.fmean(_mean(other) for other in case.runs if _plan(other) == _plan(run))


def _priced(price: Callable[..., float] | None) -> Callable[[Case], int]:
    return lambda case: _buy(case, _mean, price)


def _chosen(loss: Callable[[Run, Case], float]) -> Callable[[Case], int]:
    return lambda case: _buy(case, lambda run: loss(run, case) if math.isfinite(_mean(run)) else math.inf)


def _at_rate(which: Callable[[Iterable[float]], float]) -> Callable[[Case], int]:
    """The best buy among the runs at one rate, the lowest or the highest."""
    return _chosen(
        lambda run, case: _mean(run) if run["rate"] == which(other["rate"] for other in case.runs) else math.inf
    )


_MISTAKES: dict[str, tuple[Callable[[Case], int], ...]] = {  # of each, the ways to make it
    "the test losses choose": (
        _chosen(lambda run, _: statistics.fmean(run["test"])),
        _chosen(lambda run, _: statistics.fmean(run["valid"] + run["test"])),
    ),
    "the best seed chooses, not the mean": (_chosen(lambda run, _: min(run["valid"])),),
    "the worst seed chooses, not the mean": (_chosen(lambda run, _: max(run["valid"])),),
    "the median chooses, not the mean": (_chosen(lambda run, _: statistics.median(run["valid"])),),
    "one seed alone chooses": (_chosen(lambda run, _: run["valid"][0]), _chosen(lambda run, _: run["valid"][-1])),
    "the highest loss is bought": (_chosen(lambda run, _: -_mean(run)),),
    "a run that diverged is bought": (
        _first_nan,
        lambda case: min(_fitting(case), key=lambda i: _mean(case.runs[i])),
        lambda case: sorted(_fitting(case), key=lambda i: _mean(case.runs[i]))[0],
    ),
    "diverged seeds are left out of the mean": (lambda case: _buy(case, lambda run: statistics.fmean(_finite(run))),),
    "the budget is not looked at": (_priced(None),),
    "less than the budget has to be spent": (_priced(lambda run, p: cost(run, p) + 1),),
    "the check of each row is not paid": (
        _priced(lambda run, p: cost(run | {"checked": False}, p)),
        _priced(lambda run, p: cost(run | {"checked": False}, p) + p["check"] * run["checked"]),
    ),
    "every row is paid as checked": (_priced(lambda run, p: cost(run | {"checked": True}, p)),),
    "a check is paid where nobody checked": (_priced(lambda run, p: cost(run | {"checked": not run["checked"]}, p)),),
    "a checked row is paid for its check alone": (
        _priced(lambda run, p: cost(run, p) - run["checked"] * run["rows"] * p["row"]),
    ),
    "each unit of the rank is not paid": (
        _priced(lambda run, p: cost(run | {"r": 0}, p)),
        _priced(lambda run, p: cost(run | {"r": 1}, p)),
    ),
    "the rank is paid for each row": (_priced(lambda run, p: cost(run | {"r": run["r"] * run["rows"]}, p)),),
    "the rows are not paid": (
        _priced(lambda run, p: cost(run, p) - run["rows"] * p["row"]),
        _priced(lambda run, p: cost(run | {"rows": 1}, p)),
    ),
    "the dearest that fits is bought": (_chosen(lambda run, case: -cost(run, case.prices)),),
    "the cheapest is bought": (_chosen(lambda run, case: cost(run, case.prices)),),
    "the loss for each coin is lowest, not the loss": (_chosen(lambda run, case: _mean(run) / cost(run, case.prices)),),
    "loss times cost is lowest, not the loss": (_chosen(lambda run, case: _mean(run) * cost(run, case.prices)),),
    "the losses at all rates are averaged, not each plan at its best": (_chosen(_mean_of_rates),),
    "all plans are compared at one rate": (_at_rate(min), _at_rate(max)),
    "the most rows are bought": (_chosen(lambda run, _: -run["rows"]),),
    "the highest rank is bought": (_chosen(lambda run, _: -run["r"]),),
    "counted from 1": (lambda case: best_buy(case) + 1,),
    "counted among those that fit, not in runs": (
        _counted(_fitting),
        _counted(lambda case: [i for i in _fitting(case) if i in _sound(case)]),
        _counted(_sound),
    ),
}


def _drawn(draw: torch.Generator, exact: bool) -> Case:
    """A grid of plans at two rates each, in no order; `exact`: the best that fits costs all of the budget."""

    def pick(*values: int) -> int:
        return values[int(torch.randint(len(values), (1,), generator=draw))]

    prices = {"row": pick(2, 3, 5), "check": pick(2, 3, 4), "rank": pick(30, 50, 70)}
    runs: list[Run] = []
    for n, checked, r, rate in product((50, 100, 200), (False, True), (1, 2, 8), (3e-3, 1e-2)):
        plan = 0.9 + 0.25 * torch.randn(1, generator=draw).item()
        losses = (plan + 0.2 * torch.randn(2, 4, generator=draw)).clamp(min=0.05).tolist()
        runs.append({"rows": n, "checked": checked, "r": r, "rate": rate, "valid": losses[0], "test": losses[1]})
    runs = [runs[i] for i in torch.randperm(len(runs), generator=draw)]
    costs = sorted(cost(run, prices) for run in runs)
    budget = costs[len(costs) // 2]
    first, second = [i for i, run in enumerate(runs) if cost(run, prices) < 0.7 * budget][:2]
    runs[second]["valid"] = [0.02, math.nan, 0.03, 0.02]  # one seed diverged, the others are lower than any
    runs[first]["valid"][2] = math.nan
    # A nan compares with nothing: what stands first of those that fit stays the least. A few too dear ones stand before it.
    dear = [run for run in runs if cost(run, prices) > budget][: pick(0, 1, 2, 3)]
    front = [*dear, runs[first]]
    runs = front + [run for run in runs if not any(run is other for other in front)]
    case = Case(runs, budget, prices)
    return case._replace(budget=cost(runs[best_buy(case)], prices)) if exact else case


def _apart(case: Case) -> bool:
    """Whether there is something to choose from, even if all rows were paid as checked, and the right run is right by a clear distance."""
    sound = [run for run in case.runs if math.isfinite(_mean(run))]
    losses = sorted(_mean(run) for run in sound if cost(run, case.prices) <= case.budget)
    dear = [run for run in sound if cost(run | {"checked": True}, case.prices) < case.budget]
    return len(dear) > 1 and losses[1] - losses[0] > 1e-3


def cases(draw: torch.Generator) -> list[Case]:
    """Cases in which, taken together, no mistake buys what is right, and no two mistakes buy the same."""
    for _ in range(_TRIES):
        found: list[Case] = []
        while len(found) < _CASES:
            case = _drawn(draw, exact=len(found) % 2 == 0)
            if _apart(case):
                found.append(case)
        bought = [("", list(map(best_buy, found)))]
        bought += [(name, list(map(way, found))) for name, ways in _MISTAKES.items() for way in ways]
        if all(one[1] != other[1] or one[0] == other[0] for one, other in combinations(bought, 2)):
            return found
    raise AssertionError("no such cases were drawn")


@register(
    "09.3",
    title="One budget: rows, cleaning or rank",
    stars=2,
    minutes=10,
    task="Write `spend(runs, budget, prices)`. Each of `runs` is a dict: `rows`, `checked` (True: somebody has looked at every row and mended the wrong labels), `r`, the learning "
    "`rate`, and the losses `valid` and `test`, lists with a number for each seed. `prices` says what a row costs (`row`), the checking of a row (`check`) and a unit of rank "
    "(`rank`); the budget may be spent whole. Return the position in `runs`, counted from 0, of the run that you would buy. A seed whose loss is nan has diverged, and such a run is not bought.",
    wants="spend",
    shows="Plans that cost the same, each at its own best rate, chosen on validation rows.",
    hints=(
        "First the cost of a run: its rows, the check of each of them where it is checked, and each unit of its rank.",
        "Among those that fit, which number says that a run is good, when test rows may not choose and one seed says little?",
        "`min(those that fit, key=…)` with the mean of `valid`. Leave out what has a nan first: a nan compares with nothing, and `min` may return it.",
    ),
)
def spend(function: Callable[..., Any]) -> None:
    found = cases(generator())
    lent = [deepcopy(case) for case in found]  # an answer may sort them, or write into them
    given = [_position(attempt(function, *copy), case) for copy, case in zip(lent, found)]
    wanted = list(map(best_buy, found))
    if given == wanted:
        return
    if any(_plans(copy) != _plans(case) for copy, case in zip(lent, found)):
        raise Wrong("the runs are changed in place", "`spend` puts `runs` into another order or takes some away: then a position means another run")  # fmt: skip
    bug = next((bug for bug, ways in _MISTAKES.items() if any(list(map(way, found)) == given for way in ways)), None)
    which = next(i for i, (got, want) in enumerate(zip(given, wanted)) if got != want)
    if not 0 <= given[which] < len(found[which].runs):
        raise Wrong(bug or "no position in runs", f"you return {given[which]}, and `runs` has the positions 0 to {len(found[which].runs) - 1}")  # fmt: skip
    if len(set(given)) == 1:
        raise Wrong("the same position, whatever is given", f"for each of {len(found)} lists of runs you return {given[0]}")  # fmt: skip
    run = found[which].runs[given[which]]
    raise Wrong(bug or _amiss(run, found[which]), _told(run, found[which]))


def _plans(case: Case) -> list[tuple[Any, ...]]:
    return [(*_plan(run), run["rate"]) for run in case.runs]


def _position(got: Any, case: Case) -> int:
    place = as_whole(got, "the position")
    return place + len(case.runs) if -len(case.runs) <= place < 0 else place


def _amiss(run: Run, case: Case) -> str:
    if cost(run, case.prices) > case.budget:
        return "more is spent than there is"
    if not math.isfinite(_mean(run)):
        return "a run that diverged is bought"
    return "another run has a lower loss"


def _told(run: Run, case: Case) -> str:
    paid, losses = cost(run, case.prices), ", ".join(f"{loss:.3f}" for loss in run["valid"])
    plan = f"{run['rows']} rows, {'checked' if run['checked'] else 'not checked'}, r = {run['r']}"
    return f"for {case.budget} you buy {plan}, which costs {paid}; its validation losses are {losses}"


def as_runs(cells: Sequence[Run], valid: torch.Tensor, test: torch.Tensor) -> list[Run]:
    """A stored sweep as `spend` takes it: the cells of `rows_and_rank`, and (cells, seeds) of losses."""
    return [
        {
            "rows": cell["rows"],
            "checked": cell["wrong"] == 0,
            "r": cell["r"],
            "rate": cell["learning_rate"],
            "valid": v.tolist(),
            "test": t.tolist(),
        }
        for cell, v, t in zip(cells, valid, test)
    ]
