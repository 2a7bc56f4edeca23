"""What a fine-tuned model has forgotten: in nats on general text, as PEFT reports it, and in what it can still answer. Chapter 13."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from lora_edu.errors import DataError
from lora_edu.evaluation.leakage import bare_input
from lora_edu.evaluation.likelihood import token_mean
from lora_edu.evaluation.metrics import Score
from lora_edu.evaluation.paired import Gain, paired_gain
from lora_edu.evaluation.report import Report
from lora_edu.tables import html_table, text_table


class Changed(NamedTuple):
    """One question whose answer went from right to wrong, or back."""

    question: str
    before: str
    after: str


@dataclass(frozen=True)
class Forgotten:
    """nats: after − before on the passages, a token (above 0: forgotten). answered: gain in the share of trivia (below 0: forgotten).

    lost and gained are the questions behind `answered`. Prints as a table.
    """

    nats: Gain
    answered: Gain
    lost: list[Changed]
    gained: list[Changed]

    def to_dict(self) -> dict[str, Any]:
        """What a stored result keeps."""
        figures = {
            name: gain.interval._asdict() | {"p": gain.p}
            for name, gain in (("nats", self.nats), ("trivia", self.answered))
        }
        return figures | {
            name: [change.question for change in of] for name, of in (("lost", self.lost), ("gained", self.gained))
        }

    def _lines(self) -> list[list[str]]:
        return [
            ["", "change [95 % interval]"],
            ["nats a token on general passages (above 0: forgotten)", str(self.nats)],
            ["share of trivia answered (below 0: forgotten)", str(self.answered)],
            ["trivia lost, gained", f"{len(self.lost)}, {len(self.gained)}"],
        ]

    def __str__(self) -> str:
        return text_table(self._lines())

    def _repr_html_(self) -> str:
        head, *body = self._lines()
        page = html_table(head, body, "What was forgotten")
        for name, rows in (("Lost", self.lost), ("Gained", self.gained)):
            if rows:
                page += html_table(("question", "before", "after"), rows, name)
        return page


def forgotten(before: Report, after: Report) -> Forgotten:
    """Compare two reports of the task "general", of the base (or the model before) and of the model after. Chapter 13.

    PEFT's benchmark calls forgetting the cross-entropy on general text after training less that before, in nats a token (on Wikipedia;
    here the task's own passages): `paired_bootstrap` over passages. The trivia are judged row by row, by the exact sign test. Few rows find
    only large effects: `sign_test_power(gain, changed, 30)` says how large. Raises DataError for reports of other tasks or on other rows.
    """
    for report in (before, after):
        if not {"perplexity", "trivia"} <= report.scores.keys():
            raise DataError(
                f"the report on {report.task} has no trivia and no passages: evaluate(model, tokenizer, get_task('general')), before and after"
            )
    answered = after.gain_over(before, "trivia")  # refuses other rows
    was_nats, now_nats = (Score(report.scores["perplexity"].values, token_mean) for report in (before, after))
    nats = paired_gain(was_nats, now_nats)
    questions = [row for row in after.rows if not row.is_text]
    right = [report.scores["trivia"].values for report in (before, after)]
    changed: dict[bool, list[Changed]] = {False: [], True: []}
    for row, was, now, old, new in zip(questions, *right, before.outputs, after.outputs):
        if was != now:
            changed[bool(now)].append(Changed(bare_input(row), old, new))
    return Forgotten(nats, answered, changed[False], changed[True])
