"""Exercises 11.1 and 11.2 of chapter 11, Four bits: rounding in blocks, and what a rounding keeps of ΔW."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from lora_edu.course.exercises import (
    Wrong,
    apart,
    as_number,
    as_tensor,
    attempt,
    close,
    generator,
    register,
)
from lora_edu.models.quantized.blockwise import dequantize_blockwise, quantize_blockwise
from lora_edu.models.quantized.codebooks import int4, nf4


# --- 11.1: rounding in blocks -----------------------------------------------------------------------------------------
@register(
    "11.1",
    title="Round in blocks",
    stars=2,
    minutes=8,
    task="Write `round_blocks(x, codebook, block_size)`. `x` (n,) holds weights, n a multiple of `block_size`; `codebook` (k,) numbers from −1 to 1, "
    "rising, with 0 among them. Every `block_size` neighbours are divided by the largest magnitude among them, each goes to the number of the codebook "
    "nearest to it, and is multiplied back. Return what became of `x`, (n,). A block may be all zeros.",
    wants="round_blocks",
    shows="Right for NF4, for INT4 and for numbers of no name, in blocks of several sizes.",
    hints=(
        "`x.view(-1, block_size)` has a block in each row; `.abs().amax(dim=1, keepdim=True)` is the largest magnitude of each.",
        "`(scaled[..., None] - codebook).abs().argmin(dim=-1)` is the place of the nearest number, for every weight at once.",
        "`codebook[places]` reads the numbers; times the block's magnitude, and `.view(-1)` at the end. Divide by at least 1e-30, for a block of zeros.",
    ),
)
def round_blocks(function: Callable[[Tensor, Tensor, int], Any]) -> None:
    draw = generator()
    for name, codebook, block, blocks in (
        ("INT4", int4(), 8, 3), ("NF4", nf4(), 16, 6), ("numbers of no name", _no_name(draw), 4, 9),
        ("NF4", nf4(), 64, 2), ("NF4, with a block of zeros", nf4(), 16, 4),
    ):  # fmt: skip
        sizes = 0.02 + torch.rand(blocks, 1, generator=draw)  # blocks of different size, so that one scale does not do
        x = (sizes * (torch.randn(blocks, block, generator=draw) - 0.2)).view(-1)
        if "zeros" in name:
            x[block : 2 * block] = 0
        given, numbers = x.clone(), codebook.clone()
        got = as_tensor(attempt(function, given, numbers, block), x, "`round_blocks`")
        if not torch.equal(given, x) or not torch.equal(numbers, codebook):
            raise Wrong(
                "an input is changed in place", "`x` or `codebook` holds other numbers after the call: make new ones"
            )
        if not bool(torch.isfinite(got).all()):
            raise Wrong("numbers that are not finite", f"for {name} there are nan or inf: a block of zeros, 0/0?")
        want = _rounded(x, codebook, block)
        if not close(got, want):
            named_so = (bug for bug, wrong in _roundings(x, codebook, block) if close(got, wrong))
            bug = next(named_so, None) or _stage(got, x, codebook, block)
            i = int((got - want).abs().argmax())
            said, right = apart(float(got[i]), float(want[i]))
            raise Wrong(
                bug,
                f"for {name} in blocks of {block}, weight {i} is {float(x[i]):.4g}: it becomes {right}, and you say {said}",
            )


def _no_name(draw: Generator) -> Tensor:
    """Seven numbers, no two of them close, and not alike on both sides of 0."""
    inner = torch.tensor([-0.7, -0.35, 0.2, 0.45, 0.8]) + 0.1 * (torch.rand(5, generator=draw) - 0.5)
    return torch.cat([torch.tensor([-1.0]), inner[:2], torch.zeros(1), inner[2:], torch.ones(1)])


def _rounded(x: Tensor, codebook: Tensor, block: int) -> Tensor:
    codes, absmax = quantize_blockwise(x, codebook, block)
    return dequantize_blockwise(codes, absmax, codebook, block)


def _roundings(x: Tensor, codebook: Tensor, block: int) -> list[tuple[str, Tensor]]:
    """What each way to get it wrong leads to."""
    rows = x.view(-1, block)
    absmax = rows.abs().amax(dim=1, keepdim=True)
    safe = absmax.clamp(min=1e-30)

    def with_scale(scale: Tensor) -> Tensor:
        return (_nearest(rows / scale.clamp(min=1e-30), codebook) * scale).view(-1)

    numbers = _nearest(rows / safe, codebook)
    places = (rows / safe)[..., None].sub(codebook).abs().argmin(-1)
    at_most = torch.searchsorted(codebook, (rows / safe).contiguous(), right=True) - 1
    up = torch.searchsorted(codebook, (rows / safe).contiguous()).clamp(max=len(codebook) - 1)
    above = rows >= 0
    towards = torch.where(above, codebook[at_most.clamp(min=0)], codebook[up])
    away = torch.where(above, codebook[up], codebook[at_most.clamp(min=0)])
    least, most = rows.aminmax(dim=1, keepdim=True)
    middle, half = (most + least) / 2, ((most - least) / 2).clamp(min=1e-30)
    columns = x.view(block, -1)
    turned = columns.abs().amax(dim=0, keepdim=True).clamp(min=1e-30)
    half_of_them = len(codebook) // 2
    steps = [torch.round(rows / safe * k) / k * absmax for k in (7, 8, half_of_them)]
    return [
        ("not rounded at all", x),
        ("one scale for all blocks", with_scale(x.abs().max().expand_as(absmax))),
        ("the largest value, not the largest magnitude", with_scale(rows.amax(dim=1, keepdim=True))),
        ("the spread, not the largest magnitude", with_scale(rows.std(dim=1, keepdim=True))),
        ("the mean magnitude, not the largest", with_scale(rows.abs().mean(dim=1, keepdim=True))),
        ("the block's length, not its largest magnitude", with_scale(rows.norm(dim=1, keepdim=True))),
        ("the root of the mean square, not the largest magnitude", with_scale(rows.square().mean(1, True).sqrt())),
        ("the median magnitude, not the largest", with_scale(rows.abs().median(dim=1, keepdim=True).values)),
        (
            "the largest of each place over all blocks, not of each block",
            with_scale(rows.abs().amax(dim=0, keepdim=True)),
        ),
        ("the smallest value, not the largest magnitude", with_scale(least.abs())),
        (
            "from the smallest to the largest, not by the largest magnitude",
            (_nearest((rows - middle) / half, codebook) * half + middle).view(-1),
        ),
        ("no scale: the weights themselves go to the codebook", _nearest(rows, codebook).view(-1)),
        ("not multiplied back", numbers.view(-1)),
        ("the places, not the numbers", places.view(-1).to(x.dtype)),
        ("the places, multiplied back", (places * absmax).view(-1)),
        ("multiplied back by the largest of all", (numbers * x.abs().max()).view(-1)),
        ("always down, not to the nearest", (codebook[at_most.clamp(min=0)] * absmax).view(-1)),
        ("always up, not to the nearest", (codebook[up] * absmax).view(-1)),
        ("always towards 0, not to the nearest", (towards * absmax).view(-1)),
        ("always away from 0, not to the nearest", (away * absmax).view(-1)),
        ("multiplied back twice", (numbers * absmax.square()).view(-1)),
        ("divided, not multiplied back", (numbers / safe).view(-1)),
        ("scaled, and not rounded", (rows / safe).view(-1)),
        ("the sign is turned round", -_rounded(x, codebook, block)),
        ("NF4's numbers, not the codebook's", _rounded(x, nf4().to(x.device), block)),
        ("the sign is lost", numbers.abs().mul(absmax).view(-1)),
        *(("equal steps, not the codebook's numbers", each.view(-1)) for each in steps),
        (
            "rounded without its sign, which is put back",
            (_nearest(rows.abs() / safe, codebook) * rows.sign() * absmax).view(-1),
        ),
        ("a block is not of neighbours", (_nearest(columns / turned, codebook) * turned).reshape(-1)),
        ("the error, not what became of x", _rounded(x, codebook, block) - x),
        ("the error, not what became of x", x - _rounded(x, codebook, block)),
    ]


def _stage(got: Tensor, x: Tensor, codebook: Tensor, block: int) -> str:
    """Which of the three steps went wrong, where no way of `_roundings` leads to these numbers."""
    want, rows, mine = _rounded(x, codebook, block), x.view(-1, block), got.view(-1, block)
    if close(got, want, 5e-3):
        return "right, but too few digits are kept"
    if any(close(got, _rounded(x, codebook, other)) for other in range(1, len(x) + 1) if len(x) % other == 0):
        return "blocks of another size"
    if close(got.sort().values, want.sort().values):
        return "the right numbers in another order"
    if bool((mine[~rows.any(dim=1)] != 0).any()):
        return "a block of zeros does not stay one"
    right = [close(a, b) for a, b in zip(mine, want.view(-1, block))]
    if any(right):
        return "right in some blocks, and wrong in others"
    absmax = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
    numbers = _nearest(rows / absmax, codebook)
    scale = (mine * numbers).sum(1, keepdim=True) / numbers.square().sum(1, keepdim=True).clamp(min=1e-30)
    if close(mine, numbers * scale):
        return "multiplied back by something else than the block's largest magnitude"
    if close(mine, _nearest(mine / absmax, codebook) * absmax):
        return "not to the nearest number"
    return "other numbers"


def _nearest(values: Tensor, codebook: Tensor) -> Tensor:
    return codebook[(values[..., None] - codebook).abs().argmin(-1)]


# --- 11.2: what is left along ΔW --------------------------------------------------------------------------------------
@register(
    "11.2",
    title="What a rounding keeps of ΔW",
    stars=2,
    minutes=7,
    task="Write `left_along(W0, delta, rounding)`. `delta` (ΔW) is added to `W0`, and `rounding`, a function from a matrix to a matrix, makes of the sum what is "
    "stored. Against `W0` as it is given, the stored weight has changed. Of this change take the part that points along ΔW, and return its length as a share "
    "of ΔW's: 1 if ΔW is there in full, 0 if nothing of it, below 0 if it was turned round. What is noise, at right angles to ΔW, does not count.",
    wants="left_along",
    shows="Right on a grid on which the weights lie already, and on two others.",
    hints=(
        "The change is `rounding(W0 + delta) - W0`: a matrix that is ΔW plus an error.",
        "Think of both as long lists of numbers. The part of a vector c along d is ((c · d) / (d · d)) d.",
        "`(change * delta).sum()` is the product of the two lists; so is `(delta * delta).sum()` for the divisor.",
    ),
)
def left_along(function: Callable[[Tensor, Tensor, Callable[[Tensor], Tensor]], Any]) -> None:
    tries = []
    for name, W0, delta, rounding in _merges(generator()):
        given = W0.clone(), delta.clone()
        got = as_number(attempt(function, *given, rounding), "`left_along`")
        if not torch.equal(given[0], W0) or not torch.equal(given[1], delta):
            raise Wrong(
                "an input is changed in place", "`W0` or `delta` holds other numbers after the call: make new ones"
            )
        want = _along(rounding(W0 + delta) - W0, delta)
        finer = W0.double(), delta.double()  # in which a few weights may go to the other side of a border
        passes = _near(got, (want, _along(rounding(finer[0] + finer[1]) - finer[0], finer[1])))
        tries.append((name, got, want, passes, _shares(W0, delta, rounding)))
    if not (wrong := [each[:3] for each in tries if not each[3]]):
        return
    name, got, want = wrong[0]
    bug = next((bug for bug in tries[0][-1] if all(_near(each[1], each[-1][bug]) for each in tries)), None)
    if bug is None:
        few = all(abs(mine - its) < 6e-3 for _, mine, its in wrong)
        bug = "right, but rounded to few digits" if few else "another share"
    said, right = apart(got, want)
    raise Wrong(bug, f"{name} you say {said}, and it is {right}")


def _near(got: float, values: Any) -> bool:
    return any(math.isclose(got, each, rel_tol=1e-4, abs_tol=1e-5) for each in values)


def _merges(draw: Generator) -> list[tuple[str, Tensor, Tensor, Callable[[Tensor], Tensor]]]:
    """(words, W0, ΔW, a rounding): weights on the grid already, weights that are not, and two functions with shares below 0 and above 1.

    No two wrong ways lead to the same share in all of them.
    """
    step = 0.1

    def equal_steps(W: Tensor) -> Tensor:
        return step * torch.round(W / step)

    def bf16(W: Tensor) -> Tensor:
        return W.bfloat16().to(W.dtype)

    def in_blocks(W: Tensor) -> Tensor:
        return _rounded(W, nf4().to(W.device), 16).view(W.shape).to(W.dtype)

    found = []
    for name, rounding, size, shape in (
        ("on the grid where the weights lie already", equal_steps, 0.02, (24, 40)),
        ("on a grid of equal steps, where the weights do not lie,", equal_steps, 0.03, (30, 20)),
        ("in bf16", bf16, 0.004, (32, 32)),
        ("in NF4", in_blocks, 0.03, (20, 48)),
        ("for a function that pulls every weight to 0.05", lambda W: 0.05 - 0.4 * (W - 0.05), 0.3, (16, 24)),
        ("for a function that overshoots", lambda W: 0.05 + 1.5 * (W - 0.05), 0.3, (16, 24)),
    ):
        W0 = 0.3 * torch.randn(*shape, generator=draw) + 0.05
        if "already" in name:
            W0 = equal_steps(W0)
        rows = 0.3 + 1.4 * torch.rand(shape[0], 1, generator=draw)  # rows of all lengths, and a mean that is not 0
        found.append((name, W0, size * rows * (0.4 + torch.randn(*shape, generator=draw)), rounding))
    return found


def _along(change: Tensor, delta: Tensor) -> float:
    return float((change * delta).sum() / delta.square().sum())


def _shares(W0: Tensor, delta: Tensor, rounding: Callable[[Tensor], Tensor]) -> dict[str, list[float]]:
    """What each way to get the share wrong leads to; several may lie near each other, and the nearest is the one."""
    stored = rounding(W0 + delta)
    change = stored - W0
    want, length, its = _along(change, delta), float(delta.norm()), float(change.norm())
    missing = change - delta
    cosine = float((change * delta).sum()) / (length * its or 1.0)
    once = rounding(W0)
    again = rounding(once + delta)
    tall = [float(torch.nn.functional.cosine_similarity(change, delta, dim).mean()) for dim in (0, 1)]
    spread = torch.cov(torch.stack([change.flatten(), delta.flatten()]))
    return {
        "nothing is rounded": [1.0],
        "only ΔW is rounded": [_along(rounding(delta), delta)],
        "only W₀ is rounded": [_along(once + delta - W0, delta), _along(once, delta), _along(once - W0, delta)],
        "rounded twice: W₀ alone, and then the sum": [_along(again - W0, delta), _along(again - once, delta)],
        "ΔW is subtracted, not added": [_along(rounding(W0 - delta) - W0, delta), -_along(rounding(W0 - delta) - W0, delta)],
        "the error's part along ΔW, not the change's": [want - 1],
        "what is at right angles to ΔW": [float((change - want * delta).norm()) / length],
        "the squares of two lengths are compared": [(its / length) ** 2],
        "1 minus the square of the error's length": [1 - float(missing.square().sum()) / length**2],
        "magnitudes, in which no plus meets a minus": [
            float(change.abs().sum() / delta.abs().sum()), float((change * delta).abs().sum()) / length**2],
        "W₀'s length divides": [its / float(W0.norm()), want * length / float(W0.norm()), want * (length / float(W0.norm())) ** 2],
        "a mean of cosines, row by row or column by column": tall,
        "the means are taken off first": [float(spread[0, 1] / spread[1, 1]), float(spread[0, 1] / (spread[0, 0] * spread[1, 1]).sqrt())],
        "a matrix product, not entry times entry": [float((change @ delta.T).sum() / (delta @ delta.T).sum())],
        "a median of shares": [float((change / delta).median())],
        "the share of entries that go ΔW's way": [float((change.sign() == delta.sign()).float().mean())],
        "0, whatever is given": [0.0],
        "W₀ is not subtracted": [_along(stored, delta)],
        "W₀ is rounded before it is subtracted": [_along(stored - once, delta)],
        "W₀ and ΔW are rounded apart": [_along(once + rounding(delta) - W0, delta)],
        "two lengths are compared": [its / length],
        "the length of the error, not what is left": [float(missing.norm()) / length],
        "1 minus the length of the error": [1 - float(missing.norm()) / length],
        "what is lost, not what is left": [1 - want],
        "a cosine: the change's own length divides too": [cosine],
        "divided by the change's length, not by ΔW's": [_along(delta, change) if its else 0.0],
        "divided by ΔW's length once": [want * length, abs(want) * length],
        "not divided": [want * length**2],
        "a root too many": [math.sqrt(abs(want))],
        "squared": [want**2],
        "the share of entries that moved": [float((change != 0).float().mean())],
        "the share of entries that did not move": [float((change == 0).float().mean())],
        "the mean of shares, entry by entry": [float((change / delta).mean())],
        "the mean of shares, row by row or column by column": [
            float(((change * delta).sum(dim) / delta.square().sum(dim)).mean()) for dim in (0, 1)],
        "sums in which plus and minus cancel": [float(change.sum() / delta.sum())],
        "in percent": [100 * want],
        "the sign is lost": [abs(want)],
        "the sign is turned round": [-want],
        "never above 1": [min(1.0, want)],
        "never below 0": [max(0.0, want)],
        "kept between 0 and 1": [min(1.0, max(0.0, want))],
    }  # fmt: skip
