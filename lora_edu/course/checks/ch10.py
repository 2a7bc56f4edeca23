"""Exercises of chapter 10, Variants, honestly."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lora_edu.course.checks.ch07 import factor_pair
from lora_edu.course.exercises import attempt, generator, register
from lora_edu.course.open_parts import Wrong
from lora_edu.course.values import apart, as_number, as_parts, as_tensor, close


class _Makes(TorchDispatchMode):
    """Whether a·W + c·B A, c not 0, or its transpose, is made inside; also as a batch of one, as `einsum` makes it."""

    def __init__(self, W: Tensor, product: Tensor) -> None:
        super().__init__()
        self.span = torch.stack([W.flatten(), product.flatten()], 1).double()  # (out·in, 2)
        self.shape, self.found = W.shape, False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and not self.found:
                flat = leaf.squeeze()
                self.found = flat.ndim == 2 and any(self._is(x) for x in (flat, flat.mT) if x.shape == self.shape)
        return result

    def _is(self, leaf: Tensor) -> bool:
        made = leaf.detach().double().flatten()
        parts = torch.linalg.pinv(self.span) @ made  # how much of W is in it, how much of B A
        of_product = (parts[1] * self.span[:, 1]).norm()
        return bool(of_product > 1e-3 * made.norm()) and close(self.span @ parts, made)


@register(
    "10.1",
    title="DoRA's lengths, without B A",
    stars=2,
    minutes=10,
    task="Write `row_lengths(W, A, B, s)`: the lengths (out,) of the rows of V = W + s·B A, with W (out, in), A (r, in) and B (out, r). "
    "Never make B A, or V, or any other matrix (out, in) that has B A in it.",
    wants="row_lengths",
    shows="The lengths of V's rows, and B A was never made.",
    hints=(
        "The square of a row's length: ‖w + u‖² = ‖w‖² + 2 w·u + ‖u‖², with w a row of W, and u the same row of s·B A.",
        "Row i of B A is bᵢ A, with bᵢ the i-th row of B. So w·u = s·w·(bᵢ A) = s·(w Aᵀ)·bᵢ, and W Aᵀ is only (out, r).",
        "And ‖u‖² = s²·bᵢ (A Aᵀ) bᵢᵀ, where A Aᵀ is (r, r). A sum over a row of X ⊙ B, X either W Aᵀ or B (A Aᵀ), gives a number a row.",
    ),
)
def row_lengths(function: Callable[[Tensor, Tensor, Tensor, float], Any]) -> None:
    draw = generator()
    for (n_out, n_in), r, s in (((9, 14), 3, 0.7), ((12, 12), 2, 1.6), ((20, 8), 5, 2.5)):
        W, A, B = (torch.randn(*shape, generator=draw) for shape in ((n_out, n_in), (r, n_in), (n_out, r)))
        made = _Makes(W, B @ A)
        with made:
            given = attempt(function, W, A, B, s)
        said = f"for W {n_out} × {n_in}, r = {r} and s = {s}"
        want = (W + s * B @ A).norm(dim=1)  # (out,)
        got = as_tensor(given, want, "`row_lengths`' answer")
        if not close(got, want):
            bug = next((name for name, each in _lengths(W, A, B, s).items() if _meets(got, each)), "other lengths")
            row = int((got - want).abs().nan_to_num(torch.inf).argmax())
            mine = float(got[row])
            found, true = (
                apart(mine, float(want[row])) if math.isfinite(mine) else (str(mine), f"{float(want[row]):.4g}")
            )
            raise Wrong(bug, f"{said}, row {row} of V has the length {true}, and yours is {found}")
        if made.found:
            raise Wrong("B A is built", f"{said}, a matrix with B A in it was made: work with W Aᵀ and A Aᵀ instead")


def _meets(got: Tensor, wanted: Tensor) -> bool:
    got = got.nan_to_num(0.0)  # the root of a square that came out below 0
    return got.shape == wanted.shape and bool(((got - wanted).abs() <= 1e-4 * wanted.abs() + 1e-6).all())


def _lengths(W: Tensor, A: Tensor, B: Tensor, s: float) -> dict[str, Tensor]:
    """What each slip leads to."""
    w = W.square().sum(1)
    wu = ((W @ A.T) * B).sum(1)
    u = (B @ (A @ A.T) * B).sum(1)
    true = w + 2 * s * wu + s**2 * u
    squares = {
        "the root is missing": true.square(),
        "the mixed term counts once": w + s * wu + s**2 * u,
        "the mixed term is missing": w + s**2 * u,
        "the update's own length is missing": w + 2 * s * wu,
        "s is not squared": w + 2 * s * wu + s * u,
        "s is missing": w + 2 * wu + u,
        "s is missing in the mixed term": w + 2 * wu + s**2 * u,
        "only W is measured": w,
        "only the update is measured": s**2 * u,
        "the update is subtracted": w - 2 * s * wu + s**2 * u,
        "A's rows are taken for lengths of 1": w + 2 * s * wu + s**2 * B.square().sum(1),
    }
    found = {name: each.clamp_min(0).sqrt() for name, each in squares.items()}
    V = W + s * B @ A
    found["the mean of squares"] = V.square().mean(1).sqrt()
    found["the sum of absolute values"] = V.abs().sum(1)
    return found


@register(
    "10.2",
    title="How much of the headline is left",
    stars=2,
    minutes=9,
    task="“Ours beats theirs”, read at one learning rate. Write `gap_left(ours, theirs, at)`: `ours` and `theirs` are validation losses "
    "(rates, seeds) at the same rates, `at` is the index of the rate at which the headline was read. Return the gap (theirs − ours, of "
    "the means over the seeds) with each method at its own best rate, as a share of the gap at `at`: 1 if all of it is left, 0 if nothing, "
    "negative if the order turns. A rate at which a seed diverged (nan) cannot be a best one.",
    wants="gap_left",
    shows="Each method at its own best rate, and a diverged rate never wins.",
    hints=(
        "`ours.mean(1)` is one number a rate. Where a seed is nan, the mean is nan: what does `argmin` do with it?",
        "`means.nan_to_num(float('inf')).min()` is a method's loss at its own best rate.",
        "(best of theirs − best of ours) / (theirs at `at` − ours at `at`), all of them means over the seeds.",
    ),
)
def gap_left(function: Callable[[Tensor, Tensor, int], Any]) -> None:
    draw = generator()
    for shift, diverged in ((2, False), (-2, False), (1, True), (-3, True), (0, True)):
        at = 1 if shift > 0 else 5
        ours, theirs = _two(draw, shift, at)
        if (
            diverged
        ):  # where the other is at its best, and at the lowest rate: Python's `min` returns a nan that comes first
            places = 0, int(ours.mean(1).argmin()) if shift else 7
            ours[int(theirs.mean(1).argmin()) if shift else 6, 1] = torch.nan
            for losses, place in ((ours, places[0]), (theirs, places[1])):
                losses[place, 0] = 0.01  # would be the best, had no seed diverged
                losses[place, 2] = torch.nan
        got = attempt(function, ours.clone(), theirs.clone(), at)
        if getattr(got, "numel", lambda: 1)() == 1 and isinstance(got, Tensor | float) and math.isnan(got):
            raise Wrong(
                "a diverged rate is not left out",
                "`gap_left` returned nan, as the mean of a rate is at which a seed diverged",
            )
        got = float(as_number(got, "`gap_left`'s answer"))
        want = _left(ours, theirs, at)
        if _alike(got, want):
            continue
        bug = next((name for name, each in _slips(ours, theirs, at).items() if _alike(got, each)), "another share")
        mine, true = apart(got, want)
        what = ", and at some rates a seed diverged" if diverged else ""
        raise Wrong(
            bug,
            f"for two methods whose best rates lie {abs(shift)} apart{what}, {true} of the gap is left, and you say {mine}",
        )


def _alike(got: float, want: float) -> bool:
    """Near enough for a difference of losses in single precision: where little of a gap is left, its digits cancel."""
    return math.isfinite(want) and abs(got - want) <= 1e-4 * max(1.0, abs(want))  # a slip's may be infinite


def _two(draw: torch.Generator, shift: int, at: int) -> tuple[Tensor, Tensor]:
    """Two curves that lie clearly apart at `at`: a share of next to nothing has no digits."""
    while True:
        ours, theirs = _curve(draw, 3), _curve(draw, 3 + shift)
        if abs(float(ours.mean(1)[at] - theirs.mean(1)[at])) > 0.05:
            return ours, theirs


def _curve(draw: torch.Generator, best: int) -> Tensor:
    """Losses (8 rates, 3 seeds) with the lowest mean near `best`."""
    rate = torch.arange(8.0)[:, None]
    base = 0.2 + 0.3 * torch.rand((), generator=draw)
    return base + 0.15 * (rate - best).square() + 0.1 * torch.rand(8, 3, generator=draw)


def _means(losses: Tensor) -> Tensor:
    return losses.mean(1).nan_to_num(float("inf"))


def _left(ours: Tensor, theirs: Tensor, at: int) -> float:
    a, b = _means(ours), _means(theirs)
    return float((b.min() - a.min()) / (b[at] - a[at]))


def _slips(ours: Tensor, theirs: Tensor, at: int) -> dict[str, float]:
    """What each slip leads to."""
    a, b = _means(ours), _means(theirs)
    i, j, gap = int(a.argmin()), int(b.argmin()), b[at] - a[at]
    seeds = [losses.nan_to_num(float("inf")) for losses in (ours, theirs)]
    medians = [losses.median(1).values.nan_to_num(float("inf")) for losses in (ours, theirs)]
    both = a.isfinite() & b.isfinite()
    blind = [losses.nanmean(1) for losses in (ours, theirs)]
    found = {
        "both at the best rate of ours": (b[i] - a[i]) / gap,
        "both at the best rate of theirs": (b[j] - a[j]) / gap,
        "the share is turned upside down": gap / (b.min() - a.min()),
        "the sign is turned round": -(b.min() - a.min()) / gap,
        "a gap and not a share": b.min() - a.min(),
        "the best seed is taken": (seeds[1].min() - seeds[0].min()) / gap,
        "the share that is gone": 1 - (b.min() - a.min()) / gap,
        "a diverged rate wins": (blind[1].min() - blind[0].min()) / (blind[1][at] - blind[0][at]),
        "each seed is taken at a rate of its own": (seeds[1].amin(0).mean() - seeds[0].amin(0).mean()) / gap,
        "the median over the seeds, not the mean": (medians[1].min() - medians[0].min())
        / (medians[1][at] - medians[0][at]),
        "a percentage, not a share": 100 * (b.min() - a.min()) / gap,
        "the headline's own gap": torch.ones(()),
        "a rate at which one of the two diverged is left out for both": (b[both].min() - a[both].min()) / gap,
        "the mean over all rates": (_finite(b) - _finite(a)) / gap,
    }
    return {name: float(value) for name, value in found.items()}


def _finite(means: Tensor) -> Tensor:
    return means[means.isfinite()].mean()


@register(
    "10.3",
    title="Take the start along",
    stars=2,
    minutes=7,
    task="PiSSA trains A and B from A₀ and B₀, and its change is ΔW = s·(B A − B₀ A₀). Write `as_plain(A, B, A0, B0)`: a pair of factors "
    "(A', B') of plain LoRA, with s·B' A' = ΔW exactly, for the same s, so that any program can load it on the untouched base.",
    wants="as_plain",
    shows="One plain adapter of twice the rank, and its change is ΔW to the last digits.",
    hints=(
        "A difference of two products is the sum of two products. Chapter 07 added two adapters up without cross terms.",
        "Stack the rows: A' is A over A₀, (2r, in). B' has as many columns. What must stand in front of B₀?",
    ),
)
def as_plain(function: Callable[[Tensor, Tensor, Tensor, Tensor], Any]) -> None:
    draw = generator()
    for n_out, n_in, r in ((7, 11, 3), (10, 10, 2), (12, 6, 1)):
        A, A0 = (torch.randn(r, n_in, generator=draw) for _ in range(2))
        B, B0 = (torch.randn(n_out, r, generator=draw) for _ in range(2))
        said = f"for A {r} × {n_in} and B {n_out} × {r}"
        answer = attempt(function, A, B, A0, B0)
        if any(getattr(part, "shape", ()) == (n_out, n_in) for part in as_parts(answer, ("A'", "B'"), "`as_plain`")):
            raise Wrong(
                "the whole matrix is given", f"{said}: one part has the shape of W₀; plain LoRA has two factors"
            )
        new_A, new_B = factor_pair(answer, n_out, n_in, "`as_plain`")
        want, got = B @ A - B0 @ A0, new_B @ new_A
        if not close(got, want):
            wrong = {
                "the start is added, not taken away": B @ A + B0 @ A0,
                "the start is left out": B @ A,
                "the start alone is given": B0 @ A0,
                "the change has its sign turned": B0 @ A0 - B @ A,
                "factors are subtracted": (B - B0) @ (A - A0),
                "A of one meets B of the other": B @ A0 - B0 @ A,
            }
            bug = next((name for name, each in wrong.items() if close(got, each)), "another change")
            off = float((got - want).norm() / want.norm())
            raise Wrong(bug, f"{said}, B' A' is {off:.2f} of its length away from B A − B₀ A₀")
