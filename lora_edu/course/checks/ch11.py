"""Exercises of chapter 11, Four bits: rounding in blocks, what a rounding keeps of ΔW, and the bits that scales cost."""

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
    named,
    register,
    same,
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
            bug = next((bug for bug, wrong in _roundings(x, codebook, block) if close(got, wrong)), "other numbers")
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
    columns = x.view(block, -1)
    turned = columns.abs().amax(dim=0, keepdim=True).clamp(min=1e-30)
    steps = torch.round(rows / safe * 7) / 7
    return [
        ("not rounded at all", x),
        ("one scale for all blocks", with_scale(x.abs().max().expand_as(absmax))),
        ("the largest value, not the largest magnitude", with_scale(rows.amax(dim=1, keepdim=True))),
        ("the spread, not the largest magnitude", with_scale(rows.std(dim=1, keepdim=True))),
        ("the mean magnitude, not the largest", with_scale(rows.abs().mean(dim=1, keepdim=True))),
        ("no scale: the weights themselves go to the codebook", _nearest(rows, codebook).view(-1)),
        ("not multiplied back", numbers.view(-1)),
        ("the places, not the numbers", places.view(-1).to(x.dtype)),
        ("the places, multiplied back", (places * absmax).view(-1)),
        ("multiplied back by the largest of all", (numbers * x.abs().max()).view(-1)),
        ("always down, not to the nearest", (codebook[at_most.clamp(min=0)] * absmax).view(-1)),
        ("always up, not to the nearest", (codebook[up] * absmax).view(-1)),
        ("the sign is lost", numbers.abs().mul(absmax).view(-1)),
        ("equal steps, not the codebook's numbers", (steps * absmax).view(-1)),
        ("a block is not of neighbours", (_nearest(columns / turned, codebook) * turned).reshape(-1)),
        ("the error, not what became of x", _rounded(x, codebook, block) - x),
        ("the error, not what became of x", x - _rounded(x, codebook, block)),
    ]


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
    draw = generator()
    for name, W0, delta, rounding in _merges(draw):
        given = W0.clone(), delta.clone()
        got = as_number(attempt(function, *given, rounding), "`left_along`")
        if not torch.equal(given[0], W0) or not torch.equal(given[1], delta):
            raise Wrong(
                "an input is changed in place", "`W0` or `delta` holds other numbers after the call: make new ones"
            )
        want = _along(rounding(W0 + delta) - W0, delta)
        if math.isclose(got, want, rel_tol=1e-4, abs_tol=1e-5):
            continue
        shares = _shares(W0, delta, rounding)
        distance, bug = min((abs(got - x) / (1e-4 * abs(x) + 5e-6), bug) for bug, each in shares.items() for x in each)
        said, right = apart(got, want)
        raise Wrong(bug if distance <= 1 else "another share", f"{name} you say {said}, and it is {right}")


def _merges(draw: Generator) -> list[tuple[str, Tensor, Tensor, Callable[[Tensor], Tensor]]]:
    """(words, W0, ΔW, a rounding): weights that lie on the grid already, and weights that do not."""
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
    return {
        "nothing is rounded": [1.0],
        "only ΔW is rounded": [_along(rounding(delta), delta)],
        "W₀ is not subtracted": [_along(stored, delta)],
        "W₀ is rounded before it is subtracted": [_along(stored - rounding(W0), delta)],
        "W₀ and ΔW are rounded apart": [_along(rounding(W0) + rounding(delta) - W0, delta)],
        "two lengths are compared": [its / length],
        "the length of the error, not what is left": [float(missing.norm()) / length],
        "1 minus the length of the error": [1 - float(missing.norm()) / length],
        "what is lost, not what is left": [1 - want],
        "a cosine: the change's own length divides too": [cosine],
        "divided by the change's length, not by ΔW's": [_along(delta, change) if its else 0.0],
        "divided by ΔW's length once": [want * length],
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
    }  # fmt: skip


# --- 11.3: what scales cost -------------------------------------------------------------------------------------------
@register(
    "11.3",
    title="Bits a weight",
    stars=1,
    minutes=5,
    task="Write `bits_a_weight(block_size, outer=None)`: how many bits a weight takes, its share of all scales included, in a large matrix. Each weight has a "
    "code of 4 bits, each block of `block_size` weights one scale in float32. With double quantisation (`outer` is a number) a scale takes 8 bits instead, "
    "and `outer` scales share one number in float32.",
    wants="bits_a_weight",
    shows="With and without double quantisation.",
    hints=(
        "float32 takes 32 bits, and `block_size` weights share them.",
        "With double quantisation each block has 8 bits of its own. Behind the second float32 stand `outer` blocks: how many weights is that?",
    ),
)
def bits_a_weight(function: Callable[..., Any]) -> None:
    for block, outer in ((64, None), (32, None), (100, None), (64, 100), (32, 256), (64, 256), (128, 32)):
        got = float(as_number(attempt(function, block, outer), "`bits_a_weight`"))
        scale = 32.0 if outer is None else 8 + 32 / outer
        want = 4 + scale / block
        if same(got, want):
            continue
        bugs: dict[str, Any] = {
            "no scale is counted": 4.0,
            "the scales alone": scale / block,
            "bytes, not bits": want / 8,
            "a scale of 16 bits": 4 + 16 / block,
            "a scale for every weight": 4 + scale,
            "a code of 8 bits": 8 + scale / block,
            "the bits of a block, not of a weight": 4 * block + scale,
        }
        if outer is not None:
            bugs |= {
                "double quantisation is not used": 4 + 32 / block,
                "the second float32 is forgotten": 4 + 8 / block,
                "the second float32 is not shared": 4 + 40 / block,
                "the second float32 is shared by outer weights, not by outer blocks": 4 + 8 / block + 32 / outer,
                "the scales are kept in float32 as well": 4 + 32 / block + 32 / (block * outer),
                "the 8 bits are shared by outer blocks, too": 4 + 40 / (block * outer),
            }
        said, right = apart(got, want)
        how = "no double quantisation" if outer is None else f"outer = {outer}"
        raise Wrong(
            named(got, bugs, "another number"), f"block_size = {block}, {how}: it is {right}, and you say {said}"
        )
