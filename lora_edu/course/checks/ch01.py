"""Exercises of chapter 01, Rank and SVD."""

from collections.abc import Callable

import torch

from lora_edu.course.exercises import Wrong, as_tensor, attempt, close, generator, register
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
    shows="One direction listens (x1), one speaks (y1 − W x1): W_new x1 = y1, and 5 inputs at right angles to x1 did not move.",
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
            "not divided by ‖x1‖²": weight + torch.outer(lack, x1),
            "divided by ‖x1‖ and not by its square": weight + torch.outer(lack, x1) / x1.norm(),
            "the whole of y1 is added to what W x1 already gives": weight + torch.outer(y1, x1) / (x1 @ x1),
            "the sign is turned": weight - torch.outer(lack, x1) / (x1 @ x1),
        }
        if rows == columns:
            known["x1 speaks where it should listen: a and b swapped"] = weight + torch.outer(x1, lack) / (x1 @ x1)
            known["the result is transposed"] = best.T
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
    task="Write `changed_entries(b, a)`: how many entries of W differ after adding b aᵀ. The vectors b (out,) and a (in,) may hold zeros, negative numbers and small ones.",
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
    for rows, columns, zeros in [(9, 6, 0), (11, 8, 3)]:
        b, a = (torch.rand(size, generator=rng) + 0.5 for size in (rows, columns))
        for vector in (b, a):
            vector[1::3] *= -1.0
            vector[-1] *= 1e-4  # small is not zero
        b[:zeros] = 0.0
        a[: zeros - 1 if zeros else 0] = 0.0
        filled_b, filled_a = int((b != 0).sum()), int((a != 0).sum())
        got, want = attempt(count, b, a), filled_b * filled_a
        if not isinstance(got, int | float | torch.Tensor) or (isinstance(got, torch.Tensor) and got.numel() != 1):
            raise Wrong("not a number", f"`changed_entries` returned {type(got).__name__}")
        if float(got) == want:
            continue
        above_b, above_a = int((b > 0).sum()), int((a > 0).sum())
        bugs = {
            above_b * above_a: "negative numbers are not counted",
            above_b * filled_a: "negative numbers are not counted",
            filled_b * above_a: "negative numbers are not counted",
            (filled_b - 1) * (filled_a - 1): "small numbers taken for zeros",
            want - 1: "small numbers taken for zeros",
            1: "rank taken for the number of entries",
            rows + columns: "the adapter's own numbers counted",
            filled_b + filled_a: "the adapter's own numbers counted",
            rows * columns: "zeros are not looked at",
            min(rows, columns): "the diagonal alone counted",
            max(rows, columns): "one row or column alone counted",
            rows * columns - want: "the unchanged entries counted",
        }
        detail = (
            f"with {rows - filled_b} zeros among the {rows} numbers of b and {columns - filled_a} among the {columns} of a, "
            f"{want} entries change; you returned {float(got):g}"
        )
        raise Wrong(bugs.get(int(float(got)), "a wrong count"), detail)


@register(
    "01.4",
    title="A rank for a budget",
    stars=2,
    minutes=10,
    task="Write `rank_for(S, shape, budget)`. S holds the singular values of a matrix of this shape (m, n), large to small. Return (r, error): the largest "
    "rank whose two factors, m × r and r × n in fp32, fit into `budget` bytes, and the relative error that is left when the matrix is cut to that rank.",
    wants="rank_for",
    shows="The budget buys r = budget // (4 (m + n)) directions, at most min(m, n); what they miss is √(sum of the squares left out / sum of all squares).",
    hints=(
        "Two factors of rank r hold r·m + r·n numbers, and an fp32 number takes 4 bytes.",
        "The largest r that fits is `budget // (4 * (m + n))`. A matrix has no more than min(m, n) directions: r stops there.",
        "`S[r:]` are the singular values left out. The error is `(S[r:].square().sum() / S.square().sum()).sqrt()`.",
    ),
)
def rank_for(choose: Callable[[torch.Tensor, tuple[int, int], int], tuple[int, float]]) -> None:
    rng = generator()
    # One number short of the next rank, twice; room for twice as many directions as there are; a budget that fits exactly.
    for (m, n), r, numbers in [
        ((40, 24), 3, 4 * 64 - 1),
        ((18, 30), 7, 8 * 48 - 1),
        ((12, 12), 12, 24 * 24),
        ((40, 24), 3, 3 * 64),
    ]:
        S = torch.linalg.svdvals(torch.randn(m, n, generator=rng) * torch.linspace(3, 0.2, n))
        budget = 4 * numbers
        got = attempt(choose, S, (m, n), budget)
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Wrong("not a pair", f"`rank_for` should return (r, error); it returned {type(got).__name__}")
        rank, error = (float(value) for value in got)
        room = f"{m} × {n} and {budget:,} bytes"
        if rank != r:
            bugs: dict[float, str] = {
                budget // (m + n): "bytes taken for numbers",
                r + 1: "the budget is overspent",
                r - 1: "a budget that fits exactly is refused"
                if numbers == r * (m + n)
                else "there was room for one more direction",
                2 * r: "more directions than the matrix has",
                min(budget // (4 * m), m, n): "only one of the two factors counted",
                min(budget // (4 * n), m, n): "only one of the two factors counted",
                budget // (4 * m * n): "whole matrices counted, and not their factors",
            }
            raise Wrong(bugs.get(rank, "another rank"), f"{room} give rank {r}; you returned {rank:g}")
        squares = S.square()
        left, total = squares[r:].sum(), squares.sum()
        want = float((left / total).sqrt())
        if abs(error - want) <= 1e-4:
            continue
        slips = {
            "the square root is missing": left / total,
            "the energy kept and not the error": ((total - left) / total).sqrt(),
            "the share kept and not the error": (total - left) / total,
            "not divided by the whole": left.sqrt(),
            "singular values not squared": S[r:].sum() / S.sum(),
            "one singular value too few": (squares[r + 1 :].sum() / total).sqrt(),
            "one singular value too many": (squares[r - 1 :].sum() / total).sqrt(),
        }
        bug = next((name for name, value in slips.items() if abs(float(value) - error) < 1e-5), "a wrong error")
        raise Wrong(bug, f"{room}: rank {r} is right, and leaves an error of {want:.4f}; you returned {error:.4f}")
