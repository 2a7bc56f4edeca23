"""Answers that need no training: what any model has to beat before its score says something. Chapter 13."""

from collections import Counter
from collections.abc import Sequence

from lora_edu.data.rows import Row
from lora_edu.data.splits import normalise
from lora_edu.errors import DataError
from lora_edu.evaluation.leakage import Index, bare_input


def majority(train: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """The commonest training answer, to every row (of equally common ones the first). Raises DataError on no training rows."""
    return [_counted(train).most_common(1)[0][0]] * len(rows)


def majority_rate(train: Sequence[Row], rows: Sequence[Row]) -> float:
    """The share of `rows` whose answer is the commonest of `train`: the accuracy of a model that says nothing else."""
    common = majority(train, rows)
    return sum(row.answer == answer for row, answer in zip(rows, common)) / max(1, len(rows))


def guessing_rate(train: Sequence[Row], rows: Sequence[Row]) -> float:
    """Σ over answers of (share in `train`)·(share in `rows`): how often a guess is right that draws answers as often as training had them."""
    counts = _counted(train)
    return sum(counts[row.answer] for row in rows) / (len(train) * max(1, len(rows)))


def copied(rows: Sequence[Row]) -> list[str]:
    """The bare input (`meta["input"]`, else the question) as the answer: strong wherever the answer is a rewriting."""
    return [bare_input(row) for row in rows]


def nearest_answers(train: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """The answer of the training row whose input is most alike (character n-grams, `leakage.Index`): memory without a model.

    High on a task that is a look-up, and on a split that leaks. "" where no training row shares anything. Raises DataError on no training rows.
    """
    _counted(train)
    index = Index([normalise(bare_input(row)) for row in train])
    found = [index.nearest(normalise(bare_input(row))) for row in rows]
    return ["" if at is None else train[at[0]].answer for at in found]


def _counted(train: Sequence[Row]) -> Counter[str]:
    if not train:
        raise DataError(
            "a baseline needs training rows to take its answers from: give the rows that the model was trained on"
        )
    return Counter(row.answer for row in train)
