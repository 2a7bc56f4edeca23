"""How many bits an adapter can hold: the count of its free numbers, what a net has memorised, and the stored measurement. Chapter 09.

The labels of random rows have no rule behind them, so whatever a net knows of them lies in what was trained. Without the net they take
rows·log₂(alphabet) bits; with it, by the code that its probabilities give, the sum of −log₂ p(label). The difference is what it has memorised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_edu.errors import CheckpointError, ConfigError
from lora_edu.experiments.choices import KINDS
from lora_edu.experiments.sweeps import Table, table
from lora_edu.training.memory.ledger import SHAPES

LAYERS = 3  # square ones, of the net that the sweep `capacity` trains
FULL = "full"  # in place of a rank: the matrices themselves
PLACES = ("low", "middle", "high")  # of a rate among the three that were tried


def free_parameters(n_in: int, n_out: int, r: int) -> int:
    """Directions in which ΔW = BA can move: r(in + out) − r². Chapter 09.

    A and B are r(in + out) numbers, but (MA, BM⁻¹) is the same adapter for every invertible M, (r, r): r² of the numbers say nothing. At
    r = min(in, out) it is in·out, all of ΔW; a higher rank adds none.
    """
    r = min(r, n_in, n_out)
    return r * (n_in + n_out) - r * r


def memorised_bits(losses: Tensor, alphabet: int) -> Tensor:
    """Bits that a net holds of labels drawn at random and evenly from `alphabet`. Chapter 09.

    losses: (…, rows) nats, the cross-entropy −ln p(label) of each row. Returns (…), float64; below 0 where guessing would have done better.
    """
    return losses.shape[-1] * math.log2(alphabet) - losses.double().sum(-1) / math.log(2)


# --- the stored measurement -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """What adapters of one rank held, in the sweep `capacity`, with the number of rows and the rate at which they held most.

    r: the rank, or `FULL` for the matrices themselves. numbers: of A and B (of ΔW, for `FULL`). free: without the r² that say nothing.
    bits: (seeds,). rows, rate: chosen by the mean over seeds. inside: whether neither of the two lies at the edge of what was tried.
    """

    optimiser: str
    width: int
    alphabet: int
    r: int | str
    numbers: int
    free: int
    steps: int
    bits: Tensor
    rows: int
    rate: float
    inside: bool

    @property
    def per_free(self) -> Tensor:
        """(seeds,) bits a free number."""
        return self.bits / self.free

    @property
    def per_number(self) -> Tensor:
        """(seeds,) bits a number of A and B."""
        return self.bits / self.numbers


def capacities(steps: int | None = None, found: Table | None = None) -> list[Held]:
    """The most that was held after `steps` steps (the last that were stored, if not given), a line for each rank, net and optimiser.

    found: the table of the sweep `capacity`; the stored one if not given. Seeds that lack a run are left out. Raises CheckpointError where
    no seed is stored whole, ConfigError for steps that were not.
    """
    found = found or table("capacity")
    known = sorted({int(name.rpartition("_")[2]) for name in found.metrics})
    steps = known[-1] if steps is None else steps
    if steps not in known:
        raise ConfigError(f"Bits after {steps} steps are not stored. Known: {', '.join(map(str, known))}.")
    if not (seeds := found.done.all(0)).any():
        raise CheckpointError(
            "the stored sweep capacity has no seed with every run: go on with `lora-edu sweep capacity`"
        )
    kinds = [tuple(cell[axis] for axis in ("optimiser", "width", "alphabet", "r")) for cell in found.cells]
    held = []
    for kind in dict.fromkeys(kinds):
        cells = [i for i, each in enumerate(kinds) if each == kind]
        bits = torch.stack(
            [found.metrics[f"{place}_{steps}"][cells][:, seeds] for place in PLACES]
        )  # (rates, rows, seeds)
        rate, at = divmod(int(bits.mean(2).argmax()), len(cells))
        optimiser, width, alphabet, r = kind
        rank = width if r == FULL else r
        held.append(
            Held(
                optimiser=optimiser,
                width=width,
                alphabet=alphabet,
                r=r,
                numbers=LAYERS * (width * width if r == FULL else 2 * r * width),
                free=LAYERS * free_parameters(width, width, rank),
                steps=steps,
                bits=bits[rate, at],
                rows=found.cells[cells[at]]["rows"],
                rate=found.about["settings"]["rates"][optimiser][rate],
                inside=0 < rate < len(PLACES) - 1 and 0 < at < len(cells) - 1,
            )
        )
    return held


@dataclass(frozen=True)
class BitsEach:
    """Bits a free number: the mean over the ranks and seeds of the headline's net, and the least and most of any rank, net and seed."""

    mean: float
    least: float
    most: float


def bits_each(held: Sequence[Held]) -> BitsEach:
    """Summed up over adapters; the matrices themselves are left out."""
    adapters = [each for each in held if each.r != FULL]
    first = adapters[0]
    same = [
        each
        for each in adapters
        if (each.optimiser, each.width, each.alphabet) == (first.optimiser, first.width, first.alphabet)
    ]
    every = torch.cat([each.per_free for each in adapters])
    return BitsEach(float(torch.cat([each.per_free for each in same]).mean()), float(every.min()), float(every.max()))


# --- the matrices of a language model ---------------------------------------------------------------------------------

SPOTS: dict[str, tuple[str, ...]] = {
    "all-linear": KINDS,
    "q and v": ("q", "v"),
    "attention": ("q", "k", "v", "o"),
    "MLP": ("gate", "up", "down"),
}  # where an adapter may sit, in every layer


def matrices(shape: str) -> dict[str, tuple[int, int]]:
    """(in, out) of each kind of matrix in a layer of a model of `memory.ledger.SHAPES`."""
    sizes = SHAPES[shape]
    hidden, inner = sizes["hidden_size"], sizes["intermediate_size"]
    grouped = hidden // sizes["num_attention_heads"] * sizes["num_key_value_heads"]
    outs = {"q": hidden, "k": grouped, "v": grouped, "o": hidden, "gate": inner, "up": inner}
    return {kind: (hidden, n_out) for kind, n_out in outs.items()} | {"down": (inner, hidden)}


def free_in_model(shape: str, spot: str, r: int) -> int:
    """`free_parameters` of an adapter of rank r at a spot in every layer of a model."""
    sides = matrices(shape)
    return SHAPES[shape]["num_hidden_layers"] * sum(free_parameters(*sides[kind], r) for kind in SPOTS[spot])
