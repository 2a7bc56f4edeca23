"""What the optimiser is given: one group of parameters, or LoRA+'s groups with a learning rate for B of its own. Chapter 08.

A group's rate is a multiple of the run's, so that a schedule, and a callback that changes the peak, move all groups alike.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lora_edu.errors import TrainingError
from lora_edu.training.config import TrainConfig

TIMES = "times"  # key of a group: its learning rate as a multiple of the run's


def new_optimizer(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], config: TrainConfig
) -> torch.optim.Optimizer:
    """AdamW over `parameters` (what trains in `model`, by name), with LoRA+'s groups if the config has a `loraplus_lr_ratio`."""
    if config.loraplus_lr_ratio is None:
        groups = [{"params": list(parameters.values()), "weight_decay": config.weight_decay, TIMES: 1.0}]
    else:
        groups = loraplus_groups(
            model,
            parameters,
            learning_rate=config.learning_rate,
            ratio=config.loraplus_lr_ratio,
            embedding=config.loraplus_lr_embedding,
            weight_decay=config.weight_decay,
        )
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
    set_rate(optimizer, config.learning_rate)
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives each group its multiple of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[TIMES]


def loraplus_groups(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    *,
    learning_rate: float,
    ratio: float,
    embedding: float = 1e-6,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """LoRA+: lr_A = learning_rate, lr_B = ratio · learning_rate. A list of groups {params, weight_decay, times}; no group is empty.

    The groups are those of PEFT's `create_loraplus_optimizer`. With A go all matrices that are no factor (modules trained in full);
    with B go all vectors: biases, norms, magnitudes. Adapters at an embedding, both factors, get the rate `embedding`, which is PEFT's 1e-6 and
    a thousand times less than usual: give a larger one to train them. Biases and LayerNorm's weights do not decay; other norms' weights do.

    parameters: what trains, by its name in `model`. Raises TrainingError when no B is among it: then there is nothing to divide.
    Source: Hayou, Ghosh and Yu 2024, LoRA+ (arXiv 2402.12354), §4; PEFT. Chapter 08.
    """
    if not any("lora_B" in name for name in parameters):
        raise TrainingError(
            "LoRA+ gives B another learning rate than A, and no factor B trains here: inject an adapter, or leave loraplus_lr_ratio out."
        )
    a: list[nn.Parameter] = []
    at_embedding: list[nn.Parameter] = []
    b: list[nn.Parameter] = []
    b_undecayed: list[nn.Parameter] = []
    for name, p in parameters.items():
        owner = model.get_submodule(name.rpartition(".")[0])
        if "lora_embedding_" in name:
            at_embedding.append(p)
        elif "lora_B" not in name and p.ndim != 1:
            a.append(p)
        elif "bias" in name or isinstance(owner, nn.LayerNorm):
            b_undecayed.append(p)
        else:
            b.append(p)
    groups = (
        (a, 1.0, weight_decay),
        (at_embedding, embedding / learning_rate, weight_decay),
        (b, ratio, weight_decay),
        (b_undecayed, ratio, 0.0),
    )
    return [{"params": ps, TIMES: times, "weight_decay": decay} for ps, times, decay in groups if ps]
