"""The self-test at a chapter's end: a few questions, each option with its reason, two of them from earlier chapters."""

import importlib
import pkgutil
import random
from dataclasses import dataclass
from typing import Any

from lora_edu.course import store
from lora_edu.course.card import SIGNS, Card, inline, lettered, panel
from lora_edu.course.exercises import ExerciseError


@dataclass(frozen=True)
class Option:
    """A choice and why it is right or wrong."""

    text: str
    why: str
    right: bool = False


@dataclass(frozen=True)
class Item:
    """One question with exactly one right option. `id` starts with its chapter: "03.q1"."""

    id: str
    text: str
    options: tuple[Option, ...]

    def __post_init__(self) -> None:
        if sum(option.right for option in self.options) != 1:
            raise ExerciseError(f"question {self.id} needs exactly one right option")
        if len({option.text for option in self.options}) != len(self.options):
            raise ExerciseError(f"question {self.id} has two options of the same text")

    def shuffled(self) -> list[tuple[str, Option]]:
        """(letter, option) in an order that the id decides: the same on every page, with no favourite place."""
        order = random.Random(self.id).sample(self.options, len(self.options))
        return list(zip("abcdefgh", order))


@dataclass(frozen=True)
class Quiz:
    """A chapter's questions. `revisit` names questions of earlier chapters; `advice` is (right answers at least, sentence), best first."""

    key: str
    title: str
    items: tuple[Item, ...]
    revisit: tuple[str, ...] = ()
    advice: tuple[tuple[int, str], ...] = ()


def quizzes() -> dict[str, Quiz]:
    """All quizzes by key: "03", "placement"."""
    from lora_edu.course import quizzes as package

    modules = [importlib.import_module(m.name) for m in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")]
    return {module.QUIZ.key: module.QUIZ for module in modules}


def quiz(key: str) -> "QuizCard":
    """The self-test of a chapter. Raises: ExerciseError for an unknown key, or a revisited question that does not exist."""
    every = quizzes()
    if key not in every:
        raise ExerciseError(f"there is no quiz {key!r}; there are {', '.join(every)}")
    chosen = every[key]
    known = {item.id: item for other in every.values() for item in other.items}
    if missing := [id for id in chosen.revisit if id not in known]:
        raise ExerciseError(f"quiz {key} revisits {', '.join(missing)}, which no quiz has")
    return QuizCard(chosen, chosen.items + tuple(known[id] for id in chosen.revisit))


def _reason(option: Option) -> str:
    kind, word = ("right", "Right.") if option.right else ("wrong", "Not this one.")
    return f"<b>{SIGNS[kind]} {word}</b> {inline(option.why)}"


class QuizCard(Card):
    """Questions with a form; without a kernel, questions with the answers folded away."""

    def __init__(self, quiz: Quiz, items: tuple[Item, ...]) -> None:
        self.quiz, self.items = quiz, items
        lines, parts, key = [f"Self-test: {quiz.title}"], [f"<b>{SIGNS['ask']} Self-test: {inline(quiz.title)}</b>"], []
        for position, item in enumerate(items, 1):
            source = f" (chapter {item.id[:2]})" if item.id in quiz.revisit else ""
            lines.append(f"{position}. {item.text}{source}")
            lines += [f"   {letter}) {option.text}" for letter, option in item.shuffled()]
            key.append(f"{position} {next(letter for letter, option in item.shuffled() if option.right)}")
            choices = lettered((letter, inline(option.text)) for letter, option in item.shuffled())
            reasons = lettered((letter, _reason(option)) for letter, option in item.shuffled())
            fold = f"<details><summary>Answer</summary>{reasons}</details>"
            parts.append(f'<div style="margin-top:.8em">{position}. {inline(item.text)}{source}</div>{choices}{fold}')
        lines.append(f"Answers: {', '.join(key)}")
        super().__init__("\n".join(lines), "".join(parts), "ask")

    def form(self) -> Any:
        import ipywidgets as widgets

        from lora_edu.course import forms

        self.summary = widgets.HTML()
        self.rows = [self._row(position, item) for position, item in enumerate(self.items, 1)]
        self._summarise()
        title = widgets.HTML(panel(f"<b>{SIGNS['ask']} Self-test: {inline(self.quiz.title)}</b>", "ask"))
        return forms.form(title, *self.rows, self.summary)

    def _row(self, position: int, item: Item) -> Any:
        import ipywidgets as widgets

        from lora_edu.course import forms

        source = f" (chapter {item.id[:2]})" if item.id in self.quiz.revisit else ""
        options = [(f"{letter}) {option.text}", option) for letter, option in item.shuffled()]
        choice = forms.choices(options)
        button = widgets.Button(description=f"Check {position}", tooltip=f"Check question {position}", icon="check")
        answer = widgets.HTML()

        def mark(_button: Any) -> None:
            if choice.value is None:
                answer.value = panel(f"{SIGNS['open']} Choose an answer first.", "open")
                return
            answer.value = panel(_reason(choice.value), "right" if choice.value.right else "wrong")
            if item.id not in (store.get("quizzes", self.quiz.key) or {}):  # the first answer counts
                results = (store.get("quizzes", self.quiz.key) or {}) | {item.id: choice.value.right}
                store.put("quizzes", self.quiz.key, results)
            self._summarise()

        button.on_click(mark)
        text = widgets.HTML(f"<b>{position}.</b> {inline(item.text)}{source}")
        return widgets.VBox([text, choice, button, answer])

    def _summarise(self) -> None:
        results = store.get("quizzes", self.quiz.key) or {}
        right = sum(bool(results.get(item.id)) for item in self.items)
        done = sum(item.id in results for item in self.items)
        if done == len(self.items):
            advice = next((sentence for least, sentence in self.quiz.advice if right >= least), "")
            text = f"{right} of {done} right at the first answer. {advice}"
            self.summary.value = panel(inline(text.strip()), "note")
        elif done:
            self.summary.value = panel(f"{done} of {len(self.items)} answered.", "note")
