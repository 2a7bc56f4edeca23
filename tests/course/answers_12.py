"""Chapter 12: solutions, stubs and planted bugs."""

import numpy as np
import torch
import torch.nn.functional as F
from kit import Answers


def buys(budget, L, d, d_kv):
    n = budget // 4
    m = max((n - L * d) // (L * (2 * d + 1)), 0)
    return n // (L * (3 * d + d_kv)), n // (2 * L * d_kv), n // d, m


def by_search(budget, L, d, d_kv):
    """The largest of each that still fits, as a learner may find it."""
    prices = (
        lambda r: r * L * (d + d + d + d_kv),
        lambda V: V * 2 * L * d_kv,
        lambda V: V * d,
        lambda m: L * (2 * m * d + m + d),
    )
    found = []
    for price in prices:
        size = 0
        while 4 * price(size + 1) <= budget:
            size += 1
        found.append(np.int64(size))
    return found


def slip(place, change):
    """`buys` with one of its four numbers made by `change(n, L, d, d_kv)`."""

    def bought(budget, L, d, d_kv):
        right = list(buys(budget, L, d, d_kv))
        right[place] = change(budget // 4, L, d, d_kv)
        return tuple(right)

    return bought


def with_prefix(q, k, v, P_k, P_v):
    T, V = len(q), len(P_k)
    scores = q @ torch.cat([P_k, k]).T / q.shape[1] ** 0.5
    seen = torch.ones(T, V + T).tril(V).bool()
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ torch.cat([P_v, v])


def by_torch(q, k, v, P_k, P_v):
    T, V = len(q), len(P_k)
    seen = torch.ones(T, V + T, dtype=torch.bool).tril(V)
    return F.scaled_dot_product_attention(q[None], torch.cat([P_k, k])[None], torch.cat([P_v, v])[None], seen)[0]


def token_by_token(q, k, v, P_k, P_v):
    rows = []
    for t, each in enumerate(q.numpy()):
        keys, values = (np.concatenate([p.numpy(), x.numpy()[: t + 1]]) for p, x in ((P_k, k), (P_v, v)))
        weights = np.exp(keys @ each / np.sqrt(len(each)))
        rows.append(weights @ values / weights.sum())
    return np.stack(rows)


def behind(q, k, v, P_k, P_v):
    """The prefix after the text: without positions the order of keys does not matter."""
    T, V = len(q), len(P_k)
    seen = torch.cat([torch.ones(T, T).tril(), torch.ones(T, V)], 1).bool()
    scores = q @ torch.cat([k, P_k]).T / q.shape[1] ** 0.5
    return scores.masked_fill(~seen, -1e30).softmax(-1) @ torch.cat([v, P_v])


def attend(q, k, v, seen, scale=None):
    scores = q @ k.T * (q.shape[1] ** -0.5 if scale is None else scale)
    return scores.masked_fill(seen == 0, -torch.inf).softmax(-1) @ v


def masked(diagonal):
    """Attention whose mask is a triangle that begins elsewhere."""

    def attended(q, k, v, P_k, P_v):
        seen = torch.ones(len(q), len(P_k) + len(q)).tril(diagonal(len(P_k)))
        return attend(q, torch.cat([P_k, k]), torch.cat([P_v, v]), seen)

    return attended


def own(q, k, v, P_k, P_v):
    return attend(q, k, v, torch.ones(len(q), len(q)).tril())


def prefix_alone(q, k, v, P_k, P_v):
    return attend(q, P_k, P_v, torch.ones(len(q), len(P_k)))


def merged(W, b, f, feedforward):
    return (W * f, b) if feedforward else (f[:, None] * W, f * b)


def by_matrices(W, b, f, feedforward):
    return (W @ torch.diag(f), b.clone()) if feedforward else (torch.diag(f) @ W, torch.diag(f) @ b)


def merged_in_place(W, b, f, feedforward):
    W *= f if feedforward else f[:, None]
    return W, b if feedforward else f * b


def wrong_bias(W, b, f, feedforward):
    new, _ = merged(W, b, f, feedforward)
    return new, b * f if len(b) == len(f) else b * f.mean()


RIGHT = {"12.1": [by_search], "12.3": [by_torch, token_by_token, behind], "12.2": [by_matrices]}
ANSWERS = {
    "12.1": Answers(
        buys,
        lambda budget, L, d, d_kv: ...,
        {
            "bytes are taken for numbers": lambda budget, L, d, d_kv: buys(4 * budget, L, d, d_kv),
            "one block only": slip(0, lambda n, L, d, d_kv: n // (3 * d + d_kv)),
            "the query matrix alone": slip(0, lambda n, L, d, d_kv: n // (2 * L * d)),
            "keys and values are as wide as queries": slip(1, lambda n, L, d, d_kv: n // (2 * L * d)),
            "keys without values": slip(1, lambda n, L, d, d_kv: n // (L * d_kv)),
            "a vector for every block": slip(2, lambda n, L, d, d_kv: n // (L * d)),
            "rounded up": slip(2, lambda n, L, d, d_kv: -(-n // d)),
            "the biases are free": slip(3, lambda n, L, d, d_kv: n // (2 * L * d)),
            "less than nothing": slip(3, lambda n, L, d, d_kv: (n - L * d) // (L * (2 * d + 1))),
            "another m": slip(3, lambda n, L, d, d_kv: 1000 + n),
        },
    ),
    "12.3": Answers(
        with_prefix,
        lambda q, k, v, P_k, P_v: ...,
        {
            "the prefix is masked as if it were text": masked(lambda V: 0),
            "tokens see what comes after them": masked(lambda V: 10 * V),
            "one token too far": masked(lambda V: V + 1),
            "no token sees itself": masked(lambda V: V - 1),
            "the prefix is left out": own,
            "only the prefix is seen": prefix_alone,
            "two softmaxes, added": lambda *given: own(*given) + prefix_alone(*given),
            "keys and values of the prefix are mixed up": lambda q, k, v, P_k, P_v: with_prefix(q, k, v, P_v, P_k),
            "the scores are not divided by √d": lambda q, k, v, P_k, P_v: with_prefix(
                q * q.shape[1] ** 0.5, k, v, P_k, P_v
            ),
            "the prefix has an output": lambda q, k, v, P_k, P_v: torch.cat([P_v, with_prefix(q, k, v, P_k, P_v)]),
            "another attention": lambda *given: 2 * with_prefix(*given),
        },
    ),
    "12.2": Answers(
        merged,
        lambda W, b, f, feedforward: ...,
        {
            "the bias is left as it is": lambda W, b, f, feedforward: (merged(W, b, f, feedforward)[0], b),
            "the bias is scaled at the MLP, too": wrong_bias,
            "the change and not the weight": lambda W, b, f, feedforward: merged(W, b, f - 1, feedforward),
            "l is added to 1": lambda W, b, f, feedforward: (merged(W, b, 1 + f, feedforward)[0], b),
            "an input is changed in place": merged_in_place,
            "W is left as it is": lambda W, b, f, feedforward: (W, b),
            "another W_new": lambda W, b, f, feedforward: (3 * W + 1, b),
        },
    ),
}

MORE_WRONG = [
    ("12.1", slip(0, lambda n, L, d, d_kv: n // (L * (d + d_kv))), "the value matrix alone"),
    ("12.1", slip(0, lambda n, L, d, d_kv: n // (L * (d * d + d * d_kv))), "r·in·out"),
    ("12.1", slip(1, lambda n, L, d, d_kv: n // (2 * d_kv)), "one block only"),
    ("12.1", slip(3, lambda n, L, d, d_kv: n // (L * (2 * d + 1))), "the second bias is free"),
    ("12.3", masked(lambda V: 10 * V), "tokens see what comes after them"),
    ("12.2", lambda W, b, f, feedforward: (merged(W, b, f, not feedforward)[0], b) if W.shape[0] == W.shape[1] else merged(W, b, f, feedforward), "rows for columns"),
    ("12.2", lambda W, b, f, feedforward: (merged(W, b, f, feedforward)[0], 0 * b), "the bias is gone"),
]  # fmt: skip
