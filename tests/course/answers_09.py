"""Chapter 09: solutions, stubs and planted bugs."""

import math

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
