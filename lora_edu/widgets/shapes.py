"""Chapter 03: the four ways to start A and B, drawn to scale and trained for real."""

from __future__ import annotations

import math
from dataclasses import dataclass

import ipywidgets
import numpy as np
import torch
from torch import Tensor, nn

from lora_edu.adapters.layers import LoRALinear
from lora_edu.linalg import numerical_rank
from lora_edu.plots.axes import Axes, number, percent, ticks
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import BLUE, GREEN, INK, MUTED, RULE, VERMILION, WASH, heatmap
from lora_edu.widgets.base import WIDTH, State, Widget, choice

STEPS = 40
VERDICT_FROM = 3  # the step from which the widget sums up; before it the reader looks for herself
LEARNING_RATE = 0.03
STARTS = {
    "B = 0 (LoRA)": "B",
    "A = 0": "A",
    "both random": "neither",
    "both zero": "both",
}


@dataclass(frozen=True)
class Run:
    """Forty steps of SGD on one LoRALinear. Lists have an entry a step, 0 … STEPS; losses are shares of the untouched base's."""

    W0: Tensor  # (out, in)
    scaling: float
    As: list[Tensor]  # (r, in) each
    Bs: list[Tensor]  # (out, r) each
    loss: list[float]
    output_change: list[float]  # ‖y − W₀x‖ / ‖W₀x‖ over the batch
    grad_A: list[float]
    grad_B: list[float]

    def delta(self, step: int) -> Tensor:
        return self.scaling * self.Bs[step] @ self.As[step]  # (out, in)


def start_and_train(d_in: int, d_out: int, r: int, alpha: float, zeros: str, steps: int = STEPS) -> Run:
    """Train a `LoRALinear` by plain SGD towards W₀ plus a planted change of rank 2, as large as W₀ itself.

    `zeros` says which factor starts at zero: "B" (LoRA), "A", "both" or "neither"; a factor that does not is drawn as
    `nn.Linear` draws its weights. The loss is ½‖y − y*‖², the mean over 64 inputs; the same seed for every start.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = nn.Linear(d_in, d_out, bias=False)
        W0 = base.weight.detach()
        x = torch.randn(64, d_in)
        planted = torch.randn(d_out, 2) @ torch.randn(2, d_in)
        target = x @ (W0 + planted * (W0.norm() / planted.norm())).T  # (64, out)
        layer = LoRALinear(base, r=r, lora_alpha=alpha)
        with torch.no_grad():
            nn.init.kaiming_uniform_(layer.B, a=math.sqrt(5))
            for name, factor in (("A", layer.A), ("B", layer.B)):
                if zeros in (name, "both"):
                    factor.zero_()
    optimiser = torch.optim.SGD([layer.A, layer.B], lr=LEARNING_RATE)
    untouched = base(x).detach()
    worst = float((untouched - target).square().sum(1).mean() / 2)
    run = Run(W0, layer.scaling, [], [], [], [], [], [])
    for _ in range(steps + 1):
        y = layer(x)
        loss = (y - target).square().sum(1).mean() / 2
        optimiser.zero_grad()
        loss.backward()
        run.As.append(layer.A.detach().clone())
        run.Bs.append(layer.B.detach().clone())
        run.loss.append(loss.item() / worst)
        run.output_change.append(float((y.detach() - untouched).norm() / untouched.norm()))
        run.grad_A.append(float(_gradient(layer.A).norm()))
        run.grad_B.append(float(_gradient(layer.B).norm()))
        optimiser.step()
    return run


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


class ShapesAndStarts(Widget):
    """W₀, A, B and ΔW to scale with their real entries, and what flows back through them at every step. Chapter 03."""

    title = "Shapes and starts"
    question = "Which starts are silent at step 0, which of those can learn, and which factor has to move first?"
    computes_on = ("d_in", "d_out", "r", "alpha", "start")

    def __init__(self) -> None:
        size = {"min": 4, "max": 64, "step": 4}
        sides = {
            "d_in": ipywidgets.IntSlider(64, description="in (inputs)", **size),
            "d_out": ipywidgets.IntSlider(48, description="out (outputs)", **size),
        }
        r = ipywidgets.IntSlider(4, 1, 32, description="rank r")

        def keep_r_below_the_sides(_: object) -> None:
            r.max = min(side.value for side in sides.values())

        for (
            side
        ) in sides.values():  # observed before the base class does, so that no drawing sees an r that is too large
            side.observe(keep_r_below_the_sides, names="value")
        super().__init__(
            **sides,
            r=r,
            alpha=ipywidgets.IntSlider(8, 1, 32, description="α"),
            step=ipywidgets.IntSlider(0, 0, STEPS, description="SGD step"),
            start=choice("start", list(STARTS)),
        )

    def compute(self, state: State) -> Run:
        return start_and_train(state["d_in"], state["d_out"], state["r"], state["alpha"], STARTS[state["start"]])

    def draw(self, state: State, result: Run) -> Canvas:
        step = state["step"]
        canvas = Canvas(WIDTH, 530)
        _draw_matrices(canvas, state, result)
        _draw_flow(canvas, result, step)
        _draw_loss(canvas, result, step)
        canvas.alt = _in_words(state, result)
        return canvas


def _draw_matrices(canvas: Canvas, state: State, run: Run) -> None:
    """y = W₀x + s·B(Ax), each matrix as a rectangle to scale whose pixels are its entries."""
    step, r, d_in, d_out = (state[k] for k in ("step", "r", "d_in", "d_out"))
    unit, middle = 2.2, 44 + 2.2 * 64 / 2
    largest = float(run.W0.abs().max())
    boxes = (  # left edge, name, shape, matrix, the entry with full colour (for A and B a random start's largest)
        (8, "W₀  frozen", "out × in", run.W0, largest),
        (218, "B  trained", "out × r", run.Bs[step], 1 / math.sqrt(r)),
        (390, "A  trained", "r × in", run.As[step], 1 / math.sqrt(d_in)),
        (606, f"ΔW = {number(run.scaling)}·B·A", "out × in", run.delta(step), largest),
    )
    room = unit * 64
    for left, name, shape, matrix, limit in boxes:
        rows, columns = matrix.shape
        centre = left + room / 2
        _draw_matrix(canvas, (centre, middle, unit * columns, unit * rows), matrix, limit)
        canvas.text(centre, 18, name, 14, anchor="middle", bold=True)
        canvas.text(centre, 35, f"{shape} = {rows} × {columns}", 11, MUTED, "middle")
    for x, sign in ((184, f"+ {number(run.scaling)} ×"), (374, "×")):
        canvas.text(x, middle + 5, sign, 15, anchor="middle")
    canvas.path([(570, 4), (570, 200)], stroke=RULE, width=1)
    _draw_legend(canvas, 218)
    ours, full = r * (d_in + d_out), d_in * d_out
    canvas.text(
        8,
        252,
        f"A and B hold r·(in + out) = {number(ours)} numbers, {percent(ours / full)} of W₀'s {number(full)}; "
        f"that stays below 100 % while r < {number(full / (d_in + d_out))}.",
        12,
        INK,
    )
    share = min(ours / full, 1.0)
    canvas.rect(8, 260, WIDTH - 16, 8, fill=WASH, stroke=RULE, width=1)
    canvas.rect(8, 260, (WIDTH - 16) * share, 8, fill=GREEN if ours < full else VERMILION, stroke=None)


def _draw_matrix(canvas: Canvas, box: tuple[float, float, float, float], matrix: Tensor, limit: float) -> None:
    """The entries, or an empty dashed frame and the word "zeros"; `box` is (centre x, centre y, width, height)."""
    x, y, w, h = box
    if bool(matrix.any()):
        canvas.image(x - w / 2, y - h / 2, w, h, heatmap(matrix.numpy(), limit))
        canvas.rect(x - w / 2, y - h / 2, w, h, stroke=MUTED, width=1)
        return
    canvas.rect(x - w / 2, y - h / 2, w, h, stroke=INK, width=1.5, dash=(5, 4))
    fits = w > 44 and h > 18
    canvas.text(x, y + 4 if fits else y + h / 2 + 15, "zeros", 12, INK, "middle")


def _draw_legend(canvas: Canvas, y: float) -> None:
    """What the colours of the entries mean; `y` is the baseline of its text."""
    canvas.text(8, y, "entries:  below 0", 11, MUTED)
    canvas.image(108, y - 10, 98, 12, heatmap(np.linspace(-1, 1, 49)[None]))
    canvas.rect(108, y - 10, 98, 12, stroke=MUTED, width=1)
    canvas.text(
        214,
        y,
        "above 0.   Full colour: W₀'s largest entry (W₀, ΔW), a random start's largest (A, B).",
        11,
        MUTED,
    )


def _draw_flow(canvas: Canvas, run: Run, step: int) -> None:
    """Three bars: what the adapter says (output change) and what comes back (two gradients)."""
    canvas.text(8, 306, f"Measured at step {step}", 13, bold=True)
    canvas.text(8, 324, f"A full bar is the largest value of steps 0 to {STEPS}; A and B share it.", 11, MUTED)
    loudest = max(_finite(run.grad_A) + _finite(run.grad_B))
    bars = (
        ("output change ‖Δy‖ / ‖W₀x‖", run.output_change[step], max(_finite(run.output_change)), INK),
        ("what flows back to A  ‖∂L/∂A‖", run.grad_A[step], loudest, BLUE),
        ("what flows back to B  ‖∂L/∂B‖", run.grad_B[step], loudest, VERMILION),
    )
    for row, (name, value, top, colour) in enumerate(bars):
        y = 346 + 42 * row
        canvas.text(8, y, name, 12)
        canvas.rect(8, y + 6, 250, 14, fill=WASH, stroke=None)
        if math.isfinite(value) and value > 0:  # a bar of no width would still leave a speck
            canvas.rect(8, y + 6, 250 * min(value / top, 1), 14, fill=colour, stroke=None)
        canvas.text(264, y + 18, "0 exactly" if value == 0 else number(value), 12, bold=True)
    canvas.text(8, 484, f"ΔW now has rank {_rank_of(run, step)}, at most r = {run.As[step].shape[0]}", 12)
    if step < VERDICT_FROM:
        canvas.text(
            8,
            512,
            f"Silent? Able to learn? Decide for yourself: the answer shows from step {VERDICT_FROM} on.",
            12,
            MUTED,
        )
    else:
        canvas.text(8, 512, _verdict(run), 12, bold=True)


def _draw_loss(canvas: Canvas, run: Run, step: int) -> None:
    """The loss so far, and from VERDICT_FROM on the steps to come as a thin line."""
    finite = _finite(run.loss)
    top = min(max(1.2, *finite), 4.0)
    axes = Axes(canvas, (420, 328, 320, 130), (0, STEPS), (0, top))
    axes.frame(range(0, STEPS + 1, 10), ticks(0, top), "SGD step", "loss, as a share of the untouched base's")
    axes.line([0, STEPS], [1, 1], MUTED, width=1.2, dash=(6, 4))
    axes.canvas.text(axes.x(STEPS), axes.y(1) - 5, "untouched base", 11, MUTED, "end")
    axes.line(range(step + 1), run.loss[: step + 1], GREEN, width=3)
    if step >= VERDICT_FROM:
        axes.line(range(step, STEPS + 1), run.loss[step:], GREEN, width=1.2)
    axes.rule_at(step)
    if math.isfinite(run.loss[step]):
        canvas.dot(axes.x(step), axes.y(min(run.loss[step], top)), 5, GREEN, INK)
    if step >= VERDICT_FROM and (len(finite) <= STEPS or run.loss[-1] > top):
        canvas.text(580, 374, "the run blew up: s·B and s·A are too long a lever", 12, VERMILION, "middle", bold=True)


def _finite(values: list[float]) -> list[float]:
    return [v for v in values if math.isfinite(v)]


def _rank_of(run: Run, step: int) -> str:
    delta = run.delta(step)
    if not bool(torch.isfinite(delta).all()):
        return "— (not a number)"
    # ΔW's rank is that of the product; float32 leaves dust in the last digit, which numerical_rank ignores.
    return (
        str(numerical_rank(torch.linalg.svdvals(delta), (delta.shape[0], delta.shape[1]))) if bool(delta.any()) else "0"
    )


def _verdict(run: Run) -> str:
    """What the measurements say: silent or not, learning or not."""
    silent = run.output_change[0] == 0
    voice = "silent at step 0" if silent else f"not silent: output off by {percent(run.output_change[0])} at step 0"
    if run.grad_A[0] == 0 and run.grad_B[0] == 0:
        return f"{voice}, and dead: nothing flows back, ever"
    if not math.isfinite(run.loss[-1]):
        return f"{voice}; learns, but here the steps are too long"
    return f"{voice}; learns: the loss goes from {percent(run.loss[0])} to {percent(run.loss[-1])} of the base's"


def _in_words(state: State, run: Run) -> str:
    step = state["step"]
    verdict = f": {_verdict(run)}" if step >= VERDICT_FROM else ""
    return (
        f"W₀ is {state['d_out']} by {state['d_in']}, B is {state['d_out']} by {state['r']}, A is {state['r']} by {state['d_in']}. "
        f"Start “{state['start']}”{verdict}. At step {step} the output differs from the base's by a share of "
        f"{number(run.output_change[step])}, the gradient of A has norm {number(run.grad_A[step])}, that of B "
        f"{number(run.grad_B[step])}, and the rank of ΔW is {_rank_of(run, step)}."
    )
