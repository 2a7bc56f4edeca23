"""Exercise 09.3: solution, stub and planted bugs; RIGHT and MORE_WRONG hold further programs."""

import math
import statistics
from fractions import Fraction

import numpy as np
import torch
from kit import Answers


def paid(run, prices):
    return run["rows"] * (prices["row"] + prices["check"] * run["checked"]) + prices["rank"] * run["r"]


def buying(loss=lambda run: statistics.fmean(run["valid"]), cost=paid, fits=lambda cost, budget: cost <= budget):
    """`spend` with another loss, cost or limit; runs that diverged are left out."""

    def spend(runs, budget, prices):
        good = [
            i
            for i, run in enumerate(runs)
            if fits(cost(run, prices), budget) and not any(map(math.isnan, run["valid"]))
        ]
        return min(good, key=lambda i: loss(runs[i]))

    return spend


spend = buying()


def spend_stub(runs, budget, prices): ...


def with_nan(runs, budget, prices):
    fits = [i for i, run in enumerate(runs) if paid(run, prices) <= budget]
    return min(fits, key=lambda i: statistics.fmean(runs[i]["valid"]))


def without_nan(runs, budget, prices):
    fits = [i for i, run in enumerate(runs) if paid(run, prices) <= budget]
    return min(fits, key=lambda i: np.nanmean(runs[i]["valid"]))


BUDGET = {
    "09.3": Answers(
        spend,
        spend_stub,
        {
            "the test losses choose": buying(lambda run: statistics.fmean(run["test"])),
            "the best seed chooses": buying(lambda run: min(run["valid"])),
            "one seed alone": buying(lambda run: run["valid"][0]),
            "a run that diverged": with_nan,
            "diverged seeds are left out": without_nan,
            "the budget is not looked at": buying(fits=lambda cost, budget: True),
            "the check of each row": buying(cost=lambda run, p: run["rows"] * p["row"] + p["rank"] * run["r"]),
            "each unit of the rank": buying(cost=lambda run, p: paid(run, p) - p["rank"] * run["r"]),
            "less than the budget has": buying(fits=lambda cost, budget: cost < budget),
            "the dearest that fits": lambda runs, budget, p: buying(lambda run: -paid(run, p))(runs, budget, p),
            "counted from 1": lambda *given: spend(*given) + 1,
        },
    )
}


def by_torch(runs, budget, prices):
    losses = torch.tensor([run["valid"] for run in runs]).mean(1)
    dear = torch.tensor([paid(run, prices) > budget for run in runs])
    return torch.where(dear | losses.isnan(), torch.inf, losses).argmin()


def by_numpy(runs, budget, prices):
    losses = np.array([np.mean(run["valid"]) if paid(run, prices) <= budget else np.nan for run in runs])
    return np.nanargmin(losses)


def by_loop(runs, budget, prices):
    best, place = math.inf, None
    for i, run in enumerate(runs):
        cost = run["rows"] * prices["row"] + prices["rank"] * run["r"]
        if run["checked"]:
            cost += run["rows"] * prices["check"]
        loss = sum(run["valid"]) / len(run["valid"])
        if cost <= budget and loss < best:
            best, place = loss, i
    return place


def sound(run):
    return not any(map(math.isnan, run["valid"]))


def with_notes(runs, budget, prices):
    """Writes into each run what it costs."""
    for i, run in enumerate(runs):
        run.update(cost=paid(run, prices), loss=np.mean(run["valid"]), place=i)
    good = [run for run in runs if run["cost"] <= budget and not np.isnan(run["loss"])]
    return min(good, key=lambda run: run["loss"])["place"]


def by_index(runs, budget, prices):
    good = [run for run in runs if Fraction(paid(run, prices), budget) <= 1 and sound(run)]
    return runs.index(min(good, key=lambda run: sum(run["valid"])))


def plan_by_plan(runs, budget, prices):
    """Each plan at its own best rate, then the best of those that fit; in single precision."""
    best = {}
    for i, run in enumerate(runs):
        loss, plan = np.float32(run["valid"]).mean(), (run["rows"], run["checked"], run["r"])
        if np.isfinite(loss) and loss < best.get(plan, (np.inf, 0))[0]:
            best[plan] = loss, i
    return min(each for each in best.values() if paid(runs[each[1]], prices) <= budget)[1]


def nan_is_inf(runs, budget, prices):
    for run in runs:
        run["valid"] = [math.inf if loss != loss else loss for loss in run["valid"]]
    fits = [i for i, run in enumerate(runs) if paid(run, prices) <= budget]
    return min(fits, key=lambda i: statistics.fmean(runs[i]["valid"]))


RIGHT = [
    *(("09.3", each) for each in (by_torch, by_numpy, by_loop, with_notes, by_index, plan_by_plan, nan_is_inf)),
    ("09.3", lambda *given: float(spend(*given))),
    ("09.3", lambda runs, *given: spend(runs, *given) - len(runs)),
    ("09.3", lambda *given: np.array([spend(*given)])),
]


def sorts(runs, budget, prices):
    """Right of the list as it leaves it."""
    runs.sort(
        key=lambda run: statistics.fmean(run["valid"]) if sound(run) and paid(run, prices) <= budget else math.inf
    )
    return 0


def removes(runs, budget, prices):
    for run in list(runs):
        if not sound(run) or paid(run, prices) > budget:
            runs.remove(run)
    return spend(runs, budget, prices)


def of_few(keep):
    """The place among the runs that are kept."""

    def wrong(runs, budget, prices):
        return spend([run for run in runs if keep(run, budget, prices)], budget, prices)

    return wrong


def nan_in_argmin(runs, budget, prices):
    return np.argmin([np.mean(run["valid"]) if paid(run, prices) <= budget else np.inf for run in runs])


def nan_in_sorted(runs, budget, prices):
    fits = [i for i, run in enumerate(runs) if paid(run, prices) <= budget]
    return sorted(fits, key=lambda i: statistics.fmean(runs[i]["valid"]))[0]


def averaged(runs, budget, prices):
    """The plan that is best in the mean over its rates."""

    def over_rates(run):
        return np.mean([other["valid"] for other in runs if all(other[k] == run[k] for k in ("rows", "checked", "r"))])

    return buying(lambda run: np.nan_to_num(over_rates(run), nan=np.inf))(runs, budget, prices)


MORE_WRONG = [
    (
        "09.3",
        buying(cost=lambda run, p: run["rows"] * p["row"] + p["check"] * run["checked"] + p["rank"] * run["r"]),
        "the check of each row",
    ),
    ("09.3", buying(cost=lambda run, p: paid(run | {"r": 1}, p)), "each unit of the rank"),
    ("09.3", buying(lambda run: max(run["valid"])), "the worst seed chooses"),
    ("09.3", buying(lambda run: statistics.median(run["valid"])), "the median chooses"),
    ("09.3", buying(cost=lambda run, p: paid(run | {"checked": True}, p)), "every row is paid as checked"),
    ("09.3", buying(cost=lambda run, p: paid(run, p) - run["rows"] * p["row"]), "the rows are not paid"),
    ("09.3", lambda runs, budget, p: 10**6, "no position in runs"),
    ("09.3", lambda runs, budget, p: runs[0], "not a number"),
    ("09.3", sorts, "changed in place"),
    ("09.3", removes, "changed in place"),
    ("09.3", of_few(lambda run, budget, p: sound(run) and paid(run, p) <= budget), "counted among those that fit"),
    ("09.3", of_few(lambda run, budget, p: paid(run, p) <= budget), "counted among those that fit"),
    ("09.3", of_few(lambda run, budget, p: sound(run)), "counted among those that fit"),
    ("09.3", lambda runs, budget, p: 0, "the same position"),
    ("09.3", buying(cost=lambda run, p: paid(run | {"checked": not run["checked"]}, p)), "where nobody checked"),
    ("09.3", nan_in_argmin, "a run that diverged"),
    ("09.3", nan_in_sorted, "a run that diverged"),
    ("09.3", averaged, "at all rates are averaged"),
    ("09.3", buying(lambda run: statistics.fmean(run["valid"]) + 9 * (run["rate"] > 5e-3)), "at one rate"),
    ("09.3", buying(lambda run: statistics.fmean(run["valid"] + run["test"])), "the test losses choose"),
    ("09.3", buying(lambda run: -run["r"]), "the highest rank"),
    ("09.3", buying(lambda run: -run["rows"]), "the most rows"),
    ("09.3", lambda runs, budget, p: math.nan, "not a number"),
    ("09.3", lambda runs, budget, p: p["rows"], "it raises an error"),
    ("09.3", lambda runs, budget, p: max(range(len(runs)), key=lambda i: paid(runs[i], p)), "more is spent"),
]
