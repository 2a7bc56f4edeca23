"""Singular values and what they say about a matrix: truncation, its error, energy, rank, angles. Chapters 01, 02 and 07.

A matrix M of shape (m, n) is M = U diag(S) Vh, with S sorted from large to small. Every function takes and returns
torch tensors on any device; everything is computed in at least float32, because half precision has no SVD.
"""

import math

import torch
from torch import Tensor

_MORE, _OVERSAMPLED = 16, 4  # of the randomised SVD: directions beside those asked for; how small a part these must be


def _checked(matrix: Tensor) -> Tensor:
    if matrix.ndim != 2:
        raise ValueError(f"expected a matrix, got a tensor of shape {tuple(matrix.shape)}: reshape it to (m, n) first")
    return matrix.detach().to(torch.promote_types(matrix.dtype, torch.float32))


def _checked_rank(r: int, limit: int) -> int:
    if not 0 <= r <= limit:
        raise ValueError(f"rank {r} is outside 0 … {limit}, the smaller side of the matrix")
    return r


def truncated_svd(matrix: Tensor, r: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The r largest singular triplets: U (m, r), S (r,), Vh (r, n); all of them when `r` is None. Chapter 01.

    Raises ValueError when `matrix` is no matrix or `r` exceeds its smaller side.
    """
    M = _checked(matrix)
    r = _checked_rank(min(M.shape) if r is None else r, min(M.shape))
    U, S, Vh = torch.linalg.svd(M, full_matrices=False)
    return U[:, :r], S[:r], Vh[:r]


def low_rank(matrix: Tensor, r: int) -> Tensor:
    """The matrix of rank ≤ r nearest to `matrix` (m, n), in the Frobenius and the spectral norm. Chapter 01.

    Source: Eckart and Young 1936; Mirsky 1960 for every unitarily invariant norm.
    """
    U, S, Vh = truncated_svd(matrix, r)
    return (U * S) @ Vh  # (m, r) @ (r, n)


def eckart_young_error(S: Tensor, r: int) -> float:
    """‖M − M_r‖_F / ‖M‖_F from M's singular values alone: √(Σ_{i>r} σ_i² / Σ σ_i²), between 0 and 1. Chapter 01."""
    _checked_rank(r, len(S))
    squares = S.double().square()
    total = squares.sum()
    return math.sqrt(squares[r:].sum() / total) if total > 0 else 0.0


def energy(S: Tensor) -> Tensor:
    """Share of ‖M‖_F² that the first 1, 2, … singular values hold: a rising curve (len(S),) that ends at 1. Chapter 02."""
    squares = S.double().square()
    total = squares.sum()
    return squares.cumsum(0) / total if total > 0 else torch.ones_like(squares)


def effective_rank(S: Tensor, share: float = 0.9) -> int:
    """How many directions hold `share` of the energy; 0 for a zero matrix. Chapter 02."""
    if not 0 < share <= 1:
        raise ValueError(f"share {share} is not in (0, 1]: 0.9 asks how many directions hold 90 % of the energy")
    if not bool((S > 0).any()):
        return 0
    # A sum of rounded squares may end a hair below 1: the tolerance keeps share=1 within len(S).
    return min(int((energy(S) < share - 1e-12).sum()) + 1, len(S))


def numerical_rank(S: Tensor, shape: tuple[int, int]) -> int:
    """Number of singular values that rounding cannot explain: above max(m, n)·ε·σ₁, with ε that of S's dtype. Chapter 01."""
    if len(S) == 0:
        return 0
    return int((max(shape) * torch.finfo(S.dtype).eps * S[0] < S).sum())


def svd_of_product(B: Tensor, A: Tensor, r: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """SVD of B A for thin factors B (m, k) and A (k, n), without ever building the (m, n) product. Chapter 07.

    With B = Q_b R_b and Aᵀ = Q_a R_a, the product is Q_b (R_b R_aᵀ) Q_aᵀ, so a k × k SVD is enough:
    for k = 16 in a 1536 × 576 layer that is thousands of times less work. Returns U (m, r), S (r,), Vh (r, n).
    """
    Q_b, R_b = torch.linalg.qr(_checked(B))  # (m, k), (k, k)
    Q_a, R_a = torch.linalg.qr(_checked(A).T)  # (n, k), (k, k)
    U, S, Vh = torch.linalg.svd(R_b @ R_a.T, full_matrices=False)
    r = _checked_rank(len(S) if r is None else r, len(S))
    return Q_b @ U[:, :r], S[:r], Vh[:r] @ Q_a.T


def leading_svd(matrix: Tensor, r: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The r largest singular triplets U (m, r), S (r,), Vh (r, n) of a whole matrix; all of them when `r` is None. Chapter 07.

    Where r is a small part of the smaller side, by subspace iteration from a fixed random start (Halko, Martinsson and Tropp 2011):
    2·5 products with an (m, r + 16) matrix instead of a whole SVD. What it gives is U Uᵀ M exactly, so Σσ² is what it holds of ‖M‖_F²
    and the rest is its error, whether or not U is quite the best of its rank.
    """
    M = _checked(matrix)
    if r is None or _OVERSAMPLED * (r + _MORE) > min(M.shape):
        return truncated_svd(M, r)
    start = torch.randn(M.shape[1], r + _MORE, generator=torch.Generator().manual_seed(0)).to(M)
    Q, _ = torch.linalg.qr(M @ start)  # (m, r + 16)
    for _ in range(4):
        Q, _ = torch.linalg.qr(M.T @ Q)
        Q, _ = torch.linalg.qr(M @ Q)
    U, S, Vh = torch.linalg.svd(Q.T @ M, full_matrices=False)  # of an (r + 16, n) matrix
    return Q @ U[:, :r], S[:r], Vh[:r]


def norm_of_product(B: Tensor, A: Tensor) -> float:
    """‖B A‖_F for thin factors B (m, k) and A (k, n), without building the product: ‖R_b R_aᵀ‖_F of their QR. Chapter 07.

    The distance of two such products is that of their stacked factors: ‖B₁A₁ − B₂A₂‖_F = ‖[B₁, −B₂] [A₁; A₂]‖_F.
    """
    R_b = torch.linalg.qr(_checked(B).double(), mode="r").R  # (k, k)
    R_a = torch.linalg.qr(_checked(A).double().T, mode="r").R  # (k, k)
    return float(torch.linalg.norm(R_b @ R_a.T))


def inner_of_products(B1: Tensor, A1: Tensor, B2: Tensor, A2: Tensor) -> float:
    """⟨B₁A₁, B₂A₂⟩_F = tr(A₁ᵀB₁ᵀB₂A₂) = Σ (B₁ᵀB₂) ⊙ (A₁A₂ᵀ): two k₁ × k₂ matrices instead of two (m, n). Chapter 07."""
    left = _checked(B1).double().T @ _checked(B2).double()  # (k₁, k₂)
    right = _checked(A1).double() @ _checked(A2).double().T  # (k₁, k₂)
    return float((left * right).sum())


def principal_angles(U: Tensor, V: Tensor) -> Tensor:
    """Angles in degrees, small to large, between the column spaces of U (m, p) and V (m, q). Chapter 07.

    0 means a shared direction, 90 a direction of one that the other has nothing of. There are as many as the smaller space has
    dimensions: columns that depend on the others count for nothing. In float64: the arc cosine of a number near 1 sees half its digits.
    Source: Björck and Golub 1973. Raises ValueError where the columns differ in length.
    """
    if U.shape[0] != V.shape[0]:
        raise ValueError(f"columns of length {U.shape[0]} and {V.shape[0]} do not live in the same space")
    cosines = torch.linalg.svdvals(_basis(U).T @ _basis(V))
    return torch.rad2deg(torch.acos(cosines.clamp(-1, 1)))


def _basis(matrix: Tensor) -> Tensor:
    """An orthonormal basis (m, k) of the column space, k the numerical rank in the matrix's own precision; in float64."""
    M = _checked(matrix)
    Q, S, _ = torch.linalg.svd(M.double(), full_matrices=False)
    return Q[:, : numerical_rank(S.to(M.dtype), (M.shape[0], M.shape[1]))]
