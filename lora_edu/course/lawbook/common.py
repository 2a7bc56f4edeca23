"""What the laws share: the cases, inputs, and the dense reference."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.course.lawbook.probe import FRACTIONS, SQUARE, TALL, WIDE, Built, Case, Finding, LawBroken, Subject

CASES = (WIDE, SQUARE, TALL)
ALL_CASES = (*CASES, *FRACTIONS)
Findings = Iterator[Finding | str]  # a str is a remark: worth saying, and no law is broken


def batch(case: Case, *lead: int, dtype: torch.dtype = torch.float32, seed: int = 3) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*(lead or (5,)), case.n_in, generator=rng, dtype=torch.float64).to(dtype)


def double(subject: Subject, case: Case, **options: Any) -> Built:
    """The layer in float64, where a bug stands out from rounding. A tensor left behind is law 3's business, not every law's."""
    built = subject.build(case, **options)
    return built.to(torch.float64) if subject.registered else built


def dense(built: Built, A: Tensor, B: Tensor, x: Tensor) -> Tensor:
    """The reference, in float64: x (…, in) → (…, out)."""
    W = built.W0.double() + built.case.scale * (B.double() @ A.double())
    return nn.functional.linear(x.double(), W, None if built.b is None else built.b.double())


def differs(y: Any, want: Tensor, tolerance: float) -> float | None:
    """The relative difference, or None when it is within the tolerance."""
    if not isinstance(y, Tensor) or y.shape != want.shape:
        shape = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise LawBroken(
            f"the output has shape {shape}, and {tuple(want.shape)} is due",
            "only some batch shapes are handled: use `@` on the last dimension",
        )
    apart = float((y.double() - want).norm() / want.norm())
    return None if apart <= tolerance else apart
