"""The concept inventory: fifteen questions in two sittings, before chapter 00 and after 17, and what was gained in between.

Nothing is told after the first sitting, or the second would measure memory. Answers are kept where predictions are: on this machine.
"""

from typing import Any

from lora_edu.course import store
from lora_edu.course.card import SIGNS, Card, inline, lettered, panel
from lora_edu.course.concepts import ABOUT, CONCEPTS, Concept
from lora_edu.course.exercises import ExerciseError
from lora_edu.course.selftest import Item

SITTINGS = {"before": "first sitting, before chapter 00", "after": "second sitting, after chapter 17"}
UNSURE = "I do not know"
_DASH = "-"  # its letter
Answers = dict[str, str]  # a question's id → the option's text, or UNSURE


def gain(before: int, after: int, questions: int) -> float | None:
    """Hake's normalised gain: of what was open before, the share that is closed. None where nothing was open, or something was lost.

    R. R. Hake, *Interactive-engagement versus traditional methods*, American Journal of Physics 66, 64 (1998), doi 10.1119/1.18809.
    """
    return (after - before) / (questions - before) if before < questions and after >= before else None


def inventory(sitting: str = "before", answers: str | None = None) -> "InventoryCard":
    """One of the two sittings. Show it as a cell's last value.

    Args:
        sitting: "before" chapter 00 or "after" chapter 17.
        answers: hands in without the form: fifteen letters, "-" where you do not know: "ab-d…". What is handed in stays;
            `forget("inventory")` begins anew.

    Raises: ExerciseError for another sitting, for letters that are no options, or for more or fewer than fifteen.
    """
    if sitting not in SITTINGS:
        raise ExerciseError(f"there is no sitting {sitting!r}; there are {', '.join(SITTINGS)}")
    if answers is not None:
        chosen = _spelt(answers)
        if not _is_closed(sitting):
            _keep(sitting, chosen, handed_in=True)
    return InventoryCard(sitting)


def _spelt(letters: str) -> Answers:
    if len(letters) != len(CONCEPTS):
        raise ExerciseError(
            f"{len(CONCEPTS)} letters are due, one a question, and these are {len(letters)}: {letters!r}"
        )
    chosen = {}
    for number, (letter, concept) in enumerate(zip(letters.lower(), CONCEPTS), 1):
        texts = {place: option.text for place, option in concept.item.shuffled()} | {_DASH: UNSURE}
        if letter not in texts:
            raise ExerciseError(f"question {number} has no option {letter!r}; it has {', '.join(texts)}")
        chosen[concept.item.id] = texts[letter]
    return chosen


# What is kept ----------------------------------------------------------------------------------------------------------
def _keep(sitting: str, answers: Answers, handed_in: bool) -> None:
    store.put("forms", f"inventory-{sitting}", {"answers": answers, "handed_in": handed_in})


def _kept(sitting: str) -> tuple[Answers, bool]:
    """(answers to questions that are still asked, with options that are still there; whether they were handed in)."""
    entry = store.get("forms", f"inventory-{sitting}") or {}
    given = entry.get("answers")
    given = given if isinstance(given, dict) else {}
    known = {c.item.id: {UNSURE, *(option.text for option in c.item.options)} for c in CONCEPTS}
    answers = {id: text for id, text in given.items() if isinstance(text, str) and text in known.get(id, ())}
    return answers, entry.get("handed_in") is True


def _is_closed(sitting: str) -> bool:
    """Handed in; and the first sitting is over, too, once the second has told the answers."""
    return _kept(sitting)[1] or (sitting == "before" and _kept("after")[1])


def _right(item: Item) -> str:
    return next(option.text for option in item.options if option.right)


# What is shown ---------------------------------------------------------------------------------------------------------
class InventoryCard(Card):
    """The questions with their form; after the first sitting a receipt, after the second what was gained, and every answer."""

    def __init__(self, sitting: str) -> None:
        self.sitting = sitting
        text, body, kind = _told(sitting) if _is_closed(sitting) else _asked(sitting)
        super().__init__(text, body, kind)

    def form(self) -> Any:
        if _is_closed(self.sitting):
            return None
        import ipywidgets as widgets

        from lora_edu.course import forms

        begun, self.mine = _kept(self.sitting)[0], False
        title = f"<b>{SIGNS['ask']} {len(CONCEPTS)} questions: {SITTINGS[self.sitting]}</b><br>{inline(ABOUT)}"
        rows = []
        self.choices: dict[str, Any] = {}
        for number, concept in enumerate(CONCEPTS, 1):
            item = concept.item
            options = [(f"{letter}) {option.text}", option.text) for letter, option in item.shuffled()]
            choice = forms.choices([*options, (UNSURE, UNSURE)], begun.get(item.id))
            choice.observe(self._changed, "value")
            self.choices[item.id] = choice
            rows.append(widgets.VBox([widgets.HTML(f"<b>{number}.</b> {inline(item.text)}"), choice]))
        self.button = widgets.Button(description="Hand in", tooltip="Hand in all answers", icon="check")
        self.button.on_click(self._hand_in)
        self.status = widgets.HTML()
        return forms.form(widgets.HTML(panel(title, "ask")), *rows, self.button, self.status)

    def _answers(self) -> Answers:
        return {id: choice.value for id, choice in self.choices.items() if choice.value is not None}

    def _changed(self, _change: Any) -> None:
        """Kept at once, so that a restart loses nothing. A late change, sent while the kernel was busy, counts: the page overtook it."""
        if self.mine or not _is_closed(self.sitting):
            _keep(self.sitting, self._answers(), handed_in=self.mine)

    def _hand_in(self, _button: Any) -> None:
        missing = [str(number) for number, choice in enumerate(self.choices.values(), 1) if choice.value is None]
        if missing:
            said = f"Still open: question{'s' if len(missing) > 1 else ''} {', '.join(missing)}. “{UNSURE}” is an answer, too."
            self.status.value = panel(f"{SIGNS['open']} {said}", "open")
            return
        if not _is_closed(self.sitting):
            self.mine = True
            _keep(self.sitting, self._answers(), handed_in=True)
        for control in (*self.choices.values(), self.button):
            control.disabled = True
        _, body, kind = _told(self.sitting)
        self.status.value = panel(body, kind)


def _asked(sitting: str) -> tuple[str, str, str]:
    title = f"{len(CONCEPTS)} questions: {SITTINGS[sitting]}"
    lines, parts = [title, ABOUT], [f"<b>{SIGNS['ask']} {title}</b><br>{inline(ABOUT)}"]
    for number, concept in enumerate(CONCEPTS, 1):
        options = [(letter, option.text) for letter, option in concept.item.shuffled()] + [(_DASH, UNSURE)]
        lines += [f"{number}. {concept.item.text}", *(f"   {letter}) {text}" for letter, text in options)]
        choices = lettered((letter, inline(text)) for letter, text in options)
        parts.append(f'<div style="margin-top:.8em">{number}. {inline(concept.item.text)}</div>{choices}')
    todo = "Answer them all and hand in. Nothing is told after the first sitting; after the second, everything."
    return "\n".join([*lines, todo]), "".join(parts) + f"<i>{todo}</i>", "ask"


def _told(sitting: str) -> tuple[str, str, str]:
    if sitting == "after":
        return _result()
    if not _kept("before")[1]:
        said = 'The second sitting is handed in, and told the answers: the first one is over. `forget("inventory")` begins anew.'
    else:
        said = (
            f"{SIGNS['right']} Handed in: {len(CONCEPTS)} answers. Which are right is told after chapter 17, when you answer the same "
            'questions again: `inventory("after")`. Until then forget them, and read.'
        )
    return said, inline(said), "note"


def _result() -> tuple[str, str, str]:
    (first, sat), (second, _) = _kept("before"), _kept("after")
    asked = [c for c in CONCEPTS if c.item.id in second and (c.item.id in first or not sat)]
    after = sum(second[c.item.id] == _right(c.item) for c in asked)
    if sat:
        before = sum(first[c.item.id] == _right(c.item) for c in asked)
        said = [
            f"Before: {before} of {len(asked)} right. After: {after} of {len(asked)}.",
            _gained(before, after, len(asked)),
        ]
    else:
        said = [f"{after} of {len(asked)} right. There was no first sitting, so that a gain cannot be told."]
    lines, parts = list(said), [f"<b>{inline(said[0])}</b> {inline(' '.join(said[1:]))}"]
    for number, concept in enumerate(CONCEPTS, 1):
        if concept in asked:
            text, body = _answered(
                number, concept, first.get(concept.item.id) if sat else None, second[concept.item.id]
            )
            lines.append(text)
            parts.append(body)
    return "\n".join(lines), "".join(parts), "note"


def _gained(before: int, after: int, questions: int) -> str:
    share = gain(before, after, questions)
    if share is None:
        return "That is fewer than before: no gain to tell." if after < before else "Nothing was left to gain."
    return (
        f"Of the {questions - before} that were open you closed {after - before}: a normalised gain of {share:.2f}. "
        f"(One question moves it by {1 / (questions - before):.2f}; a guess among four options is right once in four times.)"
    )


def _answered(number: int, concept: Concept, before: str | None, now: str) -> tuple[str, str]:
    item, right = concept.item, _right(concept.item)
    whys = {option.text: option.why for option in item.options}
    kinds = {"before": before, "now": now}
    marks = ", ".join(f"{when} {SIGNS['right' if text == right else 'wrong']}" for when, text in kinds.items() if text)
    said = [f"Right: {right} {whys[right]}" if right.endswith(".") else f"Right: {right}. {whys[right]}"]
    for text in dict.fromkeys(text for text in (before, now) if text in whys and text != right):
        said.append(f"Not “{text.rstrip('.')}”: {whys[text]}")
    where = f"; {concept.shown_by}" if concept.shown_by.startswith("law") else ""
    where = f"; {concept.shown_by} of the bug museum" if concept.shown_by.startswith("exhibit") else where
    said.append(f"(Chapter {concept.chapter}{where}.)")
    text = "\n".join([f"{number}. {item.text} [{marks}]", *(f"   {each}" for each in said)])
    body = (
        f"<details><summary>{number}. {inline(item.text)} {marks}</summary>{'<br>'.join(map(inline, said))}</details>"
    )
    return text, body
