"""How many bits does an adapter hold? Random labels of random rows, learnt by adapters of several ranks on a frozen random net. Chapter 09.

The rows have no rule behind them, so there is nothing to hold out: a held-out label is a coin toss for every net, and what is measured is
what the training rows have left in the weights (`lora_edu.experiments.capacity.memorised_bits`). Too few rows cannot fill an adapter, too
many pull at it in every direction: each rank gets several numbers of rows and several rates, and its capacity is the most it ever held.
The most over steps, rates and numbers of rows is no peeking: to name one of n choices takes log₂ n bits, a dozen among hundreds.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.experiments.capacity import FULL, LAYERS, PLACES, free_parameters, memorised_bits
from lora_edu.experiments.sweeps import Cell, Sweep


def frozen_net(width: int, alphabet: int = 2, seed: int = 0) -> nn.Sequential:
    """Three square layers, each with a ReLU behind it, and a readout, drawn at random (He et al. 2015), without bias. Nothing of it trains."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        squares = [nn.Linear(width, width, bias=False) for _ in range(LAYERS)]
        readout = nn.Linear(width, alphabet, bias=False)
        for layer in (*squares, readout):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return nn.Sequential(*(part for layer in squares for part in (layer, nn.ReLU())), readout).requires_grad_(False)


def random_rows(rows: int, width: int, alphabet: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs (rows, width) and labels (rows,) that have nothing to do with one another."""
    draw = torch.Generator().manual_seed(10_000 + seed)
    return torch.randn(rows, width, generator=draw), torch.randint(alphabet, (rows,), generator=draw)


def factors(net: nn.Sequential, r: int | str, seed: int = 0) -> list[Tensor]:
    """What trains: A (layers, r, width) and B = 0 (layers, width, r) as PEFT starts them; or, for `FULL`, one ΔW = 0 (layers, width, width)."""
    width = int(net[0].in_features)  # type: ignore[arg-type]
    if r == FULL:
        return [torch.zeros(LAYERS, width, width)]
    start = torch.rand(LAYERS, int(r), width, generator=torch.Generator().manual_seed(20_000 + seed))
    return [(2 * start - 1) / math.sqrt(width), torch.zeros(LAYERS, width, int(r))]


def row_losses(net: nn.Sequential, trained: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """(runs, rows) nats of several runs at once, which differ in `trained` alone: A and B with a first dimension `runs`, or ΔW. Scale 1."""
    delta = trained[0] if len(trained) == 1 else trained[1] @ trained[0]  # (runs, layers, out, in)
    h = x.expand(len(delta), *x.shape)  # (runs, rows, width)
    for i in range(LAYERS):
        h = torch.relu(torch.bmm(h, (net[2 * i].weight + delta[:, i]).transpose(1, 2)))  # type: ignore[operator]
    logits = net[-1](h)
    return F.cross_entropy(logits.flatten(0, 1), y.repeat(len(delta)), reduction="none").view(len(delta), -1)


def memorise(
    net: nn.Sequential,
    x: Tensor,
    y: Tensor,
    r: int | str,
    rates: Sequence[float],
    steps: int,
    seed: int = 0,
    optimiser: str = "Adam",
) -> Tensor:
    """Train an adapter of rank r (or `FULL`: the three matrices) on all rows at once, at each rate. (steps + 1, rates) bits held on the way."""
    alphabet = int(net[-1].out_features)  # type: ignore[arg-type]
    trained = [start.expand(len(rates), *start.shape).clone().requires_grad_() for start in factors(net, r, seed)]
    step = Adam(trained, rates) if optimiser == "Adam" else Momentum(trained, rates)
    held = torch.empty(steps + 1, len(rates), dtype=torch.float64)
    for number in range(steps + 1):
        losses = row_losses(net, trained, x, y)  # (rates, rows)
        held[number] = memorised_bits(losses.detach(), alphabet)
        if number < steps:
            step(torch.autograd.grad(losses.mean(1).sum(), trained))
    return held


class Momentum:
    """SGD with momentum .9 for runs side by side, each with a rate of its own, which torch.optim does not take."""

    def __init__(self, trained: Sequence[Tensor], rates: Sequence[float]) -> None:
        self.trained, self.rates = trained, torch.tensor(rates).view(-1, 1, 1, 1)
        self.mean = [torch.zeros_like(p) for p in trained]

    @torch.no_grad()
    def __call__(self, gradients: Sequence[Tensor]) -> None:
        for p, g, mean in zip(self.trained, gradients, self.mean):
            p -= self.rates * mean.mul_(0.9).add_(g)


class Adam(Momentum):
    """Adam (Kingma and Ba 2015) in the same way, β .9 and .999, ε 1e-8."""

    def __init__(self, trained: Sequence[Tensor], rates: Sequence[float]) -> None:
        super().__init__(trained, rates)
        self.square, self.step = [torch.zeros_like(p) for p in trained], 0

    @torch.no_grad()
    def __call__(self, gradients: Sequence[Tensor]) -> None:
        self.step += 1
        first, second = 1 - 0.9**self.step, 1 - 0.999**self.step  # what starting from 0 leaves out
        for p, g, mean, square in zip(self.trained, gradients, self.mean, self.square):
            mean.mul_(0.9).add_(g, alpha=0.1)
            square.mul_(0.999).addcmul_(g, g, value=0.001)
            p -= self.rates / first * mean / (square / second).sqrt().add_(1e-8)


# --- the sweep ----------------------------------------------------------------------------------------------------------

STEPS = (500, 1000, 2000, 4000)
FILL = (2, 4, 6)  # bits of labels for each free number
RATES = {"Adam": (1e-2, 3e-2, 1e-1), "SGD": (3e-2, 1e-1, 3e-1)}


def _cells(ranks: Sequence[int | str], width: int = 16, alphabet: int = 2, optimiser: str = "Adam") -> list[Cell]:
    """Every rank with each number of rows, in proportion to what could be free to hold them."""
    found = []
    for r in ranks:
        free = LAYERS * free_parameters(width, width, width if r == FULL else int(r))
        for fill in FILL:
            rows = round(fill * free / math.log2(alphabet))
            found.append({"optimiser": optimiser, "width": width, "alphabet": alphabet, "r": r, "rows": rows})
    return found


def _run(_base: nn.Module, cell: Cell, seed: int) -> dict[str, float]:
    """One number of rows at its three rates; another seed is another net, other rows and labels, and another start."""
    size = (cell["width"], cell["alphabet"], seed)
    rates = RATES[cell["optimiser"]]
    held = memorise(
        frozen_net(*size), *random_rows(cell["rows"], *size), cell["r"], rates, STEPS[-1], seed, cell["optimiser"]
    )
    most = held.nan_to_num(nan=-math.inf).cummax(0).values  # a rate that diverged keeps what it held before
    return {f"{place}_{steps}": float(most[steps, i]) for i, place in enumerate(PLACES) for steps in STEPS}


SWEEP = Sweep(
    name="capacity",
    title="bits of random labels held by an adapter on a frozen random net: ranks, rows, rates, steps; width, alphabet, optimiser",
    chapter="09",
    cells=[
        *_cells((1, 2, 4, 8, 16, FULL)),
        *_cells((2,), width=32),
        *_cells((2, 8), alphabet=10),
        *_cells((2, 8), optimiser="SGD"),
    ],
    seeds=(0, 1, 2),
    metrics=tuple(f"{place}_{steps}" for place in PLACES for steps in STEPS),
    settings={
        "net": f"{LAYERS} square layers with ReLU, a frozen readout, no bias; Gaussian rows, all of them in every step",
        "rates": {optimiser: list(rates) for optimiser, rates in RATES.items()},
        "scale": 1,
    },
    base=lambda: frozen_net(16),
    run=_run,
)
