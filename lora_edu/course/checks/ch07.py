"""Exercises 07.1 and 07.2 of chapter 07, Keep it."""

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lora_edu.course.exercises import Wrong, as_number, as_parts, as_tensor, attempt, generator, kind, register

Adapter = tuple[Tensor, Tensor, float, float]  # A (r, in), B (out, r), the scale s, the weight w


def factor_pair(got: Any, n_out: int, n_in: int, what: str) -> tuple[Tensor, Tensor]:
    """(A (k, in), B (out, k)) of a learner's answer, for whatever k."""
    parts = as_parts(got, ("A", "B"), what)
    A, B = (each.copy() if isinstance(each, np.ndarray) else each for each in parts)  # torch takes no rows turned round
    if not hasattr(A, "__len__") or len(getattr(A, "shape", (0, 0))) != 2 or not len(A):
        raise Wrong("not a matrix", f"A should be of shape (rank, {n_in}), and is {kind(A)}")
    shapes = [tuple(getattr(each, "shape", ())) for each in (A, B)]
    (rows, *inner), (other, *columns) = [each or (0,) for each in shapes]
    if (rows, columns) == (n_out, [n_in]) and inner == [other] and shapes[0] != shapes[1]:
        raise Wrong("A and B are exchanged", f"give A first, (rank, {n_in}), then B, ({n_out}, rank)")
    k = len(A)
    A, B = as_tensor(A, torch.empty(k, n_in), "A"), as_tensor(B, torch.empty(n_out, k), "B")
    if not bool(torch.isfinite(A).all() and torch.isfinite(B).all()):
        raise Wrong(
            "numbers that are not finite", "nan or inf in A or B: a root of a negative number, or 0 as divisor?"
        )
    return A, B


def _draw_adapters(
    shape: tuple[int, int], ranks: Sequence[int], signs: Sequence[int], draw: torch.Generator
) -> list[Adapter]:
    n_out, n_in = shape
    found = []
    for number, (r, sign) in enumerate(zip(ranks, signs)):
        s, w = (0.5 + float(x) for x in torch.rand(2, generator=draw))
        A, B = torch.randn(r, n_in, generator=draw), torch.randn(n_out, r, generator=draw)
        found.append((A, B, round(s + number, 3), sign * round(w, 3)))
    return found


def _total(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(dim=0)


def _sums(adapters: Sequence[Adapter]) -> dict[str, list[Tensor]]:
    """What each way to get the sum wrong leads to."""

    def total(factor: Callable[[float, float], float]) -> Tensor:
        return _total([factor(s, w) * (B @ A) for A, B, s, w in adapters])

    def parts(chosen: Sequence[Adapter]) -> Tensor:
        return _total([s * w * (B @ A) for A, B, s, w in chosen])

    right, n, weights = parts(adapters), len(adapters), [w for *_, w in adapters]
    U, S, Vh = torch.linalg.svd(right, full_matrices=False)
    found = {
        "the scale is forgotten": [total(lambda s, w: w)],
        "the weight is forgotten": [total(lambda s, w: s)],
        "scale and weight are forgotten": [total(lambda s, w: 1.0)],
        "the weight counts twice": [total(lambda s, w: s * w * w)],
        "the scale counts twice": [total(lambda s, w: s * s * w)],
        "scale and weight count twice": [total(lambda s, w: (s * w) ** 2)],
        "the scale divides": [total(lambda s, w: w / s)],
        "the root of scale and weight counts once": [total(lambda s, w: math.copysign(math.sqrt(abs(s * w)), w))],
        "scale and weight are added": [total(lambda s, w: s + w)],
        "the sign of a weight is lost": [total(lambda s, w: s * abs(w))],
        "the sign is turned round": [-right],
        "a weight below 0 counts as 0": [total(lambda s, w: s * max(w, 0.0))],
        "a weight of 0 counts as 1": [total(lambda s, w: s * (w or 1.0))],
        "the weights are brought to a sum of 1": [
            parts([(A, B, s, x) for (A, B, s, _), x in zip(adapters, each)])
            for each in ([w / (sum(weights) or 1.0) for w in weights], torch.tensor(weights).softmax(dim=0).tolist())],
        "the mean, not the sum": [right / n],
        "the rank divides or multiplies": [
            parts([(A, B, s * len(A) ** x, w) for A, B, s, w in adapters]) for x in (-1, -0.5, 0.5, 1)],
        "scale and weight of one adapter serve for all": [s * w * total(lambda s, w: 1.0) for _, _, s, w in adapters],
        "only the first adapter": [parts(adapters[:1])],
        "an adapter is left out": [parts(some) for k in range(1, n) for some in combinations(adapters, k)],
        "the sum is cut to a smaller rank": [(U[:, :k] * S[:k]) @ Vh[:k] for k in range(1, len(S))],
    }  # fmt: skip
    if len({len(A) for A, *_ in adapters}) == 1:
        root: Callable[..., float] = lambda s, w: math.sqrt(abs(s * w))  # noqa: E731
        ways: list[tuple[Callable[..., float], Callable[..., float]]] = [
            (lambda s, w: s * w, lambda s, w: 1.0), (lambda s, w: 1.0, lambda s, w: s * w), (lambda s, w: w, lambda s, w: w),
            (lambda s, w: s * w, lambda s, w: w), (lambda s, w: s * w, lambda s, w: s * w), (lambda s, w: 1.0, lambda s, w: 1.0),
            (lambda s, w: s, lambda s, w: 1.0), (lambda s, w: w, lambda s, w: 1.0),
            (lambda s, w: math.copysign(root(s, w), w), root), (root, root),
        ]  # fmt: skip
        mixed = [
            _total([on_B(s, w) * B for _, B, s, w in adapters]) @ _total([on_A(s, w) * A for A, _, s, w in adapters])
            for on_B, on_A in ways
        ]
        found["A is added to A and B to B"] = [each * share for each in mixed for share in (1.0, 1 / n, 1 / n**2)]
        turned = [*adapters[1:], adapters[0]]
        found["A and B do not stand in the same order"] = [
            _total([s * w * B @ other[0] for (_, B, s, w), other in zip(adapters, each)])
            for each in (turned, list(adapters)[::-1], [(A.flip(0), B, s, w) for A, B, s, w in adapters[::-1]])
        ]
    return found


@register(
    "07.1",
    title="Two adapters in one",
    stars=2,
    minutes=8,
    task="Write `add_up(adapters)`. `adapters` is a list of (A, B, s, w): the factors, A (r, in) and B (out, r), the scale and a weight of your "
    "choice; ranks may differ. Return one pair (A, B), to be used with scale 1, whose product B A is Σ w·s·B A of all of them, "
    "with no more rows in A than all the A's together have.",
    wants="add_up",
    shows="One adapter, exactly the weighted sum, for one, two and three of them, with weights of zero and below too.",
    hints=(
        "Write the sum of two out: w₁s₁·B₁ A₁ + w₂s₂·B₂ A₂. It is itself one product of two matrices: which?",
        "[B₁ B₂] side by side times A₁ over A₂ is B₁ A₁ + B₂ A₂: columns of one meet rows of the other. `torch.cat` does both.",
        "Scale and weight may stand on one side only: on every B, or on every A.",
    ),
)
def add_up(function: Callable[[list[Adapter]], Any]) -> None:
    draw = generator()
    cases = [
        ((9, 7), (3, 3), (1, 1)), ((6, 6), (2, 2), (1, 1)), ((9, 12), (3,), (1,)), ((7, 9), (2, 1, 2), (1, 1, 1)),
        ((8, 11), (1, 3, 2), (1, -1, 1)), ((5, 5), (2, 2, 2), (1, 1, -1)), ((6, 8), (2, 3), (0, 1)),
    ]  # fmt: skip
    for shape, ranks, signs in cases:
        adapters = _draw_adapters(shape, ranks, signs, draw)
        kept = [(A.clone(), B.clone()) for A, B, *_ in adapters]
        given = list(adapters)
        got = attempt(function, given)
        if len(given) != len(adapters) or any(now is not before for now, before in zip(given, adapters)):
            raise Wrong("an input is changed in place", "the list that you were given is another one now; read it only")
        if any(not (torch.equal(A, now[0]) and torch.equal(B, now[1])) for (A, B), now in zip(kept, adapters)):
            raise Wrong("an input is changed in place", "the factors that you were given hold other numbers now")
        A, B = factor_pair(got, *shape, "`add_up`")
        said = f"for ranks {ranks} and layers of shape {shape}"
        if len(A) > sum(ranks):
            raise Wrong("the rank is too high", f"{said}: A has {len(A)} rows; the ranks together are {sum(ranks)}")
        want = _total([w * s * b @ a for a, b, s, w in adapters])
        if near(B @ A, want):
            continue
        bug = next((name for name, each in _sums(adapters).items() if any(near(B @ A, x) for x in each)), None)
        off = float((B @ A - want).norm() / want.norm())
        bug = bug or ("close, but not exact" if off < CLOSE else "another sum")
        raise Wrong(bug, f"{said}: your product is {off:.2%} of the sum's length away from the sum")


NO_ROUNDING = 1e-5  # a share this small is what float32 itself leaves: all of these changes lose more in 16 bits
CLOSE = 0.01  # further than single precision leaves, and no more than half precision does


def near(got: Tensor, want: Tensor, most: float = 1e-4) -> bool:
    return bool((got - want).norm() <= most * want.norm())


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
    "0: nothing is missing; 1: as much is missing as ΔW is long.",
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
        ((40, 30), 0.01, torch.bfloat16), ((32, 32), 0.01, torch.float16), ((24, 60), 0.002, torch.bfloat16),
        ((30, 30), 0.5, torch.bfloat16), ((30, 24), 4.0, torch.float16), ((28, 40), 0.0005, torch.bfloat16),
        ((30, 20), 0.01, torch.float32),
    ]  # fmt: skip
    for shape, size, dtype in cases:
        W0 = torch.randn(*shape, generator=draw)
        W0[::2] = W0[::2].bfloat16().float()  # every other row holds numbers that bf16 has, as a real W₀ may
        rows = 0.3 + 1.4 * torch.rand(shape[0], 1, generator=draw)  # rows of all lengths, and a mean that is not 0
        delta = size * rows * (0.5 + torch.randn(*shape, generator=draw))
        got = as_number(attempt(function, W0, delta, dtype), "`share_lost`")
        want = _lost(W0, delta, dtype)
        if math.isclose(got, want, rel_tol=1e-3, abs_tol=1e-5):
            continue
        distance, bug = min(
            (
                (abs(got - x) / (1e-4 * abs(x) + 5e-7), bug)
                for bug, each in _shares(W0, delta, dtype).items()
                for x in each
            ),
            key=lambda found: found[0],
        )
        if abs(got) < NO_ROUNDING:
            distance, bug = 0.0, "the dtype is not used"
        name = str(dtype).removeprefix("torch.")
        raise Wrong(
            bug if distance <= 1 else "another share",
            f"for {name} and a change of about {size:g} of W₀'s size you say {got:.4g}, and it is {want:.4g}",
        )


def _shares(W0: Tensor, delta: Tensor, dtype: torch.dtype) -> dict[str, list[float]]:
    """What each way to get the share wrong leads to; several may lie near each other, and the nearest is the one."""

    def of(change: Tensor) -> float:
        """The share, had the model got `change`."""
        return float((change - delta).norm() / delta.norm())

    stored, W, alone = (x.to(dtype).float() for x in (W0 + delta, W0, delta))
    got, want = stored - W0, _lost(W0, delta, dtype)
    missing = got - delta
    others = [each for each in (torch.bfloat16, torch.float16) if each != dtype]
    return {
        "the dtype is not used": [0.0, _lost(W0, delta, torch.float32)],
        "another share: that of another dtype": [_lost(W0, delta, each) for each in others],
        "measured against W₀, not against ΔW": [float(missing.norm() / each.norm()) for each in (W0, W0 + delta, stored)],
        "measured against the change that was stored": [float(missing.norm() / got.norm())],
        "W₀ is rounded too": [of(stored - W), of((W + delta).to(dtype).float() - W0), of((W + delta).to(dtype).float() - W),
                              of((W + alone).to(dtype).float() - W0), of((W + alone).to(dtype).float() - W)],
        "only W₀ is rounded": [of(W + delta - W0)],
        "W₀ is not subtracted": [of(stored), float(stored.norm() / delta.norm())],
        "only ΔW is rounded": [of(alone)],
        "ΔW is rounded before it is added": [of((W0 + alone).to(dtype).float() - W0)],
        "what is kept, not what is lost": [1 - want, float(got.norm() / delta.norm())],
        "two lengths are compared, not two changes": [
            abs(float(got.norm() / delta.norm()) - 1), 1 - float(got.norm() / delta.norm())],
        "squared, without the root": [want**2],
        "one root too many": [math.sqrt(want)],
        "in percent": [100 * want],
        "the sign is turned round": [-want],
        "never above 1": [min(1.0, want)],
        "a length, not a share": [float(missing.norm())],
        "the share of entries, not of the length": [
            float(each.float().mean()) for each in (missing != 0, stored == W0, stored != W0)],
        "the length of what vanishes whole": [float(delta[stored == W0].norm() / delta.norm())],
        "the mean of shares, entry by entry": [float((missing / delta).abs().mean())],
        "the mean of shares, row by row or column by column": [
            float((missing.norm(dim=dim) / delta.norm(dim=dim)).mean()) for dim in (0, 1)],
        "the sum of absolute values, not the length": [float(missing.abs().sum() / delta.abs().sum())],
        "sums in which plus and minus cancel": [sign * float(missing.sum() / delta.sum()) for sign in (1, -1)],
        "the largest entry, not the length": [float(missing.abs().max() / delta.abs().max())],
        "the spread, not the length": [float(missing.std() / delta.std())],
        "only the largest direction": [float(torch.linalg.matrix_norm(missing, 2) / torch.linalg.matrix_norm(delta, 2))],
        "only what lies along ΔW": [sign * float((missing * delta).sum() / delta.square().sum()) for sign in (1, -1)],
    }  # fmt: skip
