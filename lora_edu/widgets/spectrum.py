"""Chapter 02: the singular values of W₀, of the change ΔW and of noise, matrix by matrix through a whole network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import ipywidgets
import torch
from torch import Tensor

from lora_edu.linalg import effective_rank, energy
from lora_edu.plots.axes import Axes, decades, percent, ticks
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import CYCLE, DASHES, INK, MUTED, PAPER
from lora_edu.widgets.base import WIDTH, State, Widget, choice

LOWEST = 1e-3  # where the logarithmic axis ends
POINTS = 96  # of a curve; more cannot be seen


@cache
def gaussian(shape: tuple[int, int]) -> Tensor:
    """Singular values (min(shape),) of a matrix of standard normal entries, seed 0: what no structure at all looks like."""
    return torch.linalg.svdvals(torch.randn(*shape, generator=torch.Generator().manual_seed(0)))


@dataclass(frozen=True)
class Change:
    """The spectra of one matrix before training and of what training added, each (min(shape),), large to small."""

    shape: tuple[int, int]
    W0: Tensor
    delta: Tensor

    @classmethod
    def between(cls, before: Tensor, after: Tensor) -> Change:
        """Of the weights (out, in) before and after a training."""
        before, after = before.detach(), after.detach()
        rows, columns = before.shape
        return cls((rows, columns), torch.linalg.svdvals(before), torch.linalg.svdvals(after - before))

    @cached_property
    def size(self) -> float:
        """‖ΔW‖ / ‖W₀‖."""
        return float(self.delta.norm() / self.W0.norm())

    @cached_property
    def spectra(self) -> dict[str, Tensor]:
        return {"W₀": self.W0, "ΔW": self.delta, "Gaussian": gaussian(self.shape)}


class SpectrumExplorer(Widget):
    """How many directions hold most of a change, of the weight it changes, and of noise? Chapter 02.

    Args:
        groups: name → the same matrix of each layer, first layer first.

    Raises:
        ValueError: no group, or one without a layer.
    """

    title = "The spectrum of a change"
    question = (
        "How many directions hold 90 % of a change, how many of W₀, and how many of a Gaussian matrix of the same shape? "
        "Is there a matrix where the change does not need fewer?"
    )
    computes_on = ("matrix", "share")

    def __init__(self, groups: Mapping[str, Sequence[Change]], layer: int = 0) -> None:
        if not groups or not all(groups.values()):
            raise ValueError("give at least one group, and a layer or more in each")
        self.groups = {name: tuple(changes) for name, changes in groups.items()}
        matrix = choice("matrix", list(self.groups))
        slider = ipywidgets.IntSlider(layer, 0, len(self.groups[matrix.value]) - 1, description="layer")

        def keep_to_the_group(_: object) -> None:
            slider.max = len(self.groups[matrix.value]) - 1

        # Observed before the base class does, so that no drawing sees a layer that is not there.
        matrix.observe(keep_to_the_group, names="value")
        super().__init__(
            matrix=matrix, layer=slider, share=ipywidgets.IntSlider(90, 50, 99, description="energy share (%)")
        )
        matrix.layout.width = f"{WIDTH - 8}px"

    def compute(self, state: State) -> list[dict[str, int]]:
        """For each layer of the group: how many directions hold the share, by spectrum."""
        share = state["share"] / 100
        return [
            {name: effective_rank(S, share) for name, S in change.spectra.items()}
            for change in self.groups[state["matrix"]]
        ]

    def draw(self, state: State, result: list[dict[str, int]]) -> Canvas:
        group, layer, share = self.groups[state["matrix"]], state["layer"], state["share"]
        change, counts = group[layer], result[layer]
        rows, columns = change.shape
        limit = min(change.shape)
        canvas = Canvas(WIDTH, 500)
        where = f"{state['matrix']}, layer {layer} ({rows} × {columns})"
        canvas.text(8, 18, where, 14, bold=True)
        canvas.text(
            8, 38, f"The change is {percent(change.size)} of W₀'s size (‖ΔW‖ / ‖W₀‖). Of {limit} directions, {share} % of the energy is in", 12
        )  # fmt: skip
        for column, (name, count) in enumerate(counts.items()):
            x = 8 + 250 * column
            canvas.path([(x, 56), (x + 30, 56)], stroke=CYCLE[column], width=3, dash=DASHES[column])
            canvas.text(x + 38, 61, f"{count}", 15, bold=True)
            canvas.text(x + 46 + 9 * len(str(count)), 61, f"of {_the(name)}'s ({percent(count / limit)})", 12)
        _draw_spectra(canvas, change)
        _draw_energies(canvas, change, counts, share / 100)
        _draw_sizes(canvas, group, layer)
        _draw_counts(canvas, group, result, layer, share)
        most = max(range(len(group)), key=lambda i: group[i].size)
        canvas.alt = (
            f"{where}: the change is {percent(change.size)} of W₀'s size. {share} % of the energy is held by "
            + ", ".join(f"{count} of {_the(name)}'s" for name, count in counts.items())
            + f" {limit} directions. Curves: singular values on a logarithmic axis, energy against the number of directions, and "
            f"by layer the size of the change, largest in layer {most} ({percent(group[most].size)}), and the share of directions."
        )
        return canvas


def _the(name: str) -> str:
    return f"the {name}" if name == "Gaussian" else name


def _thinned(count: int) -> list[int]:
    """At most `POINTS` of the indices 1 … count, evenly spread on a logarithmic axis, ends included."""
    return sorted({round(count ** (k / (POINTS - 1))) for k in range(POINTS)})


def _draw_spectra(canvas: Canvas, change: Change) -> None:
    limit = min(change.shape)
    axes = Axes(canvas, (46, 106, 310, 132), (1, limit), (LOWEST, 1), xlog=True, ylog=True)
    axes.frame([k for k in (1, 4, 16, 64, 256) if k <= limit], decades(LOWEST, 1), "index i (log)", "σᵢ / ‖M‖ (log)")
    for column, S in enumerate(change.spectra.values()):
        relative = S / S.norm().clamp_min(1e-30)
        seen = [i for i in _thinned(limit) if relative[i - 1] >= LOWEST]
        axes.line(seen, [float(relative[i - 1]) for i in seen], CYCLE[column], dash=DASHES[column])
        if seen and seen[-1] < limit:  # falls through the floor
            axes.line(
                [seen[-1], seen[-1] + 1], [float(relative[seen[-1] - 1]), LOWEST], CYCLE[column], dash=DASHES[column]
            )


def _draw_energies(canvas: Canvas, change: Change, counts: Mapping[str, int], share: float) -> None:
    limit = min(change.shape)
    axes = Axes(canvas, (430, 106, 314, 132), (0, limit), (0, 1))
    axes.frame(ticks(0, limit), (0, 0.5, 1), "directions kept", "share of the energy they hold")
    axes.canvas.path([axes.at(0, share), axes.at(limit, share)], stroke=INK, width=1.2, dash=(3, 3))
    for column, (name, S) in enumerate(change.spectra.items()):
        held = energy(S)
        kept = _thinned(limit)
        axes.line([0, *kept], [0.0, *(float(held[i - 1]) for i in kept)], CYCLE[column], dash=DASHES[column])
        at = counts[name]
        if at:
            canvas.dot(axes.x(at), axes.y(float(held[at - 1])), 4.5, CYCLE[column], INK, 1.2)


def _by_layer(canvas: Canvas, left: float, layers: int, high: float, label: str, layer: int) -> Axes:
    """Axes over the layers of a group, values in %, with a line at the chosen layer."""
    axes = Axes(canvas, (left, 308, 314, 132), (-0.5, layers - 0.5), (0, high))
    axes.frame(range(0, layers, max(1, round(layers / 6))), ticks(0, high), "layer", label)
    axes.rule_at(layer)
    return axes


def _draw_sizes(canvas: Canvas, group: Sequence[Change], layer: int) -> None:
    sizes = [100 * change.size for change in group]
    axes = _by_layer(canvas, 46, len(group), 1.15 * max(*sizes, 1e-9), "size of the change, % of W₀'s", layer)
    axes.line(range(len(group)), sizes, CYCLE[1], dash=DASHES[1])
    for i, size in enumerate(sizes):
        canvas.dot(axes.x(i), axes.y(size), 4 if i == layer else 2.5, CYCLE[1], INK if i == layer else PAPER, 1)


def _draw_counts(canvas: Canvas, group: Sequence[Change], result: list[dict[str, int]], layer: int, share: int) -> None:
    axes = _by_layer(canvas, 430, len(group), 100, f"% of its directions that hold {share} %", layer)
    for column, name in enumerate(result[0]):
        shares = [100 * counts[name] / min(change.shape) for change, counts in zip(group, result)]
        axes.line(range(len(group)), shares, CYCLE[column], dash=DASHES[column])
        canvas.dot(axes.x(layer), axes.y(shares[layer]), 4.5, CYCLE[column], INK, 1.2)
    canvas.text(8, 492, "Gaussian: a matrix of the same shape with standard normal entries. Dots: the chosen layer.", 11, MUTED)  # fmt: skip
