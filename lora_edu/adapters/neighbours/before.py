"""A cache of transformers' kind that holds a prefix and nothing else. Chapter 12.

It is read and never written, so that a block that is run again in the backward pass (gradient checkpointing) finds what it found before.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class Before(Cache):
    """layers (2·L, kv heads, V, head size): each layer's own keys and values are put behind these, and kept nowhere."""

    def __init__(self, layers: Tensor) -> None:
        super().__init__(layer_class_to_replicate=DynamicLayer)
        self.table = layers

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """(B, kv heads, T, head size) of both → (B, kv heads, V + T, head size)."""
        own = self.table[2 * layer_idx], self.table[2 * layer_idx + 1]
        keys, values = (
            torch.cat([before[None].to(now.dtype).expand(len(now), -1, -1, -1), now], dim=-2)
            for before, now in zip(own, (key_states, value_states))
        )
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """V."""
        return self.table.shape[2]

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """(V + T, 0)."""
        return self.table.shape[2] + query_length, 0
