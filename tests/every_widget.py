"""One of each widget with small data of its own, for the headless tests, the browser tests and the benchmark."""

import math
from types import SimpleNamespace

import torch
from small_rows import token_inspector
from small_run import training_dashboard

from lora_edu.evaluation import Pairs
from lora_edu.experiments import Choice, Held, Table, free_parameters, grid
from lora_edu.experiments.choices import ALL_LINEAR, NOTHING
from lora_edu.widgets import (
    AdapterDial,
    AdapterMixer,
    BlindAB,
    BudgetPainter,
    BudgetSpender,
    CapacityMeter,
    ClaimExplorer,
    DataParallelPlanner,
    DialData,
    ExportMap,
    FairRace,
    KnobMap,
    MemoryBars,
    MixerData,
    QuantisationLine,
    RankDirections,
    RankSlider,
    ShapesAndStarts,
)
from lora_edu.widgets.spectrum import Change, SpectrumExplorer


def rank_slider(size: int = 320) -> RankSlider:
    """A full-rank matrix and one of planted rank 6 beside the photograph."""
    draw = torch.Generator().manual_seed(0)
    full = torch.randn(size, size, generator=draw)
    thin = torch.randn(size, 6, generator=draw) @ torch.randn(6, size, generator=draw)
    return RankSlider({"a random matrix": full, "planted rank 6": thin})


def dial_data() -> DialData:
    """Invented answers and losses: this is a test of the widget, not of an adapter."""
    scales = [-0.5, 0.0, 0.5, 1.0, 1.5, 2.0]
    return DialData(
        scales=scales,
        prompts=["Rewrite: The man left early.", "What is the capital of France?"],
        answers=[
            [f"And it came to pass, {s} times, that the man arose and went forth. " * 4, f"Paris ({s})"] for s in scales
        ],
        curves={
            "style": [3.9 - math.exp(-((s - 1) ** 2)) for s in scales],
            "general text": [3.7 + 0.3 * s * s for s in scales],
        },
        base="0123456789abcdef",
        made_by="a test",
    )


def budget_grid() -> Table:
    """Invented losses of all-linear and of a choice that is worse, better, no different; a run of the fourth seed is missing, and all of k."""
    losses = {
        ALL_LINEAR: [0.50, 0.52, 0.54, 9],
        Choice(("q", "v"), (0, 29), 42): [0.60, 0.61, 0.62, 9],
        Choice(("o", "down"), (0, 29), 25): [0.40, 0.41, 0.45, 9],
        Choice(("v",), (0, 29), 106): [0.49, 0.53, 0.51, math.nan],
        Choice(("k",), (0, 29), 128): [math.nan] * 4,
        NOTHING: [1.5] * 4,
    }
    loss = torch.tensor(list(losses.values()))
    return Table([choice.cell() for choice in losses], [0, 1, 2, 3], {"loss": loss}, torch.ones_like(loss), {})


def neighbours_race(**changes) -> Table:
    """Invented losses of what was measured of the neighbours: three seeds each; the bottleneck is missing."""
    losses = {"LoRA, r = 1, q and v": 1.2, "IA³": 1.5, "prefix, 5 tokens": 2.0, "prompt, 20 tokens": 3.0,
              "LoRA, r = 8, all-linear": 0.8, "full fine-tuning": 0.7}  # fmt: skip
    test = torch.tensor([[mean - 0.1, mean, mean + 0.1] for mean in losses.values()])
    metrics = {"test": test, "general": 4 + test / 10}
    cells = [{"method": name, "learning_rate": 0.01} for name in losses]
    return Table(cells, [1, 2, 3], metrics | changes, torch.ones_like(test), {})


def spectrum_explorer() -> SpectrumExplorer:
    """Two groups: three square layers whose changes have rank 1, 2 and 3 and grow, and one layer that is tall."""
    draw = torch.Generator().manual_seed(0)
    square = []
    for rank in (1, 2, 3):
        W0, b, a = (torch.randn(*shape, generator=draw) for shape in [(40, 40), (40, rank), (rank, 40)])
        square.append(Change.between(W0, W0 + 0.01 * rank * b @ a))
    W0, noise = torch.randn(60, 24, generator=draw), torch.randn(60, 24, generator=draw)
    return SpectrumExplorer({"square": square, "tall": [Change.between(W0, W0 + 0.5 * noise)] * 2})


def mixer_data(**changes) -> MixerData:
    """Invented scores: of each task the better, the more its own adapter weighs and the less the other; "other" halves them."""
    weights = [0, 0.5, 1]

    def table(factor):
        return [
            [[(factor * max(0.0, a - b / 2), 2 - a + b), (factor * max(0.0, b - a / 2), 2 - b + a)] for b in weights]
            for a in weights
        ]

    answers = [[[f"first at {a}, {b}", "a long answer without an end " * 12] for b in weights] for a in weights]
    given = {
        "adapters": ["one", "two"], "scores": ["share of hits", "share of rights"], "weights": weights,
        "methods": {"sum": table(1.0), "other": table(0.5)}, "prompts": ["Is it?\nSay so.", "What is it?"],
        "answers": {"sum": answers, "other": answers}, "rows": 8, "test": {}, "base": "0123456789abcdef", "made_by": "a test",
    }  # fmt: skip
    return MixerData(**(given | changes))


def two_rates(**changes) -> Table:
    """Invented losses of 3 × 3 rates at r = 8, lowest in the middle and falling with the steps; the run at the highest rates diverged."""
    cells = grid(rate_A=(1e-3, 1e-2, 1e-1), rate_B=(1e-3, 1e-2, 1e-1))
    far = torch.tensor([[abs(math.log10(cell[axis]) + 2) for axis in ("rate_A", "rate_B")] for cell in cells]).sum(1)
    end = (0.2 + 0.3 * far)[:, None] + torch.tensor([0.0, 0.01, 0.02])  # (cells, seeds)
    end[-1, 0] = math.nan
    metrics = {"valid_loss_4": 5 * end, "valid_loss_64": end, "valid": 1 - end / 5}
    return Table(cells, [0, 1, 2], metrics, torch.ones_like(end), {"settings": {"r": 8}} | changes)


def held(*per_free: float, ranks=(1, 2, 4), width: int = 16) -> list[Held]:
    """Invented: each rank held so many bits a free number, a number a seed."""
    made = []
    for r in ranks:
        free = 3 * free_parameters(width, width, r)
        bits = torch.tensor(per_free, dtype=torch.float64) * free
        made.append(Held("Adam", width, 2, r, 6 * r * width, free, 4000, bits, 2 * free, 0.03, True))
    return made


def blind_pairs(count: int = 8) -> Pairs:
    """Invented answers, told apart by their first word; those of the last pair are the same."""
    prompts = [f"Question number {n}: what is the capital of France, and why do you say so?" for n in range(count)]
    first, second = (
        [f"{word} {n} " + "speaks at length " * (3 * n) for n in range(count)] for word in ("alpha", "omega")
    )
    return Pairs(prompts, [*first[:-1], "both"], [*second[:-1], "both "])


def race(**changes) -> Table:
    """Two methods, three rates, two lengths, two seeds: "early" is best at the low rate, "late" at the high one, both reach the same."""
    cells = grid(method=("early", "late"), epochs=(1, 2), learning_rate=(1e-3, 1e-2, 1e-1))
    mean = {"early": (0.2, 0.4, 0.8), "late": (0.8, 0.4, 0.2)}
    rates = (1e-3, 1e-2, 1e-1)
    losses = torch.tensor([mean[c["method"]][rates.index(c["learning_rate"])] / c["epochs"] for c in cells])
    valid = losses[:, None] + torch.tensor([-0.02, 0.02])  # (cells, seeds)
    valid[-1, 0] = math.nan
    given = {
        "cells": cells,
        "seeds": [0, 1],
        "metrics": {"valid_loss": valid},
        "cpu_seconds": torch.ones_like(valid),
        "about": {},
    }
    return Table(**(given | changes))


def claims(*rows: tuple[str, str]) -> list[SimpleNamespace]:
    """Invented rows of a ledger, (room, verdict) each; those that are untestable have a reason, the others a cell."""
    made = []
    for n, (room, verdict) in enumerate(rows, 1):
        open_ = verdict == "untestable"
        made.append(
            SimpleNamespace(
                id=f"1.{n:02}", page="1", room=room, said=f"Statement {n}, " + "at some length, " * n, verdict=verdict, why="So it was found.",
                source="a paper", breaks="law 2" if verdict == "wrong" else "", untestable="no source" if open_ else "",
                tested_by=None if open_ else ("16", f"16-cell-{n}"),
            )
        )  # fmt: skip
    return made


def claim_explorer() -> ClaimExplorer:
    """Twelve rows in two rooms of three; no row of the second is correct."""
    first = [("a", "correct"), ("a", "correct"), ("a", "wrong"), ("a", "misleading"), ("a", "untestable")]
    return ClaimExplorer(
        claims(*first, *first[2:], *first[:2], *[("b", "wrong")] * 2), {"a": "First", "b": "Second", "c": "Third"}
    )


MAKERS = {
    "ShapesAndStarts": ShapesAndStarts,
    "RankDirections": RankDirections,
    "RankSlider": rank_slider,
    "AdapterDial": lambda: AdapterDial(dial_data(), ask=lambda prompt, scale: f"{prompt} at {scale}"),
    "AdapterMixer": lambda: AdapterMixer(mixer_data()),
    "FairRace": lambda: FairRace(race()),
    "KnobMap": lambda: KnobMap(two_rates()),
    "MemoryBars": MemoryBars,
    "QuantisationLine": QuantisationLine,
    "BlindAB": lambda: BlindAB(blind_pairs(), ask=lambda asked: (f"first on {asked}", f"second on {asked}")),
    "BudgetPainter": lambda: BudgetPainter(budget_grid()),
    "BudgetSpender": lambda: BudgetSpender(neighbours_race()),
    "CapacityMeter": lambda: CapacityMeter(held(1.5, 2.0, 2.5), {"dates": 1.21}),
    "ClaimExplorer": claim_explorer,
    "SpectrumExplorer": spectrum_explorer,
    "TokenInspector": token_inspector,
    "ExportMap": ExportMap,
    "DataParallelPlanner": DataParallelPlanner,
    "TrainingDashboard": training_dashboard,
}
