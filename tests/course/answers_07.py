"""Chapter 07: solutions, stubs and planted bugs."""

import math

import numpy as np
import torch
from kit import Answers

from lora_edu.linalg import svd_of_product


def add_up(adapters):
    A = torch.cat([A for A, _, _, _ in adapters])
    B = torch.cat([w * s * B for _, B, s, w in adapters], dim=1)
    return A, B


def add_up_stub(adapters):
    all_A = ...
    all_B = ...
    return all_A, all_B


def on_A(adapters):
    return torch.cat([s * w * A for A, _, s, w in adapters]), torch.cat([B for _, B, _, _ in adapters], dim=1)


def add_up_in_numpy(adapters):
    A = np.concatenate([A.numpy() for A, *_ in adapters])
    return [A, np.concatenate([B.numpy() * (s * w) for _, B, s, w in adapters], axis=1)]


def by_svd(adapters):
    U, S, Vh = svd_of_product(*reversed(add_up(adapters)))
    return Vh, U * S


def by_svd_of_the_sum(adapters):
    total = sum(w * s * B @ A for A, B, s, w in adapters)
    k = min(sum(len(A) for A, *_ in adapters), *total.shape)
    U, S, Vh = torch.linalg.svd(total)
    return Vh[:k], U[:, :k] * S[:k]


def weighed(factor):
    def add(adapters):
        return add_up([(A, B, 1.0, factor(s, w)) for A, B, s, w in adapters])

    return add


def factor_to_factor(factor_A, factor_B, share=1.0):
    def add(adapters):
        return share * sum(factor_A(s, w) * A for A, _, s, w in adapters), sum(
            factor_B(s, w) * B for _, B, s, w in adapters
        )

    return add


def pefts_linear(adapters):
    root = [math.sqrt(abs(s * w)) for _, _, s, w in adapters]
    signs = [math.copysign(1, w) for *_, w in adapters]
    return (
        sum(sign * x * A for sign, x, (A, *_) in zip(signs, root, adapters)),
        sum(x * B for x, (_, B, _, _) in zip(root, adapters)),
    )


def turned(adapters):
    return torch.cat([A for A, *_ in adapters[::-1]]), add_up(adapters)[1]


def full(adapters):
    A, B = add_up(adapters)
    return torch.eye(A.shape[1]), B @ A


def doubled(adapters):
    A, B = add_up(adapters)
    return torch.cat([A, A]), torch.cat([B, B], dim=1) / 2


def in_place(adapters):
    for _, B, s, w in adapters:
        B *= w * s
    return torch.cat([A for A, *_ in adapters]), torch.cat([B for _, B, *_ in adapters], dim=1)


def roots(adapters):
    return (
        torch.cat([math.sqrt(w * s) * A if w > 0 else A * math.nan for A, _, s, w in adapters]),
        torch.cat([math.sqrt(abs(w * s)) * B for _, B, s, w in adapters], dim=1),
    )


def of_one(which):
    """The scale and weight of one adapter for all, as a variable that a loop left behind gives."""

    def add(adapters):
        _, _, s, w = adapters[which]
        return add_up([(A, B, s, w) for A, B, _, _ in adapters])

    return add


def weights_of_sum_1(adapters):
    total = sum(w for *_, w in adapters)
    return weighed(lambda s, w: s * w / total)(adapters)


def popped(adapters):
    return add_up([adapters.pop() for _ in range(len(adapters))])


def share_lost(W0, delta, dtype):
    stored = (W0 + delta).to(dtype).float()
    return (stored - W0 - delta).norm() / delta.norm()


def change(W0, delta, dtype):
    return (W0 + delta).to(dtype).float() - W0


def rounded(of_W0, of_delta, subtract):
    """A merge that rounds one of its parts before it adds, or subtracts another W0 than it was given."""

    def share(W0, delta, dtype):
        W, d = (each.to(dtype).float() if on else each for each, on in ((W0, of_W0), (delta, of_delta)))
        return ((W + d).to(dtype).float() - (W0.to(dtype).float() if subtract else W0) - delta).norm() / delta.norm()

    return share


def line_by_line(dim):
    def share(W0, delta, dtype):
        return ((change(W0, delta, dtype) - delta).norm(dim=dim) / delta.norm(dim=dim)).mean()

    return share


def cut(A, B, r):
    Q_b, R_b = torch.linalg.qr(B)
    Q_a, R_a = torch.linalg.qr(A.T)
    U, S, Vh = torch.linalg.svd(R_b @ R_a.T)
    return Vh[:r] @ Q_a.T, Q_b @ U[:, :r] * S[:r]


def cut_in_numpy(A, B, r):
    Q_b, R_b = np.linalg.qr(B.numpy())
    Q_a, R_a = np.linalg.qr(A.numpy().T)
    U, S, Vh = np.linalg.svd(R_b @ R_a.T)
    root = np.sqrt(S[:r])
    return root[:, None] * (Vh[:r] @ Q_a.T), (Q_b @ U[:, :r]) * root


def cut_by_eigenvalues(A, B, r):
    """Of (B A)(B A)ᵀ without building it: with B = Q R, the eigenvectors of R A Aᵀ Rᵀ."""
    Q, R = torch.linalg.qr(B)
    _, vectors = torch.linalg.eigh(R @ (A @ A.T) @ R.T)
    U = Q @ vectors[:, -r:]  # (out, r)
    return (U.T @ B) @ A, U


def cut_turned_round(A, B, r):
    """NumPy's eigenvalues rise: its rows are turned round, which torch takes only as a copy."""
    Q, R = np.linalg.qr(B.numpy().astype(float))
    A = A.numpy().astype(float)
    U = Q @ np.linalg.eigh(R @ (A @ A.T) @ R.T)[1][:, ::-1][:, :r]
    return ((U.T @ B.numpy()) @ A)[::-1], U[:, ::-1]


def cut_by_grams(A, B, r):
    """By roots of the Gram matrices, one of them from a broadcast product."""
    A, B = A.double(), B.double()
    values, vectors = torch.linalg.eigh((B[:, :, None] * B[:, None, :]).sum(dim=0))
    root = vectors * values.sqrt() @ vectors.T
    U, S, Vh = torch.linalg.svd(root @ A, full_matrices=False)
    return S[:r, None] * Vh[:r], B @ torch.linalg.solve(root, U[:, :r])


def turned_inside(A, B, r):
    (Q_b, R_b), (Q_a, R_a) = torch.linalg.qr(B), torch.linalg.qr(A.T)
    U, S, Vh = torch.linalg.svd(R_b @ R_a)
    return Vh[:r] @ Q_a.T, Q_b @ U[:, :r] * S[:r]


def columns_of_q(A, B, r):
    Q, R = torch.linalg.qr(B)
    return R[:r] @ A, Q[:, :r]


def loud_again(A, B, r):
    U, S, Vh = svd_of_product(B, A)
    return Vh[:r], U[:, :r] * S[:r] * S.norm() / S[:r].norm()


def longest_rows(A, B, r):
    best = A.norm(dim=1).argsort(descending=True)[:r]
    return A[best], B[:, best]


def with_S(power):
    def wrong(A, B, r):
        U, S, Vh = svd_of_product(B, A)
        return Vh[:r], U[:, :r] * S[:r] ** power

    return wrong


def built(A, B, r):
    U, S, Vh = torch.linalg.svd(B @ A, full_matrices=False)
    return Vh[:r], U[:, :r] * S[:r]


def with_full_q(A, B, r):
    Q_b, R_b = torch.linalg.qr(B, mode="complete")
    U, S, Vh = torch.linalg.svd(R_b[: A.shape[0]] @ A, full_matrices=False)
    return Vh[:r], Q_b[:, : A.shape[0]] @ U[:, :r] * S[:r]


def longest(A, B, r):
    best = (B.norm(dim=0) * A.norm(dim=1)).argsort(descending=True)[:r]
    return A[best], B[:, best]


def each_on_its_own(A, B, r):
    def nearest(M):
        U, S, Vh = torch.linalg.svd(M, full_matrices=False)
        return (U[:, :r] * S[:r]) @ Vh[:r]

    U, S, Vh = svd_of_product(nearest(B), nearest(A))
    return Vh[:r], U[:, :r] * S[:r]


def smallest(A, B, r):
    U, S, Vh = svd_of_product(B, A)
    return Vh[-r:], U[:, -r:] * S[-r:]


ANSWERS = {
    "07.1": Answers(
        add_up,
        add_up_stub,
        {
            "A is added to A and B to B": factor_to_factor(lambda s, w: 1.0, lambda s, w: s * w),
            "the scale is forgotten": weighed(lambda s, w: w),
            "the weight is forgotten": weighed(lambda s, w: s),
            "scale and weight are forgotten": weighed(lambda s, w: 1.0),
            "the weight counts twice": weighed(lambda s, w: s * w * w),
            "the scale counts twice": weighed(lambda s, w: s * s * w),
            "scale and weight count twice": weighed(lambda s, w: (s * w) ** 2),
            "the scale divides": weighed(lambda s, w: w / s),
            "the sign of a weight is lost": weighed(lambda s, w: s * abs(w)),
            "the mean, not the sum": lambda adapters: (add_up(adapters)[0], add_up(adapters)[1] / len(adapters)),
            "only the first adapter": lambda adapters: add_up(adapters[:1]),
            "A and B do not stand in the same order": turned,
            "the rank is too high": doubled,
            "A and B are exchanged": lambda adapters: add_up(adapters)[::-1],
            "not a pair": lambda adapters: sum(w * s * B @ A for A, B, s, w in adapters),
            "an input is changed in place": in_place,
            "not finite": roots,
            "the root of scale and weight counts once": weighed(lambda s, w: math.copysign(math.sqrt(abs(s * w)), w)),
            "scale and weight are added": weighed(lambda s, w: s + w),
            "the sign is turned round": weighed(lambda s, w: -s * w),
            "a weight below 0 counts as 0": lambda adapters: add_up([each for each in adapters if each[3] >= 0]),
            "a weight of 0 counts as 1": weighed(lambda s, w: s * (w or 1.0)),
            "a sum of 1": weights_of_sum_1,
            "the rank divides": lambda adapters: add_up([(A, B, s / len(A), w) for A, B, s, w in adapters]),
            "of one adapter serve for all": of_one(-1),
            "an adapter is left out": lambda adapters: add_up(adapters[:2]),
            "cut to a smaller rank": lambda adapters: cut(*add_up(adapters), max(len(A) for A, *_ in adapters)),
            "close, but not exact": lambda adapters: tuple(M.bfloat16() for M in add_up(adapters)),
            "not a matrix": lambda adapters: tuple(M.flatten() for M in add_up(adapters)),
            "it raises an error": lambda adapters: (
                torch.stack([A for A, *_ in adapters]).flatten(0, 1),
                add_up(adapters)[1],
            ),  # for equal ranks only
        },
    ),
    "07.2": Answers(
        share_lost,
        lambda W0, delta, dtype: ...,
        {
            "the dtype is not used": lambda W0, delta, dtype: 0.0,
            "measured against W₀": lambda W0, delta, dtype: (change(W0, delta, dtype) - delta).norm() / W0.norm(),
            "what is kept": lambda W0, delta, dtype: 1 - share_lost(W0, delta, dtype),
            "only ΔW is rounded": lambda W0, delta, dtype: (delta.to(dtype).float() - delta).norm() / delta.norm(),
            "two lengths are compared": lambda W0, delta, dtype: 1 - change(W0, delta, dtype).norm() / delta.norm(),
            "squared": lambda W0, delta, dtype: share_lost(W0, delta, dtype) ** 2,
            "in percent": lambda W0, delta, dtype: 100 * share_lost(W0, delta, dtype),
            "a length, not a share": lambda W0, delta, dtype: (change(W0, delta, dtype) - delta).norm(),
            "the share of entries": lambda W0, delta, dtype: (change(W0, delta, dtype) == 0).float().mean(),
            "entry by entry": lambda W0, delta, dtype: ((change(W0, delta, dtype) - delta) / delta).abs().mean(),
            "the sum of absolute values": lambda W0, delta, dtype: (
                (change(W0, delta, dtype) - delta).abs().sum() / delta.abs().sum()
            ),
            "the largest entry": lambda W0, delta, dtype: (
                (change(W0, delta, dtype) - delta).abs().max() / delta.abs().max()
            ),
            "not a number": lambda W0, delta, dtype: (change(W0, delta, dtype) - delta) / delta,
            "another dtype": lambda W0, delta, dtype: share_lost(W0, delta, torch.bfloat16),
            "W₀ is rounded too": rounded(False, False, True),
            "only W₀ is rounded": lambda W0, delta, dtype: (W0.to(dtype).float() - W0).norm() / delta.norm(),
            "ΔW is rounded before it is added": rounded(False, True, False),
            "W₀ is not subtracted": lambda W0, delta, dtype: (W0 + delta).to(dtype).float().norm() / delta.norm(),
            "against the change that was stored": lambda W0, delta, dtype: (
                (change(W0, delta, dtype) - delta).norm() / change(W0, delta, dtype).norm()
            ),
            "one root too many": lambda W0, delta, dtype: share_lost(W0, delta, dtype) ** 0.5,
            "the sign is turned round": lambda W0, delta, dtype: -share_lost(W0, delta, dtype),
            "never above 1": lambda W0, delta, dtype: share_lost(W0, delta, dtype).clamp(max=1),
            "vanishes whole": lambda W0, delta, dtype: delta[change(W0, delta, dtype) == 0].norm() / delta.norm(),
            "row by row": line_by_line(1),
            "plus and minus cancel": lambda W0, delta, dtype: (change(W0, delta, dtype) - delta).sum() / delta.sum(),
            "the spread": lambda W0, delta, dtype: (change(W0, delta, dtype) - delta).std() / delta.std(),
            "the largest direction": lambda W0, delta, dtype: (
                torch.linalg.matrix_norm(change(W0, delta, dtype) - delta, 2) / torch.linalg.matrix_norm(delta, 2)
            ),
            "what lies along ΔW": lambda W0, delta, dtype: (
                1 - (change(W0, delta, dtype) * delta).sum() / (delta * delta).sum()
            ),
        },
    ),
    "07.3": Answers(
        cut,
        lambda A, B, r: (..., ...),
        {
            "the first r pairs are kept": lambda A, B, r: (A[:r], B[:, :r]),
            "the last r pairs are kept": lambda A, B, r: (A[-r:], B[:, -r:]),
            "the r longest pairs are kept": longest,
            "each factor is cut on its own": each_on_its_own,
            "the singular values are forgotten": with_S(0),
            "the singular values count twice": with_S(2),
            "the root of the singular values counts once": with_S(0.5),
            "the smallest directions are kept": smallest,
            "another rank than r": lambda A, B, r: (A, B),
            "the big matrix is built": built,
            "another matrix": lambda A, B, r: (A[:r], 2 * B[:, :r]),
            "longest rows of A": longest_rows,
            "a matrix in the middle is turned": turned_inside,
            "no SVD": columns_of_q,
            "made as loud as B A was": loud_again,
            "divided": lambda A, B, r: (cut(A, B, r)[0], cut(A, B, r)[1] / svd_of_product(B, A)[1][0]),
            "close, but not exact": lambda A, B, r: tuple(M.half() for M in cut(A, B, r)),
            "not finite": lambda A, B, r: (cut(A, B, r)[0] / 0, cut(A, B, r)[1]),
            "not a matrix": lambda A, B, r: tuple(M.squeeze() for M in cut(A, B, r)),
            "A and B are exchanged": lambda A, B, r: cut(A, B, r)[::-1],
            "larger than the big matrix": with_full_q,
            "a large matrix is built": lambda A, B, r: (B[len(B) // 2 :] @ A, cut(A, B, r))[1],
        },
    ),
}

RIGHT = {  # in other styles
    "07.1": [
        lambda adapters: add_up([each for each in adapters if each[3]]),  # a weight of 0 adds nothing
        lambda adapters: add_up(adapters[::-1]),
        lambda adapters: [M.T.contiguous().T for M in add_up(adapters)],
        lambda adapters: [
            M.double().numpy()[::-1] if i == 0 else M.numpy()[:, ::-1] for i, M in enumerate(add_up(adapters))
        ],
    ],
    "07.2": [
        lambda W0, delta, dtype: torch.dist((W0 + delta).to(dtype).float(), W0 + delta) / delta.norm(),
        lambda W0, delta, dtype: np.linalg.norm((change(W0, delta, dtype) - delta).numpy()) / np.linalg.norm(delta),
        lambda W0, delta, dtype: share_lost(W0.double(), delta.double(), dtype),
    ],
    "07.3": [cut_turned_round, cut_by_grams, lambda A, B, r: cut(A.double().requires_grad_(), B.double(), r)],
}
MORE_WRONG = [  # other ways to a bug that is planted above
    ("07.1", popped, "an input is changed in place"),
    ("07.2", rounded(True, True, False), "W₀ is rounded too"),
    ("07.2", line_by_line(0), "row by row"),
]
