"""Chapter 11: solutions, stubs and planted bugs."""

import math

import numpy as np
import torch
from kit import Answers


def round_blocks(x, codebook, block_size):
    blocks = x.view(-1, block_size)
    absmax = blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
    places = (blocks / absmax)[..., None].sub(codebook).abs().argmin(dim=-1)
    return (codebook[places] * absmax).view(-1)


def with_scale(scale):
    def wrong(x, codebook, block_size):
        rows = x.view(-1, block_size)
        each = scale(rows).clamp(min=1e-30)
        return (codebook[(rows / each)[..., None].sub(codebook).abs().argmin(-1)] * each).view(-1)

    return wrong


def in_numpy(x, codebook, block_size):
    book, found = codebook.numpy(), []
    for block in x.numpy().reshape(-1, block_size):
        absmax = np.abs(block).max() or 1.0
        found.append(absmax * book[np.abs(block[:, None] / absmax - book).argmin(axis=1)])
    return np.concatenate(found)


def one_by_one(x, codebook, block_size):
    found = []
    for start in range(0, len(x), block_size):
        block = x[start : start + block_size].tolist()
        absmax = max(map(abs, block)) or 1.0
        found += [absmax * min(codebook.tolist(), key=lambda c, w=w, a=absmax: abs(w / a - c)) for w in block]
    return found


def by_midpoints(x, codebook, block_size):
    blocks = x.double().view(-1, block_size)
    absmax = blocks.abs().max(dim=1, keepdim=True).values
    scaled = torch.nan_to_num(blocks / absmax)
    middle = (codebook[1:] + codebook[:-1]).double() / 2
    return (codebook[torch.bucketize(scaled, middle)] * absmax).flatten()


def places(x, codebook, block_size):
    blocks = x.view(-1, block_size)
    absmax = blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
    return (blocks / absmax)[..., None].sub(codebook).abs().argmin(dim=-1), absmax


def numbers(x, codebook, block_size):
    return codebook[places(x, codebook, block_size)[0]]


def always(step):
    """The codebook's number below (0) or above (1), not the nearest."""

    def wrong(x, codebook, block_size):
        blocks = x.view(-1, block_size)
        absmax = places(x, codebook, block_size)[1]
        scaled = (blocks / absmax).contiguous()
        if step:
            return (codebook[torch.searchsorted(codebook, scaled)] * absmax).view(-1)
        return (codebook[torch.searchsorted(codebook, scaled, right=True) - 1] * absmax).view(-1)

    return wrong


def strided(x, codebook, block_size):
    columns = x.view(block_size, -1).T.contiguous()
    return round_blocks(columns.view(-1), codebook, block_size).view(-1, block_size).T.reshape(-1)


def in_place(x, codebook, block_size):
    blocks = x.view(-1, block_size)
    absmax = blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
    blocks /= absmax
    return (codebook[blocks[..., None].sub(codebook).abs().argmin(dim=-1)] * absmax).view(-1)


def nan_for_zeros(x, codebook, block_size):
    blocks = x.view(-1, block_size)
    absmax = blocks.abs().amax(dim=1, keepdim=True)
    scaled = blocks / absmax
    return (codebook[scaled[..., None].sub(codebook).abs().argmin(dim=-1)] * absmax + 0 * scaled).view(-1)


def left_along(W0, delta, rounding):
    change = rounding(W0 + delta) - W0
    return (change * delta).sum() / (delta * delta).sum()


def of(share):
    """A wrong share, from the change that the stored weight really made."""
    return lambda W0, delta, rounding: share(rounding(W0 + delta) - W0, delta)


def along(change, delta):
    return (change * delta).sum() / (delta * delta).sum()


def merged_in_place(W0, delta, rounding):
    before = W0.clone()
    W0 += delta
    return along(rounding(W0) - before, delta)


def bits_a_weight(block_size, outer=None):
    if outer is None:
        return 4 + 32 / block_size
    return 4 + 8 / block_size + 32 / (block_size * outer)


def double(formula):
    """Wrong with double quantisation only."""
    return lambda block, outer=None: bits_a_weight(block) if outer is None else formula(block, outer)


ANSWERS = {
    "11.1": Answers(
        round_blocks,
        lambda x, codebook, block_size: ...,
        {
            "not rounded at all": lambda x, codebook, block_size: x.clone(),
            "one scale for all blocks": lambda x, codebook, block_size: round_blocks(x, codebook, len(x)),
            "the largest value": with_scale(lambda rows: rows.amax(dim=1, keepdim=True)),
            "the spread": with_scale(lambda rows: rows.std(dim=1, keepdim=True)),
            "the mean magnitude": with_scale(lambda rows: rows.abs().mean(dim=1, keepdim=True)),
            "no scale": lambda x, codebook, block_size: codebook[(x[:, None] - codebook).abs().argmin(-1)],
            "not multiplied back": lambda *given: numbers(*given).view(-1),
            "the places, not the numbers": lambda *given: places(*given)[0].view(-1),
            "the places, multiplied back": lambda *given: torch.mul(*places(*given)).view(-1),
            "multiplied back by the largest of all": lambda x, *how: (numbers(x, *how) * x.abs().max()).view(-1),
            "always down": always(0),
            "always up": always(1),
            "the sign is lost": lambda *given: round_blocks(*given).abs(),
            "equal steps": lambda x, codebook, block_size: round_blocks(x, torch.arange(-7, 8) / 7, block_size),
            "a block is not of neighbours": strided,
            "the error": lambda x, *how: round_blocks(x, *how) - x,
            "an input is changed in place": in_place,
            "not finite": nan_for_zeros,
            "wrong shape": lambda x, codebook, block_size: round_blocks(x, codebook, block_size).view(-1, block_size),
        },
    ),
    "11.2": Answers(
        left_along,
        lambda W0, delta, rounding: ...,
        {
            "only ΔW is rounded": lambda W0, delta, rounding: along(rounding(delta), delta),
            "W₀ is not subtracted": lambda W0, delta, rounding: along(rounding(W0 + delta), delta),
            "W₀ is rounded before": lambda W0, delta, rounding: along(rounding(W0 + delta) - rounding(W0), delta),
            "nothing is rounded": lambda W0, delta, rounding: 1.0,
            "two lengths are compared": of(lambda change, delta: change.norm() / delta.norm()),
            "the length of the error": of(lambda change, delta: (change - delta).norm() / delta.norm()),
            "1 minus the length": of(lambda change, delta: 1 - (change - delta).norm() / delta.norm()),
            "what is lost": of(lambda change, delta: 1 - along(change, delta)),
            "a cosine": of(lambda change, delta: (change * delta).sum() / change.norm() / delta.norm()),
            "divided by the change's length": of(lambda change, delta: (change * delta).sum() / change.square().sum()),
            "divided by ΔW's length once": of(lambda change, delta: (change * delta).sum() / delta.norm()),
            "not divided": of(lambda change, delta: (change * delta).sum()),
            "a root too many": of(lambda change, delta: along(change, delta).abs().sqrt()),
            "the share of entries that moved": of(lambda change, delta: (change != 0).float().mean()),
            "entry by entry": of(lambda change, delta: (change / delta).mean()),
            "row by row": of(lambda change, delta: ((change * delta).sum(1) / delta.square().sum(1)).mean()),
            "plus and minus cancel": of(lambda change, delta: change.sum() / delta.sum()),
            "in percent": of(lambda change, delta: 100 * along(change, delta)),
            "the sign is turned round": of(lambda change, delta: -along(change, delta)),
            "an input is changed in place": merged_in_place,
            "not a number": of(lambda change, delta: change * delta),
        },
    ),
    "11.3": Answers(
        bits_a_weight,
        lambda block_size, outer=None: ...,
        {
            "no scale is counted": lambda block, outer=None: 4,
            "the scales alone": lambda block, outer=None: bits_a_weight(block, outer) - 4,
            "bytes, not bits": lambda block, outer=None: bits_a_weight(block, outer) / 8,
            "a scale of 16 bits": lambda block, outer=None: 4 + 16 / block,
            "a scale for every weight": lambda block, outer=None: 4 + 32,
            "a code of 8 bits": lambda block, outer=None: 4 + bits_a_weight(block, outer),
            "the bits of a block": lambda block, outer=None: block * bits_a_weight(block, outer),
            "double quantisation is not used": lambda block, outer=None: bits_a_weight(block),
            "the second float32 is forgotten": double(lambda block, outer: 4 + 8 / block),
            "the second float32 is not shared": double(lambda block, outer: 4 + 40 / block),
            "by outer weights": double(lambda block, outer: 4 + 8 / block + 32 / outer),
            "kept in float32 as well": double(lambda block, outer: 4 + 32 / block + 32 / (block * outer)),
            "the 8 bits are shared": double(lambda block, outer: 4 + 40 / (block * outer)),
        },
    ),
}

RIGHT = {  # in other styles
    "11.1": [in_numpy, one_by_one, by_midpoints, lambda *given: round_blocks(*given).double().requires_grad_()],
    "11.2": [
        lambda W0, delta, rounding: float(left_along(W0, delta, rounding)),
        lambda W0, delta, rounding: 1 + along(rounding(W0 + delta) - (W0 + delta), delta),  # 1 plus the error's part
        lambda W0, delta, rounding: (
            torch.nn.functional.cosine_similarity((rounding(W0 + delta) - W0).flatten(), delta.flatten(), dim=0)
            * (rounding(W0 + delta) - W0).norm()
            / delta.norm()
        ),
        lambda W0, delta, rounding: np.linalg.lstsq(
            delta.numpy().reshape(-1, 1), (rounding(W0 + delta) - W0).numpy().reshape(-1), rcond=None
        )[0],
        lambda W0, delta, rounding: torch.dot(
            (rounding(W0 + delta) - W0).flatten(), delta.flatten() / delta.norm() ** 2
        ),
    ],
    "11.3": [
        lambda block, outer=None: np.float64(4 + ((8 + 32 / outer) if outer else 32) / block),
        lambda block, outer=math.inf: (4 * block + (32 if outer is None else 8 + 32 / outer)) / block,
        lambda block, outer=None: torch.tensor(4.0) + torch.tensor(8 + 32 / outer if outer else 32.0) / block,
    ],
}
MORE_WRONG = [  # other ways to a bug that is planted above
    ("11.1", lambda x, codebook, block_size: in_numpy(x.abs(), codebook, block_size), "the sign is lost"),
    ("11.2", lambda W0, delta, rounding: along(W0 + rounding(delta) - W0, delta), "only ΔW is rounded"),
    ("11.3", lambda block, outer=None: 4.5, "a scale of 16 bits"),
]
