"""Exercises of chapter 12, The neighbours."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lora_edu.course.exercises import Wrong, as_parts, as_tensor, as_whole, attempt, close, generator, register

Pair = tuple[Tensor, Tensor]


@register(
    "12.1",
    title="What does a budget buy?",
    stars=2,
    minutes=8,
    task="Write `buys(budget, L, d, d_kv)` for a decoder of L blocks: hidden states of d numbers, keys and values of d_kv each, queries of d. "
    "`budget` is the size of a file in bytes, 4 for each number (forget the header). Return four whole numbers, the largest that the budget pays: "
    "`(r, prefix, prompt, m)` = LoRA's rank on the query and the value matrix of each block; the tokens of a prefix; the tokens of a prompt; "
    "the width of one bottleneck a block (with both biases). 0 where not even 1 is paid.",
    wants="buys",
    shows="Ranks, tokens and widths of one budget, rounded down, for wide blocks and narrow keys.",
    hints=(
        "Bytes first: how many *numbers* does the budget pay? Then the price of one unit of each kind, over all L blocks.",
        "A rank costs (d + d) at the query matrix and (d + d_kv) at the value matrix. A prefix token has a key and a value in each block, a "
        "prompt token one vector, once.",
        "A bottleneck has 2·m·d + m + d numbers: d of them are paid whatever m is, so take L·d off before you divide by L·(2·d + 1).",
    ),
)
def buys(function: Callable[..., Any]) -> None:
    draw, names = generator(), ("r", "prefix", "prompt", "m")
    cases = [(4 * 57_600, 30, 576, 192), (4 * 20, 5, 12, 4)]  # the second pays one prompt token, and nothing else
    for _ in range(8):
        L, heads, size = (int(torch.randint(low, high, (), generator=draw)) for low, high in ((2, 7), (2, 6), (3, 9)))
        d, d_kv = heads * size, size * int(torch.randint(1, heads, (), generator=draw))
        cases.append((4 * int(torch.randint(2 * L * d, 300 * L * d, (), generator=draw)) + 2, L, d, d_kv))
    answers = [as_parts(attempt(function, *case), names, "what `buys` returned") for case in cases]
    for i, name in enumerate(names):
        got = [as_whole(answer[i], f"`buys`' {name}") for answer in answers]
        slips = [purchases(*case)[name] for case in cases]
        want = [each.pop("") for each in slips]
        for case, mine, right in zip(cases, got, want):
            if mine != right:  # a slip is known by all of its answers: one of them may be another slip's, too
                bug = next((bug for bug in slips[0] if got == [each[bug] for each in slips]), f"another {name}")
                budget, L, d, d_kv = case
                raise Wrong(
                    bug, f"for {budget} bytes, L = {L}, d = {d}, d_kv = {d_kv}: {name} is {right}, and yours {mine}"
                )


def purchases(budget: int, L: int, d: int, d_kv: int) -> dict[str, dict[str, int]]:
    """{kind: {"": the right number, bug: what the slip leads to}}."""
    n = budget // 4
    price = {"r": L * (3 * d + d_kv), "prefix": 2 * L * d_kv, "prompt": d}
    found = {
        kind: {
            "": n // unit,
            "bytes are taken for numbers": budget // unit,
            "rounded up": -(-n // unit),
        }
        for kind, unit in price.items()
    }
    found["r"] |= {
        "one block only": n // (3 * d + d_kv),
        "the query matrix alone": n // (2 * L * d),
        "the value matrix alone": n // (L * (d + d_kv)),
        "keys and values are as wide as queries": n // (4 * L * d),
        "r·in·out, as for a whole matrix": n // (L * (d * d + d * d_kv)),
    }
    found["prefix"] |= {
        "one block only": n // (2 * d_kv),
        "keys without values": n // (L * d_kv),
        "keys and values are as wide as queries": n // (2 * L * d),
    }
    found["prompt"] |= {"a vector for every block": n // (L * d), "keys and values of one block": n // (2 * d_kv)}
    found["m"] = {
        "": max((n - L * d) // (L * (2 * d + 1)), 0),
        "bytes are taken for numbers": max((budget - L * d) // (L * (2 * d + 1)), 0),
        "the biases are free": n // (2 * L * d),
        "the second bias is paid m times": n // (L * (3 * d + 1)),
        "the second bias is free": n // (L * (2 * d + 1)),
        "the first bias is free": max((n - L * d) // (2 * L * d), 0),
        "one block only": max((n - d) // (2 * d + 1), 0),
        "rounded up": max(-((L * d - n) // (L * (2 * d + 1))), 0),
        "less than nothing": (n - L * d) // (L * (2 * d + 1)),
        "two bottlenecks a block": max((n - 2 * L * d) // (2 * L * (2 * d + 1)), 0),
    }
    return found


@register(
    "12.3",
    title="Keys that come from no token",
    stars=2,
    minutes=9,
    task="Write `with_prefix(q, k, v, P_k, P_v)`: causal attention of one head, with a prefix. q, k, v are (T, d), one row a token; P_k and P_v are "
    "(V, d). Every token attends to the whole prefix, to itself and to the tokens before it. Return (T, d).",
    wants="with_prefix",
    shows="Every token sees all of the prefix and none of the tokens after it, in one softmax.",
    hints=(
        "`torch.cat([P_k, k])` has V + T keys. The scores are (T, V + T), divided by √d.",
        "Token 0 may look at V + 1 keys, token 1 at V + 2. What does `torch.ones(T, V + T).tril(V)` look like?",
        "`scores.masked_fill(mask == 0, -torch.inf).softmax(-1) @ torch.cat([P_v, v])`.",
    ),
)
def with_prefix(function: Callable[..., Any]) -> None:
    draw = generator()
    for T, V, d in ((5, 3, 4), (3, 6, 8), (4, 4, 5), (1, 2, 3)):
        q, k, v = (torch.randn(T, d, generator=draw) for _ in range(3))
        P_k, P_v = (torch.randn(V, d, generator=draw) for _ in range(2))
        said = f"for {T} tokens behind a prefix of {V}"
        answer = attempt(function, *(each.clone() for each in (q, k, v, P_k, P_v)))
        if isinstance(answer, Tensor) and answer.shape == (V + T, d):
            raise Wrong("the prefix has an output", f"{said}, {V + T} rows came back: a prefix has no queries")
        slips = attended(q, k, v, P_k, P_v)
        want = slips.pop("")
        got = as_tensor(answer, want, "`with_prefix`'s answer")
        if close(got, want):
            continue
        if bool(got.isnan().any()):
            raise Wrong(
                "a row is not a number", f"{said}, there are nan: does a token see no key at all, or is 0·∞ in it?"
            )
        bug = next((bug for bug, each in slips.items() if each is not None and close(got, each)), "another attention")
        row = int((got - want).abs().amax(1).argmax())
        raise Wrong(bug, f"{said}, the row of token {row} is another than it should be")


def attended(q: Tensor, k: Tensor, v: Tensor, P_k: Tensor, P_v: Tensor) -> dict[str, Tensor]:
    """The right output under "", and what each slip leads to."""
    (T, d), V = q.shape, len(P_k)
    keys, values = torch.cat([P_k, k]), torch.cat([P_v, v])

    def attend(keys: Tensor, values: Tensor, seen: Tensor, scale: float = d**-0.5) -> Tensor:
        return (q @ keys.T * scale).masked_fill(seen == 0, -torch.inf).softmax(-1) @ values

    ones = torch.ones(T, V + T)
    own = attend(k, v, torch.ones(T, T).tril())
    return {
        "": attend(keys, values, ones.tril(V)),
        "the prefix is masked as if it were text": attend(keys, values, ones.tril()),
        "tokens see what comes after them": attend(keys, values, ones),
        "one token too far": attend(keys, values, ones.tril(V + 1)),
        "no token sees itself": attend(keys, values, ones.tril(V - 1)),
        "the scores are not divided by √d": attend(keys, values, ones.tril(V), 1.0),
        "the scores are divided by d": attend(keys, values, ones.tril(V), 1 / d),
        "the prefix is left out": own,
        "only the prefix is seen": attend(P_k, P_v, torch.ones(T, V)),
        "two softmaxes, added": own + attend(P_k, P_v, torch.ones(T, V)),
        "keys and values of the prefix are mixed up": attend(torch.cat([P_v, k]), torch.cat([P_k, v]), ones.tril(V)),
        "keys and values stand in different orders": attend(keys, torch.cat([v, P_v]), ones.tril(V)),
        "the prefix's values are left out": attend(keys, torch.cat([torch.zeros_like(P_v), v]), ones.tril(V)),
    }


@register(
    "12.2",
    title="Into the weight with it",
    stars=1,
    minutes=6,
    task="IA³ gives diag(l)·(W x + b) at a key or value matrix, l of `out` numbers, and W·(l ⊙ x) + b at the MLP's second matrix, l of `in` numbers. "
    "Write `merged(W, b, factors, feedforward)`, with l as `factors`: the weight and the bias `(W_new, b_new)` of a plain layer that gives the same; `feedforward` is True at the MLP.",
    wants="merged",
    shows="One plain layer, for square matrices too, and the bias scaled where it must be.",
    hints=(
        "(W (l ⊙ x))ᵢ = Σⱼ Wᵢⱼ lⱼ xⱼ: lⱼ belongs to column j. And l ⊙ (W x + b): lᵢ belongs to row i, and to bᵢ.",
        "`l[:, None] * W` scales rows, `W * l` columns. Which of the two bring the bias along?",
    ),
)
def merged(function: Callable[..., Any]) -> None:
    draw = generator()
    for n_out, n_in in ((4, 7), (6, 6), (8, 3)):
        for feedforward in (False, True):
            W, b = torch.randn(n_out, n_in, generator=draw), torch.randn(n_out, generator=draw)
            f = 1 + 0.5 * torch.randn(n_in if feedforward else n_out, generator=draw)
            said = f"for W {n_out} × {n_in} and feedforward={feedforward}"
            answer = attempt(function, W, b, f, feedforward)
            parts = as_parts(answer, ("W_new", "b_new"), "what `merged` returned")
            got_W, got_b = (
                as_tensor(part, like, f"`merged`'s {name}")
                for part, like, name in zip(parts, (W, b), ("W_new", "b_new"))
            )
            weights, biases = scaled(W, b, f, feedforward)
            for got, slips, name in ((got_W, weights, "W_new"), (got_b, biases, "b_new")):
                want = slips.pop("")
                if not close(got, want):
                    bug = next((bug for bug, each in slips.items() if close(got, each)), f"another {name}")
                    raise Wrong(bug, f"{said}, {name} is not that of a layer that gives the same")


def scaled(W: Tensor, b: Tensor, f: Tensor, feedforward: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and biases: the right one under "", and what each slip leads to."""
    spread = f[None, :] if feedforward else f[:, None]
    weights = {
        "": W * spread,
        "the change and not the weight": W * (spread - 1),
        "l is added to 1": W * (1 + spread),
        "W is left as it is": W,
        "W is divided": W / spread,
        "l is added to W": W + spread,
    }
    if W.shape[0] == W.shape[1]:
        weights["rows for columns"] = W * spread.T
    biases: Mapping[str, Tensor]
    if feedforward:
        biases = {"": b, "the bias is scaled at the MLP, too": b * f if len(f) == len(b) else b * f.mean()}
    else:
        biases = {"": b * f, "the bias is left as it is": b, "the bias is divided": b / f}
    return weights, {
        **biases,
        "the bias is gone": torch.zeros_like(b),
        "the bias's change and not the bias": biases[""] - b,
    }
