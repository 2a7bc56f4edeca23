"""Exercises of chapter 07, Keep it."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lora_edu.course.checks.ch06 import MOST_BESIDE, _Beside, _Largest
from lora_edu.course.exercises import Wrong, as_number, as_parts, as_tensor, attempt, generator, kind, register
from lora_edu.linalg import svd_of_product

Adapter = tuple[Tensor, Tensor, float, float]  # A (r, in), B (out, r), the scale s, the weight w


def _pair(got: Any, n_out: int, n_in: int, what: str) -> tuple[Tensor, Tensor]:
    """(A (k, in), B (out, k)) of a learner's answer, for whatever k."""
    A, B = as_parts(got, ("A", "B"), what)
    if not hasattr(A, "__len__") or getattr(A, "shape", True) == () or not len(A):
        raise Wrong("not a matrix", f"A should be of shape (rank, {n_in}), and is {kind(A)}")
    shapes = [tuple(getattr(each, "shape", ())) for each in (A, B)]
    if shapes[0][:1] == (n_out,) and shapes[1][1:] == (n_in,) and shapes[0] != shapes[1]:
        raise Wrong("A and B are exchanged", f"give A first, (rank, {n_in}), then B, ({n_out}, rank)")
    k = len(A)
    return as_tensor(A, torch.empty(k, n_in), "A"), as_tensor(B, torch.empty(n_out, k), "B")


def _draw_adapters(
    shape: tuple[int, int], ranks: Sequence[int], negative: bool, draw: torch.Generator
) -> list[Adapter]:
    n_out, n_in = shape
    found = []
    for number, r in enumerate(ranks):
        s, w = (0.5 + float(x) for x in torch.rand(2, generator=draw))
        w = -w if negative and number == len(ranks) - 1 else w
        A, B = torch.randn(r, n_in, generator=draw), torch.randn(n_out, r, generator=draw)
        found.append((A, B, round(s + number, 3), round(w, 3)))
    return found


def _total(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(dim=0)


def _sums(adapters: Sequence[Adapter]) -> dict[str, list[Tensor]]:
    """What each way to get the sum wrong leads to."""

    def total(factor: Callable[[float, float], float]) -> Tensor:
        return _total([factor(s, w) * (B @ A) for A, B, s, w in adapters])

    right, n = total(lambda s, w: s * w), len(adapters)
    found = {
        "the scale is forgotten": [total(lambda s, w: w)],
        "the weight is forgotten": [total(lambda s, w: s)],
        "scale and weight are forgotten": [total(lambda s, w: 1.0)],
        "the weight counts twice": [total(lambda s, w: s * w * w)],
        "the scale counts twice": [total(lambda s, w: s * s * w)],
        "scale and weight count twice": [total(lambda s, w: (s * w) ** 2)],
        "the scale divides": [total(lambda s, w: w / s)],
        "the sign of a weight is lost": [total(lambda s, w: s * abs(w))],
        "the mean, not the sum": [right / n],
        "only the first adapter": [adapters[0][2] * adapters[0][3] * adapters[0][1] @ adapters[0][0]],
    }
    if len({len(A) for A, *_ in adapters}) == 1:
        parts: list[tuple[Callable[..., float], Callable[..., float]]] = [
            (lambda s, w: s * w, lambda s, w: 1.0),
            (lambda s, w: 1.0, lambda s, w: s * w),
            (lambda s, w: w, lambda s, w: w),
            (lambda s, w: s * w, lambda s, w: w),
            (lambda s, w: s * w, lambda s, w: s * w),
            (lambda s, w: 1.0, lambda s, w: 1.0),
            (lambda s, w: s, lambda s, w: 1.0),
            (lambda s, w: w, lambda s, w: 1.0),
            (lambda s, w: math.copysign(math.sqrt(abs(s * w)), w), lambda s, w: math.sqrt(abs(s * w))),
            (lambda s, w: math.sqrt(abs(s * w)), lambda s, w: math.sqrt(abs(s * w))),
        ]
        mixed = [
            _total([on_B(s, w) * B for _, B, s, w in adapters]) @ _total([on_A(s, w) * A for A, _, s, w in adapters])
            for on_B, on_A in parts
        ]
        found["A is added to A and B to B"] = [each * share for each in mixed for share in (1.0, 1 / n, 1 / n**2)]
        turned = [*adapters[1:], adapters[0]]
        found["A and B do not stand in the same order"] = [
            _total([s * w * B @ other[0] for (_, B, s, w), other in zip(adapters, each)])
            for each in (turned, list(adapters)[::-1])
        ]
    return found


@register(
    "07.1",
    title="Two adapters in one",
    stars=2,
    minutes=8,
    task="Write `add_up(adapters)`. `adapters` is a list of (A, B, s, w): the factors, A (r, in) and B (out, r), the scale and a weight of your "
    "choice; ranks may differ. Return one pair (A, B), to be used with scale 1, whose product B A is Σ w·s·B A of all of them, "
    "and whose rank is no more than the ranks together.",
    wants="add_up",
    shows="One adapter, exactly the weighted sum, for one, two and three of them, with weights below zero too.",
    hints=(
        "Write the sum of two out: w₁s₁·B₁ A₁ + w₂s₂·B₂ A₂. It is itself one product of two matrices: which?",
        "[B₁ B₂] side by side times A₁ over A₂ is B₁ A₁ + B₂ A₂: columns of one meet rows of the other. `torch.cat` does both.",
        "Scale and weight may stand on one side only: on every B, or on every A.",
    ),
)
def add_up(function: Callable[[list[Adapter]], Any]) -> None:
    draw = generator()
    cases = [
        ((7, 5), (2, 2), False),
        ((6, 6), (2, 2), False),
        ((9, 12), (3,), False),
        ((8, 11), (1, 3, 2), True),
        ((5, 5), (2, 2, 2), True),
    ]
    for shape, ranks, negative in cases:
        adapters = _draw_adapters(shape, ranks, negative, draw)
        kept = [(A.clone(), B.clone()) for A, B, *_ in adapters]
        got = attempt(function, list(adapters))
        if any(not (torch.equal(A, now[0]) and torch.equal(B, now[1])) for (A, B), now in zip(kept, adapters)):
            raise Wrong("an input is changed in place", "the factors that you were given hold other numbers now")
        A, B = _pair(got, *shape, "`add_up`")
        said = f"for ranks {ranks} and layers of shape {shape}"
        if len(A) > sum(ranks):
            raise Wrong("the rank is too high", f"{said}: A has {len(A)} rows; the ranks together are {sum(ranks)}")
        if not bool(torch.isfinite(A).all() and torch.isfinite(B).all()):
            raise Wrong(
                "numbers that are not finite", f"{said}: a root of a negative weight? weights may lie below zero"
            )
        want = _total([w * s * b @ a for a, b, s, w in adapters])
        if _near(B @ A, want):
            continue
        bug = next(
            (name for name, each in _sums(adapters).items() if any(_near(B @ A, x) for x in each)), "another sum"
        )
        off = float((B @ A - want).norm() / want.norm())
        raise Wrong(bug, f"{said}: your product is {off:.0%} of the sum's length away from the sum")


def _near(got: Tensor, want: Tensor) -> bool:
    return bool((got - want).norm() <= 1e-4 * want.norm())


def _lost(W0: Tensor, delta: Tensor, dtype: torch.dtype) -> float:
    stored = (W0 + delta).to(dtype).float()
    return float((stored - W0 - delta).norm() / delta.norm())


@register(
    "07.2",
    title="What a merge keeps",
    stars=1,
    minutes=6,
    task="Write `share_lost(W0, delta, dtype)`. A merge adds `delta` to `W0` (both float32) and stores the sum in `dtype`. Against W₀, the stored "
    "weight has changed by something that is not quite ΔW. Return the length of what is missing, as a share of the length of ΔW: "
    "0 is a perfect merge, 1 a merge that loses as much as all of it.",
    wants="share_lost",
    shows="Right for bf16, fp16 and fp32, for small and large changes.",
    hints=(
        "`(W0 + delta).to(dtype)` is what is stored; `.float()` reads it back.",
        "What the model got is the stored weight minus W0. What it should have got is delta.",
        "The length of a matrix is `.norm()`: divide the length of the difference by the length of delta.",
    ),
)
def share_lost(function: Callable[[Tensor, Tensor, torch.dtype], Any]) -> None:
    draw = generator()
    cases = [
        ((40, 30), 0.01, torch.bfloat16),
        ((32, 32), 0.01, torch.float16),
        ((24, 60), 0.002, torch.bfloat16),
        ((30, 30), 0.5, torch.bfloat16),
        ((30, 20), 0.01, torch.float32),
    ]
    for shape, size, dtype in cases:
        W0 = torch.randn(*shape, generator=draw).bfloat16().float()
        delta = size * torch.randn(*shape, generator=draw)
        got = as_number(attempt(function, W0, delta, dtype), "`share_lost`")
        want = _lost(W0, delta, dtype)
        if math.isclose(got, want, rel_tol=1e-3, abs_tol=1e-5):
            continue
        stored = (W0 + delta).to(dtype).float()
        missing, alone = stored - W0 - delta, delta.to(dtype).float()
        bugs: dict[str, float | list[float]] = {
            "the dtype is not used": 0.0,
            "measured against W₀, not against ΔW": [
                float(missing.norm() / each.norm()) for each in (W0, W0 + delta, stored)
            ],
            "what is kept, not what is lost": [1 - want, float((stored - W0).norm() / delta.norm())],
            "only ΔW is rounded": float((alone - delta).norm() / delta.norm()),
            "two lengths are compared, not two changes": [
                abs(float((stored - W0).norm() / delta.norm()) - 1),
                float((delta.norm() - (stored - W0).norm()) / delta.norm()),
            ],
            "squared, without the root": want**2,
            "in percent": 100 * want,
            "a length, not a share": float(missing.norm()),
            "the share of entries, not of the length": [
                float((missing != 0).float().mean()),
                float((stored == W0).float().mean()),
                float((stored != W0).float().mean()),
            ],
            "the mean of shares, entry by entry": float((missing / delta).abs().mean()),
            "the sum of absolute values, not the length": float(missing.abs().sum() / delta.abs().sum()),
            "the largest entry, not the length": float(missing.abs().max() / delta.abs().max()),
        }
        name = str(dtype).removeprefix("torch.")
        values = {bug: each if isinstance(each, list) else [each] for bug, each in bugs.items()}
        bug = next((bug for bug, each in values.items() if any(math.isclose(got, x, rel_tol=1e-3) for x in each)), None)
        name = str(dtype).removeprefix("torch.")
        raise Wrong(
            bug or "another share",
            f"for {name} and a change of {size:g} of W₀'s size you say {got:.4g}, and it is {want:.4g}",
        )


def _cuts(A: Tensor, B: Tensor, r: int) -> dict[str, list[Tensor]]:
    """What each way to get the cut wrong leads to."""
    U, S, Vh = svd_of_product(B, A)
    loud = (B.norm(dim=0) * A.norm(dim=1)).argsort(descending=True)[:r]

    def cut(matrix: Tensor) -> Tensor:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return (u[:, :r] * s[:r]) @ vh[:r]

    return {
        "the first r pairs are kept": [B[:, :r] @ A[:r]],
        "the last r pairs are kept": [B[:, -r:] @ A[-r:]],
        "the r longest pairs are kept": [B[:, loud] @ A[loud]],
        "each factor is cut on its own": [cut(B) @ cut(A), cut(B) @ A, B @ cut(A)],
        "the singular values are forgotten": [U[:, :r] @ Vh[:r]],
        "the singular values count twice": [(U[:, :r] * S[:r] ** 2) @ Vh[:r]],
        "the root of the singular values counts once": [(U[:, :r] * S[:r].sqrt()) @ Vh[:r]],
        "the smallest directions are kept": [(U[:, -r:] * S[-r:]) @ Vh[-r:]],
    }


@register(
    "07.3",
    title="Cut it to rank r",
    stars=3,
    minutes=12,
    task="Write `cut(A, B, r)`: new factors (A, B), A with r rows and B with r columns, whose product is the matrix of rank r nearest to B A "
    "(chapter 01: the r loudest pieces of its SVD). Without ever making a matrix of shape (out, in), nor a large part of one.",
    wants="cut",
    shows="The nearest of rank r, from small matrices only.",
    hints=(
        "`torch.linalg.qr(B)` gives Q and R with B = Q R: Q (out, k) has columns at right angles, R is only (k, k). The same for A.T.",
        "B A = Q_b (R_b R_aᵀ) Q_aᵀ. The matrix in the middle is (k, k), and the Q's on both sides do not change its singular values.",
        "Take the SVD of the middle, U, S, Vh; keep r of each. B is Q_b U times something, A something times Vh Q_aᵀ; S goes in between, once.",
    ),
)
def cut(function: Callable[[Tensor, Tensor, int], Any]) -> None:
    draw = generator()
    with _Largest():  # once unjudged: what is imported at a first call is no matrix
        attempt(function, torch.randn(2, 9, generator=draw), torch.randn(8, 2, generator=draw), 1)
    for n_out, n_in, k, r in ((300, 200, 6, 2), (80, 80, 5, 4), (40, 90, 4, 1), (1000, 800, 8, 3), (60, 70, 3, 3)):
        A = torch.randn(k, n_in, generator=draw) * torch.rand(k, 1, generator=draw)
        B = torch.randn(n_out, k, generator=draw) @ torch.randn(k, k, generator=draw)
        with _Beside() as beside, _Largest() as made:
            got = attempt(function, A, B, r)
        new_A, new_B = _pair(got, n_out, n_in, "`cut`")
        said = f"for A {tuple(A.shape)}, B {tuple(B.shape)} and r = {r}"
        if len(new_A) != r:
            raise Wrong("another rank than r", f"{said}: A has {len(new_A)} rows")
        U, S, Vh = svd_of_product(B, A)
        want = (U[:, :r] * S[:r]) @ Vh[:r]
        product = new_B @ new_A
        if not _near(product, want):
            bug = next((name for name, each in _cuts(A, B, r).items() if any(_near(product, x) for x in each)), None)
            best, mine = (float((B @ A - each).norm() / (B @ A).norm()) for each in (want, product))
            raise Wrong(
                bug or "another matrix",
                f"{said}: yours is {mine:.2f} of ‖B A‖ away from B A, the nearest only {best:.2f}",
            )
        if made.numbers >= n_out * n_in:
            raise Wrong("the big matrix is built", f"{said}: a tensor of {made.numbers:,} numbers was made")
        if made.numbers > A.numel() + B.numel():
            raise Wrong(
                "a large matrix is built",
                f"{said}: a tensor of {made.numbers:,} numbers was made; A and B together have {A.numel() + B.numel():,}. "
                'Are Q\'s columns as many as the rank (`mode="reduced"`, which is the default)?',
            )
        if beside.most > MOST_BESIDE:
            raise Wrong("the big matrix is built", f"{said}: {beside.most / 1e6:.1f} MB of arrays were held at once")
