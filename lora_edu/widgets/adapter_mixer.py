"""Chapter 07: two adapters, a weight each, and a way to add them up; what becomes of both tasks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ipywidgets

from lora_edu.errors import DataError
from lora_edu.plots.axes import number
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import BLUE, INK, MUTED
from lora_edu.plots.raster import wrapped
from lora_edu.widgets.base import WIDTH, State, Widget, choice

Cell = tuple[float, float]  # of one task: (score, loss)
SCORE, LOSS = "score", "loss"
LINES = 2  # an answer longer than this many lines is cut


@dataclass(frozen=True)
class MixerData:
    """What was measured at each pair of weights, for each method.

    Attributes:
        adapters: the two, by name; each is trained for one task.
        scores: what each task's score is ("share of right labels").
        weights: those tried for either adapter, rising; 0 and 1 among them.
        methods: name → a table [weight of the first][weight of the second] → for each of the two tasks (score, loss in nats a token).
        prompts: one question of each task, as it is shown.
        answers: method → the same table → the answer to each prompt.
        rows: how many validation rows of each task were asked.
        test: name of a mixture → what the test rows said of it, for each task; judged once.
        base: the base model's fingerprint. made_by: the command that makes this file again.
    """

    adapters: list[str]
    scores: list[str]
    weights: list[float]
    methods: Mapping[str, list[list[list[Cell]]]]
    prompts: list[str]
    answers: Mapping[str, list[list[list[str]]]]
    rows: int
    test: Mapping[str, list[dict[str, float]]]
    base: str
    made_by: str

    def __post_init__(self) -> None:
        n = len(self.weights)
        if list(self.weights) != sorted(set(self.weights)) or not {0, 1} <= set(self.weights):
            raise DataError(f"the mixer needs rising weights, 0 and 1 among them: {self.weights}")
        if not self.methods or set(self.methods) != set(self.answers):
            raise DataError("the mixer needs a table of scores and one of answers for each method")
        everything: list[Any] = [*self.methods.items(), *self.answers.items()]
        for name, table in everything:
            if len(table) != n or any(len(row) != n or any(len(cell) != 2 for cell in row) for row in table):
                raise DataError(f"the mixer's table of {name} is not {n} × {n} with two tasks each")

    def cell(self, method: str, first: float, second: float) -> list[Cell]:
        """(score, loss) of both tasks at two of the weights."""
        return self.methods[method][self.weights.index(first)][self.weights.index(second)]

    def alone(self, task: int) -> Cell:
        """(score, loss) of an adapter on its own task, the other at weight 0."""
        method = next(iter(self.methods))
        return self.cell(method, *((1, 0) if task == 0 else (0, 1)))[task]

    @classmethod
    def read(cls, path: Path) -> MixerData:
        """Read what `write` wrote; DataError when a field is missing, unknown or does not fit the others."""
        try:
            return cls(**json.loads(Path(path).read_text("utf-8")))
        except (OSError, json.JSONDecodeError, TypeError) as error:
            raise DataError(f"{path} holds no mixer data: {error}") from error

    def write(self, path: Path) -> None:
        """As JSON; `read` gives it back."""
        Path(path).write_text(json.dumps(asdict(self), ensure_ascii=False) + "\n", "utf-8")


class AdapterMixer(Widget):
    """Two weights and a method; the measured scores or losses of both tasks over all weights, and an answer to a question of each.

    It opens with the first adapter alone. Chapter 07. It needs no model: everything is looked up in `data`.
    """

    title = "The adapter mixer"
    question = (
        "Is there a pair of weights at which both tasks keep nine tenths of the score that their own adapter reaches alone? "
        "And does the method matter?"
    )
    computes_on = ("method", "first", "second")

    def __init__(self, data: MixerData) -> None:
        self.data = data
        options = [(number(weight), weight) for weight in data.weights]

        def slider(name: str, value: float) -> ipywidgets.SelectionSlider:
            return ipywidgets.SelectionSlider(
                options=options, value=value, description=f"weight of {name}", layout={"width": "330px"}
            )

        super().__init__(
            first=slider(data.adapters[0], 1),
            second=slider(data.adapters[1], 0),
            method=choice("method", list(data.methods)),
            shown=choice("shown", [SCORE, LOSS]),
        )

    def compute(self, state: State) -> tuple[list[Cell], list[str]]:
        """(score, loss) of both tasks, and the two answers."""
        data, where = self.data, (state["first"], state["second"])
        i, j = (data.weights.index(weight) for weight in where)
        return data.cell(state["method"], *where), data.answers[state["method"]][i][j]

    def draw(self, state: State, result: tuple[list[Cell], list[str]]) -> Canvas:
        data, (cells, answers) = self.data, result
        side = 24 + 34 * len(data.weights)
        canvas = Canvas(WIDTH, 96 + side + 74 * len(data.prompts))
        told = []
        for task, (name, (score, loss)) in enumerate(zip(data.adapters, cells)):
            left, alone = 8 + task * WIDTH / 2, data.alone(task)
            canvas.text(left, 18, f"the task of {name}", 14, bold=True)
            canvas.text(left, 36, f"{data.scores[task]}: {score:.2f}   (its adapter alone: {alone[0]:.2f})", 12)
            canvas.text(left, 54, f"loss: {number(loss)}   (its adapter alone: {number(alone[1])})", 12)
            _draw_map(canvas, data, state, task, left, 84)
            told.append(f"{name}: {data.scores[task]} {score:.2f} (alone {alone[0]:.2f}), loss {number(loss)}")
        top = 100 + side
        for prompt, answer in zip(data.prompts, answers):
            canvas.path([(8, top + 2), (8, top + 62)], stroke=BLUE, width=3)
            canvas.text(20, top + 12, " · ".join(prompt.split("\n")), 12, MUTED)
            for line, words in enumerate(_lines(answer or "(no answer)")):
                canvas.text(20, top + 32 + 18 * line, words, 14)
            top += 74
        canvas.alt = (
            f"{data.adapters[0]} at weight {number(state['first'])} and {data.adapters[1]} at {number(state['second'])}, "
            f"added by {state['method']}: {'; '.join(told)}. "
            + " ".join(f"“{' '.join(p.split())}” is answered “{a}”." for p, a in zip(data.prompts, answers))
            + f" Two maps show each task's {state['shown']} at all {len(data.weights) ** 2} pairs of weights."
        )
        return canvas


def _draw_map(canvas: Canvas, data: MixerData, state: State, task: int, left: float, top: float) -> None:
    """A task's score or loss at all pairs of weights, as numbers on shades; the present pair has a frame."""
    which = (SCORE, LOSS).index(state["shown"])
    table = [[cell[task][which] for cell in row] for row in data.methods[state["method"]]]
    values = [value for row in table for value in row if math.isfinite(value)]
    low, high = (0.0, 1.0) if which == 0 else (min(values), max(values))
    x0, width, height = left + 40, 54, 34
    canvas.text(left, top - 6, f"{state['shown']} by weight: {data.adapters[0]} ↓  {data.adapters[1]} →", 11, MUTED)
    for i, row in enumerate(table):
        canvas.text(x0 - 8, top + 24 + i * height + 20, number(data.weights[i]), 11, MUTED, "end")
        canvas.text(x0 + i * width + width / 2, top + 16, number(data.weights[i]), 11, MUTED, "middle")
        for j, value in enumerate(row):
            x, y = x0 + j * width, top + 24 + i * height
            good = (value - low) / (high - low) if high > low else 1.0
            good = good if which == 0 else 1 - good
            canvas.rect(x, y, width - 2, height - 2, fill=BLUE, opacity=0.08 + 0.5 * good)
            canvas.text(x + width / 2 - 1, y + 21, f"{value:.2f}", 12, INK, "middle")
    i, j = (data.weights.index(state[name]) for name in ("first", "second"))
    x, y = x0 + j * width, top + 24 + i * height
    canvas.path(
        [
            (x - 1, y - 1),
            (x + width - 1, y - 1),
            (x + width - 1, y + height - 1),
            (x - 1, y + height - 1),
            (x - 1, y - 1),
        ],
        stroke=INK,
        width=2.5,
    )


def _lines(answer: str, size: float = 14, width: float = WIDTH - 60) -> list[str]:
    """The answer in at most `LINES` lines that fit; long words are broken, and an ellipsis stands where the rest is left out."""
    pieces = [word[k : k + 40] for word in answer.split() for k in range(0, len(word), 40)]
    lines = wrapped(" ".join(pieces), size, width)
    if len(lines) <= LINES:
        return lines
    return [*lines[: LINES - 1], f"{wrapped(lines[LINES - 1], size, width - 2 * size)[0]} …"]
