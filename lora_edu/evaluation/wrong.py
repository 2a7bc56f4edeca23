"""The wrong answers of a report, grouped by what is wrong with them, to be read. Chapter 13.

A score says how many are wrong; what to do about it stands in the answers. Groups are tried in order, and each answer lands in the first
that fits, so that the last one, "another answer", holds what only reading explains.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from lora_edu.data.rows import Row
from lora_edu.data.splits import normalise
from lora_edu.errors import DataError
from lora_edu.evaluation.leakage import bare_input
from lora_edu.evaluation.report import Report
from lora_edu.tables import html_table, text_table


class Wrong(NamedTuple):
    """One wrong answer: the number of its row among the questions, what was asked, said and wanted."""

    row: int
    asked: str
    said: str
    wanted: str


@dataclass(frozen=True)
class WrongAnswers:
    """`groups`: name → wrong answers, the largest group first; `questions` is how many were asked. Prints as tables."""

    groups: dict[str, list[Wrong]]
    questions: int

    def __len__(self) -> int:
        return sum(map(len, self.groups.values()))

    def counts(self) -> dict[str, int]:
        """How many are in each group."""
        return {name: len(group) for name, group in self.groups.items()}

    def _title(self) -> str:
        return f"{len(self)} of {self.questions} answers are wrong"

    def __str__(self) -> str:
        lines = [["what is wrong", "rows", "for example"]]
        lines += [
            [name, str(len(group)), f"{short(group[0].said, 40)!r} for {short(group[0].wanted, 40)!r}"]
            for name, group in self.groups.items()
        ]
        return f"{self._title()}\n{text_table(lines)}" if self.groups else self._title()

    def html(self, most: int = 5) -> str:
        """A folded table a group, of at most `most` answers each; everything that a model said is escaped."""
        from html import escape

        made = [f"<p>{escape(self._title())}.</p>"]
        for name, group in self.groups.items():
            rows = [[str(x.row), short(x.asked), short(x.said) or "(nothing)", short(x.wanted)] for x in group[:most]]
            more = f", the first {most}" if len(group) > most else ""
            table = html_table(("row", "asked", "said", "wanted"), rows)
            made.append(f"<details><summary>{escape(name)}: {len(group)}{more}</summary>{table}</details>")
        return "".join(made)

    def _repr_html_(self) -> str:
        return self.html()


def wrong_answers(
    report: Report,
    metric: str | None = None,
    tokenizer: Any = None,
    max_new_tokens: int | None = None,
    reads: Callable[[str], Any] | None = None,
) -> WrongAnswers:
    """The answers that `metric` (the report's main one) counts as wrong, by kind.

    Groups, in the order in which they are tried: empty · copied (the answer is the input) · cannot be read (`reads` says None; for JSON
    `json_slots`) · cut off (as many tokens as were allowed, which needs `tokenizer` and `max_new_tokens`) · right but for case or
    punctuation · right, and more around it · "joy" for "anger" (both are among the wanted answers, of which there are few) · no label ·
    another answer. Raises DataError for a metric that is no share of rows: there no row is right or wrong.
    """
    name = metric or report.metric
    if name not in report.scores:
        raise DataError(f"the report has no metric {name!r}; it has {', '.join(report.scores)}")
    score = report.scores[name]
    questions = [row for row in report.rows if not row.is_text]
    if not score.is_share or len(score.values) != len(questions):
        raise DataError(f"{name} is no share of right answers: choose a metric that calls each row right or wrong")
    labels = {normalise(row.answer) for row in questions}
    labels = labels if len(labels) <= max(2, len(questions) // 5) else set()  # few and repeated, or they are no labels
    groups: dict[str, list[Wrong]] = {}
    for number, (row, output, right) in enumerate(zip(questions, report.outputs, score.values), 1):
        if right:
            continue
        cut = False
        if tokenizer is not None and max_new_tokens is not None:
            cut = len(tokenizer(output, add_special_tokens=False)["input_ids"]) >= max_new_tokens
        kind = _kind(row, output, labels, cut, reads)
        groups.setdefault(kind, []).append(Wrong(number, bare_input(row), output, row.answer))
    order = sorted(groups, key=lambda kind: (-len(groups[kind]), kind))
    return WrongAnswers({kind: groups[kind] for kind in order}, len(questions))


def _kind(row: Row, output: str, labels: set[str], cut: bool, reads: Callable[[str], Any] | None) -> str:
    said, wanted = normalise(output), normalise(row.answer)
    accepted = [normalise(text) for text in row.meta.get("accepted", ())] or [wanted]
    if not output.strip():
        return "empty"
    if said in (normalise(bare_input(row)), normalise(row.prompt)) and said not in accepted:
        return "copied input"
    if reads is not None and reads(output) is None:
        return "cut off" if cut else "cannot be read"
    if cut:
        return "cut off"
    if said in accepted:
        return "right but for case or punctuation"
    if any(f" {text} " in f" {said} " for text in accepted):
        return "right, and more around it"
    if labels:
        return f"“{short(row.answer, 30)}” called “{short(output, 30)}”" if said in labels else "no label"
    return "another answer"


def short(text: str, most: int = 160) -> str:
    """The text on one line, cut to `most` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def extremes(report: Report, count: int = 3) -> tuple[list[Wrong], list[Wrong]]:
    """The best and the worst answers, by the loss of the wanted answer a token where the report has it, after the main metric's verdict.

    A row counts once. Without a loss, and where verdicts are equal, the order of the rows decides.
    """
    questions = [row for row in report.rows if not row.is_text]
    verdict, losses = [0.0] * len(questions), [0.0] * len(questions)
    main = report.scores.get(report.metric)
    if main is not None and main.values.shape == (len(questions),):
        verdict = main.values.tolist()
    if "loss" in report.scores:
        losses = [float(total / tokens) for total, tokens in report.scores["loss"].values]
    order = sorted(range(len(questions)), key=lambda i: (-verdict[i], losses[i], i))
    made = [Wrong(i + 1, bare_input(questions[i]), report.outputs[i], questions[i].answer) for i in order]
    return made[:count], made[max(count, len(made) - count) :][::-1]
