"""Exercises of chapter 15, Ship it: a scale folded into the factors, rows in another program's order, a row's own adapter."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from lora_edu.course.exercises import (
    Wrong,
    as_parts,
    as_tensor,
    attempt,
    close,
    generator,
    kind,
    register,
)
from lora_edu.serving.gguf_names import permuted, restored


# --- 15.1: numbers that need no setting -------------------------------------------------------------------------------
@register(
    "15.1",
    title="Numbers that need no setting",
    stars=2,
    minutes=9,
    task="Write `fold(A, B, alpha, rslora, R)`. `A` (r, in) and `B` (out, r) are the factors of one layer; they were trained with the scale α/r, or with α/√r where "
    "`rslora` is True. Another program reads them with one rule: its rank is `R`, its α is `R` too, so its scale is R/R = 1, for every layer, and each A it "
    "reads has `R` rows. `R` is at least r. Return (A′, B′) of shapes (R, in) and (out, R), so that what it computes, B′ A′, is the update that was trained.",
    wants="fold",
    shows="Right for both scales, for layers whose rank is R and for layers whose rank is smaller.",
    hints=(
        "r is not handed over: it is the number of rows of `A`.",
        "One of the two factors can take the whole scale. If both take it, it counts twice.",
        "Rows of zeros below `A`, and columns of zeros beside `B`, add nothing to the product: `torch.cat` with `torch.zeros`, or "
        "`torch.nn.functional.pad(A, (0, 0, 0, R - r))` and `pad(B, (0, R - r))`.",
    ),
)
def fold(function: Callable[[Tensor, Tensor, float, bool, int], Any]) -> None:
    tries, ok, draw = [], [], generator()
    for r, R, alpha, rslora, n_in, n_out in (
        (3, 8, 7.0, False, 11, 14), (5, 8, 3.0, True, 12, 9), (4, 4, 6.0, False, 9, 13), (6, 7, 5.0, True, 13, 12), (2, 9, 11.0, True, 10, 16),
    ):  # fmt: skip
        A, B = torch.randn(r, n_in, generator=draw), torch.randn(n_out, r, generator=draw)
        got = as_parts(attempt(function, A, B, alpha, rslora, R), ("A′", "B′"), "what `fold` returns")
        shapes = {"A′": (R, n_in), "B′": (n_out, R)}
        found = [tuple(getattr(part, "shape", ())) for part in got]
        if found == list(shapes.values())[::-1] or (r != R and found == [(n_out, r), (r, n_in)]):
            raise Wrong("B′ comes first", f"the shapes are {found[0]} and {found[1]}: return (A′, B′)")
        for name, shape, its in zip(shapes, shapes.values(), found):
            _shaped(name, its, shape, r, R)
        A2, B2 = as_tensor(got[0], A.new_zeros(R, n_in), "A′"), as_tensor(got[1], A.new_zeros(n_out, R), "B′")
        if not bool(A2.isfinite().all() and B2.isfinite().all()):
            raise Wrong("numbers that are not finite", "A′ or B′ holds nan or inf: `torch.empty` is not zeros")
        s = _scale(r, alpha, rslora)
        tries.append((r, R, alpha, rslora, A, B, A2, B2))
        ok.append(close(B2 @ A2, s * B @ A))
    wrong = [each for each, fine in zip(tries, ok) if not fine]
    if not wrong:
        return
    bug = next((name for name in _SCALES if all(_is(name, each) for each in wrong)), None) or _otherwise(*wrong[0])
    r, R, alpha, rslora = wrong[0][:4]
    where = f"r = {r}, R = {R}, α = {alpha:g}, {'rsLoRA' if rslora else 'the usual scale'}"
    raise Wrong(bug, f"with {where} the product B′ A′ is not s · B A. {len(wrong)} of {len(tries)} tries went wrong")


def _shaped(name: str, found: tuple[int, ...], shape: tuple[int, int], r: int, R: int) -> None:
    if r != R and found == tuple(r if n == R else n for n in shape):
        raise Wrong(
            "not padded to R",
            f"{name} has shape {found} and should have {shape}: the reader expects R = {R} of them in every layer, and r = {r}",
        )
    if found == shape[::-1] and found != shape:
        raise Wrong("turned round", f"{name} has shape {found} and should have {shape}")


# What each way to get the scale wrong multiplies B A by.
_SCALES: dict[str, Callable[[int, int, float, bool], float]] = {
    "the scale is forgotten": lambda r, R, alpha, rslora: 1.0,
    "rsLoRA's √r is left out": lambda r, R, alpha, rslora: alpha / r,
    "√r without rsLoRA, too": lambda r, R, alpha, rslora: alpha / r**0.5,
    "the two scales are mixed up": lambda r, R, alpha, rslora: alpha / r if rslora else alpha / r**0.5,
    "the scale counts twice": lambda r, R, alpha, rslora: _scale(r, alpha, rslora) ** 2,
    "half of the scale: its root": lambda r, R, alpha, rslora: _scale(r, alpha, rslora) ** 0.5,
    "divided by the scale": lambda r, R, alpha, rslora: 1 / _scale(r, alpha, rslora),
    "R in the place of r": lambda r, R, alpha, rslora: _scale(R, alpha, rslora),
    "α alone, not divided by the rank": lambda r, R, alpha, rslora: alpha,
    "1/r without α": lambda r, R, alpha, rslora: _scale(r, 1.0, rslora),
    "times r, not divided by it": lambda r, R, alpha, rslora: alpha * (r**0.5 if rslora else r),
    "the reader's R/R is put in as R/α": lambda r, R, alpha, rslora: _scale(r, alpha, rslora) * R / alpha,
    "as if the reader divided by r": lambda r, R, alpha, rslora: _scale(r, alpha, rslora) * r / R,
    "as if the reader divided by R": lambda r, R, alpha, rslora: _scale(r, alpha, rslora) * R,
    "multiplied by the reader's α": lambda r, R, alpha, rslora: _scale(r, alpha, rslora) / R,
    "corrected for the padding: R/r": lambda r, R, alpha, rslora: _scale(r, alpha, rslora) * R / r,
    "corrected for the padding: √(R/r)": lambda r, R, alpha, rslora: _scale(r, alpha, rslora) * (R / r) ** 0.5,
    "the sign is turned round": lambda r, R, alpha, rslora: -_scale(r, alpha, rslora),
}


def _scale(r: int, alpha: float, rslora: bool) -> float:
    return alpha / r**0.5 if rslora else alpha / r


def _is(name: str, tried: tuple[Any, ...]) -> bool:
    r, R, alpha, rslora, A, B, A2, B2 = tried
    return close(B2 @ A2, _SCALES[name](r, R, alpha, rslora) * B @ A)


def _otherwise(r: int, R: int, alpha: float, rslora: bool, A: Tensor, B: Tensor, A2: Tensor, B2: Tensor) -> str:
    """Which bug it is where no scale explains the product."""
    update, product = _scale(r, alpha, rslora) * B @ A, B2 @ A2
    if r < R and any(close(B2.roll(by, 1) @ A2, update) for by in (r - R, R - r)):
        return "A′ and B′ are padded at different ends"
    if not bool(product.any()):
        return "the update is lost"
    if close(product, update, 2e-2):
        return "right, but too few digits are kept"
    ratio = float((product * update).sum() / update.square().sum())
    if close(product, ratio * update):
        return "another scale"
    if r < R and any(close(B2[:, part] @ A2[part], update) for part in (slice(0, r), slice(R - r, R))):
        return "the padding adds to the product"
    return "another product than B A"


# --- 15.2: rows in another order --------------------------------------------------------------------------------------
@register(
    "15.2",
    title="Rows in another program's order",
    stars=2,
    minutes=8,
    task="Write `to_pairs(rows, heads)`. `rows` has heads · d rows, d even: first all d of head 0, then those of head 1, and so on. A row may be a row of a weight "
    "(heads · d, in), of a factor B (heads · d, r), or one number of a bias (heads · d,). Inside each head bring them into llama.cpp's order: rows that are turned "
    "together, i and i + d/2, come to stand at the places 2i and 2i + 1. Heads keep their order. Return a tensor of the same shape.",
    wants="to_pairs",
    shows="Right for weights, factors and biases, and for any number of heads: also where k has fewer of them than q.",
    hints=(
        "Of a head of d = 6 the new order is 0, 3, 1, 4, 2, 5.",
        "`rows.reshape(heads, 2, d // 2, …)` tells the heads, the halves and the places in a half apart. Which two of these have to change places?",
        "`.transpose(1, 2)` swaps halves and places; `.reshape(rows.shape)` puts it back into rows. `*rows.shape[1:]` stands for whatever comes behind the rows. "
        "Or make a list of row numbers, and index with it.",
    ),
)
def to_pairs(function: Callable[[Tensor, int], Any]) -> None:
    draw = generator()
    for what, heads, d, rest in (
        ("a weight", 3, 8, (5,)), ("a factor B", 4, 6, (2,)), ("a bias", 2, 10, ()), ("a weight of one head", 1, 12, (7,)), ("a weight", 6, 4, (24,)),
    ):  # fmt: skip
        rows = torch.randn(heads * d, *rest, generator=draw)
        given = attempt(function, rows, heads)
        if rest and _are_numbers(given, len(rows)):
            raise Wrong("the row numbers, not the rows", "return the rows themselves, in that order: `rows[numbers]`")
        got = as_tensor(given, rows, f"for {what} what `to_pairs` returns")
        want = permuted(rows, heads)
        if not torch.equal(got, want) and not close(got, want, 1e-6):
            place = next(i for i in range(heads * d) if not torch.equal(got[i], want[i]))
            mine = _which(got[place], rows)
            said = f"row {place} of {what} with {heads} heads of {d} rows should be row {_which(want[place], rows)} of what was given"
            raise Wrong(_order(got, rows, heads, d), f"{said}, and is {'none of them' if mine is None else mine}")


def _are_numbers(given: Any, count: int) -> bool:
    """Whether these are `count` whole numbers, in a list, an array or a tensor."""
    if not hasattr(given, "__len__") or getattr(given, "shape", (count,)) != (count,) or len(given) != count:
        return False
    return all(isinstance(n, int) for n in (given.tolist() if hasattr(given, "tolist") else given))


def _which(row: Tensor, rows: Tensor) -> int | None:
    return next((i for i, each in enumerate(rows) if torch.equal(each, row)), None)


def _order(got: Tensor, rows: Tensor, heads: int, d: int) -> str:
    for bug, wrong in _orders(rows, heads, d):
        if torch.equal(got, wrong):
            return bug
    places = [_which(row, rows) for row in got]
    if None in places:
        return "columns are mixed, or numbers changed" if got.dim() > 1 else "numbers that are not the given ones"
    if len(set(places)) < len(places):
        return "a row stands there twice, and another is lost"
    if all(place is not None and place // d == i // d for i, place in enumerate(places)):
        return "the right heads, and another order inside them"
    return "rows have left their head"


def _orders(rows: Tensor, heads: int, d: int) -> Iterator[tuple[str, Tensor]]:
    """What each way to get the order wrong leads to."""
    rest = rows.shape[1:]
    yield "nothing is moved", rows
    yield "the way back", restored(rows, heads)
    yield "all rows as one head", permuted(rows, 1)
    yield "the way back, and all rows as one head", restored(rows, 1)
    swapped = rows.reshape(heads, d // 2, 2, *rest).flip(2).reshape(rows.shape)
    yield "neighbours change places", swapped
    yield "the halves change places", rows.reshape(heads, 2, d // 2, *rest).flip(1).reshape(rows.shape)
    yield "the second half first", permuted(rows, heads).reshape(heads, d // 2, 2, *rest).flip(2).reshape(rows.shape)
    yield "heads are mixed with one another", rows.reshape(heads, d, *rest).transpose(0, 1).reshape(rows.shape)
    yield "the heads are turned round", permuted(rows, heads).reshape(heads, d, *rest).flip(0).reshape(rows.shape)
    yield "the second half is turned round", _folded(rows, heads, d)


def _folded(rows: Tensor, heads: int, d: int) -> Tensor:
    """0, d − 1, 1, d − 2, …"""
    numbers = [n for i in range(d // 2) for n in (i, d - 1 - i)]
    return rows.reshape(heads, d, *rows.shape[1:])[:, numbers].reshape(rows.shape)


# --- 15.3: a row's own adapter ----------------------------------------------------------------------------------------
@register(
    "15.3",
    title="Each row its own adapter",
    stars=3,
    minutes=10,
    task="Write `each_its_own(base, x, A, B, which, scale)`. `x` (n, T, in) is a batch of n rows; `base` is a function that multiplies a whole batch with W₀, "
    "(n, T, in) → (n, T, out): the costly part, so call it *once*. `A` (k, r, in) and `B` (k, out, r) hold the factors of k adapters; row i speaks with adapter "
    "`which[i]`, a whole number from 0 to k − 1, at the scale `scale[i]`, which may be 0. Return W₀ x + scale · B (A x), (n, T, out), each row with its own.",
    wants="each_its_own",
    shows="Right for mixed rows, for rows of the base among them, and W₀ is read once.",
    hints=(
        "`A[which]` is (n, r, in): each row's own A.",
        "`torch.bmm` multiplies a stack of matrices with a stack of matrices, row by row: x (n, T, in) with A[which].transpose(1, 2) (n, in, r).",
        "The scales are (n,), and have to multiply (n, T, …): `scale[:, None, None]`.",
    ),
)
def each_its_own(function: Callable[..., Any]) -> None:
    draw = generator()
    for n, T, k, r, n_in, n_out in ((5, 3, 3, 2, 7, 6), (4, 1, 6, 3, 6, 6), (6, 4, 2, 2, 5, 9), (3, 3, 3, 3, 3, 3)):
        x, W = torch.randn(n, T, n_in, generator=draw), torch.randn(n_out, n_in, generator=draw)
        A, B = torch.randn(k, r, n_in, generator=draw), torch.randn(k, n_out, r, generator=draw)
        which = _drawn(n, k, draw)
        scale = 0.5 + torch.rand(n, generator=draw)
        scale[n // 2] = 0.0
        seen: list[int] = []

        def base(batch: Tensor, W: Tensor = W, seen: list[int] = seen, n_in: int = n_in) -> Tensor:
            if not isinstance(batch, Tensor) or batch.shape[-1:] != (n_in,):
                raise ValueError(f"base takes a batch (n, T, {n_in}), and got {kind(batch)}")
            seen.append(len(batch) if batch.dim() == 3 else 1)
            return (batch.to(W.dtype) @ W.T).to(batch.dtype)

        got = as_tensor(
            attempt(function, base, x, A, B, which, scale), x.new_zeros(n, T, n_out), "what `each_its_own` returns"
        )
        if not bool(got.isfinite().all()):
            raise Wrong("numbers that are not finite", "there are nan or inf in the output")
        own = torch.stack([s * (row @ A[i].T) @ B[i].T for row, i, s in zip(x, which.tolist(), scale.tolist())])
        want = x @ W.T + own
        if not close(got, want):
            raise Wrong(*_row(got, want, x, W, A, B, which, scale))
        if not seen:
            raise Wrong(
                "`base` is not called", "the right numbers, but from where? W₀ is only to be had through `base`"
            )
        if len(seen) > 1:
            raise Wrong(
                "W₀ is read more than once",
                f"the numbers are right, but for {n} rows `base` was called {len(seen)} times: hand it the whole batch",
            )


def _drawn(n: int, k: int, draw: Generator) -> Tensor:
    """An adapter for each row: at least two different ones, neither in order nor all the same."""
    while True:
        which = torch.randint(0, k, (n,), generator=draw)
        if len(which.unique()) > 1 and not torch.equal(which, torch.arange(n) % k):
            return which


def _row(
    got: Tensor, want: Tensor, x: Tensor, W: Tensor, A: Tensor, B: Tensor, which: Tensor, scale: Tensor
) -> tuple[str, str]:
    """(bug, detail)"""
    n, k, plain = len(x), len(A), x @ W.T

    def own(which: Tensor, scale: Tensor, first: Tensor = A, second: Tensor = B) -> Tensor:
        return scale[:, None, None] * (x @ first[which].transpose(1, 2)) @ second[which].transpose(1, 2)

    ones, mean = torch.ones_like(scale), scale.mean().expand(n)
    everyone = torch.stack([own(torch.full_like(which, i), scale) for i in range(k)])
    bugs: list[tuple[str, Tensor]] = [
        ("the adapters are left out", plain),
        ("W₀ is left out", want - plain),
        ("the scale is forgotten", plain + own(which, ones)),
        ("the scale counts for W₀ x as well", scale[:, None, None] * (plain + own(which, ones))),
        ("one scale for all rows", plain + own(which, mean)),
        ("one scale for all rows", plain + own(which, scale[:1].expand(n))),
        ("the scale counts twice", plain + own(which, scale**2)),
        ("the sign is turned round", plain - own(which, scale)),
        ("all adapters speak in every row", plain + everyone.sum(0)),
        ("the mean of all adapters speaks in every row", plain + everyone.mean(0)),
        ("row i has adapter i, whatever `which` says", plain + own(torch.arange(n) % k, scale)),
        ("W₀ x counts twice", want + plain),
        ("rows of the base lose W₀ x", want * (scale != 0)[:, None, None]),
        *((f"every row has adapter {i}", plain + everyone[i]) for i in range(k)),
    ]  # fmt: skip
    if k >= 2:
        bugs += [
            ("B of another adapter than A", plain + _crossed(x, A, B, which, scale)),
            ("A of another adapter than B", plain + _crossed(x, A, B, which, scale, first=True)),
        ]
    for bug, wrong in bugs:
        if close(got, wrong):
            return (
                "every row has the same adapter" if bug.startswith("every row has adapter") else bug
            ), f"for adapters {which.tolist()} of {k}"
    if close(got, want, 2e-2):
        return "right, but too few digits are kept", "compute in the type of x"
    right = [bool(close(a, b)) for a, b in zip(got, want)]
    if any(right):
        wrong_rows = [i for i, fine in enumerate(right) if not fine]
        return "right in some rows, and wrong in others", (
            f"wrong: rows {wrong_rows}, with adapters {which[wrong_rows].tolist()} at scales "
            f"{', '.join(f'{s:.2g}' for s in scale[wrong_rows].tolist())}"
        )
    return "another output", f"no row is right; x was {tuple(x.shape)}, and the adapters {which.tolist()} of {k}"


def _crossed(x: Tensor, A: Tensor, B: Tensor, which: Tensor, scale: Tensor, first: bool = False) -> Tensor:
    """Only one of the two factors is each row's own; the other is the first adapter's."""
    nought = torch.zeros_like(which)
    a, b = (nought, which) if first else (which, nought)
    return scale[:, None, None] * (x @ A[a].transpose(1, 2)) @ B[b].transpose(1, 2)
