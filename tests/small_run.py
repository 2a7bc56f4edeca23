"""A training run of milliseconds, for the dashboard's tests and for the notebooks of its browser test."""

import time

import torch
from torch import nn

from lora_edu.training import LossSum, TrainConfig, Trainer
from lora_edu.widgets import TrainingDashboard


def regression(*callbacks, seconds: float = 0.0, dropout: float = 0.0, progress: bool = False, **config) -> Trainer:
    """A trainer, not yet begun, of a linear model with eight weights; each step takes at least so many seconds."""
    draw = torch.Generator().manual_seed(0)
    x, planted = torch.randn(64, 8, generator=draw), torch.randn(8, generator=draw)
    rows = list(zip(x, x @ planted))
    linear = nn.Linear(8, 1)
    nn.init.zeros_(linear.weight), nn.init.zeros_(linear.bias)

    def loss(model, batch) -> LossSum:
        time.sleep(seconds)
        return LossSum((model(batch[0])[:, 0] - batch[1]).square().sum(), len(batch[1]))

    def collate(rows):
        return torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])

    settings = {"learning_rate": 0.3, "max_steps": 60, "eval_every": 10, "scheduler": "constant", "precision": "fp32"}
    return Trainer(
        nn.Sequential(nn.Dropout(dropout), linear), rows[:48], loss, TrainConfig(**settings | config), collate=collate,
        eval_examples=rows[48:], callbacks=callbacks, progress=progress,
    )  # fmt: skip


def training_dashboard() -> TrainingDashboard:
    """After a run whose learning rate a script lowered."""
    dashboard = TrainingDashboard(lambda: "a text", script={20: ("learning_rate", 0.03)}, target=0.5)
    regression(dashboard).train()
    return dashboard
