"""Exercises of chapter 09, Where and how much."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lora_edu.course.exercises import Wrong, as_number, attempt, generator, register
from lora_edu.course.values import apart, named, same
from lora_edu.experiments.capacity import free_parameters, memorised_bits

LABELS = (10, 2, 4, 26)  # sizes of the alphabets that are tried; of two, too many mistakes lead to one number


@register(
    "09.1",
    title="How many bits are in there?",
    stars=2,
    minutes=8,
    task="Write `memorised(losses, alphabet)`: how many bits a net holds of labels that were drawn at random, each of the `alphabet` labels as "
    "likely as any other. `losses` is a list with the net's cross-entropy at each row, in nats: −ln p(label). A net that guesses holds 0 bits; "
    "one that is sure of wrong labels less than none.",
    wants="memorised",
    shows="What the labels take without the net, less what they take with it: for any alphabet, for sure nets, guessing ones, and wrong ones.",
    hints=(
        "Think of sending the labels to somebody. Without the net: how many bits does one label of two take, one of four, all N together?",
        "With the net, a label takes −log₂ p bits. The loss is −ln p: what stands between ln and log₂?",
        "N·log₂(alphabet) bits without it, and the sum of the losses, divided by ln 2, with it.",
    ),
)
def memorised(function: Callable[[list[float], int], float]) -> None:
    random = generator()
    for alphabet in LABELS:
        rows = 2 * int(torch.randint(5, 15, (), generator=random)) + 1  # odd: no alphabet, and no power of two
        guess = math.log(alphabet)
        most = 0.3 + 0.6 * float(torch.rand((), generator=random))
        losses = (most * guess * torch.rand(rows, generator=random, dtype=torch.float64)).tolist()
        losses[rows // 2] = 1.3 * guess  # a net that has learnt, all but one row; in the sum it holds more than none
        _judge_bits(function, losses, alphabet)
        wrong = [loss / 8 if i % 2 else loss + 6 * guess for i, loss in enumerate(losses)]  # one sure of wrong labels
        _judge_bits(function, wrong, alphabet)
        _judge_bits(function, [math.log(alphabet)] * rows, alphabet)  # guesses
    _judge_bits(function, [0.7], 2)


def _judge_bits(function: Callable[[list[float], int], float], losses: list[float], alphabet: int) -> None:
    given = list(losses)
    got = as_number(attempt(function, given, alphabet), "what `memorised` returned")
    if given != losses:
        raise Wrong("the losses are changed in place", "`memorised` changed the list that it was given")
    rows, total, mean, nat = len(losses), sum(losses), sum(losses) / len(losses), math.log(2)
    want = float(memorised_bits(torch.tensor(losses, dtype=torch.float64), alphabet))
    guess = math.log(alphabet)
    without, known = rows * math.log2(alphabet), sum(loss < guess for loss in losses)
    if abs(got - want) <= 1e-5 * (
        without + total
    ):  # a difference of two large numbers: as fine as single precision has them
        return
    _varies(function, got, [loss / 20 for loss in (*losses, guess)], alphabet + 1)  # a net that is sure
    bugs: dict[str, float | tuple[float, ...]] = {
        "the losses are taken for bits": without - total,
        "nats throughout, not bits": rows * guess - total,
        "the mean loss, not the sum": (without - mean / math.log(2), without - mean),
        "bits a row, not of all rows": (math.log2(alphabet) - mean / math.log(2), math.log2(alphabet) - mean),
        "every label is taken for a coin": (rows - total / math.log(2), rows - total),
        "turned the wrong way: ln 2 times, not divided by it": without - total * math.log(2),
        "one coin's bits are counted for each label of the alphabet": rows * alphabet - total / math.log(2),
        "without the net in nats, with it in bits": rows * guess - total / nat,
        "what the net leaves is added, not taken off": (without + total / nat, without + total),
        "divided by ln 2 twice": want / nat,
        "what the net leaves in units of ln(alphabet), not of ln 2": without - total / guess,
        "one label alone is sent without the net": math.log2(alphabet) - total / nat,
        "the number of labels stands in for the alphabet": rows * math.log2(rows) - total / nat,
        "rows and alphabet are exchanged": alphabet * math.log2(rows) - total / nat,
        "only the first row's loss counts": (without - losses[0] / nat, without - losses[0]),
        "only the last row's loss counts": (without - losses[-1] / nat, without - losses[-1]),
        "the median loss, not the mean": without - rows * statistics.median(losses) / nat,
        "a logarithm is taken of the losses": (without - math.log2(total), without - sum(map(math.log2, losses))),
        "a share, not bits": (1 - total / (rows * guess), total / (rows * guess)),
        "what is left to send, not what is held": (total / nat, total),
        "the rows that it knows are counted": (known, known * math.log2(alphabet)),
        "bits are rounded": (round(want), math.floor(want), math.trunc(want), round(want, 1), round(want, 2)),
        "whole bits are paid for a label": (
            rows * math.ceil(math.log2(alphabet)) - total / nat,
            rows * int(math.log2(alphabet)) - total / nat,
        ),
        "the sign is turned round" if want > 0 else "the sign is taken away": -want,
        "what guessing takes, whatever the net knows": (without, rows),
        "a net is never given less than nothing": max(want, 0.0),
        "a row is never given less than nothing": sum(
            max(0.0, math.log2(alphabet) - loss / math.log(2)) for loss in losses
        ),
    }
    bug = named(got, {name: value for name, value in bugs.items() if value != want}, "another number of bits")
    found, wanted = apart(got, want)
    raise Wrong(
        bug,
        f"for {rows} labels out of {alphabet}, with a mean loss of {mean:.4g} nats, you give {found} bits, not {wanted}",
    )


def _varies(function: Callable[..., float], got: float, *others: Any) -> None:
    """Raises Wrong where a wrong answer is given of other inputs, too: by chance it may be the number of some mistake."""
    if as_number(attempt(function, *others), "what was returned") == got:
        raise Wrong("the same number, whatever is given", f"you give {got:,.12g} of other inputs, too")


Shapes = Sequence[tuple[int, int]]
SMALL = [(5, 5)]
MIXED = [(6, 9), (11, 6), (30, 22)]  # 8 lies between the sides of two, 10 above those of one
LLAMA = [(16, 16), (16, 8), (16, 8), (16, 16), (16, 44), (16, 44), (44, 16)]


@register(
    "09.2",
    title="Numbers that say something",
    stars=2,
    minutes=9,
    task="Write `free_numbers(shapes, r)`: in how many directions can all the ΔW = BA of an adapter move together? `shapes` lists (in, out) of each "
    "adapted matrix, and each has a pair A (r, in), B (out, r). Remember chapter 07: (A, B) and (MA, BM⁻¹) are one adapter. And a rank may be "
    "larger than a matrix has sides.",
    wants="free_numbers",
    shows="The count is the rank of the map from (A, B) to ΔW, matrix for matrix; a full rank counts as in·out, and a higher one adds nothing.",
    hints=(
        "How many numbers are in A and B, and how many in M, which changes them without changing ΔW? Each matrix has an M of its own.",
        "Try r = in = out: A and B hold twice as many numbers as ΔW has. What must the count be?",
        "r(in + out) − r² for each matrix, with r no larger than in and out; then the sum.",
    ),
)
def free_numbers(function: Callable[[list[tuple[int, int]], int], int]) -> None:
    random = generator()
    sizes = torch.randint(9, 40, (4, 2), generator=random).tolist()
    drawn = [(n + 31 * i, 2 * n + more + 31 * i) for i, (n, more) in enumerate(sizes)]
    cases: list[tuple[Shapes, int]] = [
        (drawn, 5), ([(9, 6)], 3), (LLAMA, 4), ([(7, 4)], 1), (SMALL, 5), (MIXED, 8), (MIXED, 10)
    ]  # fmt: skip
    for shapes, r in cases:
        given = list(shapes)
        got = as_number(attempt(function, given, r), "what `free_numbers` returned")
        if given != list(shapes):
            raise Wrong("the shapes are changed in place", "`free_numbers` changed the list that it was given")
        want = sum(free_parameters(n_in, n_out, r) for n_in, n_out in shapes)
        if same(got, want):
            continue
        _varies(function, got, [(n_out + 1, n_in + 2) for n_in, n_out in (*shapes, (3, 4))], r + 1)
        numbers = sum(r * (n_in + n_out) for n_in, n_out in shapes)
        cut = [min(r, *shape) for shape in shapes]
        kept = [min(cut[: i + 1]) for i in range(len(cut))]  # what is left of a rank that is cut once and for all
        n, one, outs = len(shapes), "a rank that is cut for one matrix stays cut", sum(n_out for _, n_out in shapes)
        bugs: dict[str, float | tuple[float, ...]] = {
            "every number of A and B is counted": numbers,
            "a rank beyond the matrix is counted on": numbers - len(shapes) * r * r,
            "M is taken off once, not for each matrix": numbers - r * r,
            "M is taken for r numbers": numbers - len(shapes) * r,
            "M is taken off twice": numbers - 2 * len(shapes) * r * r,
            "M is taken for a rotation: r(r − 1)/2 numbers": numbers - len(shapes) * r * (r - 1) // 2,
            "M is added, not taken off": numbers + len(shapes) * r * r,
            "every entry of ΔW is counted": sum(n_in * n_out for n_in, n_out in shapes),
            "in times out, not in plus out": sum(r * n_in * n_out for n_in, n_out in shapes),
            "only A is counted": sum(r * n_in for n_in, _ in shapes),
            "only B is counted": sum(r * n_out for _, n_out in shapes),
            "only the first matrix is counted": free_parameters(*shapes[0], r),
            "only the last matrix is counted": free_parameters(*shapes[-1], r),
            "the mean of the matrices, not their sum": (want / n, numbers / n),
            "the rank is cut at in, not at out": _summed(shapes, [min(r, n_in) for n_in, _ in shapes]),
            "the rank is cut at out, not at in": _summed(shapes, [min(r, n_out) for _, n_out in shapes]),
            "a rank above both sides counts less than all of ΔW": sum(
                min(r * (n_in + n_out) - r * r, n_in * n_out) for n_in, n_out in shapes
            ),
            one: (_summed(shapes, kept), _summed(shapes, [min(cut)] * n)),
            "A and B are cut to the matrix, M is not": sum(map(math.prod, zip(cut, map(sum, shapes)))) - n * r * r,
            "M is cut to the matrix, A and B are not": numbers - sum(k * k for k in cut),
            "matrices of one shape are counted once": sum(free_parameters(*shape, r) for shape in set(shapes)),
            "a bias is counted": (want + outs, numbers + outs, numbers - n * r * r + outs),
            "α is counted": (want + n, want + 1, numbers + n, numbers + 1),
            "M is taken for symmetric: r(r + 1)/2 numbers": numbers - n * r * (r + 1) // 2,
            "M is taken for one number": (numbers - n, numbers - 1),
            "the ranks are summed": (n * r, sum(cut)),
            "what cannot be reached is counted": sum(math.prod(shape) for shape in shapes) - want,
            "the first matrix stands for all": n * free_parameters(*shapes[0], r),
        }
        other = "another count" if isinstance(got, int) else "not a whole number"
        bug = named(got, {name: value for name, value in bugs.items() if value != want}, other)
        raise Wrong(bug, f"for {n} × (in, out) = {_few(shapes)} and r = {r} you give {got:,.12g}")


def _summed(shapes: Shapes, ranks: Sequence[int]) -> int:
    return sum(k * (n_in + n_out) - k * k for (n_in, n_out), k in zip(shapes, ranks))


def _few(shapes: Shapes) -> str:
    named_shapes = ", ".join(f"({n_in}, {n_out})" for n_in, n_out in shapes[:2])
    return named_shapes + (", …" if len(shapes) > 2 else "")
