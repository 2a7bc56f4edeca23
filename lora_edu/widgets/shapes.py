"""Chapter 03: the four ways to start A and B, drawn to scale and trained for real."""

from __future__ import annotations

import math
from dataclasses import dataclass

import ipywidgets
import torch
from torch import Tensor, nn

from lora_edu.layers import LoRALinear
from lora_edu.linalg import numerical_rank
from lora_edu.plots import BLUE, GREEN, INK, MUTED, RULE, VERMILION, WASH, Axes, Canvas, heatmap, number, percent, ticks
from lora_edu.widgets.base import WIDTH, State, Widget, choice

STEPS = 40
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
            "d_in": ipywidgets.IntSlider(64, description="inputs d_in", **size),
            "d_out": ipywidgets.IntSlider(48, description="outputs d_out", **size),
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
        canvas = Canvas(WIDTH, 478)
        _draw_matrices(canvas, state, result)
        _draw_flow(canvas, result, step)
        _draw_loss(canvas, result, step)
        canvas.alt = _in_words(state, result)
        return canvas


def _draw_matrices(canvas: Canvas, state: State, run: Run) -> None:
    """y = W₀x + s·B(Ax), each matrix as a rectangle to scale whose pixels are its entries."""
    step, r, d_in, d_out = (state[k] for k in ("step", "r", "d_in", "d_out"))
    unit, middle = 2.2, 44 + 2.2 * 64 / 2
    A, B, delta = run.As[step], run.Bs[step], run.delta(step)
    boxes = (  # left edge, name, matrix, colour limit (a random start's largest entry: zeros look white and growth shows)
        (8, "W₀  frozen", run.W0, None),
        (218, "B  trained", B, 1 / math.sqrt(r)),
        (390, "A  trained", A, 1 / math.sqrt(d_in)),
        (606, f"ΔW = {number(run.scaling)}·B·A", delta, float(run.W0.abs().max())),
    )
    room = unit * 64
    for left, name, matrix, limit in boxes:
        rows, columns = matrix.shape
        w, h = unit * columns, unit * rows
        x, y = left + (room - w) / 2, middle - h / 2
        canvas.image(x, y, w, h, heatmap(matrix.numpy(), limit))
        canvas.rect(
            x, y, w, h, stroke=INK if "trained" in name else MUTED, width=1.5, dash=() if "trained" in name else (4, 3)
        )
        canvas.text(left + room / 2, 18, name, 14, anchor="middle", bold=True)
        canvas.text(
            left + room / 2, 35, f"({rows} × {columns}) = {number(matrix.numel())} entries", 11, MUTED, "middle"
        )
    for x, sign in ((184, f"+ {number(run.scaling)} ×"), (374, "×")):
        canvas.text(x, middle + 5, sign, 15, anchor="middle")
    canvas.path([(570, 4), (570, 184)], stroke=RULE, width=1)
    ours, full = r * (d_in + d_out), d_in * d_out
    canvas.text(
        8,
        208,
        f"A and B hold r·(d_in + d_out) = {number(ours)} numbers, {percent(ours / full)} of W₀'s; "
        f"that stays below 100 % while r < {number(full / (d_in + d_out))}.",
        12,
        INK,
    )
    share = min(ours / full, 1.0)
    canvas.rect(8, 216, WIDTH - 16, 8, fill=WASH, stroke=RULE, width=1)
    canvas.rect(8, 216, (WIDTH - 16) * share, 8, fill=GREEN if ours < full else VERMILION, stroke=None)


def _draw_flow(canvas: Canvas, run: Run, step: int) -> None:
    """Three bars: what the adapter says (output change) and what comes back (two gradients)."""
    canvas.text(8, 262, f"Measured at step {step}", 13, bold=True)
    canvas.text(172, 262, "full bar: the run's largest", 11, MUTED)
    loudest = max(max(_finite(run.grad_A)), max(_finite(run.grad_B)))
    bars = (
        ("output change ‖Δy‖ / ‖W₀x‖", run.output_change[step], max(1.0, *_finite(run.output_change)), INK),
        ("what flows back to A  ‖∂L/∂A‖", run.grad_A[step], loudest, BLUE),
        ("what flows back to B  ‖∂L/∂B‖", run.grad_B[step], loudest, VERMILION),
    )
    for row, (name, value, top, colour) in enumerate(bars):
        y = 284 + 44 * row
        canvas.text(8, y, name, 12)
        canvas.rect(8, y + 6, 250, 14, fill=WASH, stroke=None)
        if math.isfinite(value):
            canvas.rect(8, y + 6, 250 * min(value / (top or 1), 1), 14, fill=colour, stroke=None)
        canvas.text(264, y + 18, "0 exactly" if value == 0 else number(value), 12, bold=True)
    canvas.text(8, 430, f"ΔW now has rank {_rank_of(run, step)}, at most r = {run.As[step].shape[0]}", 12)
    canvas.text(8, 452, _verdict(run), 12, bold=True)


def _draw_loss(canvas: Canvas, run: Run, step: int) -> None:
    finite = _finite(run.loss)
    top = min(max(1.2, *finite), 4.0)
    axes = Axes(canvas, (420, 284, 320, 130), (0, STEPS), (0, top))
    axes.frame(range(0, STEPS + 1, 10), ticks(0, top), "SGD step", "loss, as a share of the untouched base's")
    axes.line([0, STEPS], [1, 1], MUTED, width=1.2, dash=(6, 4))
    axes.canvas.text(axes.x(STEPS), axes.y(1) - 5, "untouched base", 11, MUTED, "end")
    axes.line(range(STEPS + 1), run.loss, GREEN, width=2.5)
    axes.rule_at(step)
    if math.isfinite(run.loss[step]):
        canvas.dot(axes.x(step), axes.y(min(run.loss[step], top)), 5, GREEN, INK)
    if len(finite) <= STEPS or run.loss[-1] > top:
        canvas.text(580, 330, "the run blew up: s·B and s·A are too long a lever", 12, VERMILION, "middle", bold=True)


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
    return (
        f"W₀ is {state['d_out']} by {state['d_in']}, B is {state['d_out']} by {state['r']}, A is {state['r']} by {state['d_in']}. "
        f"Start “{state['start']}”: {_verdict(run)}. At step {step} the output differs from the base's by a share of "
        f"{number(run.output_change[step])}, the gradient of A has norm {number(run.grad_A[step])}, that of B "
        f"{number(run.grad_B[step])}, and the rank of ΔW is {_rank_of(run, step)}."
    )
