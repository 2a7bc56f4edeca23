"""Predict, measure, compare: a locked answer makes a surprise visible.

predict("03-silent-start", "How much does a fresh adapter change the output?", ["not at all", "a little"])
...                                                            # the cell that measures
reveal("03-silent-start", "not at all", misconceptions={"a little": "…"}, because="B = 0, so BA = 0.")
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_edu.course import store
from lora_edu.course.card import SIGNS, Card, inline, lettered, number, panel

Answer = str | float
Misconceptions = Mapping[str | tuple[float, float], str]


_PARTS = {0.5: "half", 0.25: "a quarter of", 0.2: "a fifth of", 0.1: "a tenth of", 0.05: "a twentieth of"}


@dataclass(frozen=True)
class Question:
    """A question with options, or (no options) one whose answer is a number in `unit`."""

    id: str
    text: str
    options: tuple[str, ...] = ()
    unit: str = ""
    tolerance: float = 0.1  # relative to the measured number …
    within: float | None = None  # … or absolute, in units
    between: tuple[float, float] | None = None  # ends of a slider; None: a field to type in

    def parse(self, value: Any) -> Answer:
        """An option by its text or letter, or a number. Raises ValueError that names what is allowed."""
        value = value.item() if hasattr(value, "item") else value
        if not self.options:
            if isinstance(value, str) and re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d+)?", value.strip()):
                value = value.replace(",", "")  # 331,776, as this page writes numbers
            try:
                if math.isfinite(answer := float(value)):
                    return answer
                raise ValueError
            except (TypeError, ValueError):
                raise ValueError(f"prediction {self.id!r} asks for a number, not {value!r}") from None
        letters = {letter(index): option for index, option in enumerate(self.options)}
        if value in self.options:
            return str(value)
        if isinstance(value, str) and value in letters:
            return letters[value]
        raise ValueError(f"prediction {self.id!r} has no option {value!r}; its options: {list(self.options)}")

    def say(self, answer: Answer) -> str:
        if isinstance(answer, str):
            return f"{letter(self.options.index(answer))}) {answer}" if answer in self.options else answer
        return f"{number(answer)} {self.unit}".strip()

    def margin(self) -> str:
        """How far off is still right. Never "within 25 %", which is two things where the unit is %."""
        if self.within is None:
            part = _PARTS.get(self.tolerance, f"{number(self.tolerance)} times")
            return f"off by at most {part} the measured value"
        unit = ("percentage point" if self.within == 1 else "percentage points") if self.unit == "%" else self.unit
        return f"off by at most {number(self.within)} {unit}".strip()

    def is_right(self, answer: Answer, measured: Answer) -> bool:
        if isinstance(answer, str) or isinstance(measured, str):
            return answer == measured
        allowed = self.within if self.within is not None else self.tolerance * abs(measured)
        return abs(answer - measured) <= allowed * (1 + 1e-9)


on_lock: list[Callable[[str, Answer], None]] = []  # told of each answer that is locked: a class's room
_asked: dict[str, Question] = {}
_reminded: list[
    str
] = []  # the question at whose reveal this kernel said that none was locked: said once, for who just runs all


def letter(index: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[index]


class Prediction(Card):
    """The question with its form; without a kernel, the question and its options."""

    def __init__(self, question: Question) -> None:
        self.question = question
        locked = store.get("predictions", question.id)
        choices = [f"{letter(i)}) {option}" for i, option in enumerate(question.options)]
        how = "Choose one" if choices else f"Give a number{' in ' + question.unit if question.unit else ''}"
        todo = f"{how} and lock it before you run the next cell."
        if not choices:
            todo += f" It counts as right if it is {question.margin()}."
        if locked is not None:
            todo = f"Your locked answer: {question.say(locked['answer'])}"
        lines = [f"Your prediction: {question.text}", *(f"  {choice}" for choice in choices), todo]
        body = f"<b>{SIGNS['ask']} Your prediction.</b> {inline(question.text)}<br>"
        body += lettered((letter(i), inline(option)) for i, option in enumerate(question.options))
        super().__init__("\n".join(lines), body + f"<i>{inline(todo)}</i>", "ask")

    def form(self) -> Any:
        import ipywidgets as widgets

        from lora_edu.course import forms

        question, locked = self.question, store.get("predictions", self.question.id)
        body = f"<b>{SIGNS['ask']} Your prediction.</b> {inline(question.text)}"
        value = locked["answer"] if locked else None
        self.choice: Any
        if question.options:
            options = [(f"{letter(i)}) {option}", option) for i, option in enumerate(question.options)]
            self.choice = forms.choices(options, value if value in question.options else None)
        elif question.between:
            low, high = question.between
            start = low if value is None else value
            step, layout = (high - low) / 100, widgets.Layout(width="32em")
            self.choice = widgets.FloatSlider(
                start, min=low, max=high, step=step, readout_format=".3g", continuous_update=False, layout=layout
            )
        else:
            shown = "" if value is None else number(value)
            layout = widgets.Layout(width="18em")
            self.choice = widgets.Text(shown, placeholder="a number", continuous_update=False, layout=layout)
        row = self.choice
        if not question.options:
            body += f"<br><i>It counts as right if it is {question.margin()}.</i>"
            self.choice.description = "Your answer"
            row = widgets.HBox([self.choice, widgets.Label(question.unit)])
        self.button = widgets.Button(description="Lock my answer", tooltip="Lock my answer", icon="lock")
        self.status = widgets.HTML()
        self.button.on_click(self._lock)
        self.moved, self.mine = False, False
        self.choice.observe(self._changed, "value")
        if locked:
            self._show_locked(locked["answer"])
        return forms.form(widgets.HTML(panel(body, "ask")), row, self.button, self.status)

    def _lock(self, _button: Any) -> None:
        value, question = self.choice.value, self.question
        if value is None:
            return self._say("Choose an answer first.")
        if question.between and not self.moved:
            return self._say("Move the slider first. If its start is your answer, move it away and back.")
        try:
            answer = question.parse(value)
        except ValueError:
            return self._say("Give a number first, such as 12 or 0.5.")
        self.mine = store.get("predictions", question.id) is None
        self._show_locked(lock(question, answer))
        if self.choice.value != value:  # another thread of the kernel took a change in while this one stored the answer
            self._changed(None)

    def _changed(self, _change: Any) -> None:
        """A new value; after the lock, one that was on the screen when the button was pressed, and so is the answer.

        While the kernel is busy the page holds back all changes of a control but the first; the button's press overtakes them.
        """
        self.moved = True
        entry = store.get("predictions", self.question.id)
        if not self.mine or entry is None:
            return
        try:
            answer = self.question.parse(self.choice.value)
        except ValueError:
            return
        store.put("predictions", self.question.id, entry | {"answer": answer, "right": None})
        self._show_locked(answer)

    def _say(self, text: str) -> None:
        self.status.value = panel(f"{SIGNS['open']} {text}", "open")

    def _show_locked(self, answer: Answer) -> None:
        self.choice.disabled = self.button.disabled = True
        self.button.description = "Locked"
        self.status.value = panel(f"Locked: {inline(self.question.say(answer))}. Now run the next cell.", "note")


def lock(question: Question, value: Any) -> Answer:
    """Store the answer unless one is locked already; returns the one that is locked."""
    entry = store.get("predictions", question.id)
    if entry is None:
        entry = {"answer": question.parse(value), "right": None, "options": list(question.options)}
        entry |= {"unit": question.unit, "tolerance": question.tolerance, "within": question.within}
        store.put("predictions", question.id, entry)
        for tell in on_lock:
            tell(question.id, entry["answer"])
    return entry["answer"]


def predict(
    id: str,
    question: str,
    options: Sequence[str] | None = None,
    *,
    unit: str = "",
    tolerance: float = 0.1,
    within: float | None = None,
    between: tuple[float, float] | None = None,
    answer: Any = None,
) -> Prediction:
    """Ask before measuring. Show the result as a cell's last value.

    Args:
        id: "03-silent-start": the chapter's number, then a name; `reveal` uses the same id.
        options: what to choose from; None asks for a number in `unit`.
        tolerance: a number is right within this part of the measured value; `within` (in units) replaces it.
        between: ends of a slider for a number; None shows a field to type in.
        answer: locks an answer without the form: an option, its letter ("b"), or a number.
    Raises: ValueError for an answer that is none of the options. A locked answer stays; `forget(id)` opens it again.
    """
    asked = Question(id, question, tuple(options or ()), unit, tolerance, within, between)
    _asked[id] = asked
    if answer is not None:
        lock(asked, asked.parse(answer))
    return Prediction(asked)


def reveal(
    id: str,
    measured: Any,
    *,
    misconceptions: Misconceptions | None = None,
    because: str = "",
    how: str = "Measured",
) -> Card:
    """Compare what was measured with what was locked, and name the misconception behind a wrong answer.

    Args:
        measured: the right option (its text or letter) or the measured number; a tensor of one element will do.
        misconceptions: {option or letter: sentence}; for a number {(low, high): sentence}, ends included.
        because: one sentence that explains the measurement, shown whatever was locked.
        how: where the truth comes from: "Worked out" where nothing was run.
    Raises: ValueError when `measured` or a misconception's key is none of the question's options.
    """
    entry = store.get("predictions", id)
    question = _asked.get(id)
    if question is None and entry is not None:  # the kernel was restarted since
        kept = {key: entry[key] for key in ("unit", "tolerance", "within")}
        question = Question(id, "", tuple(entry["options"]), **kept)
    if question is None:  # never asked in this kernel, never locked: there is nothing to compare with
        question, misconceptions = Question(id, ""), None
        truth = measured if isinstance(measured, str) else question.parse(measured)
    else:
        truth = question.parse(measured)
    meant = {key if isinstance(key, tuple) else question.parse(key): why for key, why in (misconceptions or {}).items()}
    told = f"{how}: {question.say(truth)}."
    if entry is None:
        kind, verdict = "open", ""
        if not _reminded or _reminded[0] == id:
            _reminded[:] = [id]
            verdict = "No prediction was locked for this question. (This is said once; the next ones only tell what was measured.)"
    else:
        answer = entry["answer"]
        right = question.is_right(answer, truth)
        kind = "right" if right else "wrong"
        store.put("predictions", id, entry | {"right": right})
        verdict = f"You predicted {question.say(answer)}: {'right' if right else _distance(answer, truth, question)}."
        if not right and (idea := _misconception(answer, meant)):
            verdict += f" {idea}"
    verdict = f" {verdict}" if verdict else ""
    text = f"{SIGNS[kind]} {told}{verdict}" + (f"\n{because}" if because else "")
    body = f"<b>{SIGNS[kind]} {inline(told)}</b>{inline(verdict)}" + (f"<br>{inline(because)}" if because else "")
    return Card(text, body, kind)


def _distance(answer: Answer, truth: Answer, question: Question) -> str:
    if isinstance(answer, str) or isinstance(truth, str):
        return "not what was measured"
    way = "too high" if answer > truth else "too low"
    if min(answer, truth) > 0 and not 0.8 < answer / truth < 1.25:
        return f"{number(max(answer / truth, truth / answer))} times {way}"
    return f"{number(abs(answer - truth))} {question.unit}".strip() + f" {way}"


def _misconception(answer: Answer, meant: Mapping[Any, str]) -> str | None:
    if isinstance(answer, str):
        return meant.get(answer)
    return next(
        (sentence for key, sentence in meant.items() if isinstance(key, tuple) and key[0] <= answer <= key[1]), None
    )
