"""Which matrices get an adapter, of which rank, and what that costs. Chapters 04 and 09."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from lora_edu.adapters import save_load as checkpoint
from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.targets import Target, plan
from lora_edu.experiments.sweeps import Cell
from lora_edu.training.memory.ledger import safetensors_bytes, sketch

SHAPE = "smollm2-135m"
KINDS = ("q", "k", "v", "o", "gate", "up", "down")
LAYERS = 30


@dataclass(frozen=True)
class Choice:
    """Which matrices of which layers get an adapter, and of what rank."""

    kinds: tuple[str, ...]
    layers: tuple[int, int]  # first and last
    r: int

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Choice:
        first, last = sorted((state["first"], state["last"]))
        return cls(tuple(kind for kind in KINDS if state[kind]), (first, last), state["r"])

    @classmethod
    def of_cell(cls, cell: Cell) -> Choice:
        return cls(tuple(cell["kinds"]), tuple(cell["layers"]), cell["r"])

    def cell(self) -> Cell:
        """As a cell of a sweep."""
        return {"kinds": list(self.kinds), "layers": list(self.layers), "r": self.r}

    def config(self) -> LoRAConfig:
        first, last = self.layers
        names = tuple(f"{kind}_proj" for kind in self.kinds)
        return LoRAConfig(r=self.r, target_modules=names, layers_to_transform=tuple(range(first, last + 1)))

    @property
    def place(self) -> str:
        kinds = "all seven" if self.kinds == KINDS else " ".join(self.kinds)
        return kinds if self.layers == (0, LAYERS - 1) else f"{kinds}, layers {self.layers[0]}–{self.layers[1]}"


ALL_LINEAR = Choice(KINDS, (0, LAYERS - 1), 8)
NOTHING = Choice((), (0, LAYERS - 1), 0)  # the base as it is


@dataclass(frozen=True)
class Budget:
    """What a choice costs: exact counts and bytes (fp32, AdamW), worked out from the plan."""

    targets: tuple[Target, ...]

    @property
    def parameters(self) -> int:
        return sum(target.parameters for target in self.targets)

    @property
    def optimizer(self) -> int:
        """AdamW's two moments of each number, and a step count for each of the two factors."""
        return 8 * self.parameters + 8 * len(self.targets)

    @property
    def file(self) -> int:
        """The safetensors file that `checkpoint.save` would write."""
        tensors = {}
        for target in self.targets:
            n_out, n_in = target.shape
            for factor, shape in (("lora_A", (target.r, n_in)), ("lora_B", (n_out, target.r))):
                tensors[checkpoint.disk_key(f"{target.name}.{factor}.default", "default")] = torch.empty(
                    shape, device="meta"
                )
        return safetensors_bytes(tensors, {"format": "pt", checkpoint.FINGERPRINT: "0" * 16})


@cache
def _model() -> nn.Module:
    """The model's shapes, without content."""
    return sketch(SHAPE)


def budget(choice: Choice) -> Budget:
    """The bill of a choice; a choice without matrices costs nothing."""
    return Budget(tuple(plan(_model(), choice.config())) if choice.kinds else ())
