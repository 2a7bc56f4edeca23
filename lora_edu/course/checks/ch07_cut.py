"""Exercise 07.3, in an optional part of chapter 07: an adapter cut to a rank."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from lora_edu.course.checks.ch06 import MOST_BESIDE, _Beside, _Largest
from lora_edu.course.checks.ch07 import CLOSE, factor_pair, near
from lora_edu.course.exercises import Wrong, attempt, generator, register
from lora_edu.linalg import svd_of_product


def _lengths(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each pair (column of B, row of A): the length of its product, of the row, of the column."""
    a, b = A.norm(dim=1), B.norm(dim=0)
    return a * b, a, b


def _draw_pair(n_out: int, n_in: int, k: int, r: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Factors whose nearest product of rank r is clear in single precision, and no choice of pairs is like another."""
    while True:
        A = torch.randn(k, n_in, generator=draw) * (0.2 + torch.rand(k, 1, generator=draw))
        B = torch.randn(n_out, k, generator=draw) @ torch.randn(k, k, generator=draw)
        S = svd_of_product(B, A)[1]
        chosen = [set(each.argsort(descending=True)[:r].tolist()) for each in _lengths(A, B)]
        chosen += [set(range(r)), set(range(k - r, k))]
        clear = r == k or S[r - 1] > 1.2 * S[r]
        if clear and S[-1] > 0.02 * S[0] and (r > k // 2 or r == 1 or all(x != y for x, y in combinations(chosen, 2))):
            return A, B


def _cuts(A: Tensor, B: Tensor, r: int) -> dict[str, list[Tensor]]:
    """What each way to get the cut wrong leads to."""
    U, S, Vh = svd_of_product(B, A)
    loud, loud_A, loud_B = (each.argsort(descending=True)[:r] for each in _lengths(A, B))
    (Q_b, R_b), (Q_a, R_a) = torch.linalg.qr(B), torch.linalg.qr(A.T)
    u, s, vh = torch.linalg.svd(R_b @ R_a.T)

    def cut(matrix: Tensor) -> Tensor:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return (u[:, :r] * s[:r]) @ vh[:r]

    best = (U[:, :r] * S[:r]) @ Vh[:r]
    return {
        "the first r pairs are kept": [B[:, :r] @ A[:r]],
        "the last r pairs are kept": [B[:, -r:] @ A[-r:]],
        "the r longest pairs are kept": [B[:, loud] @ A[loud]],
        "the pairs with the longest rows of A, or columns of B, are kept": [B[:, i] @ A[i] for i in (loud_A, loud_B)],
        "each factor is cut on its own": [cut(B) @ cut(A), cut(B) @ A, B @ cut(A)],
        "a matrix in the middle is turned": [
            *(Q_b @ cut(each) @ Q_a.T for each in (R_b @ R_a, R_b.T @ R_a, R_b.T @ R_a.T, R_a @ R_b.T)),
            *(Q_b @ (x[:, :r] * s[:r]) @ y[:r] @ Q_a.T for x, y in ((u, vh.T), (u.T, vh), (u.T, vh.T))),
        ],
        "no SVD: the first r columns of Q": [Q_b[:, :r] @ R_b[:r] @ A, B @ (A @ Q_a[:, :r]) @ Q_a[:, :r].T],
        "made as loud as B A was": [best * (S.norm() / S[:r].norm()), best * (S.sum() / S[:r].sum())],
        "the singular values are divided": [best / S[0], best / S.sum(), best / S.norm(), best / S[:r].norm()],
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
    "(chapter 01: the r loudest pieces of its SVD). Without ever making a matrix of shape (out, in), nor any tensor of half as many numbers.",
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
        A, B = _draw_pair(n_out, n_in, k, r, draw)
        with _Beside() as beside, _Largest() as made:
            got = attempt(function, A, B, r)
        new_A, new_B = factor_pair(got, n_out, n_in, "`cut`")
        said = f"for A {tuple(A.shape)}, B {tuple(B.shape)} and r = {r}"
        if len(new_A) != r:
            raise Wrong("another rank than r", f"{said}: A has {len(new_A)} rows")
        U, S, Vh = svd_of_product(B, A)
        want = (U[:, :r] * S[:r]) @ Vh[:r]
        product = new_B @ new_A
        if not near(product, want):
            bug = next((name for name, each in _cuts(A, B, r).items() if any(near(product, x) for x in each)), None)
            best, mine = (float((B @ A - each).norm() / (B @ A).norm()) for each in (want, product))
            raise Wrong(
                bug or ("close, but not exact" if near(product, want, CLOSE) else "another matrix"),
                f"{said}: yours is {mine:.4f} of ‖B A‖ away from B A, the nearest only {best:.4f}",
            )
        if 2 * made.numbers >= n_out * n_in:
            raise Wrong(
                "the big matrix is built" if made.numbers == n_out * n_in
                else "a matrix larger than the big matrix is built" if made.numbers > n_out * n_in
                else "a large matrix is built",
                f"{said}: a tensor of {made.numbers:,} numbers was made; B A has {n_out * n_in:,}, A and B together {A.numel() + B.numel():,}. "
                'Are Q\'s columns as many as the rank (`qr(…, mode="reduced")`, which is the default; `svd(…, full_matrices=False)`, which is not)?',
            )  # fmt: skip
        if beside.most > max(MOST_BESIDE, 2 * n_out * n_in):  # half of B A in single precision
            raise Wrong("the big matrix is built", f"{said}: {beside.most / 1e6:.1f} MB of arrays were held at once")
