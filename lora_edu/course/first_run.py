"""The settings of chapter 05's first run, held once for the chapter and for the command that stored its results."""

from lora_edu.adapters.config import LoRAConfig
from lora_edu.training.config import TrainConfig

LORA = LoRAConfig(r=8, lora_alpha=16, target_modules="all-linear")
SEEDS = (0, 1, 2)
STEPS = 8


def train_config(learning_rate: float = 1e-3, seed: int = 0, steps: int = STEPS) -> TrainConfig:
    """Four rows a step at a constant rate, so that a loop written by hand is the same run. Chapter 05."""
    return TrainConfig(
        learning_rate=learning_rate, batch_size=4, max_steps=steps, scheduler="constant", max_grad_norm=None, seed=seed
    )
