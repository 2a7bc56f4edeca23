"""Chapter 05: one row as the loss sees it. Its tokens, the label of each position, and what each position costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import ipywidgets
import torch
from torch import nn

from lora_edu.data.examples import IGNORE, Example
from lora_edu.errors import DataError
from lora_edu.models.modules import modes
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import BLUE, INK, MUTED, RULE, VERMILION, WASH
from lora_edu.plots.raster import font
from lora_edu.widgets.base import WIDTH, State, Widget, choice

ANSWER, NO_END, EVERY = "the answer", "the answer without its end", "every token"
SHIFTED, UNSHIFTED = "shifted by one", "not shifted"
COLUMNS, PITCH, LINE, TALLEST = 12, 61, 98, 26.0
FULL_BAR = 8.0  # nats at which a bar is as tall as it gets; its number still says what it is


class Look(NamedTuple):
    """What a model makes of one row of T tokens: −log p in nats."""

    following: tuple[float, ...]  # (T−1,): at t, of the token at t + 1
    same: tuple[float, ...]  # (T,): at t, of the token at t, which the model has just read


def look(model: nn.Module, examples: Sequence[Example]) -> list[Look]:
    """Every position's loss on each example, without dropout and without gradients; the model keeps its mode. Chapter 05."""
    device = next(model.parameters()).device
    looks = []
    with modes(model, training=False), torch.no_grad():
        for example in examples:
            ids = torch.tensor([example.input_ids], device=device)  # (1, T)
            cost = -model(input_ids=ids).logits[0].float().log_softmax(dim=-1)  # (T, V)
            following = cost[:-1].gather(1, ids[0, 1:, None]).flatten().tolist()
            looks.append(Look(tuple(following), tuple(cost.gather(1, ids[0, :, None]).flatten().tolist())))
    return looks


@dataclass(frozen=True)
class Positions:
    """One row under one choice of labels. Lists have an entry a position; a label or loss of None: there is nothing to predict."""

    tokens: list[str]
    labels: list[str | None]
    counted: list[bool]
    losses: list[float | None]

    @property
    def mean(self) -> float:
        """Nats a counted token."""
        kept = [loss for loss, counts in zip(self.losses, self.counted) if counts and loss is not None]
        return sum(kept) / len(kept)


class TokenInspector(Widget):
    """A row's tokens, mask, labels and losses, for one model or several on the same rows. Chapter 05.

    Args:
        tokenizer: turns ids into the text of each token.
        examples: the rows, encoded.
        looks: name → `look(model, examples)`, such as {"before training": …, "after training": …}.
    """

    title = "The row as the loss sees it"
    question = (
        "Before training, which label of the answer costs most? And from before to after: how far does the mean fall "
        "if the answer counts, and how far if every token counts?"
    )
    computes_on = ("row", "model", "counts", "labels")

    def __init__(self, tokenizer: Any, examples: Sequence[Example], looks: Mapping[str, Sequence[Look]]) -> None:
        if not examples or not looks or any(len(each) != len(examples) for each in looks.values()):
            raise DataError(
                f"the inspector needs examples, and a look at each: {len(examples)} examples, looks at "
                f"{[len(each) for each in looks.values()]}"
            )
        self.examples, self.looks = examples, looks
        self.texts = [[_shown(tokenizer.decode([i])) for i in example.input_ids] for example in examples]
        super().__init__(
            row=ipywidgets.IntSlider(1, 1, max(2, len(examples)), description="row"),
            model=choice("model", list(looks)),
            counts=choice("what counts", [ANSWER, NO_END, EVERY]),
            labels=choice("labels", [SHIFTED, UNSHIFTED]),
        )
        self.controls["row"].max = len(examples)

    def compute(self, state: State) -> Positions:
        at = state["row"] - 1
        example, texts, seen = self.examples[at], self.texts[at], self.looks[state["model"]][at]
        count = len(texts)
        learnt = [label != IGNORE or state["counts"] == EVERY for label in example.labels]
        if state["counts"] == NO_END:
            learnt[-1] = False
        labels: list[str | None] = [*texts]
        losses: list[float | None] = [*seen.same]
        if state["labels"] == SHIFTED:  # position t is judged by the token at t + 1; the last one by nothing
            labels, losses, learnt = [*texts[1:], None], [*seen.following, None], [*learnt[1:], False]
        assert len(labels) == len(losses) == len(learnt) == count
        return Positions(texts, labels, learnt, losses)

    def draw(self, state: State, result: Positions) -> Canvas:
        lines = -(-len(result.tokens) // COLUMNS)
        canvas = Canvas(WIDTH, 26 + LINE * lines + 62)
        for x, name, colour in ((12, "read", MUTED), (70, "label", INK), (132, "loss in nats", INK)):
            canvas.text(x, 14, name, 11, colour, bold=colour == INK)
        canvas.text(
            240,
            14,
            "solid: counts · dashed, −100: masked; its loss is drawn, but nothing is learnt from it",
            11,
            MUTED,
        )
        for t in range(len(result.tokens)):
            _draw_position(canvas, result, t)
        counted, predicted = sum(result.counted), sum(loss is not None for loss in result.losses)
        mean = f"mean of the {counted} labels that count: {result.mean:.2f} nats"
        y = 26 + LINE * lines + 20
        canvas.text(12, y, f"{state['model']}:  {mean}", 15, bold=True)
        note = f"{predicted} positions have something to predict. A bar is full at {FULL_BAR:g} nats. · is a space."
        canvas.text(12, y + 22, note, 11, MUTED)
        costs = [
            f"after “{token}” the label “{label}” costs {loss:.2f}"
            for token, label, loss, counts in zip(result.tokens, result.labels, result.losses, result.counted)
            if counts
        ]
        canvas.alt = f"{len(result.tokens)} tokens, labels {state['labels']}, counted is {state['counts']}. {state['model']}: {mean}. {'; '.join(costs[:14])}."
        return canvas


def _draw_position(canvas: Canvas, row: Positions, t: int) -> None:
    """A box of what is read, an arrow, a box of what has to be said, and the bar of what that costs."""
    x, y = 12 + PITCH * (t % COLUMNS), 26 + LINE * (t // COLUMNS)
    width, counts = PITCH - 5, row.counted[t]
    canvas.rect(x, y, width, 19, fill=WASH, stroke=RULE, width=0.8)
    _fit(canvas, x + width / 2, y + 14, row.tokens[t], width, MUTED)
    label, loss = row.labels[t], row.losses[t]
    if label is None or loss is None:
        return
    canvas.path([(x + width / 2, y + 19), (x + width / 2, y + 27)], stroke=INK if counts else RULE, width=1.2)
    style = {"stroke": VERMILION, "width": 1.8} if counts else {"stroke": RULE, "width": 1, "dash": (3, 3)}
    canvas.rect(x, y + 27, width, 20, **style)
    _fit(canvas, x + width / 2, y + 41, label if counts else "−100", width, INK if counts else MUTED, counts)
    height = max(1.0, TALLEST * min(loss / FULL_BAR, 1))
    foot = y + 49 + TALLEST
    bar = {"fill": BLUE, "stroke": BLUE, "width": 1.0} if counts else {"stroke": RULE, "width": 1, "dash": (2, 2)}
    canvas.rect(x + 2, foot - height, 16, height, **bar)
    canvas.text(
        x + 23, foot, f"{loss:.2f}" if loss < 9.995 else f"{loss:.1f}", 11, INK if counts else MUTED, bold=counts
    )


def _fit(canvas: Canvas, x: float, y: float, text: str, width: float, colour: str, bold: bool = False) -> None:
    """Centred text, smaller or cut where it would not fit into `width`."""
    for size in (12, 11, 10, 9, 8):
        if font(size, bold).getlength(text) <= width - 4:
            break
    else:
        while len(text) > 1 and font(size, bold).getlength(text + "…") > width - 4:
            text = text[:-1]
        text += "…"
    canvas.text(x, y, text, size, colour, "middle", bold)


def _shown(text: str) -> str:
    """A token's text with its white space made visible."""
    return text.replace(" ", "·").replace("\n", "\\n").replace("\t", "\\t") or "(empty)"
