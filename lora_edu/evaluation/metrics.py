"""What a score is worth: per-row contributions, the figure they make, and an interval around it (chapter 13).

Every metric here returns a `Score`, which keeps what each row contributes. That is what makes an interval possible for
any figure, also for one like BLEU that is no mean of rows, and a *paired* comparison of two models on the same rows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lora_edu.data.splits import normalise
from lora_edu.errors import DataError

Statistic = Callable[[NDArray[Any]], float]


class Interval(NamedTuple):
    """A figure with the ends of its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_figure(self.value)} [{_figure(self.low)}, {_figure(self.high)}]"


def _figure(x: float) -> str:
    return f"{x:.1f}" if abs(x) >= 10 else f"{x:.2f}"


def mean(values: NDArray[Any]) -> float:
    return float(np.mean(values))


@dataclass(frozen=True)
class Score:
    """A metric on N rows. `values` is (N,) or (N, k), a row's contribution; `statistic` makes the figure of any such array."""

    values: NDArray[Any]
    statistic: Statistic = mean

    @property
    def value(self) -> float:
        return self.statistic(self.values)

    @property
    def is_share(self) -> bool:
        """Whether this is the share of rows for which something holds: the mean of zeros and ones."""
        return self.statistic is mean and bool(np.isin(self.values, (0, 1)).all())

    def interval(self, n: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
        """95 % by default: Wilson's interval for a share of rows, the percentile bootstrap for everything else.

        The bootstrap calls ten right out of ten "1.00 [1.00, 1.00]"; Wilson's interval (1927) says [0.72, 1.00].
        """
        if self.is_share:
            return wilson(int(self.values.sum()), len(self.values), level)
        return bootstrap(self.values, self.statistic, n, seed, level)


def wilson(hits: int, rows: int, level: float = 0.95) -> Interval:
    """The interval of a share of rows, honest at 0 and at 1 too. Source: Wilson 1927."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = hits / rows
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return Interval(share, min(share, centre - half), max(share, centre + half))


def bootstrap(
    values: ArrayLike, statistic: Statistic = mean, n: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Percentile bootstrap: draw N of the N rows with replacement, n times, and take the middle `level` of the figures.

    values (N,) or (N, k). Deterministic in `seed`. Raises DataError on no rows. Source: Efron 1979. Chapter 13.
    """
    array = np.asarray(values, dtype=float)
    if not len(array):
        raise DataError("there are no rows to score")
    draws = np.random.default_rng(seed).integers(len(array), size=(n, len(array)))  # (n, N)
    figures = [statistic(array[draw]) for draw in draws]
    low, high = np.quantile(figures, ((1 - level) / 2, (1 + level) / 2))
    return Interval(statistic(array), float(low), float(high))


def paired_bootstrap(
    before: Score, after: Score, n: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[Interval, float]:
    """The gain of `after` over `before` on the same rows, and the share of redraws in which there is none.

    Both are redrawn *together*, so that a hard row is hard for both: two intervals that overlap may still hide a sure gain.
    For figures that are no share of rows: of shares it is too sure of itself (`paired_gain` is not). Raises DataError unless
    both hold the same number of rows. Source: Koehn 2004. Chapter 13.
    """
    gains = redrawn_gains(before, after, n, seed)
    low, high = np.quantile(gains, ((1 - level) / 2, (1 + level) / 2))
    return Interval(after.value - before.value, float(low), float(high)), float(np.mean(gains <= 0))


def redrawn_gains(before: Score, after: Score, n: int, seed: int) -> NDArray[Any]:
    """The gains of n redraws of the rows of both together. (n,)"""
    if len(before.values) != len(after.values):
        raise DataError(f"a paired comparison needs the same rows: {len(before.values)} against {len(after.values)}")
    draws = np.random.default_rng(seed).integers(len(after.values), size=(n, len(after.values)))
    return np.array([after.statistic(after.values[d]) - before.statistic(before.values[d]) for d in draws])


# --- metrics ---------------------------------------------------------------------------------------------------------


def same_length(outputs: Sequence[str], references: Sequence[Any]) -> None:
    if len(outputs) != len(references):
        raise DataError(f"{len(outputs)} outputs for {len(references)} references")


def share(hits: Sequence[bool]) -> Score:
    """The share of rows for which something holds."""
    return Score(np.array(hits, dtype=float))


def exact_match(outputs: Sequence[str], references: Sequence[str]) -> Score:
    """Share of outputs equal to the reference, white space at the ends aside.

    Misleads where one thing can be said in several ways: a right answer with a full stop behind it counts as wrong.
    """
    same_length(outputs, references)
    return share([output.strip() == reference.strip() for output, reference in zip(outputs, references)])


def accuracy(outputs: Sequence[str], references: Sequence[str]) -> Score:
    """Share of outputs equal to the reference but for case and punctuation: for labels.

    Misleads where one label is common: who always says it is right as often as it is (`baselines`).
    """
    same_length(outputs, references)
    return share([normalise(output) == normalise(reference) for output, reference in zip(outputs, references)])


def contains(outputs: Sequence[str], accepted: Sequence[Sequence[str]]) -> Score:
    """Share of outputs that hold one of their accepted answers as whole words, case and punctuation aside.

    Misleads with long outputs: "not Paris", and a list of every capital, hold the answer too.
    """
    same_length(outputs, accepted)
    return share(
        [any(f" {normalise(a)} " in f" {normalise(o)} " for a in answers) for o, answers in zip(outputs, accepted)]
    )


def macro_f1(outputs: Sequence[str], references: Sequence[str]) -> Score:
    """The mean over the references' labels of F1 = 2·hits / (times said + times right); an output that is no label is a miss and no more.

    Every label counts alike, so that always saying the commonest earns next to nothing. It misleads where a label has few rows: one row
    of a label that has two moves the mean as much as fifty of a label that has a hundred.
    """
    same_length(outputs, references)
    labels = sorted({normalise(reference) for reference in references})
    index = {label: i for i, label in enumerate(labels)}
    pairs = [(index[normalise(r)], index.get(normalise(o), -1)) for o, r in zip(outputs, references)]

    def macro(values: NDArray[Any]) -> float:
        truth, guess = values[:, 0], values[:, 1]
        figures = []
        for label in range(len(labels)):
            found = int(((truth == label) & (guess == label)).sum())
            asked = int((truth == label).sum() + (guess == label).sum())
            if asked:  # a label that a redraw misses altogether has no F1
                figures.append(2 * found / asked)
        return float(np.mean(figures))

    return Score(np.array(pairs, dtype=float), macro)


def bleu(outputs: Sequence[str], references: Sequence[str]) -> Score:
    """Corpus BLEU, 0 to 100, by sacrebleu (tokeniser 13a, exponential smoothing). Source: Papineni et al. 2002; Post 2018.

    A row contributes its n-gram matches and totals and its two lengths; the corpus figure is made of their sums. It misleads where an
    answer may be said in other words (a perfect paraphrase gets nothing) and where copying the input goes far: see that baseline first.
    """
    from sacrebleu.metrics.bleu import BLEU

    same_length(outputs, references)
    scorer = BLEU()
    rows = []
    for output, reference in zip(outputs, references):
        one = scorer.corpus_score([output], [[reference]])
        rows.append([*one.counts, *one.totals, one.sys_len, one.ref_len])

    def corpus(values: NDArray[Any]) -> float:
        *counts_and_totals, system, reference = values.sum(axis=0)
        order = len(counts_and_totals) // 2
        counts, totals = [int(c) for c in counts_and_totals[:order]], [int(t) for t in counts_and_totals[order:]]
        return BLEU.compute_bleu(counts, totals, int(system), int(reference), smooth_method="exp").score

    return Score(np.array(rows, dtype=float), corpus)


def rouge(outputs: Sequence[str], references: Sequence[str], kind: str = "rougeL") -> Score:
    """Mean ROUGE F1, 0 to 1, by rouge-score (no stemming): words ("rouge1"), pairs ("rouge2"), longest common run with gaps ("rougeL").

    It misleads beyond English: its words are runs of a–z and 0–9, so that "für" is "f" and "r", and Greek is nothing. And it does not see
    what changes the sense: "not" is one word of many. Raises DataError for another kind. Source: Lin 2004.
    """
    from rouge_score.rouge_scorer import RougeScorer

    same_length(outputs, references)
    if kind not in ("rouge1", "rouge2", "rougeL"):
        raise DataError(f"kind={kind!r}: use rouge1, rouge2 or rougeL")
    scorer = RougeScorer([kind])
    return Score(np.array([scorer.score(r, o)[kind].fmeasure for o, r in zip(outputs, references)], dtype=float))
