"""Exercise 09.3: solution, stub and planted bugs; RIGHT and MORE_WRONG hold further programs."""

import math
import statistics

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


RIGHT = [("09.3", by_torch), ("09.3", by_numpy), ("09.3", by_loop), ("09.3", lambda *given: float(spend(*given)))]
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
    ("09.3", lambda runs, budget, p: runs[0], ""),
    ("09.3", lambda runs, budget, p: max(range(len(runs)), key=lambda i: paid(runs[i], p)), "more is spent"),
]
