"""Exercises of chapter 01, Rank and SVD."""

from collections.abc import Callable
from typing import Any

import torch

from lora_edu.course.exercises import (
    Wrong,
    apart,
    as_number,
    as_parts,
    as_tensor,
    as_whole,
    attempt,
    close,
    generator,
    named,
    register,
    same,
)
from lora_edu.linalg import eckart_young_error, low_rank
from lora_edu.plots.axes import percent

SIDE = 64
MATRICES = {
    "identity": torch.eye(SIDE),
    "one row": torch.zeros(SIDE, SIDE).index_fill_(0, torch.tensor([3]), 1.0) * torch.arange(1.0, SIDE + 1),
    "all ones": torch.ones(SIDE, SIDE),
}


@register(
    "01.1",
    title="The rank of three matrices",
    stars=1,
    minutes=4,
    task=f"Give the rank of each of three {SIDE} × {SIDE} matrices, from your head: the identity, one filled row and zeros elsewhere, all ones.",
    wants="ranks",
    shows="Measured by SVD: all ones 1, one row 1, identity 64. Rank counts directions: 4,096 filled entries can be one of them.",
    hints=(
        "The rank is how many directions W x can point in, over all inputs x.",
        "All ones: every output has the same entries, sum(x). One filled row: only one output can be other than 0.",
        "The identity returns each of its 64 inputs' directions untouched.",
    ),
)
def ranks(answer: dict[str, int]) -> None:
    measured = {name: int(torch.linalg.matrix_rank(matrix)) for name, matrix in MATRICES.items()}
    if not isinstance(answer, dict) or set(answer) != set(measured):
        raise Wrong("other keys", f"`ranks` is a dictionary with the keys {list(measured)}")
    named = {
        ("all ones", SIDE): ("entries taken for directions", "All ones has 4,096 filled entries, yet every row is the same row"),
        ("identity", 1): ("few entries taken for low rank", "The identity is nearly empty, yet no row is a multiple of another"),
        ("one row", SIDE): ("size taken for rank", "Only one output of the one-row matrix can ever be other than 0"),
        ("one row", 0): ("zeros taken for rank 0", "The one-row matrix has a single filled row, and one is not none: rank 0 is W = 0 alone"),
    }  # fmt: skip
    for name, value in answer.items():
        if isinstance(value, str):
            raise Wrong("text and not a number", f"write a number, not text: {name!r} has {value!r} in quotes")
        if value != measured[name]:
            bug, why = named.get((name, value), ("a wrong rank", f"{name!r} does not have rank {value}"))
            raise Wrong(bug, why)


@register(
    "01.2",
    title="A rank-1 edit",
    stars=2,
    minutes=12,
    task="Write `edit(W, x1, y1)`: a new matrix that sends x1 to y1, differs from W by a rank-1 matrix, "
    "and treats every x at right angles to x1 as W does.",
    wants="edit",
    shows="One direction listens (x1), one speaks (y1 − W x1): the new matrix sends x1 to y1, and 5 inputs at right angles to x1 did not move.",
    hints=(
        "Write the change as b aᵀ: its output for x is b (a·x). Which a is silent for every x at right angles to x1?",
        "With a = x1 the change at x1 is b (x1·x1), and it has to make up what W x1 lacks: y1 − W x1.",
        "So b = (y1 − W x1) / (x1·x1), and the change is `torch.outer(b, x1)`.",
    ),
)
def rank_one_edit(edit: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    rng = generator()
    for rows, columns in [(6, 6), (7, 5)]:  # the square first: there a swap raises no error
        weight, x1, y1 = (torch.randn(*size, generator=rng) for size in [(rows, columns), (columns,), (rows,)])
        x1 *= 3 / x1.norm()  # far from length 1, so that a missing ‖x1‖² shows
        new = as_tensor(attempt(edit, weight, x1, y1), weight, f"`edit` for W of shape {(rows, columns)}")
        change, lack = new - weight, y1 - weight @ x1
        best = weight + torch.outer(lack, x1) / (x1 @ x1)
        if close(new, best):
            continue
        known = {
            "W is missing": best - weight,
            "not divided by x1·x1": weight + torch.outer(lack, x1),
            "divided by the length of x1, and not by its square x1·x1": weight + torch.outer(lack, x1) / x1.norm(),
            "the whole of y1 is added to what W x1 already gives": weight + torch.outer(y1, x1) / (x1 @ x1),
            "the sign is turned": weight - torch.outer(lack, x1) / (x1 @ x1),
        }
        if rows == columns:
            known["x1 speaks where it should listen: a and b swapped"] = weight + torch.outer(x1, lack) / (x1 @ x1)
            known["the result is transposed"] = best.T
            known["W meets x1 transposed: Wᵀ x1 in place of W x1"] = weight + torch.outer(y1 - weight.T @ x1, x1) / (
                x1 @ x1
            )
        missed = f"W_new x1 misses y1 by {percent(float((new @ x1 - y1).norm() / y1.norm()))} of its length"
        if bug := next((name for name, wrong in known.items() if close(new, wrong)), None):
            raise Wrong(bug, missed)
        if not close(new @ x1, y1, rtol=1e-3):
            raise Wrong("x1 does not arrive at y1", missed)
        rank = int(torch.linalg.matrix_rank(change, rtol=1e-4))
        others = torch.randn(5, columns, generator=rng)
        others -= torch.outer(others @ x1, x1) / (x1 @ x1)
        moved = float((others @ change.T).norm() / (others @ weight.T).norm())
        detail = f"they move by {percent(moved)} of their outputs"
        if rank != 1:
            detail += f"; the change has rank {rank} and should have 1"
        raise Wrong("inputs at right angles to x1 are not treated as before", detail)


@register(
    "01.3",
    title="How many entries does rank 1 touch?",
    stars=1,
    minutes=4,
    task="Write `changed_entries(b, a)`: how many entries of b aᵀ are not 0; so many entries of W change when it is added (rounding aside). "
    "The vectors b (out,) and a (in,) may hold zeros, negative numbers, equal numbers and very small ones.",
    wants="changed_entries",
    shows="(non-zeros of b) × (non-zeros of a): a rank-1 change without zeros changes all 331,776 entries of a 576 × 576 matrix.",
    hints=(
        "Entry (i, j) of b aᵀ is b[i] · a[j].",
        "It is 0 as soon as one of the two factors is 0.",
        "Count the i with b[i] ≠ 0, count the j with a[j] ≠ 0, and multiply.",
    ),
)
def changed_entries(count: Callable[[torch.Tensor, torch.Tensor], int]) -> None:
    rng = generator()
    for rows, columns, zeros in [(9, 7, 0), (13, 8, 4), (10, 10, 3)]:  # the last is square: there b * a raises no error
        b, a = (torch.rand(size, generator=rng) + 0.5 for size in (rows, columns))
        for vector in (b, a):
            vector[::2] *= -1.0
            vector[-2] = vector[-3]  # equal numbers are two numbers
            b[-4] = b[-3]
            vector[-1] *= 1e-12  # small is not zero
        b[:zeros] = 0.0
        a[: zeros - 2 if zeros else 0] = 0.0
        filled_b, filled_a = int((b != 0).sum()), int((a != 0).sum())
        want = filled_b * filled_a
        got = as_number(attempt(count, b, a), "what `changed_entries` returns")
        if same(got, want):
            continue
        above_b, above_a = int((b > 0).sum()), int((a > 0).sum())
        bugs: dict[str, float | tuple[float, ...]] = {
            "zeros are not looked at": rows * columns,
            "rank taken for the number of entries": 1,
            "one vector counted twice": (filled_b**2, filled_a**2),
            "the adapter's own numbers counted": (rows + columns, filled_b + filled_a),
            "small numbers taken for zeros, or lost by rounding when they were added to larger ones": (
                (filled_b - 1) * (filled_a - 1),
                want - 1,
            ),
            "negative numbers are not counted": (above_b * above_a, above_b * filled_a, filled_b * above_a),
            "equal entries counted once": (len(torch.outer(b, a).unique()), len(torch.outer(b, a).unique()) - 1),
            "the diagonal alone counted": (
                min(rows, columns),
                int(((b != 0) & (a != 0)).sum()) if rows == columns else 0,
            ),
            "one row or column alone counted": (max(rows, columns), filled_b, filled_a),
            "the unchanged entries counted": rows * columns - want,
        }
        detail = (
            f"with {rows - filled_b} zeros among the {rows} numbers of b and {columns - filled_a} among the {columns} of a, "
            f"{want} entries of b aᵀ are not 0; you returned {got:g}"
        )
        raise Wrong(named(got, bugs, "a wrong count"), detail)


def _paired_off(U: torch.Tensor, S: torch.Tensor, Vh: torch.Tensor, r: int) -> dict[str, torch.Tensor]:
    """What the product of the two factors is when something went wrong, by the name of the slip."""
    slips = {
        "the singular values are missing": U[:, :r] @ Vh[:r],
        "the singular values are in both factors": (U[:, :r] * S[:r].square()) @ Vh[:r],
        "only the roots of the singular values are there": (U[:, :r] * S[:r].sqrt()) @ Vh[:r],
        "the weakest directions are kept": (U[:, len(S) - r : len(S)] * S[len(S) - r :]) @ Vh[len(S) - r : len(S)],
        "one direction too many": (U[:, : r + 1] * S[: r + 1]) @ Vh[: r + 1],
        "one direction too few": (U[:, : r - 1] * S[: r - 1]) @ Vh[: r - 1],
        "nothing is cut": (U[:, : len(S)] * S) @ Vh[: len(S)],
        "the first directions are left out": (U[:, r : len(S)] * S[r:]) @ Vh[r : len(S)],
    }
    if len(U) == len(Vh):
        slips["the columns of Vh are taken, and its rows are the directions"] = (U[:, :r] * S[:r]) @ Vh[:, :r].T
        slips["the rows of U are taken, and its columns are the directions"] = (U[:r].T * S[:r]) @ Vh[:r]
    return slips


@register(
    "01.4",
    title="Take a matrix apart, and cut it",
    stars=2,
    minutes=10,
    task="Write `cut(M, r)`: take M (m, n) apart with `torch.linalg.svd`, keep the r strongest directions, and return (B, A, error): two thin factors, B (m, r) "
    "and A (r, n), whose product is the cut matrix, and its relative error ‖M − B A‖ / ‖M‖.",
    wants="cut",
    shows="The product has rank r and is the best there is; the error is what the singular values said before. These are the shapes of LoRA's B and A.",
    hints=(
        "`U, S, Vh = torch.linalg.svd(M, full_matrices=False)`: the u are the columns of U, the v the rows of Vh.",
        "Keep `U[:, :r]`, `S[:r]` and `Vh[:r]`. The singular values go into one of the factors: `U[:, :r] * S[:r]` makes each u as loud as it is.",
        "The error is `(M - B @ A).norm() / M.norm()`, or √(the squares of `S[r:]` / the squares of `S`).",
    ),
)
def cut(take_apart: Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor, float]]) -> None:
    rng = generator()
    for m, n, r in [(9, 9, 3), (12, 7, 2), (6, 10, 4)]:  # the square first: there a transposed factor raises no error
        M = torch.randn(m, n, generator=rng)
        U, S, Vh = torch.linalg.svd(M)
        what = f"M of shape {(m, n)} and r = {r}"
        parts = as_parts(attempt(take_apart, M, r), ("B", "A", "error"), "what `cut` returns")
        B, A = (as_tensor(part, like, name) for part, like, name in _thin(parts, M, r))
        error = as_number(parts[2], "the error")
        best, want = low_rank(M, r), eckart_young_error(S, r)
        if not close(B @ A, best, rtol=1e-4):
            slips = _paired_off(U, S, Vh, r)
            bug = next((bug for bug, wrong in slips.items() if close(B @ A, wrong, rtol=1e-4)), "another matrix")
            far = float((M - B @ A).norm() / M.norm())
            raise Wrong(bug, f"{what}: the best error is {want:.3f}, and your product's is {far:.3f}")
        if not same(error, want, 1e-4):
            raise Wrong(named(error, _error_slips(S, r), "a wrong error"), _two_errors(what, error, want))


def _thin(parts: tuple[Any, ...], M: torch.Tensor, r: int) -> list[tuple[Any, torch.Tensor, str]]:
    """The two factors, each with a tensor of the shape that it should have. Raises Wrong where they come the other way round or uncut."""
    (m, n), shapes = M.shape, [tuple(getattr(part, "shape", ())) for part in parts[:2]]
    if shapes == [(r, n), (m, r)]:
        raise Wrong("the factors are the wrong way round", f"return (B, A, error): B is {(m, r)}, A is {(r, n)}")
    if shapes == [(m, r), (n, r)]:
        raise Wrong("A is transposed", f"A should have shape {(r, n)}, a direction in each row; it has {(n, r)}")
    return [(parts[0], M.new_empty(m, r), "B"), (parts[1], M.new_empty(r, n), "A")]


def _error_slips(S: torch.Tensor, r: int) -> dict[str, float]:
    """Errors that are wrong, by the name of the slip."""
    squares = S.double().square()
    left, total = squares[r:].sum(), squares.sum()
    slips = {
        "the square root is missing": left / total,
        "the energy kept and not the error": ((total - left) / total).sqrt(),
        "the share kept and not the error": (total - left) / total,
        "not divided by the whole": left.sqrt(),
        "neither divided by the whole nor rooted": left,
        "singular values not squared": S[r:].sum() / S.sum(),
        "one singular value too few": (squares[r + 1 :].sum() / total).sqrt(),
        "one singular value too many": (squares[max(r - 1, 0) :].sum() / total).sqrt(),
    }
    return {name: float(value) for name, value in slips.items()}


def _two_errors(what: str, got: float, want: float) -> str:
    yours, right = apart(got, want)
    return f"{what}: an error of {right} is left; you returned {yours}"


@register(
    "01.5",
    title="A rank for a budget",
    stars=2,
    minutes=10,
    task="Write `rank_for(S, shape, budget)`. S holds the singular values of a matrix of this shape (m, n), large to small. Return (r, error): the largest "
    "rank whose two factors, m × r and r × n in 4-byte numbers, fit into `budget` bytes (0 where not even one direction fits), and the relative error "
    "that is left when the matrix is cut to that rank.",
    wants="rank_for",
    shows="The budget buys r = budget // (4 (m + n)) directions, at most min(m, n); what they miss is √(sum of the squares left out / sum of all squares).",
    hints=(
        "Two factors of rank r hold r·m + r·n numbers, and each takes 4 bytes.",
        "The largest r that fits is `budget // (4 * (m + n))`. A matrix has no more than min(m, n) directions: r stops there.",
        "`S[r:]` are the singular values left out. The error is `(S[r:].square().sum() / S.square().sum()).sqrt()`.",
    ),
)
def rank_for(choose: Callable[[torch.Tensor, tuple[int, int], int], tuple[int, float]]) -> None:
    rng = generator()
    # (shape, rank, numbers): a large one; one short of the next rank; room for r directions and not for r singular values too; a budget
    # that fits exactly; less than one direction; and room for more directions than there are, in a tall, a wide and a square matrix.
    for (m, n), r, numbers in [
        ((300, 200), 9, 9 * 500 + 20),
        ((40, 24), 3, 4 * 64 - 1),
        ((18, 30), 7, 7 * 48 + 6),
        ((40, 24), 3, 3 * 64),
        ((40, 24), 0, 63),
        ((40, 24), 24, 70 * 64),
        ((18, 30), 18, 70 * 48),
        ((12, 12), 12, 24 * 24),
    ]:
        S = torch.rand(min(m, n), generator=rng).sort(descending=True).values + 0.05
        budget = 4 * numbers
        parts = as_parts(attempt(choose, S, (m, n), budget), ("r", "error"), "what `rank_for` returns")
        left = float((S[r:].square().sum() / S.square().sum()).sqrt())
        first, second = (as_number(part, name) for part, name in zip(parts, ("r", "error")))
        room = f"{m} × {n} and {budget:,} bytes"
        if same(second, r) and same(first, left, 1e-4):
            raise Wrong("the pair is the wrong way round", "return (r, error), in this order")
        rank = as_whole(parts[0], "r")
        if rank != r:
            raise Wrong(_rank_slip(rank, r, m, n, numbers), f"{room} give rank {r}; you returned {rank}")
        if not same(second, left, 1e-4):
            told = _two_errors(f"{room}: rank {r} is right", second, left)
            raise Wrong(named(second, _error_slips(S, r), "a wrong error"), told)


def _rank_slip(rank: int, r: int, m: int, n: int, numbers: int) -> str:
    bought = numbers // (m + n)
    bugs: dict[str, float | tuple[float, ...]] = {
        "a direction that the budget does not pay for": 1 if r == 0 else -1,
        "more directions than the matrix has": (bought, min(bought, max(m, n))) if bought > r else -1,
        "bytes taken for numbers": 4 * numbers // (m + n),
        "the budget is overspent": r + 1,
        "the singular values are paid for as well, and the factors hold them already": (
            numbers // (m + n + 1) if numbers != r * (m + n) else -1
        ),
        "a budget that fits exactly is refused": r - 1 if numbers == r * (m + n) else -1,
        "there was room for one more direction": r - 1,
        "only one of the two factors counted": (min(numbers // m, m, n), min(numbers // n, m, n)),
        "the sizes of another matrix (1,152 = 576 + 576) counted": numbers // 1152,
        "whole matrices counted, and not their factors": numbers // (m * n),
    }
    return named(rank, bugs, "another rank")
