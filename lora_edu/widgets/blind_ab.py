"""Chapter 13: two answers, unlabelled. Which is better? The order is revealed when all votes are in."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ipywidgets

from lora_edu.evaluation.blind import FEWEST, LEFT, RIGHT, SAME, Pairs, Verdict, swapped, verdict
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import BLUE, INK, MUTED, RULE, VERMILION
from lora_edu.plots.raster import wrapped
from lora_edu.widgets.base import WIDTH, State, Widget, choice

OPEN, HIDDEN, SHOWN = "not yet", "hidden", "reveal"
COLUMN = (WIDTH - 36) / 2
LINES = 9  # an answer longer than this many lines is cut
CHECKLISTS = {
    "The rows": (
        ("new", "no model was trained on them"),
        ("like", "they are like what will be asked"),
        ("many", "so many as the claim needs"),
        ("alone", "no two are nearly the same"),
    ),
    "The judging": (
        ("blind", "nobody knew whose answer it was"),
        ("rule", "what is better was written down before"),
        ("ties", "same was allowed"),
        ("reader", "somebody else judged some too"),
    ),
    "The claim": (
        ("beside", "a baseline stands beside it"),
        ("interval", "it has an interval"),
        ("price", "what was forgotten is said"),
        ("seeds", "another seed says so too"),
    ),
}


class BlindAB(Widget):
    """Pairs of answers of two models, their sides shuffled. The reader votes; an exact sign test decides, and the order is revealed.

    Args:
        pairs: stored answers, or `answer_pairs(model, tokenizer, prompts)` of a live model.
        seed: of the sides. ask: prompt → the answers of the first and of the second model, for questions of the reader's own.

    Where both say the same, "same" is filled in. Votes are closed when they have been revealed. `votes` and `verdict` hold them. Chapter 13.
    """

    title = "Blind A/B"
    question = "Which answer is better, if you do not know whose it is? Vote on every pair, then reveal: could a coin have voted like you?"

    def __init__(self, pairs: Pairs, seed: int = 0, ask: Callable[[str], tuple[str, str]] | None = None) -> None:
        self.pairs, self.ask = pairs, ask
        self.sides = swapped(len(pairs.prompts), seed)
        self._draw = random.Random(f"{seed} added")
        self.votes = {i: SAME for i, (a, b) in enumerate(zip(pairs.first, pairs.second)) if _flat(a) == _flat(b)}
        self.closed = False
        self._pair = ipywidgets.SelectionSlider(options=self._numbers(), description="pair", layout={"width": "330px"})
        self._vote = choice("better", [OPEN, LEFT, SAME, RIGHT], self.votes.get(0, OPEN))
        order = choice("who is who", [HIDDEN, SHOWN])
        self._pair.observe(self._on_pair, names="value")  # before the base class redraws
        self._vote.observe(self._on_vote, names="value")
        ticks = {
            f"tick_{key}": ipywidgets.Checkbox(
                description=f"{name.removeprefix('The ')}: {words}", indent=False, layout={"width": "365px"}
            )
            for name, items in CHECKLISTS.items()
            for key, words in items
        }
        self.own = ipywidgets.Text(placeholder="a question of your own", description="ask", layout={"width": "420px"})
        self.own.style.description_width = "initial"
        self.button = ipywidgets.Button(description="Ask both", tooltip="Runs both models, and adds a pair")
        self.button.on_click(self._on_ask)
        with warnings.catch_warnings():  # on_submit is deprecated for `observe`, which would ask at Tab as well
            warnings.simplefilter("ignore", DeprecationWarning)
            self.own.on_submit(self._on_ask)
        super().__init__(pair=self._pair, vote=self._vote, order=order, **ticks)

    def extras(self) -> list[ipywidgets.Widget]:
        return [self.own, self.button] if self.ask else []

    @property
    def to_come(self) -> int:
        """How many pairs nobody has voted on."""
        return len(self.pairs.prompts) - len(self.votes)

    @property
    def verdict(self) -> Verdict:
        """The votes counted by model."""
        return verdict(self.votes, self.sides)

    def _settings(self) -> str:
        """Without the twelve ticks, which the drawing counts."""
        named = {"pair": self._pair.label, "vote": self._vote.value, "who is who": self.controls["order"].value}
        return ", ".join(f"{name} {value}" for name, value in named.items())

    # What the controls do ---------------------------------------------------------------------------------------------
    def _numbers(self) -> list[tuple[str, int]]:
        count = len(self.pairs.prompts)
        return [(f"{i + 1} of {count}", i) for i in range(count)]

    def _on_pair(self, _: Any) -> None:
        self._vote.value = self.votes.get(self._pair.value, OPEN)

    def _on_vote(self, _: Any) -> None:
        at = self._pair.value
        if self.closed:
            self._vote.value = self.votes.get(at, OPEN)
        elif self._vote.value == OPEN:
            self.votes.pop(at, None)
        else:
            self.votes[at] = self._vote.value

    def _on_ask(self, _: object) -> None:
        with self.reported():
            asked = self.own.value.strip()
            if not asked or self.ask is None or self.closed:
                return
            first, second = self.ask(asked)
            kept = self.pairs
            self.pairs = replace(
                kept, prompts=[*kept.prompts, asked], first=[*kept.first, first], second=[*kept.second, second]
            )
            self.sides.append(self._draw.random() < 0.5)
            last = len(self.pairs.prompts) - 1
            if _flat(first) == _flat(second):
                self.votes[last] = SAME
            self._pair.options = self._numbers()
            self._pair.value = last
            self._redraw()

    # What is drawn ----------------------------------------------------------------------------------------------------
    def compute(self, state: State) -> None:
        """Nothing: everything is in the votes."""

    def draw(self, state: State, result: None) -> Canvas:
        at, revealed = state["pair"], state["order"] == SHOWN and not self.to_come
        self.closed = self.closed or revealed
        left, right = self.pairs.first[at], self.pairs.second[at]
        names = list(self.pairs.names)
        if self.sides[at]:
            left, right, names = right, left, names[::-1]
        canvas, vote = Canvas(WIDTH, 446), self.votes.get(at, OPEN)
        asked = _cut(self.pairs.prompts[at], 3, WIDTH - 24, 13)
        for row, line in enumerate(asked):
            canvas.text(8, 18 + 18 * row, line, 13, MUTED)
        for x, side, answer, name in ((8.0, LEFT, left, names[0]), (28 + COLUMN, RIGHT, right, names[1])):
            chosen = vote == side
            canvas.rect(x, 66, COLUMN, 210, stroke=BLUE if chosen else RULE, width=3 if chosen else 1)
            label = f"{side}: {name}" if revealed else side
            canvas.text(x + 10, 86, f"{label} (your vote)" if chosen else label, 13, INK, bold=True)
            for row, line in enumerate(_cut(answer or "(no answer)", LINES, COLUMN - 22, 13)):
                canvas.text(x + 10, 110 + 18 * row, line, 13)
        canvas.alt = f"Asked: “{_flat(self.pairs.prompts[at])}” Left: “{_flat(left)}” Right: “{_flat(right)}” Your vote: {vote}. "
        self._draw_votes(canvas, at)
        canvas.alt += self._draw_result(canvas, state, revealed)
        canvas.alt += self._draw_ticks(canvas, state)
        return canvas

    def _draw_votes(self, canvas: Canvas, at: int) -> None:
        """A mark a pair: full where a vote is in, a ring on the present one. Sides, not models."""
        step = min(22.0, (WIDTH - 24) / len(self.pairs.prompts))
        for i in range(len(self.pairs.prompts)):
            x = 16 + step * i
            canvas.dot(x, 300, min(6.0, step / 3), BLUE if i in self.votes else None, INK if i == at else RULE, 2)

    def _draw_result(self, canvas: Canvas, state: State, revealed: bool) -> str:
        done = len(self.votes)
        if not revealed:
            said = [f"{done} of {done + self.to_come} pairs voted on."]
            if state["order"] == SHOWN:
                said.append(
                    f"{self.to_come} to go: who is who is told when all votes are in, or the rest would not be blind."
                )
            elif not self.to_come:
                said.append("All votes are in: reveal who is who.")
            for row, line in enumerate(said):
                canvas.text(8, 334 + 22 * row, line, 14, INK, bold=row == 0)
            return " ".join(said) + " "
        found = self.verdict
        first, second = self.pairs.names
        x = 8.0
        total = max(1, found.first + found.second + found.same)
        for count, colour in ((found.first, VERMILION), (found.same, RULE), (found.second, BLUE)):
            wide = (WIDTH - 16) * count / total
            if count:
                canvas.rect(x, 318, wide, 14, fill=colour, stroke=INK, width=1, opacity=0.85)
            x += wide
        decided = found.first + found.second
        said = [f"{first} {found.first}, same {found.same}, {second} {found.second}.", _judged(found, first, second)]
        said.append(f"You chose the left side {found.left} times of {decided}.")
        lines = [said[0], *wrapped(f"{said[1]} {said[2]}", 13, WIDTH - 20)]
        for row, line in enumerate(lines):
            canvas.text(8, 352 + 19 * row, line, 14 if row == 0 else 13, INK, bold=row == 0)
        return "Revealed. " + " ".join(said) + " The votes are closed. "

    def _draw_ticks(self, canvas: Canvas, state: State) -> str:
        said = []
        for name, items in CHECKLISTS.items():
            ticked = sum(state[f"tick_{key}"] for key, _ in items)
            said.append(f"{name}: {ticked} of {len(items)}")
        canvas.text(8, 434, f"Checklists ticked: {' · '.join(said)}", 12, MUTED)
        return f"Checklists ticked: {', '.join(said)}."


def _judged(found: Verdict, first: str, second: str) -> str:
    decided = found.first + found.second
    p = "< 0.001" if found.p < 0.001 else f"= {found.p:.2g}"
    if decided < FEWEST:
        return f"{decided} decided votes are too few: even if all went one way, coins would do that more often than once in twenty."
    if found.p <= 0.05:
        better = second if found.second > found.first else first
        return f"You prefer {better}: coins would fall so unevenly with p {p} (exact sign test), on these pairs and to this reader."
    return f"No preference is shown: coins fall so unevenly with p {p} (exact sign test). That is not the same as no difference."


def _flat(text: str) -> str:
    return " ".join(text.split())


def _cut(text: str, lines: int, width: float, size: float) -> list[str]:
    """At most `lines` lines that fit; long words are broken, and an ellipsis stands where the rest is left out."""
    pieces = [word[k : k + 30] for word in text.split() for k in range(0, len(word), 30)]
    made = wrapped(" ".join(pieces), size, width)
    if len(made) <= lines:
        return made
    return [*made[: lines - 1], f"{wrapped(made[lines - 1], size, width - 2 * size)[0]} …"]
