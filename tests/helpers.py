"""Small tools that several test files share."""

from pathlib import Path

import torch
from torch import nn

from lora_edu.adapters import adapter_parameters

TESTS = Path(__file__).parent
ROOT = TESTS.parent
NOTEBOOKS = ROOT / "notebooks"


def randomise(model: nn.Module, name: str = "default", seed: int = 1, std: float = 0.3) -> nn.Module:
    """Give both factors of an adapter random values: with B = 0 a comparison would compare 0 with 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter_parameters(model, name).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return model


def tokens(batch: int = 2, length: int = 7, vocabulary: int = 32, seed: int = 3) -> torch.Tensor:
    """Random token numbers (batch, length)."""
    return torch.randint(0, vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))
