"""A form in which a learner types rows of her own, and a question to ask that is none of them (chapter 05)."""

from collections.abc import Sequence
from html import escape
from typing import Any

from lora_edu.course import store
from lora_edu.course.card import Card
from lora_edu.data.rows import Row, raise_faults
from lora_edu.data.splits import input_key
from lora_edu.errors import DataError
from lora_edu.tables import html_table

Pair = tuple[str, str]  # what is asked, what is to be answered


class RowsForm(Card):
    """Lines of "question → answer" to type over, and one new question. What was typed is kept like a locked prediction.

    What was changed last counts: typed rows, until the cell's own rows are changed and run again. Without a kernel, and where nobody
    types, it holds the cell's rows. `forget(id)` brings those back.
    """

    def __init__(self, id: str, pairs: Sequence[Pair], new_question: str) -> None:
        self.id = id
        self._given: dict[str, Any] = {"pairs": [list(pair) for pair in pairs], "new": new_question}
        self._typed = self._given
        kept = store.get("forms", id)
        self._newer = (
            kept is not None and kept.get("given") != self._given
        )  # the cell was changed after something was typed
        if kept is not None and not self._newer:
            self._typed = {"pairs": kept["pairs"], "new": kept["new"]}
        super().__init__(self._text(), self._table())

    @property
    def new_question(self) -> str:
        """What will be asked without having been trained. Raises DataError if it is empty or one of the rows."""
        new = str(self._typed["new"]).strip()
        if not new:
            raise DataError("the new question is empty: type one that is none of your rows")
        same = input_key(Row.chat(new, "-"))
        for number, (asked, _) in enumerate(self._typed["pairs"], 1):
            if asked.strip() and input_key(Row.chat(asked, "-")) == same:
                raise DataError(
                    f"the new question is row {number} once more, so it would show memory, not skill: ask it in other words"
                )
        return new

    def rows(self) -> list[Row]:
        """The rows as typed, empty lines left out. Raises one DataError that lists every fault, the new question's too."""
        rows, faults, seen = [], [], dict[str, int]()
        for number, (asked, answer) in enumerate(self._typed["pairs"], 1):
            if not asked.strip() and not answer.strip():
                continue
            try:
                rows.append(row := Row.chat(asked.strip(), answer.strip(), where=f"row {number}"))
            except DataError as error:
                faults.append(f"row {number}: {error}")
                continue
            if (before := seen.setdefault(input_key(row), number)) != number:
                faults.append(f"row {number}: the question of row {before} again; a question has one answer")
        if not rows and not faults:
            faults.append("every row is empty: type a question and its answer")
        try:
            _ = self.new_question
        except DataError as error:
            faults.append(str(error))
        raise_faults(faults)
        return rows

    # What is shown ----------------------------------------------------------------------------------------------------
    def _text(self) -> str:
        lines = [f"{n:>3}. {asked} → {answer}" for n, (asked, answer) in enumerate(self._typed["pairs"], 1)]
        return "\n".join(["Your rows:", *lines, f"A question that is none of them: {self._typed['new']}"])

    def _table(self) -> str:
        pairs = [(str(n), *pair) for n, pair in enumerate(self._typed["pairs"], 1)]
        table = html_table(("", "question", "answer"), pairs, "Your rows")
        new = f"A question that is none of them: {escape(self._typed['new'])}"
        return table + new

    def form(self) -> Any:
        import ipywidgets as widgets

        from lora_edu.course import forms

        def field(label: str, value: str, width: str) -> Any:
            layout = widgets.Layout(width=width, min_width="8em")
            text = widgets.Text(value, placeholder=label, continuous_update=False, layout=layout, tooltip=label)
            text.observe(self._keep, "value")
            return text

        self.fields = [
            (field(f"question {n}", asked, "50%"), field(f"answer {n}", answer, "45%"))
            for n, (asked, answer) in enumerate(self._typed["pairs"], 1)
        ]
        self.new_field = field("the new question", self._typed["new"], "95%")
        self.status = widgets.HTML()
        lines = [
            widgets.HBox(
                [widgets.Label(f"{n}", layout=widgets.Layout(width="1.6em")), *pair],
                layout=widgets.Layout(width=forms.WIDTH, max_width="100%"),
            )
            for n, pair in enumerate(self.fields, 1)
        ]
        new = widgets.HBox(
            [widgets.Label("?", layout=widgets.Layout(width="1.6em")), self.new_field],
            layout=widgets.Layout(width=forms.WIDTH, max_width="100%"),
        )
        self._judge()
        return forms.form(
            widgets.HTML("<b>Your rows.</b> Question on the left, answer on the right; an empty line is left out."),
            *lines,
            widgets.HTML("And a question that is <b>none of them</b>:"),
            new,
            self.status,
        )

    def _keep(self, _change: Any) -> None:
        self._typed = {
            "pairs": [[asked.value, answer.value] for asked, answer in self.fields],
            "new": self.new_field.value,
        }
        self._newer = False
        store.put("forms", self.id, self._typed | {"given": self._given})
        self._judge()

    def _judge(self) -> None:
        """Says at once what training would say."""
        from lora_edu.course.card import SIGNS, inline, panel

        try:
            count = len(self.rows())
        except DataError as error:
            self.status.value = panel(f"{SIGNS['wrong']} {inline(str(error))}", "wrong")
            return
        rows = "1 row" if count == 1 else f"{count} rows"
        said = f"{rows} and a new question, ready to be trained on."
        if self._newer:
            said += " These are the cell's: they have changed since something was typed here. (With the old list the typed rows come back.)"
        self.status.value = panel(f"{SIGNS['right']} {said}", "right")
