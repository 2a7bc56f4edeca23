"""Rows of one's own, measured as a task is: their loss, and the answers beside the wanted ones. Chapter 13."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lora_edu.data.examples import check_fits, encode_rows
from lora_edu.data.rows import Row
from lora_edu.data.splits import Splits
from lora_edu.errors import DataError
from lora_edu.evaluation.baselines import copied
from lora_edu.evaluation.likelihood import mean_nll
from lora_edu.evaluation.metrics import Score, exact_match, rouge
from lora_edu.evaluation.report import Report, evaluate

MORE = 8  # tokens that an answer may have beyond the longest wanted one: whoever does not stop is seen not to
MOST = 512


class OwnRows:
    """What `evaluate` asks of a task, for rows that belong to none. `copying` the question is the one baseline that needs no other rows."""

    metric = "exact match"
    labels: tuple[str, ...] = ()

    def __init__(self, name: str, rows: Sequence[Row], max_new_tokens: int = 64) -> None:
        self.name, self._rows, self.max_new_tokens = name, list(rows), max_new_tokens

    def splits(self) -> Splits:
        """All rows are test rows."""
        return Splits([], [], self._rows)

    def score(self, outputs: Sequence[str], rows: Sequence[Row]) -> dict[str, Score]:
        """Exact match, and ROUGE-L for answers that can be said in several ways."""
        wanted = [row.answer for row in rows]
        return {"exact match": exact_match(outputs, wanted), "ROUGE-L": rouge(outputs, wanted)}

    def baselines(self, rows: Sequence[Row]) -> dict[str, list[str]]:
        """The question itself as the answer."""
        return {"copying": copied(rows)}


def measure_rows(
    model: Any, tokenizer: Any, name: str, rows: Sequence[Row], answers: bool = False, max_length: int = 512
) -> Report:
    """A report on rows of one's own: the loss of the wanted answers, and with `answers` what the model says, scored.

    Raises DataError for no rows, and for rows that the model cannot read, named by file and row.
    """
    if not rows:
        raise DataError(f"{name} holds no rows to measure on")
    examples = encode_rows(rows, tokenizer, max_length)
    check_fits(examples, model, [row.where for row in rows])
    if not answers:
        return Report(name, "given", "loss", list(rows), [], {"loss": mean_nll(model, examples)})
    longest = max(sum(label >= 0 for label in example.labels) for example in examples)
    task = OwnRows(name, rows, min(MOST, longest + MORE))
    return replace(evaluate(model, tokenizer, task, loss=True, max_length=max_length), split="given")
