"""Is it any good? Reports that carry a baseline and an interval (chapter 13)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lora_edu.data.examples import encode_rows
from lora_edu.data.rows import Row
from lora_edu.data.splits import Splits
from lora_edu.errors import DataError
from lora_edu.evaluation.generation import generate
from lora_edu.evaluation.likelihood import likeliest, mean_nll, perplexity
from lora_edu.evaluation.metrics import Interval, Score
from lora_edu.evaluation.paired import Gain, paired_gain
from lora_edu.tables import html_table, text_table

LOWER_IS_BETTER = ("loss", "perplexity", "bits per byte")  # names of scores


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
    model: Any,
    tokenizer: Any,
    task: Scored,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 16,
    loss: bool = False,
    max_length: int = 512,
) -> Report:
    """Ask `model` a split's questions and score the answers, with the task's baselines on the same rows.

    `limit` takes that many questions and that many plain texts, which get a perplexity; a fair sample, because splits
    come in hash order. A task with `labels` is scored by likelihood too. `loss` adds the mean loss of the wanted answers, in nats a
    token: one forward pass a row, and it often sees a difference where right and wrong do not. Chapter 13.
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
    if questions and loss:
        scores["loss"] = mean_nll(model, encode_rows(questions, tokenizer, max_length))
    if task.labels:
        guesses = likeliest(model, tokenizer, questions, task.labels)
        scores |= {f"{name} by likelihood": score for name, score in task.score(guesses, questions).items()}
    if texts:
        scores["perplexity"] = perplexity(model, encode_rows(texts, tokenizer, max_length))
    return Report(task.name, split, task.metric, questions + texts, outputs, scores, baselines)
