"""Exercises of chapter 02, Is the update low-rank?"""

import functools
from collections.abc import Callable

import torch

from lora_edu.course.exercises import attempt, generator, register
from lora_edu.course.open_parts import Wrong
from lora_edu.course.values import as_number, as_parts, as_tensor
from lora_edu.linalg import eckart_young_error, effective_rank

Tensor = torch.Tensor
ROWS = 60  # of inputs in 02.2
LARGEST = "compared with the largest and not with the whole"


def _planted(
    k: int, out: int, inp: int, rows: int, dtype: torch.dtype, sizes: tuple[float, float] = (5, 3)
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W₀ (out, in), a change of rank k whose singular values run from sizes[0] to sizes[1], inputs (rows, in) and the teacher's outputs (rows, out)."""
    rng = generator()
    W0 = torch.randn(out, inp, generator=rng, dtype=dtype)
    U, _ = torch.linalg.qr(torch.randn(out, k, generator=rng, dtype=dtype))
    V, _ = torch.linalg.qr(torch.randn(inp, k, generator=rng, dtype=dtype))
    sigma = torch.linspace(*sizes, k, dtype=dtype)
    delta = (U * sigma) @ V.T
    # Every direction of the input is equally loud: then the change of lowest loss is the one nearest to ΔW, whatever its rank.
    x = rows**0.5 * torch.linalg.qr(torch.randn(rows, inp, generator=rng, dtype=dtype) + 0.3)[0]
    return W0, delta, x, x @ (W0 + delta).T


@register(
    "02.1",
    title="Train a change of rank r",
    stars=2,
    minutes=7,
    task="Complete `train_change(W0, x, y, r)`: leave W0 (out, in) as it is, train bare tensors B (out, r) and A (r, in) so that "
    "`x @ (W0 + B @ A).T` comes near y, and return (B, A). Adam with a learning rate of 0.03 and 400 steps on all rows will do.",
    wants="train_change",
    shows="B and A alone were trained, W0 is as it was, and B A is what the loss asks for.",
    hints=(
        "Start A at random numbers, for example `torch.randn(r, n_in) / n_in**0.5`, and B at zeros. Both need `requires_grad_()`.",
        "`torch.optim.Adam([B, A], lr=0.03)`: only these two are handed to the optimiser.",
        "In each step: `loss = (x @ (W0 + B @ A).T - y).square().mean()`, then `zero_grad`, `backward`, `step`. Return `B, A`.",
    ),
)
def train_change(train: Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]) -> None:
    k, out, inp, rows = 3, 10, 14, 128
    W0, delta, x, y = _planted(k, out, inp, rows, torch.float32)
    y = y + 4.0 * torch.linspace(-1, 1, out)  # a constant: W0 + B A has no place for it, and a trained bias has
    best = y.T @ x / rows - W0  # (out, in), of rank k + 1: least squares, because x has orthogonal columns
    asked: list[bool] = []

    @functools.wraps(train)
    def watched(W0: Tensor, x: Tensor, y: Tensor, r: int) -> object:
        answer = train(W0, x, y, r)
        asked.append(any(given.requires_grad for given in (W0, x, y)))
        return answer

    for r in (k + 1, k - 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            got = as_parts(
                attempt(watched if callable(train) else train, W0, x, y, r), ("B", "A"), "`train_change`'s answer"
            )
        if getattr(got[0], "shape", None) == (r, inp):
            raise Wrong("the two are swapped", f"the first of the pair has A's shape {(r, inp)}: the order is (B, A)")
        B, A = as_tensor(got[0], W0.new_empty(out, r), "B"), as_tensor(got[1], W0.new_empty(r, inp), "A")
        if any(asked):
            raise Wrong(
                "W0 trains", "`requires_grad` was switched on for a tensor that was handed over: only B and A train"
            )
        _judge_change(B @ A, W0, delta, best, r)


def _judge_change(change: Tensor, W0: Tensor, delta: Tensor, best: Tensor, r: int) -> None:
    """Raise Wrong unless `change` is as near to `best` as rank r allows."""
    if not change.isfinite().all():
        raise Wrong("the training blew up", "B A holds values that are not finite: take a smaller learning rate")
    if not change.any():
        raise Wrong(
            "nothing moved",
            "B A is exactly 0: no step was taken, or both started at zero, or B started there and is not trained",
        )
    if _reached(change, best, r):
        return
    for bug, wanted, why in (
        ("W0 is not in the sum", W0 + best, "B A comes near the teacher's whole matrix, and should be what W0 lacks"),
        ("the sign is turned", -best, "B A comes near the change with its sign turned: the output is W0 x plus B A x"),
        ("something else trains as well", delta, "what B A should do is done by something else, a bias perhaps: "
         "the output is `x @ (W0 + B @ A).T`, and only B and A train"),
    ):  # fmt: skip
        if _reached(change, wanted, r):
            raise Wrong(bug, why)
    missed = _miss(change, best)
    advice = (
        "more steps, or a larger learning rate; or do B and A not both train, or something else as well?"
        if missed < 1
        else "that is further off than at the start. Is the difference squared in the loss, and is `zero_grad` called in every "
        "step? Or a smaller learning rate"
    )
    off = f"misses what W0 lacks by {missed:.0%} of its size" if missed < 10 else "is far off"
    raise Wrong("not there yet", f"at r = {r} B A {off}: {advice}")


def _reached(change: Tensor, wanted: Tensor, r: int) -> bool:
    """Is `change` as near to `wanted` as rank r allows, give or take what 400 steps leave?"""
    return _miss(change, wanted) < eckart_young_error(torch.linalg.svdvals(wanted), r) + 0.05


def _miss(change: Tensor, wanted: Tensor) -> float:
    return float((change - wanted).norm() / wanted.norm())


@register(
    "02.2",
    title="The hidden rank",
    stars=2,
    minutes=8,
    task="Write `planted_rank(W0, x, y)`: y = x (W₀ + ΔW)ᵀ without noise, W₀ and x are known, ΔW is not. Find the rank of ΔW without training anything.",
    wants="planted_rank",
    shows="What W₀ leaves unexplained is x ΔWᵀ, and its rank is ΔW's, because the inputs go in every direction.",
    hints=(
        "Take away what W₀ explains: y − x W₀ᵀ. What is left?",
        "x ΔWᵀ is left. Its rows are outputs of ΔW, so they need as many directions as ΔW has.",
        "`torch.linalg.matrix_rank(y - x @ W0.T)`.",
    ),
)
def planted_rank(find: Callable[[Tensor, Tensor, Tensor], int]) -> None:
    # Directions of about one size, one that is faint beside the others, and more than a few.
    # Double precision first, where a bug has its name; then the page's own, where rounding is no longer next to nothing.
    for k, out, inp, sizes, dtype in [
        (3, 12, 9, (5, 3), torch.float64),
        (5, 8, 16, (5, 0.1), torch.float64),
        (8, 10, 12, (2, 1.2), torch.float64),
        (1, 10, 10, (5, 3), torch.float64),
        (4, 24, 32, (8, 4), torch.float32),
    ]:
        W0, _, x, y = _planted(k, out, inp, ROWS, dtype, sizes)
        got = as_number(attempt(find, W0, x, y), "`planted_rank`")
        if got == k:
            continue
        left = torch.linalg.svdvals(y - x @ W0.T)
        if dtype == torch.float32 and got > k:
            detail = f"in float32 {got:g} directions are counted, and {k} are there: the rest is rounding"
            raise Wrong("rounding is counted as directions", f"{detail}. Small is what is small beside the largest one")
        bugs: dict[float, str] = {  # a later name wins
            k + 1: "one direction too many",
            k - 1: "one direction too few",
            effective_rank(left): "the count for 90 % taken for the rank",
            min(out, inp): "W₀ is not taken away",
            ROWS: "the rows are counted",
        }
        detail = f"W₀ is {out} × {inp}, and the change has rank {k}; you returned {got:g}"
        raise Wrong(bugs.get(got, "another rank"), detail)


@register(
    "02.3",
    title="How many directions hold the energy?",
    stars=2,
    minutes=6,
    task="Write `directions_for(S, share)`: S holds singular values, large to small. Return the smallest number of directions that hold at least `share` "
    "of the energy, as a whole number.",
    wants="directions_for",
    shows="Square, add up, compare with the whole: equal to the module's `effective_rank` on a steep spectrum, on a flat one and on one with a single value.",
    hints=(
        "The energy of a direction is its singular value squared. What do the first 1, 2, 3 … directions hold together?",
        "`held = S.square().cumsum(0) / S.square().sum()` rises to 1.",
        "Count the places where `held < share`: so many directions are not enough, and one more is.",
    ),
)
def directions_for(count: Callable[[Tensor, float], int]) -> None:
    # Of these and a share of 84 % every bug makes another count.
    told_apart = torch.tensor([15, 8, 7, 5.8, 5, 4, 4, 3, 3, 3, 2, 1, 1], dtype=torch.float64) / 17
    steep = torch.tensor([4.0, 2.0, 2.0, 1.0, 1.0, 0.5, 0.25], dtype=torch.float64)
    flat = torch.linspace(1.2, 0.8, 20, dtype=torch.float64)
    rng = generator()
    drawn = torch.linalg.svdvals(torch.randn(30, 18, generator=rng, dtype=torch.float64))
    even, single = torch.ones(4, dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
    for S, share in [(told_apart, 0.84), (steep, 0.9), (flat, 0.5), (drawn, 0.8), (single, 0.9), (even, 0.5)]:
        want, got = effective_rank(S, share), as_number(attempt(count, S, share), "`directions_for`")
        if got == want:
            continue
        held = S.cumsum(0) / S.sum()
        squares = S.square()
        bugs: dict[float, str] = {  # a later name wins
            want + 1: "one direction too many",
            want - 1: "one direction too few",
            int((squares.cumsum(0) < share).sum()) + 1: "not divided by the whole energy",
            round(share * len(S)): "a share of the directions and not of the energy",
            int(share * len(S)): "a share of the directions and not of the energy",
            int((share * S[0] < S).sum()): LARGEST,
            int((squares > share * squares[0]).sum()): LARGEST,
            int((squares > (1 - share) * squares[0]).sum()): LARGEST,
            effective_rank(S, 0.9): "the share is not used",
            int((held < share - 1e-12).sum()) + 1: "singular values not squared",
        }
        kept = float(squares[: max(int(got), 0)].sum() / squares.sum())
        raise Wrong(
            bugs.get(got, "a wrong count"),
            f"{len(S)} singular values and a share of {share:.0%}: {want} are needed; the first {got:g} hold {kept:.1%}",
        )
