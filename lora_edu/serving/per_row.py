"""Several adapters in one batch: each row of it is answered by its own adapter, at its own dial. Chapter 15.

A batch of rows x_1 … x_n goes through W₀ once, and each row gets its own low-rank part:

    y_i = W₀ x_i + b + s_i · B_i (A_i x_i)

The factors of all adapters of the batch lie in one stack, padded with zeros to the largest rank; a row of the base has s_i = 0. The matrix
W₀, which is nearly all of the work, is read once for all of them. That is the idea of engines for many adapters (Chen et al. 2023,
*Punica*; Sheng et al. 2023, *S-LoRA*), in plain tensors.

What is no plain LoRA has no such form: `why_alone` says why, and its rows are answered in a batch of their own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.finding import adapter_names, lora_layers, saved_modules, state_of
from lora_edu.adapters.layer import LoRALayer
from lora_edu.adapters.layers import LoRAEmbedding, LoRALinear
from lora_edu.adapters.switching import known, refuse_merged
from lora_edu.errors import AdapterError

Row = tuple[str | None, float]
"""(adapter, dial) of one row; None is the base."""


def why_alone(model: nn.Module, name: str) -> str | None:
    """Why rows of the adapter `name` cannot share a batch with rows of others; None if they can."""
    config = state_of(model).configs[name]
    if not isinstance(config, LoRAConfig):
        return f"{type(config).__name__} is no low-rank update beside a layer"
    if config.variant is not None:
        return f"{type(config.variant).__name__} is more than the product of two factors"
    if paths := [path for path, module in saved_modules(model).items() if name in module.copies]:
        return f"it brings whole modules ({', '.join(paths[:3])})"
    for path, layer in lora_layers(model).items():
        if name in layer.scalings and not isinstance(layer, LoRALinear | LoRAEmbedding):
            return f"{path} is a {type(layer).__name__}"
    return None


class PerRow:
    """Which adapter each row of the running batch speaks with. `keep` follows a batch that rows leave."""

    def __init__(self, model: nn.Module, rows: Sequence[Row]) -> None:
        names = list(dict.fromkeys(name for name, dial in rows if name is not None and dial))
        if names:
            known(state_of(model), names)
        for name in names:
            if reason := why_alone(model, name):
                raise AdapterError(f"{name!r} cannot share a batch with other adapters: {reason}")
        self._names = {name: i for i, name in enumerate(names)}
        self._rows = list(rows)
        self._stacks: dict[LoRALayer, tuple[Tensor, Tensor]] = {}
        self._gathered: dict[LoRALayer, tuple[Any, Any, Tensor]] = {}
        self.layers = [layer for layer in lora_layers(model).values() if names and self._names.keys() & layer.scalings]
        for layer in self.layers:
            self._stacks[layer] = self._stack(layer)

    def _stack(self, layer: LoRALayer) -> tuple[Tensor, Tensor]:
        """(A (n, r, in), B (n, out, r)) of the n adapters, zeros where one is smaller, or not on this layer."""
        As, Bs = layer.factors
        here = [name for name in self._names if name in layer.scalings]
        r, like = max(As[name].shape[0] for name in here), As[here[0]]
        n_out, n_in = layer.shape
        A = torch.zeros(len(self._names), r, n_in, dtype=like.dtype, device=like.device)
        B = torch.zeros(len(self._names), n_out, r, dtype=like.dtype, device=like.device)
        for name in here:
            i, rank = self._names[name], As[name].shape[0]
            A[i, :rank], B[i, :, :rank] = As[name].detach(), Bs[name].detach()
        return A, B

    def _of_rows(self, layer: LoRALayer) -> tuple[Tensor, Tensor, Tensor]:
        """(A, B, scale) as the rows of this batch need them. Made once for a batch: its rows stay the same for many tokens."""
        if layer not in self._gathered:
            A, B = self._stacks[layer]
            which = torch.tensor([self._names.get(name or "", 0) for name, _ in self._rows], device=A.device)
            scale = torch.tensor(
                [layer.scalings.get(name or "", 0.0) * dial for name, dial in self._rows],
                dtype=A.dtype,
                device=A.device,
            )
            A = A if isinstance(layer, LoRAEmbedding) else A[which].transpose(1, 2)  # (rows, in, r)
            self._gathered[layer] = (
                (A, which) if isinstance(layer, LoRAEmbedding) else A,
                B[which].transpose(1, 2),  # (rows, r, out)
                scale[:, None, None],
            )
        return self._gathered[layer]

    def keep(self, rows: Sequence[int]) -> None:
        """From here on the batch has only these of its rows, in this order."""
        self._rows = [self._rows[i] for i in rows]
        self._gathered.clear()

    def add(self, layer: LoRALayer, x: Tensor, y: Tensor) -> Tensor:
        """The layer's output with each row's own part added. x (rows, T, in), or ids (rows, T) of an embedding; y (rows, T, out)."""
        if x.shape[0] != len(self._rows) or y.ndim != 3:
            raise AdapterError(
                f"a layer of this model sees its input as {tuple(x.shape)}, in which the {len(self._rows)} rows of the batch cannot be told apart"
            )
        A, B, scale = self._of_rows(layer)
        if isinstance(layer, LoRAEmbedding):
            table, which = A
            low = table[which[:, None], :, x] * getattr(layer.base_layer, "embed_scale", 1.0)  # (rows, T, r)
        else:
            low = torch.bmm(x.to(A.dtype), A)  # (rows, T, r)
        return torch.baddbmm(y.to(B.dtype), low * scale, B).to(y.dtype)


@contextmanager
def adapters_per_row(model: nn.Module, rows: Sequence[Row]) -> Iterator[PerRow]:
    """Within the block row i of every batch is answered by the adapter and at the dial of `rows[i]`; no adapter speaks otherwise.

    Equal to each row alone within rounding. Raises AdapterError for an adapter that is not there or that `why_alone` has a reason
    against, MergeError while the model is merged. Afterwards the same adapters speak as before.
    """
    if not adapter_names(model):
        if any(name is not None for name, _ in rows):
            raise AdapterError("this model has no adapter: load one first")
        yield PerRow(model, rows)
        return
    state = state_of(model)
    refuse_merged(state)
    batch = PerRow(model, rows)
    before, state.active = state.active, {}
    hooks = [
        layer.register_forward_hook(lambda layer, inputs, output: batch.add(layer, inputs[0], output))
        for layer in batch.layers
    ]
    try:
        yield batch
    finally:
        state.active = before
        for hook in hooks:
            hook.remove()
