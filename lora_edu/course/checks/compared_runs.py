"""Runs of several methods, drawn so that every unfair way to compare them leads to another number. Exercise 16.4."""

from typing import Any

import torch

Run = dict[str, Any]


def drawn_runs(draw: torch.Generator, methods: tuple[str, ...]) -> list[Run]:
    """Three seeds of each method at four rates, drawn until every unfair comparison says something else than the others of a method."""
    while True:
        runs = _draw(draw, methods)
        if not all(_clear([run for run in runs if run["method"] == method]) for method in methods):
            continue
        found = [reported(runs, method) for method in methods]
        single = [[values[0] for name, values in bugs.items() if name not in MANY] for bugs in found]
        if len(methods) > 1 and all(len({round(x, 5) for x in values}) == len(values) for values in single):
            return runs
        if len(methods) == 1:
            return runs


def _clear(own: list[Run]) -> bool:
    """Whether one rate is best by more than rounding can turn, on the validation rows."""
    means = sorted(_mean(r["valid"] for r in own if r["rate"] == rate) for rate in {r["rate"] for r in own})
    return means[1] - means[0] > 1e-3


def _draw(draw: torch.Generator, methods: tuple[str, ...]) -> list[Run]:
    """Runs in no order; test losses that follow validation losses loosely."""
    runs: list[Run] = []
    for method in methods:
        level = 0.3 * torch.rand(4, generator=draw)
        for rate, at in zip((1e-4, 1e-3, 1e-2, 1e-1), level):
            for seed in range(3):
                valid, test = (float(at) + 0.5 * torch.rand(2, generator=draw)).tolist()
                run = {"method": method, "rate": rate, "seed": seed, "valid": round(valid, 4), "test": round(test, 4)}
                runs.append(run)
    order = torch.randperm(len(runs), generator=draw).tolist()
    return [runs[i] for i in order]


# Mistakes that lead to several numbers, or to the right one where the methods' rates agree.
MANY = ("one rate for all methods", "one seed alone chooses", "a rate is not the method's own")


def _mean(values: Any) -> float:
    values = list(values)
    return sum(values) / len(values)


def reported(runs: list[Run], method: str) -> dict[str, list[float]]:
    """What each way to compare unfairly reports of a method."""
    own = [run for run in runs if run["method"] == method]
    rates, seeds = sorted({run["rate"] for run in own}), sorted({run["seed"] for run in own})

    def at(rate: float, key: str, some: list[Run] = own) -> list[float]:
        return [run[key] for run in some if run["rate"] == rate]

    best = min(rates, key=lambda rate: _mean(at(rate, "valid")))
    of_seed = [min((r for r in own if r["seed"] == seed), key=lambda r: r["valid"]) for seed in seeds]
    common = min(rates, key=lambda rate: _mean(at(rate, "valid", runs)))
    return {
        "": [_mean(at(best, "test"))],
        "the validation loss is reported": [_mean(at(best, "valid"))],
        "the rate is chosen on the test rows": [min(_mean(at(rate, "test")) for rate in rates)],
        "one rate for all methods": [_mean(at(common, "test"))],
        "each seed has a rate of its own": [_mean(run["test"] for run in of_seed)],
        "the luckiest run alone is reported": [min(own, key=lambda run: run["valid"])["test"]],
        "the best seed stands for all": [min(at(best, "test"))],
        "the best test loss of all runs is reported": [min(run["test"] for run in own)],
        "all rates are averaged": [_mean(run["test"] for run in own)],
        "the highest loss is chosen": [_mean(at(max(rates, key=lambda rate: _mean(at(rate, "valid"))), "test"))],
        "the rate is reported": [best],
        "one seed alone chooses": [
            _mean(at(min((r for r in own if r["seed"] == s), key=lambda r: r["valid"])["rate"], "test")) for s in seeds
        ],
        "a sum, not a mean": [sum(at(best, "test"))],
        "the median, not the mean": [sorted(at(best, "test"))[1]],
        "a rate is not the method's own": [_mean(at(rate, "test")) for rate in rates if rate != best],
    }
