"""Chapter 09: solutions, stubs and planted bugs; RIGHT and MORE_WRONG hold further programs."""

import functools
import math
import statistics
from decimal import Decimal
from fractions import Fraction

import numpy as np
import torch
from answers_09_budget import BUDGET
from kit import Answers


def memorised(losses, alphabet):
    return len(losses) * math.log2(alphabet) - sum(losses) / math.log(2)


def memorised_stub(losses, alphabet):
    without_the_net = ...
    with_the_net = ...
    return without_the_net - with_the_net


def pops(losses, alphabet):
    total, count = 0.0, len(losses)
    while losses:
        total += losses.pop()
    return count * math.log2(alphabet) - total / math.log(2)


def free_numbers(shapes, r):
    total = 0
    for n_in, n_out in shapes:
        k = min(r, n_in, n_out)
        total += k * (n_in + n_out) - k * k
    return total


def free_numbers_stub(shapes, r): ...


def summed(count, once=0):
    """A count of one matrix, (in, out, r), summed over all, and something for the whole."""
    return lambda shapes, r: sum(count(n_in, n_out, r) for n_in, n_out in shapes) - once * r * r


ANSWERS = {
    "09.1": Answers(
        memorised,
        memorised_stub,
        {
            "the losses are taken for bits": lambda losses, k: len(losses) * math.log2(k) - sum(losses),
            "nats throughout": lambda losses, k: len(losses) * math.log(k) - sum(losses),
            "the mean loss": lambda losses, k: len(losses) * math.log2(k) - sum(losses) / len(losses) / math.log(2),
            "bits a row": lambda losses, k: memorised(losses, k) / len(losses),
            "every label is taken for a coin": lambda losses, k: len(losses) - sum(losses) / math.log(2),
            "the wrong way: ln 2": lambda losses, k: len(losses) * math.log2(k) - sum(losses) * math.log(2),
            "what is left to send": lambda losses, k: sum(losses) / math.log(2),
            "the sign": lambda losses, k: -memorised(losses, k),
            "whatever the net knows": lambda losses, k: len(losses) * math.log2(k),
            "a net is never given less": lambda losses, k: max(0.0, memorised(losses, k)),
            "a row is never given less": lambda losses, k: sum(max(0.0, memorised([loss], k)) for loss in losses),
            "changed in place": pops,
            "each label of the alphabet": lambda losses, k: len(losses) * k - sum(losses) / math.log(2),
            "not a number": lambda losses, k: float("nan"),
        },
    ),
    "09.2": Answers(
        free_numbers,
        free_numbers_stub,
        {
            "every number of A and B": summed(lambda n_in, n_out, r: r * (n_in + n_out)),
            "a rank beyond the matrix": summed(lambda n_in, n_out, r: r * (n_in + n_out) - r * r),
            "once": summed(lambda n_in, n_out, r: r * (n_in + n_out), once=1),
            "taken for r numbers": summed(lambda n_in, n_out, r: r * (n_in + n_out) - r),
            "taken off twice": summed(lambda n_in, n_out, r: r * (n_in + n_out) - 2 * r * r),
            "a rotation": summed(lambda n_in, n_out, r: r * (n_in + n_out) - r * (r - 1) // 2),
            "M is added": summed(lambda n_in, n_out, r: r * (n_in + n_out) + r * r),
            "every entry of ΔW": summed(lambda n_in, n_out, r: n_in * n_out),
            "in times out": summed(lambda n_in, n_out, r: r * n_in * n_out),
            "only A": summed(lambda n_in, n_out, r: r * n_in),
            "only B": summed(lambda n_in, n_out, r: r * n_out),
            "only the first": lambda shapes, r: free_numbers(shapes[:1], r),
            "only the last": lambda shapes, r: free_numbers(shapes[-1:], r),
        },
    ),
} | BUDGET


def bits_by_torch(losses, alphabet):
    return (torch.log2(torch.tensor(float(alphabet))) - torch.tensor(losses) * math.log2(math.e)).sum()


def bits_in_single_precision(losses, alphabet):
    total = np.float32(0)
    for loss in losses:
        total += np.float32(loss)
    return np.float32(len(losses) * np.log2(np.float32(alphabet))) - total / np.float32(math.log(2))


def bits_by_probabilities(losses, alphabet):
    return sum(math.log2(alphabet * math.exp(-loss)) for loss in losses)


def bits_in_decimals(losses, alphabet):
    return Decimal(alphabet).ln() / Decimal(2).ln() * len(losses) - sum(map(Decimal, losses)) / Decimal(2).ln()


def bits_one_by_one(losses, alphabet):
    if not losses:
        return 0.0
    first, *rest = losses
    return math.log2(alphabet) - first / math.log(2) + bits_one_by_one(rest, alphabet)


class Bits:
    def __call__(self, losses, alphabet):
        return functools.reduce(lambda held, loss: held + math.log(alphabet, 2) - loss / math.log(2), losses, 0)


def free_by_numpy(shapes, r):
    sides = np.array(shapes)
    ranks = np.minimum(r, sides.min(1))
    return (ranks * sides.sum(1) - ranks**2).sum()


def free_in_single_precision(shapes, r):
    sides = torch.tensor(shapes, dtype=torch.float32)
    ranks = sides.min(1).values.clamp(max=r)
    return (ranks * (sides.sum(1) - ranks)).sum()


def free_by_rank(shapes, r):
    """The rank of the map from (dA, dB) to dΔW = dB A + B dA, at a random place: what the count stands for."""
    random = np.random.default_rng(0)
    total = 0
    for n_in, n_out in shapes:
        A, B = random.normal(size=(r, n_in)), random.normal(size=(n_out, r))
        jacobian = np.hstack([np.kron(B, np.eye(n_in)), np.kron(np.eye(n_out), A.T)])  # (out·in, r(in + out))
        total += np.linalg.matrix_rank(jacobian) if max(n_in, n_out) < 12 else free_numbers([(n_in, n_out)], r)
    return total


def free_rank_by_rank(shapes, r):
    """Each further direction stands at right angles to the ones before."""
    return sum(n_in + n_out - 2 * k - 1 for n_in, n_out in shapes for k in range(min(r, n_in, n_out)))


RIGHT = [
    *(
        ("09.1", each)
        for each in (
            bits_by_torch,
            bits_in_single_precision,
            bits_by_probabilities,
            bits_in_decimals,
            bits_one_by_one,
            Bits(),
            lambda losses, k: (len(losses) * np.log(k) - np.sum(losses)) / np.log(2),
            lambda losses, k: len(losses) * (math.log2(k) - statistics.fmean(losses) / math.log(2)),
            lambda losses, k: math.log2(k ** len(losses)) - math.fsum(sorted(losses)) / math.log(2),
            lambda losses, k: Fraction(memorised(losses, k)),
            lambda losses, k: torch.tensor([[memorised(losses, k)]]),
        )
    ),
    *(
        ("09.2", each)
        for each in (
            free_by_numpy,
            free_in_single_precision,
            free_by_rank,
            free_rank_by_rank,
            lambda shapes, r: sum(i * o - max(i - r, 0) * max(o - r, 0) for i, o in shapes),
            lambda shapes, r: sum(i * o if r >= min(i, o) else r * (i + o) - r**2 for i, o in shapes),
            lambda shapes, r: Fraction(free_numbers(shapes, r)),
            lambda shapes, r: np.array([free_numbers(shapes, r)]),
        )
    ),
]


def sorts(losses, alphabet):
    losses.sort()
    return memorised(losses, alphabet)


def stays_cut(shapes, r):
    total = 0
    for n_in, n_out in shapes:
        r = min(r, n_in, n_out)
        total += r * (n_in + n_out) - r * r
    return total


def appends(shapes, r):
    shapes.append((1, 1))
    return free_numbers(shapes[:-1], r)


NAT = math.log(2)
MORE_WRONG = [
    ("09.1", lambda losses, k: len(losses) * math.log(k) - sum(losses) / NAT, "without the net in nats"),
    ("09.1", lambda losses, k: memorised(losses, k) / NAT, "divided by ln 2 twice"),
    ("09.1", lambda losses, k: len(losses) * math.log2(k) - sum(losses) / math.log(k), "in units of ln(alphabet)"),
    ("09.1", lambda losses, k: len(losses) * math.log2(k) + sum(losses) / NAT, "is added"),
    ("09.1", lambda losses, k: math.log2(k) - sum(losses) / NAT, "one label alone"),
    ("09.1", lambda losses, k: 1 - sum(losses) / len(losses) / math.log(k), "a share"),
    ("09.1", lambda losses, k: abs(memorised(losses, k)), "the sign is taken away"),
    ("09.1", lambda losses, k: sum(loss < math.log(k) for loss in losses) * math.log2(k), "rows that it knows"),
    ("09.1", lambda losses, k: len(losses) * math.log2(k) - losses[0] / NAT, "only the first row"),
    ("09.1", lambda losses, k: len(losses) * math.log2(k) - len(losses) * statistics.median(losses) / NAT, "median"),
    ("09.1", lambda losses, k: len(losses) * math.log2(len(losses)) - sum(losses) / NAT, "the number of labels"),
    ("09.1", lambda losses, k: k * math.log2(len(losses)) - sum(losses) / NAT, "are exchanged"),
    ("09.1", lambda losses, k: len(losses) * math.log2(k) - math.log2(sum(losses)), "a logarithm is taken"),
    ("09.1", lambda losses, k: len(losses) * math.ceil(math.log2(k)) - sum(losses) / NAT, "whole bits are paid"),
    ("09.1", lambda losses, k: round(memorised(losses, k)), "rounded"),
    ("09.1", lambda losses, k: sum(losses), "what is left to send"),
    ("09.1", lambda losses, k: memorised(losses, k) + 0.5, "another number"),
    ("09.1", lambda losses, k: 20, "the same number"),
    ("09.2", lambda shapes, r: 25, "the same number"),
    ("09.1", lambda losses, k: [math.log2(k) - loss / NAT for loss in losses], "not a number"),
    ("09.1", lambda losses, k: "3 bits", "not a number"),
    ("09.1", lambda losses, k: losses.sum(), "it raises an error"),
    ("09.1", sorts, "changed in place"),
    ("09.2", summed(lambda i, o, r: min(r, i) * (i + o) - min(r, i) ** 2), "cut at in, not at out"),
    ("09.2", summed(lambda i, o, r: min(r, o) * (i + o) - min(r, o) ** 2), "cut at out, not at in"),
    ("09.2", summed(lambda i, o, r: min(r * (i + o) - r * r, i * o)), "a rank above both sides"),
    ("09.2", summed(lambda i, o, r: min(r, i, o) * (i + o) - r * r), "M is not"),
    ("09.2", summed(lambda i, o, r: r * (i + o) - min(r, i, o) ** 2), "A and B are not"),
    ("09.2", stays_cut, "stays cut"),
    ("09.2", lambda shapes, r: free_numbers(set(shapes), r), "of one shape are counted once"),
    ("09.2", lambda shapes, r: free_numbers(shapes, r) + sum(out for _, out in shapes), "a bias"),
    ("09.2", lambda shapes, r: free_numbers(shapes, r) + len(shapes), "α"),
    ("09.2", lambda shapes, r: free_numbers(shapes, r) + 1, "α"),
    ("09.2", summed(lambda i, o, r: min(r, i, o) * (i + o) - r * (r + 1) // 2), "symmetric"),
    ("09.2", summed(lambda i, o, r: min(r, i, o) * (i + o) - 1), "one number"),
    ("09.2", summed(lambda i, o, r: (i - r) * (o - r)), "what cannot be reached"),
    ("09.2", lambda shapes, r: len(shapes) * free_numbers(shapes[:1], r), "the first matrix stands for all"),
    ("09.2", lambda shapes, r: free_numbers(shapes, r) / len(shapes), "the mean of the matrices"),
    ("09.2", lambda shapes, r: free_numbers(shapes, r) + 0.5, "not a whole number"),
    ("09.2", lambda shapes, r: [free_numbers([shape], r) for shape in shapes], "not a number"),
    ("09.2", lambda shapes, r: math.nan, "not a number"),
    ("09.2", appends, "changed in place"),
]
