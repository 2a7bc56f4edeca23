"""Chapter 01: solutions, stubs and planted bugs."""

import torch
from kit import Answers

RIGHT = {"identity": 64, "one row": 1, "all ones": 1}


def edit(W, x1, y1):
    return W + torch.outer(y1 - W @ x1, x1) / (x1 @ x1)


def edit_stub(W, x1, y1):
    raise NotImplementedError


def in_place(W, x1, y1):
    W += torch.outer(y1 - W @ x1, x1) / (x1 @ x1)
    return W


def other_direction(W, x1, y1):
    a = x1 + torch.roll(x1, 1)  # x1 arrives, but others listen too
    return W + torch.outer(y1 - W @ x1, a) / (a @ x1)


def changed(b, a):
    return int((b != 0).sum() * (a != 0).sum())


def changed_stub(b, a):
    pass


def svd(M):
    return torch.linalg.svd(M, full_matrices=False)


def cut(M, r):
    U, S, Vh = svd(M)
    return U[:, :r] * S[:r], Vh[:r], float((S[r:].square().sum() / S.square().sum()).sqrt())


def cut_stub(M, r): ...


def factors(make):
    """`cut` with the factors that `make(U, S, Vh, r)` returns."""
    return lambda M, r: (*make(*svd(M), r), cut(M, r)[2])


def cut_error(error):
    return lambda M, r: (*cut(M, r)[:2], error(svd(M)[1], r))


def rank_for(S, shape, budget):
    m, n = shape
    r = min(budget // (4 * (m + n)), m, n)
    return r, float((S[r:].square().sum() / S.square().sum()).sqrt())


def rank_for_stub(S, shape, budget):
    raise NotImplementedError


def with_rank(rank):
    return lambda S, shape, budget: (rank(*shape, budget), rank_for(S, shape, budget)[1])


def with_error(error):
    return lambda S, shape, budget: (rank_for(S, shape, budget)[0], error(S, rank_for(S, shape, budget)[0]))


ANSWERS = {
    "01.1": Answers(
        RIGHT,
        {"identity": ..., "one row": ..., "all ones": ...},
        {
            "entries taken for directions": RIGHT | {"all ones": 64},
            "few entries taken for low rank": RIGHT | {"identity": 1},
            "size taken for rank": RIGHT | {"one row": 64},
            "zeros taken for rank 0": RIGHT | {"one row": 0},
            "text and not a number": RIGHT | {"identity": "64"},
            "other keys": {"identity": 64},
        },
    ),
    "01.2": Answers(
        edit,
        edit_stub,
        {
            "W is missing": lambda W, x1, y1: edit(W, x1, y1) - W,
            "not divided by x1·x1": lambda W, x1, y1: W + torch.outer(y1 - W @ x1, x1),
            "divided by the length of x1": lambda W, x1, y1: W + torch.outer(y1 - W @ x1, x1) / x1.norm(),
            "the whole of y1 is added": lambda W, x1, y1: W + torch.outer(y1, x1) / (x1 @ x1),
            "an input is changed in place": in_place,
            "at right angles to x1 are not treated as before": other_direction,
            "a and b swapped": lambda W, x1, y1: W + torch.outer(x1, y1 - W @ x1) / (x1 @ x1),
            "the result is transposed": lambda W, x1, y1: edit(W, x1, y1).T,
            "W meets x1 transposed": lambda W, x1, y1: (
                W + torch.outer(y1 - (W.T if W.shape[0] == W.shape[1] else W) @ x1, x1) / (x1 @ x1)
            ),
            "wrong shape": lambda W, x1, y1: edit(W, x1, y1) @ x1,
            "it raises an error": lambda W, x1, y1: W + (y1 - W @ x1) @ x1[None],
        },
    ),
    "01.3": Answers(
        changed,
        changed_stub,
        {
            "zeros are not looked at": lambda b, a: len(a) * len(b),
            "rank taken for the number": lambda b, a: 1,
            "the adapter's own numbers": lambda b, a: len(a) + len(b),
            "negative numbers are not counted": lambda b, a: int((b > 0).sum() * (a > 0).sum()),
            "small numbers taken for zeros": lambda b, a: int((b.abs() > 1e-3).sum() * (a.abs() > 1e-3).sum()),
            "equal entries counted once": lambda b, a: len(set(torch.outer(b, a).flatten().tolist()) - {0.0}),
            "the diagonal alone": lambda b, a: int((b * a != 0).sum()) if len(a) == len(b) else changed(b, a),
            "one vector counted twice": lambda b, a: int((a != 0).sum()) ** 2,
            "nothing is returned": lambda b, a: print(end=""),
        },
    ),
    "01.4": Answers(
        cut,
        cut_stub,
        {
            "the singular values are missing": factors(lambda U, S, Vh, r: (U[:, :r], Vh[:r])),
            "in both factors": factors(lambda U, S, Vh, r: (U[:, :r] * S[:r], S[:r, None] * Vh[:r])),
            "only the roots": factors(lambda U, S, Vh, r: (U[:, :r] * S[:r].sqrt(), Vh[:r])),
            "the weakest directions": factors(lambda U, S, Vh, r: (U[:, -r:] * S[-r:], Vh[-r:])),
            "the columns of Vh": factors(
                lambda U, S, Vh, r: (U[:, :r] * S[:r], Vh[:, :r].T if len(U) == len(Vh.T) else Vh[:r])
            ),
            "the rows of U": factors(
                lambda U, S, Vh, r: ((U[:r].T if len(U) == len(Vh.T) else U[:, :r]) * S[:r], Vh[:r])
            ),
            "A is transposed": factors(lambda U, S, Vh, r: (U[:, :r] * S[:r], Vh[:r].T)),
            "the wrong way round": lambda M, r: (cut(M, r)[1], cut(M, r)[0], cut(M, r)[2]),
            "wrong shape": factors(lambda U, S, Vh, r: (U * S, Vh)),
            "another matrix": factors(lambda U, S, Vh, r: (torch.zeros(len(U), r), Vh[:r])),
            "the square root is missing": cut_error(lambda S, r: S[r:].square().sum() / S.square().sum()),
            "not divided by the whole": cut_error(lambda S, r: S[r:].square().sum().sqrt()),
            "the energy kept": cut_error(lambda S, r: (S[:r].square().sum() / S.square().sum()).sqrt()),
            "not squared": cut_error(lambda S, r: S[r:].sum() / S.sum()),
            "not three values": lambda M, r: cut(M, r)[:2],
        },
    ),
    "01.5": Answers(
        rank_for,
        rank_for_stub,
        {
            "bytes taken for numbers": with_rank(lambda m, n, budget: budget // (m + n)),
            "overspent": with_rank(lambda m, n, budget: -(-budget // (4 * (m + n)))),
            "room for one more": with_rank(lambda m, n, budget: budget // (4 * (m + n)) - 1),
            "more directions than the matrix has": with_rank(lambda m, n, budget: budget // (4 * (m + n))),
            "only one of the two factors": with_rank(lambda m, n, budget: min(budget // (4 * m), m, n)),
            "fits exactly is refused": with_rank(lambda m, n, budget: min((budget - 1) // (4 * (m + n)), m, n)),
            "paid for as well": with_rank(lambda m, n, budget: min(budget // (4 * (m + n + 1)), m, n)),
            "another matrix (1,152": with_rank(lambda m, n, budget: min(budget // (4 * 1152), m, n)),
            "does not pay for": with_rank(lambda m, n, budget: max(1, min(budget // (4 * (m + n)), m, n))),
            "the wrong way round": lambda *given: rank_for(*given)[::-1],
            "whole matrices counted": with_rank(lambda m, n, budget: budget // (4 * m * n)),
            "the square root is missing": with_error(lambda S, r: S[r:].square().sum() / S.square().sum()),
            "the energy kept": with_error(lambda S, r: (S[:r].square().sum() / S.square().sum()).sqrt()),
            "the share kept": with_error(lambda S, r: S[:r].square().sum() / S.square().sum()),
            "not divided by the whole": with_error(lambda S, r: S[r:].square().sum().sqrt()),
            "not squared": with_error(lambda S, r: S[r:].sum() / S.sum()),
            "one singular value too few": with_error(
                lambda S, r: (S[r + 1 :].square().sum() / S.square().sum()).sqrt()
            ),
            "not a pair": lambda S, shape, budget: rank_for(S, shape, budget)[0],
        },
    ),
}
