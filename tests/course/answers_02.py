"""Chapter 02: solutions, stubs and planted bugs."""

import torch
from kit import Answers

from lora_edu.linalg import effective_rank


def train_change(
    W0, x, y, r, *, lr=0.03, steps=250, zero_A=False, base=1.0, sign=1.0, bias=False, W0_too=False, power=2
):
    n_out, n_in = W0.shape
    A = (torch.randn(r, n_in) / n_in**0.5 * (not zero_A)).requires_grad_()
    B, b = torch.zeros(n_out, r).requires_grad_(), torch.zeros(n_out, requires_grad=bias)
    W0.requires_grad_(W0_too)
    optimizer = torch.optim.Adam([B, A] + [b] * bias, lr=lr)
    for _ in range(steps):
        loss = (x @ (base * W0 + sign * B @ A).T + b - y).pow(power).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return B, A


def train_stub(W0, x, y, r):
    B = ...
    A = ...
    return B, A


def train_W0_too(W0, x, y, r):
    B, A = train_change(W0, x, y, r, steps=2)
    W0 += 0.1 * (B @ A).detach()
    return B, A


def bent(**changes):
    return lambda W0, x, y, r: train_change(W0, x, y, r, **changes)


def planted_rank(W0, x, y):
    return int(torch.linalg.matrix_rank(y - x @ W0.T))


def rank_stub(W0, x, y): ...


def share_of(S):
    return S.square().cumsum(0) / S.square().sum()


def directions_for(S, share):
    return int((share_of(S) < share).sum()) + 1


def directions_stub(S, share): ...


ANSWERS = {
    "02.1": Answers(
        train_change,
        train_stub,
        {
            "nothing moved": bent(zero_A=True),
            "not there yet": bent(steps=5),
            "W0 is not in the sum": bent(base=0.0),
            "something else trains as well": bent(bias=True, steps=400),
            "W0 trains": bent(W0_too=True),
            "the sign is turned": bent(sign=-1.0),
            "the two are swapped": lambda W0, x, y, r: train_change(W0, x, y, r, steps=2)[::-1],
            "an input is changed in place": train_W0_too,
            "wrong shape": lambda W0, x, y, r: train_change(W0, x, y, r + 1, steps=2),
            "not a pair": lambda W0, x, y, r: torch.matmul(*train_change(W0, x, y, r, steps=2)),
            "it raises an error": lambda W0, x, y, r: x @ (W0 + torch.zeros(r, 2)).T,
        },
    ),
    "02.2": Answers(
        planted_rank,
        rank_stub,
        {
            "W₀ is not taken away": lambda W0, x, y: torch.linalg.matrix_rank(y),
            "one direction too many": lambda W0, x, y: planted_rank(W0, x, y) + 1,
            "the rows are counted": lambda W0, x, y: len(y - x @ W0.T),
            "not a number": lambda W0, x, y: y - x @ W0.T,
            "it raises an error": lambda W0, x, y: torch.linalg.matrix_rank(y - x @ W0),
            "one direction too few": lambda W0, x, y: planted_rank(W0, x, y) - 1,
            "rounding is counted": lambda W0, x, y: (torch.linalg.svdvals(y - x @ W0.T) > 1e-8).sum(),
            "the count for 90 %": lambda W0, x, y: effective_rank(torch.linalg.svdvals(y - x @ W0.T)),
            "another rank": lambda W0, x, y: torch.linalg.matrix_rank((y - x @ W0.T)[:5]),  # five rows hide the rest
        },
    ),
    "02.3": Answers(
        directions_for,
        directions_stub,
        {
            "singular values not squared": lambda S, share: int((S.cumsum(0) / S.sum() < share).sum()) + 1,
            "one direction too few": lambda S, share: int((share_of(S) < share).sum()),
            "one direction too many": lambda S, share: int((share_of(S) < share).sum()) + 2,
            "not divided by the whole energy": lambda S, share: int((S.square().cumsum(0) < share).sum()) + 1,
            "a share of the directions": lambda S, share: int(share * len(S)),
            "compared with the largest": lambda S, share: int((S.square() > (1 - share) * S[0] ** 2).sum()),
            "the share is not used": lambda S, share: directions_for(S, 0.9),
            "not a number": lambda S, share: share_of(S),
            "nothing is returned": lambda S, share: print(end=""),
        },
    ),
}
