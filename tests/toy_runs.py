"""Small runs that the tests of the trainer share."""

import random
import signal

import torch
from conftest import make_tiny_llama
from torch import nn

from lora_edu.adapters import LoRAConfig, inject
from lora_edu.training import Callback, LossSum, causal_lm_loss


def sentences(count: int, seed: int = 0) -> list[tuple[list[int], int]]:
    """(token ids of 4 to 12 tokens, length of the prompt): micro-batches of unequal shape and weight."""
    generator = random.Random(seed)
    rows = []
    for _ in range(count):
        length = generator.randint(4, 12)
        rows.append(([generator.randint(1, 31) for _ in range(length)], generator.randint(1, length - 1)))
    return rows


def collate(rows: list[tuple[list[int], int]], pad: int = 0) -> dict[str, torch.Tensor]:
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows])
    labels = torch.tensor([[-100] * prompt + ids[prompt:] + [-100] * (width - len(ids)) for ids, prompt in rows])
    return {"input_ids": ids, "labels": labels, "attention_mask": (ids != 0).long()}


def adapted(dtype: torch.dtype = torch.float64, **config) -> nn.Module:
    """A tiny Llama with silent adapters, in float64 from end to end: transformers' own norm rounds to fp32 on its way."""
    model = make_tiny_llama(dtype=dtype)
    for layer in model.model.layers:
        layer.input_layernorm = nn.RMSNorm(16, eps=1e-6, dtype=dtype)
        layer.post_attention_layernorm = nn.RMSNorm(16, eps=1e-6, dtype=dtype)
    model.model.norm = nn.RMSNorm(16, eps=1e-6, dtype=dtype)
    torch.manual_seed(5)
    return inject(model.eval(), LoRAConfig(**{"r": 2, "target_modules": "all-linear"} | config))


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def farthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


class ScriptedLoss:
    """The causal loss in training; in evaluation, scripted values one after the other."""

    def __init__(self, values: list[float]) -> None:
        self.values = iter(values)

    def __call__(self, model, batch):
        return causal_lm_loss(model, batch) if model.training else LossSum(torch.tensor(next(self.values)), 1)


class PressCtrlC(Callback):
    def __init__(self, step: int, times: int = 1) -> None:
        self.step, self.times = step, times

    def on_step_end(self, trainer, record):
        if record["step"] == self.step:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)
