"""Chapter 15: which feature of an adapter survives which way out, and what a careless reader would make of the adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ipywidgets
import torch
from torch import nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.finding import adapter_parameters, lora_layers
from lora_edu.adapters.injection import inject
from lora_edu.adapters.layer import DEFAULT
from lora_edu.errors import ExportError
from lora_edu.plots.axes import percent
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import BLUE, GREEN, INK, MUTED, RULE, VERMILION, WASH
from lora_edu.plots.raster import wrapped
from lora_edu.serving.rules import FOLDED, KEPT, OURS, REFUSED, RULES, WAYS, features_of, refuse
from lora_edu.widgets.base import WIDTH, State, Widget, choice

RANKS = (2, 4, 8, 16)
_MARKS = {KEPT: (BLUE, "kept"), OURS: (BLUE, "ours alone"), FOLDED: (GREEN, "folded"), REFUSED: (VERMILION, "refused")}
_COLUMNS = {
    "peft": "PEFT folder",
    "portable": "portable",
    "merged": "merged",
    "gguf": "GGUF",
    "gguf-adapter": "GGUF adapter",
}
_LINES = 8  # room for the longest refusal that can be chosen, and the sentence below it
_WIDE = 2 * max(RANKS)  # of the probe's matrices: wide enough for twice the highest rank


class _Probe(nn.Module):
    """Two matrices and a head: enough for every feature that can be chosen here."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.v_proj = nn.Linear(_WIDE, _WIDE, bias=False), nn.Linear(_WIDE, _WIDE, bias=False)
        self.head = nn.Linear(_WIDE, _WIDE, bias=False)


@dataclass(frozen=True)
class Ways:
    """What is true of the adapter, what the chosen way out says, and how far a reader of α/r alone is from the trained update."""

    features: list[str]
    refusal: str  # the error's own words; "" where the way is open
    misread: (
        float  # ‖ΔW read − ΔW‖ / ‖ΔW‖ over all its matrices, factors and one α/r taken as they stand in the PEFT folder
    )


class ExportMap(Widget):
    """Choose what an adapter has and the way out → what survives, what is refused, what would be lost elsewhere in silence. Chapter 15.

    A small adapter with these features is made and asked; the table is the one by which the exports refuse (`serving.RULES`).
    """

    title = "The export map"
    question = "Which feature closes which way out, and how wrong is a reader that knows factors and one α/r, and says nothing?"
    computes_on = ("way", "r", "rslora", "ranks", "alphas", "dora", "whole")

    def __init__(self) -> None:
        def box(words: str) -> ipywidgets.Checkbox:
            return ipywidgets.Checkbox(False, description=words, indent=False)

        super().__init__(
            way=choice("way out", [(words, way) for way, words in _COLUMNS.items()], "portable"),
            r=ipywidgets.SelectionSlider(options=RANKS, value=8, description="rank r"),
            rslora=box("rsLoRA"),
            ranks=box("twice the rank on v"),
            alphas=box("four times α on v"),
            dora=box("DoRA"),
            whole=box("the head trained in full"),
        )

    def compute(self, state: State) -> Ways:
        model, config = probe(state)
        refusal = ""
        try:
            refuse(model, DEFAULT, state["way"])
        except ExportError as error:
            refusal = str(error)
        return Ways(features_of(model, DEFAULT), refusal, misread(model, config))

    def draw(self, state: State, result: Ways) -> Canvas:
        canvas = Canvas(WIDTH, 62 + 25 * len(RULES) + 24 + 18 * _LINES)
        left, wide = 330, 84
        canvas.text(12, 28, f"An adapter of rank {state['r']}, α = {state['r']}, and", 12)
        for column, (way, words) in enumerate(_COLUMNS.items()):
            x = left + wide * column
            if way == state["way"]:
                canvas.rect(x - 2, 8, wide - 4, 34 + 25 * len(RULES), fill=WASH, stroke=RULE, width=1)
            canvas.text(x + wide / 2 - 4, 28, words, 10.5, INK, "middle", bold=way == state["way"])
        for row, (key, rule) in enumerate(RULES.items()):
            y, has = 54 + 25 * row, key in result.features
            canvas.text(12, y, ("▸ " if has else "") + rule.words, 11, INK if has else MUTED, bold=has)
            for column, way in enumerate(WAYS):
                colour, mark = _MARKS[rule.verdict(way)]
                canvas.text(
                    left + wide * column + wide / 2 - 4, y, mark, 11, colour if has else MUTED, "middle", bold=has
                )
        y = 62 + 25 * len(RULES)
        said = verdict(state["way"], result)
        lines = wrapped(said, 12, WIDTH - 24)
        for row, line in enumerate(lines):
            canvas.text(12, y + 16 + 18 * row, line, 12, VERMILION if result.refusal else GREEN)
        lost = f"A reader of the PEFT folder that knows factors and one α/r is {percent(result.misread)} off the trained update, without an error."
        for row, line in enumerate(wrapped(lost, 12, WIDTH - 24), len(lines)):
            canvas.text(12, y + 24 + 18 * row, line, 12, bold=True)
        has_words = "; ".join(RULES[key].words for key in result.features) or "none of the listed features"
        canvas.alt = f"The adapter has: {has_words}. {said} {lost}"
        return canvas


def probe(state: State) -> tuple[Any, LoRAConfig]:
    """A small model with the adapter that was chosen, its factors random, and its configuration."""
    torch.manual_seed(0)
    r, model = state["r"], _Probe()
    config = LoRAConfig(
        r=r, lora_alpha=r, target_modules=("q_proj", "v_proj"), use_rslora=state["rslora"],
        rank_pattern={"v_proj": 2 * r} if state["ranks"] else {}, alpha_pattern={"v_proj": 4 * r} if state["alphas"] else {},
        variant="dora" if state["dora"] else None, modules_to_save=("head",) if state["whole"] else None,
    )  # fmt: skip
    inject(model, config)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.mul_(1.2) if parameter.dim() == 1 else parameter.copy_(
                0.2 * torch.randn(parameter.shape, generator=draw)
            )
    return model, config


@torch.no_grad()
def misread(model: nn.Module, config: LoRAConfig) -> float:
    """‖ΔW read − ΔW‖ / ‖ΔW‖ over all adapted matrices, where ΔW is read as α/r · B A with the configuration's own α and r."""
    off = size = 0.0
    for layer in lora_layers(model).values():
        A, B = (held[DEFAULT] for held in layer.factors)
        real = layer.delta_weight(DEFAULT)
        off += float((config.lora_alpha / config.r * B @ A - real).square().sum())
        size += float(real.square().sum())
    return (off / size) ** 0.5


def verdict(way: str, result: Ways) -> str:
    """One sentence on the chosen way out."""
    if result.refusal:
        return f"Refused: {result.refusal}"
    folded = [RULES[key].words for key in result.features if RULES[key].verdict(way) == FOLDED]
    if folded:
        return f"Open: {WAYS[way]} holds it all; {', '.join(folded)}: folded into the numbers."
    return f"Open: {WAYS[way]} holds it as it is."
