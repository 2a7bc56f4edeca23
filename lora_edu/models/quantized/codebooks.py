"""The numbers that a few bits can stand for: NF4, INT4, and the eight-bit map of double quantisation. Chapter 11.

A code is a place in a sorted list of numbers in [-1, 1]; a block of weights is divided by its largest magnitude to get there.
"""

from functools import cache

import torch
from torch import Tensor

from lora_edu.errors import ConfigError, shown

# How far out the outermost of NF4's numbers lies in the normal distribution: 1 - (1/32 + 1/30)/2, with the digits QLoRA's code gives it.
_OUTERMOST = 0.9677083


def nf4() -> Tensor:
    """NF4's 16 numbers (16,), float32: quantiles of N(0, 1), divided by the largest. Chapter 11.

    Between probability 1/2 and 0.9677083 lie eight quantiles at equal steps of probability, on the other side seven at slightly larger
    ones, and 0 between them, so that 0 is kept exactly. Equal, bit for bit, to the published list.
    Source: Dettmers et al. 2023 (QLoRA), §3 and appendix E, arXiv:2305.14314.
    """
    above = _quantiles(torch.linspace(_OUTERMOST, 0.5, 9)[:-1])  # (8,), falling
    below = -_quantiles(torch.linspace(_OUTERMOST, 0.5, 8)[:-1])  # (7,), rising
    numbers = torch.cat([below, torch.zeros(1), above.flip(0)])
    return numbers / numbers.max()


def int4() -> Tensor:
    """Symmetric INT4's 15 numbers k/7, k = -7 … 7 (15,), float32: equal steps; the sixteenth code stays unused. Chapter 11."""
    return torch.arange(-7, 8) / 7


def dynamic8() -> Tensor:
    """The 256 numbers (256,), float32, of the signed eight-bit dynamic map: in each decade down to 1e-6 twice as many as below it. Chapter 11.

    Decade i = 0 … 6 holds the middles of 2^i equal parts of [0.1, 1], times 10^(i-6), with either sign; 0 and 1 complete them.
    Source: Dettmers 2015, arXiv:1511.04561; used for the scales of QLoRA.
    """
    numbers = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1)
        middles = (edges[:-1] + edges[1:]) / 2 * 10 ** (i - 6)
        numbers += [*middles.tolist(), *(-middles).tolist()]
    return torch.tensor(sorted(numbers))


CODEBOOKS = {"nf4": nf4, "int4": int4}
CODE_OF_ZERO = 7  # in both


def codebook(kind: str, device: torch.device | str = "cpu") -> Tensor:
    """The numbers of "nf4" or "int4" on a device, made once. Raises ConfigError for another kind."""
    if kind not in CODEBOOKS:
        raise ConfigError(f"{shown(kind, 60)} is no kind of four-bit numbers; known are {' and '.join(CODEBOOKS)}")
    return _made(kind, str(device))


def dynamic_map(device: torch.device | str = "cpu") -> Tensor:
    """`dynamic8` on a device, made once."""
    return _made("dynamic8", str(device))


def pairs(kind: str, device: torch.device | str = "cpu") -> Tensor:
    """(256, 2): the two numbers that each byte of packed codes stands for, the even place first; made once."""
    return _made(f"pairs {kind}", str(device))


@cache
def _made(what: str, device: str) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():  # made once, whoever asks first
        if what.startswith("pairs "):
            numbers = torch.nn.functional.pad(codebook(what.removeprefix("pairs ")), (0, 1))[:16]
            byte = torch.arange(256)
            return torch.stack([numbers[byte >> 4], numbers[byte & 15]], dim=1).to(device)
        return {**CODEBOOKS, "dynamic8": dynamic8}[what]().to(device)


def _quantiles(probabilities: Tensor) -> Tensor:
    return torch.special.ndtri(probabilities.double()).float()
