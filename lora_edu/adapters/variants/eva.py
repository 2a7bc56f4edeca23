"""EVA: start from what the layers read, the directions in which their inputs vary most. Chapter 10.

A (r, in) = the first r principal directions of the layer's input over some batches (centred, each of length 1), B = 0; from there it is
plain LoRA, r·(in + out) numbers a matrix. The first step of B then sees inputs that are as large as r directions can have them.
Source: Paischer et al. 2024, One Initialization to Rule them All: Fine-tuning via Explained Variance Adaptation (arXiv 2410.07170), §3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lora_edu.adapters.variants import Layer, Variant, register
from lora_edu.errors import ConfigError


@register
@dataclass(frozen=True)
class EVA(Variant):
    """A start only. `init_lora_weights="eva"` in PEFT, with ρ = 1: each layer keeps the rank that it was given.

    use_label_mask   of batches {input_ids, labels, …}: only tokens that are answered count (padding never does).
    whiten           divide each direction by its standard deviation, so that A x varies by 1 in each.

    `inject(model, config, data=batches)`: batches as the model takes them, dictionaries or tensors; each is run once, forwards. Its
    directions are exact, from the inputs' covariance (in, in) in float64; PEFT's are found batch by batch, until they stand still.
    """

    use_label_mask: bool = True
    whiten: bool = False

    needs_data = True
    start_only = True

    def check(self, config: Any) -> None:
        if config.init_lora_weights is not True:
            raise ConfigError(
                f"init_lora_weights={config.init_lora_weights!r}: EVA is a start of its own; leave one out"
            )

    def start(self, model: Any, layers: Mapping[str, Layer], name: str, data: Any = None) -> None:
        super().start(model, layers, name, data)
        sums: dict[str, list[Any]] = {path: [0, 0.0, 0.0] for path in layers}  # rows, Σ x, Σ x xᵀ
        mask: list[Tensor | None] = [None]
        hooks = [
            layer.base_layer.register_forward_pre_hook(partial(_add, sums[path], mask))
            for path, layer in layers.items()
        ]
        training = model.training
        model.eval()
        try:
            for batch in data:
                mask[0] = self._counted(batch)
                model(**batch) if isinstance(batch, Mapping) else model(batch)
        finally:
            model.train(training)
            for hook in hooks:
                hook.remove()
        for path, layer in layers.items():
            self._put(path, layer.tensor("lora_A", name), sums[path])

    def _counted(self, batch: Any) -> Tensor | None:
        """(B, T) of the tokens that count; None for all."""
        if not isinstance(batch, Mapping):
            return None
        mask = batch.get("attention_mask")
        mask = None if mask is None or mask.ndim != 2 else mask.bool()
        if self.use_label_mask and (labels := batch.get("labels")) is not None and labels.is_floating_point() is False:
            answered = labels != -100
            mask = answered if mask is None else mask & answered
        return mask

    def _put(self, path: str, A: Tensor, sums: list[Any]) -> None:
        rows, total, square = sums
        if rows < 2:
            raise ConfigError(f"EVA: {path} read {rows} rows of these batches; give more (or use_label_mask=False)")
        mean = total / rows
        variances, directions = torch.linalg.eigh(square / rows - torch.outer(mean, mean))  # rising
        r = min(len(A), A.shape[1], rows - 1)
        found = directions.flip(1)[:, :r].T  # (r, in)
        if self.whiten:
            found = found / variances.flip(0)[:r, None].clamp_min(torch.finfo(A.dtype).eps).sqrt()
        A[:r] = found.to(A.dtype)


def _add(sums: list[Any], mask: list[Tensor | None], module: Any, inputs: tuple[Any, ...]) -> None:
    x = inputs[0].detach()  # (..., in)
    counted = mask[0]
    rows = x[counted] if counted is not None and counted.shape == x.shape[:-1] else x.reshape(-1, x.shape[-1])
    rows = rows.double()
    sums[0] += len(rows)
    sums[1] = sums[1] + rows.sum(0)
    sums[2] = sums[2] + rows.T @ rows
