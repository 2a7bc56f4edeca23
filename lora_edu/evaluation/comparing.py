"""Several models on the same rows, and several seeds: who is better, allowing for how often one asked. Chapter 13."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lora_edu.errors import DataError
from lora_edu.evaluation.metrics import Interval, Score, redrawn_gains
from lora_edu.evaluation.paired import Gain
from lora_edu.evaluation.report import LOWER_IS_BETTER, Report
from lora_edu.tables import html_table, text_table


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values as they count when all were asked together: the chance of *one or more* false findings stays below the level.

    The smallest of m counts m times, the next m − 1 times …, and none counts less than a smaller one. Holds however the questions
    depend on one another. Source: Holm 1979. Chapter 13.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, floor = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = floor
    return adjusted


class Line(NamedTuple):
    """One question of a comparison: `model` against the reference, in `metric`; `holm` is p allowing for all lines."""

    model: str
    metric: str
    gain: Gain
    holm: float


@dataclass(frozen=True)
class Comparison:
    """Every model against one, in every metric, with Holm's correction over all of it. Prints as a table."""

    against: str
    lines: list[Line]

    def to_dict(self) -> dict[str, Any]:
        """What a stored result keeps."""
        gains = [
            {"model": x.model, "metric": x.metric, **x.gain.interval._asdict(), "p": x.gain.p, "holm": x.holm}
            for x in self.lines
        ]
        return {"against": self.against, "gains": gains}

    def _table(self) -> list[list[str]]:
        head = ["model", "metric", "gain [95 % interval]", "p", f"p of {len(self.lines)}"]
        body = [[x.model, named(x.metric), str(x.gain.interval), said_p(x.gain.p), said_p(x.holm)] for x in self.lines]
        return [head, *body]

    def _title(self) -> str:
        return f"Gains over {self.against}, row by row"

    def __str__(self) -> str:
        return f"{self._title()}\n{text_table(self._table())}"

    def _repr_html_(self) -> str:
        head, *body = self._table()
        return html_table(head, body, self._title())


def named(metric: str) -> str:
    """The metric's name, with a word where less is better: there a gain above 0 is a loss."""
    return f"{metric} (lower is better)" if metric in LOWER_IS_BETTER else metric


def said_p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def compare(
    reports: Mapping[str, Report], against: str | None = None, metrics: Sequence[str] | None = None
) -> Comparison:
    """Each report against one of them (the first, without `against`), paired row by row, in `metrics` (all that both have).

    Raises DataError for fewer than two reports, a name that is none of them, a metric that one lacks, and reports on different rows.
    """
    if len(reports) < 2:
        raise DataError("a comparison needs two reports or more")
    against = next(iter(reports)) if against is None else against
    if against not in reports:
        raise DataError(f"there is no report {against!r} among {', '.join(reports)}")
    reference, asked = reports[against], []
    for name, report in reports.items():
        if name == against:
            continue
        shared = [metric for metric in report.scores if metric in reference.scores]
        if unknown := [metric for metric in metrics or () if metric not in shared]:
            raise DataError(f"{name} and {against} do not both have {unknown[0]!r}; both have {', '.join(shared)}")
        asked += [(name, metric, report.gain_over(reference, metric)) for metric in metrics or shared]
    return Comparison(against, [Line(*each, p) for each, p in zip(asked, holm([gain.p for *_, gain in asked]))])


# --- several seeds ---------------------------------------------------------------------------------------------------


class SeedsGain(NamedTuple):
    """The gain of a *recipe*: the mean over its seeds, with an interval that counts other rows and other seeds.

    row_error and seed_error are the two parts of its standard error: which of them to spend on.
    """

    interval: Interval
    p: float
    row_error: float
    seed_error: float

    def __str__(self) -> str:
        return f"{self.interval}, p {said_p(self.p)} (standard error: rows {self.row_error:.2g}, seeds {self.seed_error:.2g})"


def gain_over_seeds(
    before: Sequence[Score], after: Sequence[Score], n: int = 1000, seed: int = 0, level: float = 0.95
) -> SeedsGain:
    """What the recipe `after` gains over `before` on the same rows, each run with several seeds, a Score a seed. Chapter 13.

    Two things are drawn by chance: the rows and the seeds. The rows' part of the standard error is a bootstrap that redraws the rows of
    all runs together; the seeds' part is the spread of the runs, √(sd²/seeds), summed over both recipes (a recipe of one run, as a base
    that is not trained, has none). The interval is gain ± t · √(rows² + seeds²), t with Welch and Satterthwaite's degrees of freedom. Redrawing
    seeds like rows (a mixed bootstrap) sounds simpler and is far too sure with three seeds, which have a third of their spread missing
    and no tail.

    Raises DataError unless all have the same number of rows, and at least one recipe has two seeds or more. Source: Satterthwaite 1946.
    """
    from scipy.stats import t as student

    if not before or not after or max(len(before), len(after)) < 2:
        raise DataError(
            "give the scores of two seeds or more: with one run nobody knows what another seed would have done"
        )
    runs = [np.array([run.value for run in recipe]) for recipe in (before, after)]
    value = float(runs[1].mean() - runs[0].mean())
    rows_part = float(np.var(redrawn_gains(_mean_run(before), _mean_run(after), n, seed), ddof=1))
    parts = [(rows_part, max(1, len(before[0].values) - 1))]
    parts += [(float(run.var(ddof=1)) / len(run), len(run) - 1) for run in runs if len(run) > 1]
    error = math.sqrt(sum(part for part, _ in parts))
    seeds_part = sum(part for part, _ in parts[1:])
    size = max(1e-300, *(float(np.abs(run).max()) for run in runs))
    if error < 1e-12 * size:  # every run alike on every row: what is left is rounding
        return SeedsGain(Interval(value, value, value), float(abs(value) < 1e-12 * size), 0.0, 0.0)
    freedom = error**4 / sum(part**2 / f for part, f in parts)
    half = float(student.ppf((1 + level) / 2, freedom)) * error
    p = float(2 * student.sf(abs(value) / error, freedom))
    return SeedsGain(Interval(value, value - half, value + half), p, math.sqrt(rows_part), math.sqrt(seeds_part))


def _mean_run(recipe: Sequence[Score]) -> Score:
    """One score of which a row holds what it contributed to each run; its figure is the mean of the runs'."""
    sizes = {len(run.values) for run in recipe}
    if len(sizes) > 1:
        raise DataError(f"every seed is measured on the same rows, these are on {', '.join(map(str, sorted(sizes)))}")
    stacked = np.stack([run.values for run in recipe], axis=1)  # (N, seeds) or (N, seeds, k)
    return Score(stacked, lambda values: float(np.mean([run.statistic(values[:, i]) for i, run in enumerate(recipe)])))
