"""Chapter 01: a rank-1 update in the plane. a listens, b speaks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import ipywidgets
import torch
from torch import Tensor

from lora_edu.plots.axes import Axes, number
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, RULE, VERMILION
from lora_edu.widgets.base import WIDTH, State, Widget, choice

BASES = {
    "identity": [[1.0, 0.0], [0.0, 1.0]],
    "shear": [[1.0, 0.5], [0.0, 1.0]],
    "quarter turn": [[0.0, -1.0], [1.0, 0.0]],
}
REACH = 3.0  # the planes show −REACH … REACH on both axes


@dataclass(frozen=True)
class Moved:
    """A cloud of inputs and where W₀ and W₀ + b aᵀ send it; a and b are (2,), the points (n, 2)."""

    a: Tensor
    b: Tensor
    delta: Tensor  # (2, 2)
    inputs: Tensor
    heard: Tensor  # a·x, (n,)
    before: Tensor
    after: Tensor
    deaf: int  # the last `deaf` inputs lie at right angles to a


def rank_one(W0: Tensor, angle_a: float, angle_b: float, strength: float) -> Moved:
    """y = W₀x + b(a·x) on a cloud of inputs; angles in degrees, |a| = 1, |b| = strength."""
    a = _unit(angle_a)
    b = strength * _unit(angle_b)
    steps = torch.arange(-1.2, 1.3, 0.4)
    grid = torch.cartesian_prod(steps, steps)
    deaf = torch.tensor([-2.1, -1.4, -0.7, 0.7, 1.4, 2.1])[:, None] * _unit(angle_a + 90)
    inputs = torch.cat([grid, deaf])
    heard = inputs @ a
    heard[-len(deaf) :] = 0.0  # at right angles by construction; the product leaves dust in the last digit
    before = inputs @ W0.T
    return Moved(a, b, torch.outer(b, a), inputs, heard, before, before + heard[:, None] * b, len(deaf))


def _unit(degrees: float) -> Tensor:
    # Round numbers at 0°, 90°, 180° and 270°, where cos and sin leave 1e-8.
    radians = math.radians(degrees)
    return torch.tensor([round(math.cos(radians), 7), round(math.sin(radians), 7)])


class RankDirections(Widget):
    """Turn a and b and watch which outputs move, and in which direction. Chapter 01."""

    title = "a listens, b speaks"
    question = (
        "For which inputs does the output stay where it was, in which direction do all other outputs move, "
        "and which of a and b decides which?"
    )
    computes_on = ("a", "b", "strength", "base")

    def __init__(self) -> None:
        angle = {"min": 0, "max": 355, "step": 5}
        super().__init__(
            a=ipywidgets.IntSlider(30, description="angle of a (°)", **angle),
            b=ipywidgets.IntSlider(100, description="angle of b (°)", **angle),
            strength=ipywidgets.FloatSlider(
                0.8, min=-1.5, max=1.5, step=0.1, description="strength |b|", readout_format=".1f"
            ),
            base=choice("W₀", list(BASES)),
        )

    def compute(self, state: State) -> Moved:
        return rank_one(torch.tensor(BASES[state["base"]]), state["a"], state["b"], state["strength"])

    def draw(self, state: State, result: Moved) -> Canvas:
        canvas = Canvas(WIDTH, 440)
        _draw_inputs(_plane(canvas, 8, "inputs x, and a"), result)
        _draw_outputs(_plane(canvas, 392, "outputs W₀x + b(a·x), and b"), result)
        changed = int((result.delta.abs() > 1e-6).sum())
        # Rows are few enough to write out.
        rows = "   ".join(
            "[ " + "  ".join(f"{v:+.2f}".replace("-", "−") for v in row) + " ]" for row in result.delta.tolist()
        )
        canvas.text(8, 414, f"ΔW = b aᵀ, by rows:  {rows}", 12)
        moves = "yet all outputs move along lines parallel to b" if changed else "and no output moves"
        canvas.text(8, 434, f"{changed} of its 4 entries are not zero, {moves}.", 12, bold=True)
        canvas.alt = (
            f"Left, a cloud of inputs with the arrow a at {state['a']} degrees and the dashed line at right angles to it. Right, "
            f"where W₀x + b(a·x) sends them, with b at {state['b']} degrees and strength {number(state['strength'])}: every output "
            f"moves parallel to b, for inputs on a's side with b and for the others against it; for inputs on the dashed line it "
            f"stays. Of the 4 entries of b aᵀ {changed} are not zero."
        )
        return canvas


def _plane(canvas: Canvas, left: float, title: str) -> Axes:
    axes = Axes(canvas, (left, 30, 360, 360), (-REACH, REACH), (-REACH, REACH))
    canvas.rect(left, 30, 360, 360, stroke=RULE, width=1)
    for points in ([axes.at(-REACH, 0), axes.at(REACH, 0)], [axes.at(0, -REACH), axes.at(0, REACH)]):
        canvas.path(points, stroke=RULE, width=0.8, opacity=0.7)
    canvas.text(left, 20, title, 13, bold=True)
    return axes


def _draw_inputs(axes: Axes, moved: Moved) -> None:
    across = torch.stack([-moved.a[1], moved.a[0]])
    _line_through(axes, across, ORANGE)
    for point, heard in zip(moved.inputs.tolist(), moved.heard.tolist()):
        _mark(axes, point, heard)
    _vector(axes, moved.a, BLUE, "a")
    beside = across * 2.5 - moved.a * 0.95  # clear of the line, whatever its angle
    x, y = axes.at(*beside.tolist())
    x = min(max(x, axes.box[0] + 64), axes.box[0] + axes.box[2] - 64)
    axes.canvas.text(x, min(max(y, 50), 380), "a·x = 0: not heard", 11, INK, "middle", halo=True)


def _draw_outputs(axes: Axes, moved: Moved) -> None:
    if bool(moved.b.any()):
        _line_through(axes, moved.b, PURPLE)
    for start, end, heard in zip(moved.before.tolist(), moved.after.tolist(), moved.heard.tolist()):
        if abs(heard) < 1e-6:
            _mark(axes, end, 0.0)
        elif max(map(abs, start)) <= REACH:
            style = {"stroke": BLUE, "dash": ()} if heard > 0 else {"stroke": VERMILION, "dash": (4, 2)}
            x, y = axes.at(*start)
            axes.canvas.dot(x, y, 2.5, None, MUTED, 1)
            tip, whole = _within(start, end)
            axes.canvas.path([(x, y), axes.at(*tip)], width=1.3, arrow=whole, **style)
    _vector(axes, moved.b, GREEN, "b")


def _within(start: list[float], end: list[float]) -> tuple[list[float], bool]:
    """The end of a line, cut where it leaves the plane, and whether nothing was cut."""
    share = min([1.0, *((REACH * (1 if e > s else -1) - s) / (e - s) for s, e in zip(start, end) if abs(e) > REACH)])
    return [s + share * (e - s) for s, e in zip(start, end)], share == 1.0


def _mark(axes: Axes, point: list[float], heard: float) -> None:
    """A round blue dot where a·x > 0, a vermilion square where a·x < 0, an orange diamond where a hears nothing."""
    if max(map(abs, point)) > REACH:
        return
    x, y = axes.at(*point)
    if abs(heard) < 1e-6:
        corners = [(x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y)]
        axes.canvas.path(corners, stroke=INK, width=1, fill=ORANGE, closed=True)
    elif heard > 0:
        axes.canvas.dot(x, y, 3 + 1.5 * min(heard, 2), BLUE)
    else:
        side = 3 + 1.5 * min(-heard, 2)
        axes.canvas.rect(x - side, y - side, 2 * side, 2 * side, fill=VERMILION, stroke=None)


def _line_through(axes: Axes, direction: Tensor, colour: str) -> None:
    """The whole line through 0 along `direction`, to the plane's edge."""
    far = direction / direction.abs().max() * REACH
    axes.canvas.path([axes.at(*(-far).tolist()), axes.at(*far.tolist())], stroke=colour, width=1.6, dash=(6, 4))


def _vector(axes: Axes, vector: Tensor, colour: str, name: str) -> None:
    if not bool(vector.any()):
        return
    end = axes.at(*vector.tolist())
    axes.canvas.path([axes.at(0, 0), end], stroke=INK, width=6, opacity=0.35)
    axes.canvas.path([axes.at(0, 0), end], stroke=colour, width=4, arrow=True)
    out = vector * (1 + 0.28 / float(vector.norm()))
    x, y = axes.at(*out.tolist())
    axes.canvas.text(x, y + 6, name, 18, INK, "middle", bold=True, halo=True)
