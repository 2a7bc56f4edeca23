"""Chapter 11: solutions, stubs and planted bugs."""

import math
from fractions import Fraction

import numpy as np
import torch
from kit import Answers

from lora_edu.models.quantized import dequantize_blockwise, nf4, quantize_blockwise


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


def codebook_next(x, codebook, block_size):
    """The number above the nearest."""
    return codebook[(places(x, codebook, block_size)[0] + 1).clamp(max=len(codebook) - 1)]


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


def by_steps(x, codebook, block_size):
    """Each block alone, with the codebook scaled in place of the weights."""
    found = []
    for block in x.split(block_size):
        book = codebook * block.abs().max()
        found.append(book[(block[:, None] - book).abs().argmin(dim=1)])
    return torch.cat(found)


def with_eps(x, codebook, block_size):
    blocks = x.reshape(-1, block_size)
    scale = blocks.abs().amax(dim=1, keepdim=True) + 1e-8
    return (codebook[(blocks / scale).unsqueeze(-1).sub(codebook).square().min(-1).indices] * scale).reshape(-1)


def with_vmap(x, codebook, block_size):
    def one(block):
        scale = block.abs().amax().clamp(min=1e-12)
        return codebook[(block[:, None] / scale - codebook).abs().argmin(dim=1)] * scale

    return torch.vmap(one)(x.view(-1, block_size)).flatten()


def with_module(x, codebook, block_size):
    return dequantize_blockwise(*quantize_blockwise(x, codebook, block_size), codebook, block_size)


def searched(x, codebook, block_size):
    blocks, book = x.numpy().reshape(-1, block_size).astype(float), codebook.numpy().astype(float)
    scale = np.abs(blocks).max(axis=1, keepdims=True)
    scaled = blocks / np.where(scale > 0, scale, 1)
    above = np.clip(np.searchsorted(book, scaled), 1, len(book) - 1)
    lower = scaled - book[above - 1] <= book[above] - scaled
    return (np.where(lower, book[above - 1], book[above]) * scale).ravel()


def one_side(x, codebook, block_size, towards):
    """Always towards 0, or always away from it."""
    _, scale = places(x, codebook, block_size)
    scaled = (x.view(-1, block_size) / scale).contiguous()
    above = torch.searchsorted(codebook, scaled).clamp(max=len(codebook) - 1)
    below = torch.searchsorted(codebook, scaled, right=True) - 1
    return (codebook[torch.where((scaled >= 0) == towards, below, above)] * scale).view(-1)


def between_ends(x, codebook, block_size):
    rows = x.view(-1, block_size)
    least, most = rows.aminmax(dim=1, keepdim=True)
    middle, half = (most + least) / 2, ((most - least) / 2).clamp(min=1e-30)
    return (codebook[((rows - middle) / half)[..., None].sub(codebook).abs().argmin(-1)] * half + middle).view(-1)


def scaled_by(how):
    """The right numbers, multiplied back by something else."""
    return lambda *given: how(numbers(*given), places(*given)[1]).view(-1)


def not_the_last(x, codebook, block_size):
    return torch.cat([round_blocks(x, codebook, block_size)[:-block_size], x[-block_size:]])


def ones_for_zeros(x, codebook, block_size):
    found = round_blocks(x, codebook, block_size).view(-1, block_size)
    found[~x.view(-1, block_size).any(dim=1)] = 1.0
    return found.view(-1)


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


def bits_in(weights, block_size, outer):
    """Of so many weights together."""
    blocks = weights / block_size
    return 4 * weights + (32 * blocks if outer is None else 8 * blocks + 32 * blocks / outer)


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
    "11.1": [
        in_numpy, one_by_one, by_midpoints, by_steps, with_eps, with_vmap, with_module, searched,
        lambda *given: round_blocks(*given).double().requires_grad_(),
        lambda x, codebook, block_size: round_blocks(x.double(), codebook.double(), block_size),
        lambda *given: torch.inference_mode()(round_blocks)(*given),
        lambda *given: list(round_blocks(*given)),
        lambda *given: round_blocks(*given).tolist(),
        lambda *given: round_blocks(*given).numpy(),
    ],
    "11.2": [
        lambda *given: np.asarray(left_along(*given)),
        lambda W0, d, rounding: left_along(W0.double(), d.double(), lambda W: rounding(W.float()).double()),
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
        lambda W0, delta, rounding: left_along(W0.double(), delta.double(), rounding),
        lambda W0, delta, rounding: torch.trace((rounding(W0 + delta) - W0).T @ delta) / torch.trace(delta.T @ delta),
        lambda W0, delta, rounding: torch.einsum("ij,ij", rounding(W0 + delta) - W0, delta) / torch.linalg.norm(delta) ** 2,
        lambda W0, delta, rounding: np.vdot((rounding(W0 + delta) - W0).numpy(), delta.numpy()) / np.vdot(delta.numpy(), delta.numpy()),
        lambda W0, delta, rounding: ((rounding(W0 + delta) - W0) * delta).mean() / delta.square().mean(),
        lambda W0, delta, rounding: left_along(torch.nn.Parameter(W0), delta, rounding),
        lambda W0, delta, rounding: [left_along(W0, delta, rounding)][0].reshape(1, 1),
        of(lambda change, delta: 0.5 * (1 + (change.square().sum() - (change - delta).square().sum()) / delta.square().sum())),
        of(lambda change, delta: sum(a * b for a, b in zip(change.flatten().tolist(), delta.flatten().tolist())) / delta.square().sum()),
    ],
    "11.3": [
        lambda block, outer=None: np.float64(4 + ((8 + 32 / outer) if outer else 32) / block),
        lambda block, outer=None: (4 * block + (32 if outer is None else 8 + 32 / outer)) / block,
        lambda block, outer=None: torch.tensor(4.0) + torch.tensor(8 + 32 / outer if outer else 32.0) / block,
        lambda block, outer=None: Fraction(4) + (Fraction(32, block) if outer is None else Fraction(8, block) + Fraction(32, block * outer)),
        lambda *given: bits_a_weight(*given),
        lambda block, outer=0: bits_a_weight(block, outer or None),
        lambda block, outer=None: 8 * (0.5 + (4 if outer is None else 1 + 4 / outer) / block),  # bytes, times 8
        lambda block, outer=None: np.float32(bits_a_weight(block, outer)),
        lambda block, outer=None: np.array([bits_a_weight(block, outer)]),
        lambda block, outer=None: math.log2(16) + sum([32 / block] if outer is None else [8 / block, 32 / block / outer]),
        lambda block, outer=None: bits_in(1e9, block, outer) / 1e9,
        lambda block, outer=None: bits_in(block * (outer or 1), block, outer) / (block * (outer or 1)),
    ],
}  # fmt: skip
MORE_WRONG = [  # beyond those that are planted above
    ("11.1", lambda x, codebook, block_size: in_numpy(x.abs(), codebook, block_size), "the sign is lost"),
    ("11.1", lambda *given: one_side(*given, True), "towards 0"),
    ("11.1", lambda *given: one_side(*given, False), "away from 0"),
    ("11.1", between_ends, "from the smallest to the largest"),
    ("11.1", lambda *given: -round_blocks(*given), "the sign is turned round"),
    ("11.1", lambda x, codebook, block_size: round_blocks(x, nf4(), block_size), "NF4's numbers"),
    ("11.1", lambda x, codebook, block_size: round_blocks(x.abs(), codebook, block_size) * x.sign(), "put back"),
    ("11.1", with_scale(lambda rows: rows.norm(dim=1, keepdim=True)), "the block's length"),
    ("11.1", with_scale(lambda rows: rows.square().mean(dim=1, keepdim=True).sqrt()), "the root of the mean square"),
    ("11.1", with_scale(lambda rows: rows.abs().median(dim=1, keepdim=True).values), "the median"),
    ("11.1", with_scale(lambda rows: rows.amin(dim=1, keepdim=True).abs()), "the smallest value"),
    ("11.1", with_scale(lambda rows: rows.abs().amax(dim=0, keepdim=True)), "the largest of each place"),
    ("11.1", scaled_by(lambda found, scale: found * scale**2), "twice"),
    ("11.1", scaled_by(lambda found, scale: found / scale), "divided, not multiplied"),
    ("11.1", scaled_by(lambda found, scale: found * scale.roll(1, 0)), "multiplied back by something else"),
    ("11.1", scaled_by(lambda found, scale: found * (scale + 0.1)), "multiplied back by something else"),
    ("11.1", lambda x, codebook, block_size: round_blocks(x, codebook, block_size // 2), "blocks of another size"),
    ("11.1", lambda *given: (codebook_next(*given) * places(*given)[1]).view(-1), "not to the nearest"),
    ("11.1", lambda *given: round_blocks(*given).bfloat16(), "too few digits"),
    ("11.1", lambda *given: round_blocks(*given).flip(0), "another order"),
    ("11.1", not_the_last, "right in some blocks"),
    ("11.1", ones_for_zeros, "a block of zeros"),
    ("11.1", lambda *given: (round_blocks(*given), places(*given)[1]), "not a tensor"),
    ("11.2", lambda W0, delta, rounding: along(W0 + rounding(delta) - W0, delta), "only ΔW is rounded"),
    ("11.2", lambda W0, delta, rounding: along(rounding(W0) + delta - W0, delta), "only W₀ is rounded"),
    ("11.2", lambda W0, delta, rounding: along(rounding(W0) + rounding(delta) - W0, delta), "rounded apart"),
    ("11.2", lambda W0, delta, rounding: along(rounding(rounding(W0) + delta) - W0, delta), "rounded twice"),
    ("11.2", lambda W0, delta, rounding: along(rounding(W0 - delta) - W0, delta), "ΔW is subtracted"),
    ("11.2", lambda W0, delta, rounding: along(rounding(W0 + delta) - (W0 + delta), delta), "the error's part"),
    ("11.2", of(lambda change, delta: along(change, delta).clamp(min=0)), "never below 0"),
    ("11.2", of(lambda change, delta: along(change, delta).clamp(max=1)), "never above 1"),
    ("11.2", of(lambda change, delta: along(change, delta).clamp(0, 1)), "between 0 and 1"),
    ("11.2", of(lambda change, delta: along(change, delta).abs()), "the sign is lost"),
    ("11.2", lambda W0, delta, rounding: 0.0, "0, whatever is given"),
    ("11.2", of(lambda change, delta: along(change, delta) ** 2), "squared"),
    ("11.2", of(lambda change, delta: (change - along(change, delta) * delta).norm() / delta.norm()), "at right angles"),
    ("11.2", of(lambda change, delta: change.square().sum() / delta.square().sum()), "the squares of two lengths"),
    ("11.2", of(lambda change, delta: 1 - (change - delta).square().sum() / delta.square().sum()), "1 minus the square"),
    ("11.2", of(lambda change, delta: change.abs().sum() / delta.abs().sum()), "magnitudes"),
    ("11.2", of(lambda change, delta: torch.cosine_similarity(change, delta).mean()), "a mean of cosines"),
    ("11.2", of(lambda change, delta: torch.corrcoef(torch.stack([change.flatten(), delta.flatten()]))[0, 1]), "means are taken off"),
    ("11.2", of(lambda change, delta: (change @ delta.T).sum() / (delta @ delta.T).sum()), "a matrix product"),
    ("11.2", of(lambda change, delta: (change.sign() == delta.sign()).float().mean()), "go ΔW's way"),
    ("11.2", of(lambda change, delta: (change == 0).float().mean()), "did not move"),
    ("11.2", lambda W0, delta, rounding: (rounding(W0 + delta) - W0).norm() / W0.norm(), "W₀'s length"),
    ("11.2", of(lambda change, delta: torch.round(along(change, delta), decimals=2)), "few digits"),
    ("11.2", of(lambda change, delta: (change / delta).median()), "a median"),
    ("11.3", lambda block, outer=None: 4.5, "4.5 for every block size"),
    ("11.3", lambda block, outer=None: 4 + 8 / block, "a scale of 8 bits"),
    ("11.3", lambda block, outer=None: 4 + 4 / block, "a scale's bytes"),
    ("11.3", lambda block, outer=None: 4 + 64 / block, "a scale of 64 bits"),
    ("11.3", lambda block, outer=None: 0.5 + 32 / block, "half a byte"),
    ("11.3", lambda block, outer=None: 16 + 32 / block, "a code of 16 bits"),
    ("11.3", lambda block, outer=None: 4 + 32 * block, "multiplied by the block size"),
    ("11.3", lambda block, outer=None: 4 + block / 32, "the wrong way round"),
    ("11.3", lambda block, outer=None: 4 + 32 // block, "`//`"),
    ("11.3", lambda block, outer=None: round(bits_a_weight(block, outer), 2), "rounded"),
    ("11.3", lambda block, outer=None: 32 / bits_a_weight(block, outer), "how many times smaller"),
    ("11.3", double(lambda block, outer: 4 + (8 + 32 // outer) / block), "`//`"),
    ("11.3", double(lambda block, outer: 4 + 8 / block + 16 / (block * outer)), "the second number in 16 bits"),
    ("11.3", double(lambda block, outer: 4 + 8 / block + 32 / (256 * block)), "by 256 scales"),
    ("11.3", double(lambda block, outer: 4 + 32 / (block * outer)), "the 8 bits are forgotten"),
    ("11.3", double(lambda block, outer: 4 + 32 / block + 8 / (block * outer)), "mixed up"),
    ("11.3", double(lambda block, outer: 4 + 40 / block + 32 / (block * outer)), "kept in float32 as well"),
    ("11.3", lambda block, outer: bits_a_weight(block, outer), "raises an error"),  # no default
]  # fmt: skip
