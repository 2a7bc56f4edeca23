"""Is it any good? Answers, likelihoods, and reports that carry a baseline and an interval (chapter 13).

Everything here takes any causal language model, with or without adapters, in whatever mode it is, and gives it back so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lora_edu.data.examples import Example, check_fits, collate, encode_rows
from lora_edu.data.rows import Row
from lora_edu.data.splits import Splits
from lora_edu.errors import DataError
from lora_edu.evaluation.generation import generate
from lora_edu.evaluation.metrics import Interval, Score
from lora_edu.evaluation.paired import Gain, paired_gain
from lora_edu.models.modules import modes
from lora_edu.tables import html_table, text_table
from lora_edu.training.losses import causal_lm_loss


def mean_nll(model: nn.Module, examples: Sequence[Example]) -> Score:
    """Mean negative log-likelihood of the answer tokens, in nats, each *token* weighted alike.

    The score's rows hold (sum, tokens); one row at a time, so that nothing is spent on padding. Raises DataError for rows that the
    model cannot read. Chapter 05.
    """
    check_fits(examples, model)
    device = next(model.parameters()).device
    with modes(model, training=False), torch.no_grad():
        losses = [causal_lm_loss(model, {k: v.to(device) for k, v in collate([one], 0).items()}) for one in examples]
    return Score(np.array([(loss.total.item(), loss.count) for loss in losses]), _token_mean)


def perplexity(model: nn.Module, examples: Sequence[Example]) -> Score:
    """exp(mean NLL): between how many equally likely tokens the model wavers on average. Chapter 13."""
    return Score(mean_nll(model, examples).values, token_perplexity)


def _token_mean(values: NDArray[Any]) -> float:
    return float(values[:, 0].sum() / values[:, 1].sum())


def token_perplexity(values: NDArray[Any]) -> float:
    """exp of the summed losses over the tokens counted; values (N, 2). The statistic of `perplexity`."""
    return math.exp(_token_mean(values))


def likeliest(model: nn.Module, tokenizer: Any, rows: Sequence[Row], labels: Sequence[str]) -> list[str]:
    """For each row the label that the model finds likeliest as the whole answer, its end included.

    It shows what a model knows before it has learnt to answer in one word. Chapter 13.
    """
    tried = [Row((*row.messages[:-1], {"role": "assistant", "content": label})) for row in rows for label in labels]
    nll = mean_nll(model, encode_rows(tried, tokenizer)).values[:, 0].reshape(len(rows), len(labels))
    return [labels[i] for i in nll.argmin(axis=1)]


# --- reports ---------------------------------------------------------------------------------------------------------


class Scored(Protocol):
    """What `evaluate` asks of a task (lora_edu.tasks.Task is the full form)."""

    name: str
    metric: str
    labels: tuple[str, ...]
    max_new_tokens: int

    def splits(self) -> Splits: ...
    def score(self, outputs: Sequence[str], rows: Sequence[Row]) -> dict[str, Score]: ...
    def baselines(self, rows: Sequence[Row]) -> dict[str, list[str]]: ...


@dataclass(frozen=True)
class Report:
    """Scores of one model on one task, beside what needs no model at all. Prints as a table. Chapter 13."""

    task: str
    split: str
    metric: str  # the name of the task's main metric
    rows: list[Row] = field(repr=False)
    outputs: list[str] = field(repr=False)
    scores: dict[str, Score] = field(repr=False)
    baselines: dict[str, dict[str, Score]] = field(default_factory=dict, repr=False)

    @property
    def value(self) -> float:
        return self.scores[self.metric].value

    @property
    def interval(self) -> Interval:
        return self.scores[self.metric].interval()

    def gain_over(self, before: "Report", metric: str | None = None) -> Gain:
        """`paired_gain` of a metric (the main one) over another report on the same rows.

        Raises DataError if the rows differ.
        """
        if [row.messages for row in self.rows] != [row.messages for row in before.rows]:
            raise DataError("the two reports are not about the same rows: evaluate both with the same split and limit")
        name = metric or self.metric
        return paired_gain(before.scores[name], self.scores[name])

    def to_dict(self) -> dict[str, Any]:
        """What a stored result keeps: {metric: {value, low, high, values, baselines}}, and the number of rows.

        `values` are the rows' own contributions, in the order of the rows: without them two results cannot be compared row by
        row. A share's are 0 or 1; a perplexity's are pairs (summed loss, tokens).
        """
        figures = {
            name: score.interval()._asdict()
            | {"values": _plain(score), "baselines": {b: s[name].value for b, s in self.baselines.items() if name in s}}
            for name, score in self.scores.items()
        }
        return {"task": self.task, "split": self.split, "rows": len(self.rows), "scores": figures}

    def _table(self) -> list[list[str]]:
        head = ["", "score [95 % interval]", *(f"baseline: {name}" for name in self.baselines)]
        body = [
            [
                name,
                str(score.interval()),
                *(str(b[name].interval()) if name in b else "–" for b in self.baselines.values()),
            ]
            for name, score in self.scores.items()
        ]
        return [head, *body]

    def _title(self) -> str:
        return f"{self.task}, {len(self.rows)} {self.split} rows"

    def __str__(self) -> str:
        return f"{self._title()}\n{text_table(self._table())}"

    def _repr_html_(self) -> str:
        head, *body = self._table()
        return html_table(head, body, self._title())


def _plain(score: Score) -> list[Any]:
    return score.values.astype(int).tolist() if score.is_share else score.values.tolist()


def evaluate(
    model: Any, tokenizer: Any, task: Scored, split: str = "test", limit: int | None = None, batch_size: int = 16
) -> Report:
    """Ask `model` a split's questions and score the answers, with the task's baselines on the same rows.

    `limit` takes that many questions and that many plain texts, which get a perplexity; a fair sample, because splits
    come in hash order. A task with `labels` is scored by likelihood too. Chapter 13.
    """
    if split not in Splits._fields:
        raise DataError(f"split={split!r}: use one of {', '.join(Splits._fields)}")
    rows = getattr(task.splits(), split)
    questions = [row for row in rows if not row.is_text][:limit]
    texts = [row for row in rows if row.is_text][:limit]
    if not questions and not texts:
        raise DataError(f"task {task.name} has no {split} rows")
    outputs = generate(model, tokenizer, questions, task.max_new_tokens, batch_size)
    scores: dict[str, Score] = {}
    baselines: dict[str, dict[str, Score]] = {}
    if questions:
        scores |= task.score(outputs, questions)
        baselines = {name: task.score(answers, questions) for name, answers in task.baselines(questions).items()}
    if task.labels:
        guesses = likeliest(model, tokenizer, questions, task.labels)
        scores |= {f"{name} by likelihood": score for name, score in task.score(guesses, questions).items()}
    if texts:
        scores["perplexity"] = perplexity(model, encode_rows(texts, tokenizer))
    return Report(task.name, split, task.metric, questions + texts, outputs, scores, baselines)
