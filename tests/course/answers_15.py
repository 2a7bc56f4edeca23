"""Chapter 15, Ship it: what its exercises accept, and the bugs that they name."""

import numpy as np
import torch
import torch.nn.functional as F
from kit import Answers


# --- 15.1 -------------------------------------------------------------------------------------------------------------
def fold(A, B, alpha, rslora, R):
    r = len(A)
    s = alpha / r**0.5 if rslora else alpha / r
    return F.pad(A, (0, 0, 0, R - r)), F.pad(s * B, (0, R - r))


def scaled(how):
    """A fold whose product is how(r, R, alpha, rslora) times B A."""

    def wrong(A, B, alpha, rslora, R):
        r = len(A)
        return F.pad(A, (0, 0, 0, R - r)), F.pad(how(r, R, alpha, rslora) * B, (0, R - r))

    return wrong


def scale(r, alpha, rslora):
    return alpha / (r**0.5 if rslora else r)


def by_cat(A, B, alpha, rslora, R):
    r, n_in = A.shape
    s = alpha / (r**0.5 if rslora else r)
    return torch.cat([A * s, torch.zeros(R - r, n_in)]), torch.cat([B, torch.zeros(len(B), R - r)], dim=1)


def both_roots(A, B, alpha, rslora, R):
    A2, B2 = fold(A, B, 1.0, False, R)
    root = (len(A) * scale(len(A), alpha, rslora)) ** 0.5
    return A2 * root, B2 * root


def filled(A, B, alpha, rslora, R):
    out_A, out_B = torch.zeros(R, A.shape[1]), torch.zeros(len(B), R)
    out_A[-len(A) :] = A  # at the other end
    out_B[:, -len(A) :] = B * scale(len(A), alpha, rslora)
    return out_A, out_B


def by_svd(A, B, alpha, rslora, R):
    U, S, V = torch.linalg.svd(scale(len(A), alpha, rslora) * B @ A)
    S = F.pad(S, (0, max(0, R - len(S))))[:R]
    return F.pad(V, (0, 0, 0, max(0, R - len(V))))[:R], F.pad(U, (0, max(0, R - len(U))))[:, :R] * S


def garbage_rows(A, B, alpha, rslora, R):
    A2, B2 = fold(A, B, alpha, rslora, R)
    A2[len(A) :] = torch.randn(R - len(A), A.shape[1])  # beside zeros of B they say nothing
    return A2, B2


def ones(A, B, alpha, rslora, R):
    r = len(A)
    return F.pad(A, (0, 0, 0, R - r), value=1.0), F.pad(scale(r, alpha, rslora) * B, (0, R - r), value=1.0)


def repeated(A, B, alpha, rslora, R):
    A2, B2 = fold(A, B, alpha, rslora, R)
    if len(A) < R:
        A2[-1], B2[:, -1] = A[0], B[:, 0]
    return A2, B2


# --- 15.2 -------------------------------------------------------------------------------------------------------------
def to_pairs(rows, heads):
    d = len(rows) // heads
    return rows.reshape(heads, 2, d // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def numbers(rows, heads):
    d = len(rows) // heads
    return [h * d + half * (d // 2) + i for h in range(heads) for i in range(d // 2) for half in (0, 1)]


def by_places(rows, heads):
    new, d = torch.empty_like(rows), len(rows) // heads
    for h in range(heads):
        head = rows[h * d : (h + 1) * d]
        new[h * d : (h + 1) * d : 2], new[h * d + 1 : (h + 1) * d : 2] = head[: d // 2], head[d // 2 :]
    return new


def stacked(rows, heads):
    parts = []
    for head in rows.chunk(heads):
        first, second = head.chunk(2)
        parts.append(torch.stack([first, second], dim=1).flatten(0, 1))
    return torch.cat(parts)


def back(rows, heads):
    d = len(rows) // heads
    return rows.reshape(heads, d // 2, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def regrouped(change):
    def wrong(rows, heads):
        d = len(rows) // heads
        return change(rows, heads, d, rows.shape[1:]).reshape(rows.shape)

    return wrong


# --- 15.3 -------------------------------------------------------------------------------------------------------------
def each_its_own(base, x, A, B, which, scale):
    low = torch.bmm(x, A[which].transpose(1, 2)) * scale[:, None, None]
    return base(x) + torch.bmm(low, B[which].transpose(1, 2))


def of(own):
    """The base's output and what `own` makes of the rest."""
    return lambda base, x, A, B, which, scale: base(x) + own(x, A, B, which, scale)


def parts(x, A, B, which, scale):
    return scale[:, None, None] * (x @ A[which].transpose(1, 2)) @ B[which].transpose(1, 2)


def row_by_row(base, x, A, B, which, scale):
    y = base(x).clone()
    for i in range(len(x)):
        y[i] += scale[i] * (x[i] @ A[which[i]].T) @ B[which[i]].T
    return y


def by_adapter(base, x, A, B, which, scale):
    y = base(x)
    for k in range(len(A)):
        mine = which == k
        y[mine] = y[mine] + scale[mine, None, None] * (x[mine] @ A[k].T @ B[k].T)
    return y


def many_calls(base, x, A, B, which, scale):
    return torch.cat([base(x[i : i + 1]) for i in range(len(x))]) + parts(x, A, B, which, scale)


def for_each_adapter(base, x, A, B, which, scale):
    y = torch.zeros(len(x), x.shape[1], B.shape[1])
    for k in which.unique().tolist():
        mine = which == k
        y[mine] = base(x[mine]) + scale[mine, None, None] * (x[mine] @ A[k].T @ B[k].T)
    return y


def recovered(base, x, A, B, which, scale):
    W = base(torch.eye(x.shape[-1])[None])[0].T  # one call, though of another batch
    return x @ W.T + parts(x, A, B, which, scale)


def only_speaking(base, x, A, B, which, scale):
    y, on = base(x).clone(), scale != 0
    y[on] += parts(x[on], A, B, which[on], scale[on])
    return y


ANSWERS = {
    "15.1": Answers(
        fold,
        lambda A, B, alpha, rslora, R: ...,
        {
            "the scale is forgotten": scaled(lambda r, R, alpha, rslora: 1.0),
            "√r is left out": scaled(lambda r, R, alpha, rslora: alpha / r),
            "√r without rsLoRA": scaled(lambda r, R, alpha, rslora: alpha / r**0.5),
            "the two scales are mixed up": scaled(lambda r, R, alpha, rslora: scale(r, alpha, not rslora)),
            "the scale counts twice": lambda A, B, alpha, rslora, R: [
                scale(len(A), alpha, rslora) * F.pad(A, (0, 0, 0, R - len(A))), fold(A, B, alpha, rslora, R)[1],
            ],
            "divided by the scale": scaled(lambda r, R, alpha, rslora: 1 / scale(r, alpha, rslora)),
            "R in the place of r": scaled(lambda r, R, alpha, rslora: scale(R, alpha, rslora)),
            "not padded to R": lambda A, B, alpha, rslora, R: fold(A, B, alpha, rslora, len(A)),
            "the padding adds to the product": ones,
            "turned round": lambda A, B, alpha, rslora, R: [M.T for M in fold(A, B, alpha, rslora, R)],
        },
    ),
    "15.2": Answers(
        to_pairs,
        lambda rows, heads: ...,
        {
            "nothing is moved": lambda rows, heads: rows,
            "the way back": back,
            "all rows as one head": lambda rows, heads: to_pairs(rows, 1),
            "neighbours change places": regrouped(lambda rows, heads, d, rest: rows.reshape(heads, d // 2, 2, *rest).flip(2)),
            "the second half first": regrouped(lambda rows, heads, d, rest: rows.reshape(heads, 2, d // 2, *rest).flip(1).transpose(1, 2)),
            "heads are mixed": regrouped(lambda rows, heads, d, rest: rows.reshape(heads, d, *rest).transpose(0, 1)),
            "a row stands there twice": lambda rows, heads: rows[[n - n % 2 for n in range(len(rows))]],
            "wrong shape": lambda rows, heads: rows.reshape(heads, -1),
        },
    ),
    "15.3": Answers(
        each_its_own,
        lambda base, x, A, B, which, scale: ...,
        {
            "the adapters are left out": lambda base, x, *rest: base(x),
            "W₀ is left out": lambda base, *rest: parts(*rest),
            "the scale is forgotten": of(lambda x, A, B, which, scale: parts(x, A, B, which, torch.ones_like(scale))),
            "the scale counts twice": of(lambda x, A, B, which, scale: parts(x, A, B, which, scale**2)),
            "one scale for all rows": of(lambda x, A, B, which, scale: parts(x, A, B, which, scale.mean().expand(len(x)))),
            "every row has the same adapter": of(lambda x, A, B, which, scale: parts(x, A, B, which[:1].expand(len(x)) * 0, scale)),
            "row i has adapter i": of(lambda x, A, B, which, scale: parts(x, A, B, torch.arange(len(x)) % len(A), scale)),
            "all adapters speak": of(lambda x, A, B, which, scale: sum(parts(x, A, B, torch.full_like(which, k), scale) for k in range(len(A)))),
            "B of another adapter": of(lambda x, A, B, which, scale: parts(x, A, B[:1].expand_as(B), which, scale)),
            "W₀ is read more than once": many_calls,
        },
    ),
}  # fmt: skip

RIGHT = {  # in other styles
    "15.1": [
        by_cat, both_roots, filled, by_svd, garbage_rows,
        lambda *given: list(fold(*given)),
        lambda *given: tuple(M.numpy() for M in fold(*given)),
        lambda A, B, alpha, rslora, R: tuple(M.double() for M in fold(A.double(), B.double(), alpha, rslora, R)),
        lambda A, B, alpha, rslora, R: fold(A, B, torch.tensor(alpha), rslora, R),
        lambda *given: tuple(torch.nn.Parameter(M) for M in fold(*given)),
        lambda *given: tuple(M.tolist() for M in fold(*given)),
    ],
    "15.2": [
        by_places, stacked,
        lambda rows, heads: rows[numbers(rows, heads)],
        lambda rows, heads: rows.index_select(0, torch.tensor(numbers(rows, heads))),
        lambda rows, heads: rows.numpy()[np.array(numbers(rows, heads))],
        lambda rows, heads: to_pairs(rows.double(), heads),
        lambda rows, heads: rows.unflatten(0, (heads, 2, -1)).swapaxes(1, 2).flatten(0, 2),
        lambda rows, heads: [rows[n] for n in numbers(rows, heads)],
    ],
    "15.3": [
        row_by_row, by_adapter, recovered, only_speaking,
        lambda base, x, A, B, which, scale: base(x) + torch.einsum("nti,nri,nor,n->nto", x, A[which], B[which], scale),
        lambda base, x, A, B, which, scale: base(x) + (x @ (scale[:, None, None] * B[which] @ A[which]).mT),
        lambda base, x, A, B, which, scale: torch.baddbmm(base(x), x @ A[which].mT, B[which].mT * scale.view(-1, 1, 1)),
        lambda *given: each_its_own(*given).numpy(),
        lambda base, x, A, B, which, scale: each_its_own(base, x.double(), A.double(), B.double(), which, scale.double()),
        lambda base, x, A, B, which, scale: each_its_own(base, x, A, B, which.tolist(), scale),
        lambda *given: torch.inference_mode()(each_its_own)(*given),
    ],
}  # fmt: skip
MORE_WRONG = [  # beyond those that are planted above
    ("15.1", scaled(lambda r, R, alpha, rslora: scale(r, alpha, rslora) ** 0.5), "its root"),
    ("15.1", scaled(lambda r, R, alpha, rslora: alpha), "α alone"),
    ("15.1", scaled(lambda r, R, alpha, rslora: scale(r, 1.0, rslora)), "without α"),
    ("15.1", scaled(lambda r, R, alpha, rslora: scale(r, alpha, rslora) * R / r), "R/r"),
    ("15.1", scaled(lambda r, R, alpha, rslora: scale(r, alpha, rslora) * (R / r) ** 0.5), "√(R/r)"),
    ("15.1", scaled(lambda r, R, alpha, rslora: scale(r, alpha, rslora) / R), "the reader's α"),
    ("15.1", scaled(lambda r, R, alpha, rslora: scale(r, alpha, rslora) * R), "divided by R"),
    ("15.1", scaled(lambda r, R, alpha, rslora: -scale(r, alpha, rslora)), "the sign"),
    ("15.1", scaled(lambda r, R, alpha, rslora: 0.0), "the update is lost"),
    ("15.1", scaled(lambda r, R, alpha, rslora: 0.77), "another scale"),
    ("15.1", repeated, "the padding adds"),
    ("15.1", lambda *given: (fold(*given)[0], filled(*given)[1]), "different ends"),
    ("15.1", lambda *given: [M.bfloat16() for M in fold(*given)], "too few digits"),
    ("15.1", lambda *given: fold(*given)[0], "not a pair"),
    ("15.1", lambda *given: fold(*given)[::-1], "B′ comes first"),
    ("15.1", lambda A, B, alpha, rslora, R: (torch.roll(fold(A, B, alpha, rslora, R)[0], 1, 1), fold(A, B, alpha, rslora, R)[1]), "another product"),
    ("15.2", lambda rows, heads: back(rows, 1), "the way back, and all rows as one head"),
    ("15.2", regrouped(lambda rows, heads, d, rest: rows.reshape(heads, 2, d // 2, *rest).flip(1)), "the halves change places"),
    ("15.2", regrouped(lambda rows, heads, d, rest: to_pairs(rows, heads).reshape(heads, d, *rest).flip(0)), "the heads are turned round"),
    ("15.2", lambda rows, heads: rows.flip(0), "rows have left their head"),
    ("15.2", lambda rows, heads: to_pairs(rows, heads) * 1.5, "numbers"),
    ("15.2", lambda rows, heads: torch.cat([rows[::2], rows[1::2]]), "the way back, and all rows as one head"),
    ("15.2", regrouped(lambda rows, heads, d, rest: rows.reshape(heads, d, *rest).flip(1)), "another order inside them"),
    ("15.2", lambda rows, heads: numbers(rows, heads), "the row numbers"),
    ("15.2", lambda rows, heads: torch.tensor(numbers(rows, heads)), "the row numbers"),
    ("15.2", lambda rows, heads: rows.reshape(heads, 2, -1).transpose(1, 2).reshape(rows.shape), "columns are mixed"),
    ("15.2", lambda rows, heads: to_pairs(rows, 2 * heads) if len(rows) % (4 * heads) == 0 else rows, "the right heads"),
    ("15.3", lambda base, x, A, B, which, scale: base(x) + parts(x[which % len(x)], A, B, which, scale), "wrong in others"),
    ("15.3", of(lambda x, A, B, which, scale: -parts(x, A, B, which, scale)), "the sign"),
    ("15.3", lambda base, x, *rest: each_its_own(base, x, *rest) + base(x), "twice"),
    ("15.3", lambda base, x, A, B, which, scale: scale[:, None, None] * (base(x) + parts(x, A, B, which, torch.ones_like(scale))), "for W₀ x as well"),
    ("15.3", lambda base, x, A, B, which, scale: each_its_own(base, x, A, B, which, scale) * (scale != 0)[:, None, None], "rows of the base lose"),
    ("15.3", of(lambda x, A, B, which, scale: parts(x, A[:1].expand_as(A), B, which, scale)), "A of another adapter"),
    ("15.3", of(lambda x, A, B, which, scale: parts(x, A, B, which.flip(0), scale)), "wrong in others"),
    ("15.3", for_each_adapter, "W₀ is read more than once"),
    ("15.3", lambda *given: each_its_own(*given).bfloat16(), "too few digits"),
    ("15.3", lambda base, x, A, B, which, scale: each_its_own(base, x[0], A, B, which, scale), "it raises an error"),
]  # fmt: skip
