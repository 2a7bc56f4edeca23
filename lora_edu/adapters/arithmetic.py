"""One adapted matrix forwards and backwards, on tensors of one device; what is kept between the two, and in which type. Chapter 14.

In the backward pass thin products stand in the orientation that BLAS likes, Bᵀ dyᵀ (r, n) and not dy B (n, r): up to four times as
fast on a CPU. Under autocast weights and factors are cast as the plain formula casts them, and a weight's copy is kept for the backward
pass, as autocast itself keeps it: to cast it again costs time, and a base that is loaded in 16 bits is its own copy.

A CPU without arithmetic for bf16 takes 30 to 60 times as long for dy W in bf16 as in float32: there the backward pass goes through
float32 and is rounded at its end, as the other CPUs' own kernels do.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_BLOCK = 4096  # rows of a matrix that are widened at a time


class Part(NamedTuple):
    """One matrix of a fused step: y = x Wᵀ + b + s·B(A drop(x)); A and B are None on a matrix without adapter."""

    W: Tensor  # (out, in), frozen
    b: Tensor | None  # (out,), frozen
    A: Tensor | None = None  # (r, in)
    B: Tensor | None = None  # (out, r)
    s: float = 0.0
    p: float = 0.0  # dropout of the adapter's input


# -- types --------------------------------------------------------------------------------------------------------------
def autocast_off(x: Tensor) -> Any:
    """Here every cast is written out."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def cast(tensor: Any, dtype: torch.dtype | None) -> Any:
    return tensor if tensor is None or dtype is None else tensor.to(dtype)


_copies: WeakIdKeyDictionary | None = None  # within `copies_kept`: weight → (its version, its copy in another type)


@contextmanager
def copies_kept() -> Iterator[None]:
    """Within the block a frozen weight is cast once and not once a step. The same bits; the copies last as long as the block.

    A weight that is changed in place, or replaced, is cast anew. Each thread's block sees the same copies; the outermost drops them.
    """
    global _copies
    outermost = _copies is None
    if outermost:
        _copies = WeakIdKeyDictionary()
    try:
        yield
    finally:
        if outermost:
            _copies = None


def frozen_cast(W: Any, dtype: torch.dtype | None) -> Any:
    """`cast` of a frozen weight, from the copies where they are kept."""
    copies = _copies
    if copies is None or dtype is None or W.dtype == dtype or W.requires_grad:
        return cast(W, dtype)
    found = copies.get(W)
    if found is None or found[0] != W._version or found[1].dtype != dtype or found[1].device != W.device:
        found = copies[W] = (W._version, W.to(dtype))
    return found[1]


def cast_part(tensors: Iterable[Any], scales: tuple[float, float], dtype: torch.dtype | None) -> Part:
    W, b, A, B = tensors
    return Part(frozen_cast(W, dtype), cast(b, dtype), cast(A, dtype), cast(B, dtype), *scales)


def emulated(x: Tensor) -> bool:
    """Whether products of x's type are made number by number here: bf16 on a CPU without arithmetic for it."""
    return x.dtype is torch.bfloat16 and x.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def product(rows: Tensor, W: Tensor) -> Tensor:
    """rows @ W in W's type, (n, out) by (out, in); where that type is emulated, in the type of the rows, some of W at a time."""
    if not emulated(W):
        return rows.to(W.dtype) @ W
    return sum(r @ w.to(r.dtype) for r, w in zip(rows.split(_BLOCK, dim=1), W.split(_BLOCK)))


# -- one matrix --------------------------------------------------------------------------------------------------------
def flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])  # (n, d)


def draw(x: Tensor, p: float) -> Tensor | None:
    """1 where dropout keeps a number of x and 0 elsewhere: the random numbers of `F.dropout` on a CPU, in the same order."""
    return torch.empty_like(x).bernoulli_(1 - p) if p else None


def pack(kept: Tensor | None) -> Tensor | None:
    """Eight truth values in a byte: one 64-bit product moves the lowest bits of eight bytes next to each other."""
    if kept is None:
        return None
    padded = F.pad(kept.to(torch.bool).reshape(-1), (0, -kept.numel() % 8))
    return (padded.view(torch.int64) * 0x0102040810204080 >> 56).to(torch.uint8)


def unpack(bits: Tensor | None, x: Tensor) -> Tensor | None:
    """The mask again, in x's shape and dtype."""
    if bits is None:
        return None
    spread = bits.to(torch.int64) * 0x0101010101010101 & (0x8040201008040201 - (1 << 64))  # bit k in byte k
    return spread.view(torch.uint8).clamp_(max=1)[: x.numel()].view(x.shape).to(x.dtype)


def _thin(factor: Tensor, rows: Tensor) -> Tensor:
    """factor @ rowsᵀ, (r, n): as it stands for MKL's wide types, and as (rows @ factorᵀ)ᵀ for oneDNN's half ones, which is faster."""
    return (rows @ factor.T).T if rows.element_size() == 2 else factor @ rows.T


def _add_product_(y: Tensor, thin: Tensor, factor: Tensor, s: float = 1.0) -> None:
    """y += s · thinᵀ @ factor in place: y (n, d), thin (r, n), factor (r, d). These may be wider than y: one rounding, at the end."""
    if factor.dtype == y.dtype:
        y.addmm_(thin.T, factor, alpha=s)
    else:
        y.add_(thin.T @ factor, alpha=s)


def forward(x: Tensor, m: Part) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """y (..., out) by the plain formula's operations, in place, so that both paths give the same bits; x Aᵀ (n, r); the mask's bits."""
    y = F.linear(x, m.W, m.b).detach()  # never a view: what comes behind, as ReLU(inplace=True), may change it
    if m.A is None or m.B is None:
        return y, None, None
    kept = draw(x, m.p)
    low = F.linear((x if kept is None else x * kept).to(m.A.dtype), m.A)
    y.add_(F.linear(low, m.B), alpha=m.s / (1 - m.p))  # dropout's 1/(1−p) is left to s
    return y, flat(low), pack(kept)


def backward(dy: Tensor, x: Tensor, m: Part, saved: Any, dx: Tensor | None = None, wanted: bool = True) -> Any:
    """From dy (n, out): dA (r, in), dB (out, r) and, where it is wanted, dx (n, in), added to the one given."""
    if emulated(dy):

        def up(t: Any) -> Any:
            return cast(t, torch.float32)

        in_fp32 = Part(up(m.W), up(m.b), up(m.A), up(m.B), m.s, m.p)
        dA, dB, dx = backward(up(dy), up(x), in_fp32, (up(saved[0]), saved[1]), up(dx), wanted)
        return dA, dB, cast(dx, dy.dtype)
    if wanted:
        dx = dy @ m.W if dx is None else dx.addmm_(dy, m.W)
    if m.A is None or m.B is None:
        return None, None, dx
    low, bits = saved
    wide, s, kept = dy.to(m.B.dtype), m.s / (1 - m.p), unpack(bits, x)
    thin = _thin(m.B.T, wide).mul_(s)  # (r, n)
    dA = thin @ flat(x if kept is None else x * kept).to(m.A.dtype)
    dB = (low.T @ wide).mul_(s).T.contiguous()
    if dx is not None and kept is None:
        _add_product_(dx, thin, m.A)
    elif dx is not None and kept is not None:
        dx.addcmul_((thin.T @ m.A).to(dx.dtype), flat(kept))
    return dA, dB, dx


def plain(x: Tensor, m: Part, bits: Tensor | None) -> Tensor:
    """The same step in operations that autograd can follow, for a backward pass that is to be differentiated itself."""
    y = F.linear(x, m.W, m.b)
    if m.A is None or m.B is None:
        return y
    kept = unpack(bits, x.detach())
    h = x if kept is None else x * kept
    return torch.add(y, F.linear(F.linear(h.to(m.A.dtype), m.A), m.B), alpha=m.s / (1 - m.p)).to(y.dtype)
