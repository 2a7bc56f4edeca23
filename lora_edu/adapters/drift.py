"""What a merge loses to rounding: W₀ + ΔW has to fit the dtype it is kept in. Chapter 07.

A weight in bfloat16 has 8 significant bits: what ΔW adds is rounded to steps of up to |W|/128. Where ΔW is small beside W₀ most entries do
not move at all, and the others move too far; the two nearly balance along ΔW, so that the error is mostly noise and not a loss of size.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from lora_edu.adapters.factors import the_adapter
from lora_edu.adapters.finding import lora_layers, state_of
from lora_edu.adapters.layer import QUANTIZED
from lora_edu.adapters.switching import refuse_merged
from lora_edu.errors import MergeError
from lora_edu.models.modules import unwrap
from lora_edu.models.quantized.linear import is_quantized


@dataclass(frozen=True)
class LayerDrift:
    """One matrix, in squares and sums, so that layers add up."""

    weight: float  # ‖W₀‖_F²
    delta: float  # ‖ΔW‖_F²
    error: float  # ‖(W − W₀) − ΔW‖_F², W the merged weight as it is kept
    along: float  # ⟨W − W₀, ΔW⟩
    still: int  # entries that did not move
    entries: int


@dataclass(frozen=True)
class DriftReport:
    """What merging one adapter into weights of one dtype does to its update; `layers` says it by path."""

    adapter: str
    dtype: torch.dtype
    layers: dict[str, LayerDrift]

    @property
    def size(self) -> float:
        """‖ΔW‖_F / ‖W₀‖_F over all layers."""
        return math.sqrt(self._sum("delta") / self._sum("weight"))

    @property
    def error(self) -> float:
        """‖(W − W₀) − ΔW‖_F / ‖ΔW‖_F over all layers: 0 nothing is lost, 1 as much as the update itself."""
        return math.sqrt(self._sum("error") / self._sum("delta"))

    @property
    def kept(self) -> float:
        """⟨W − W₀, ΔW⟩ / ‖ΔW‖²: how long the update still is in its own direction. Near 1 where rounding is only noise."""
        return self._sum("along") / self._sum("delta")

    @property
    def still(self) -> float:
        """The share of entries that the merge did not move."""
        return self._sum("still") / self._sum("entries")

    def _sum(self, what: str) -> float:
        return math.fsum(getattr(layer, what) for layer in self.layers.values())

    def __str__(self) -> str:
        return (
            f"{str(self.dtype).removeprefix('torch.')}: ΔW is {self.size:.2%} of W₀; merged, {self.error:.2%} of it is error, "
            f"{self.kept:.2%} of its length is left, {self.still:.0%} of the entries did not move"
        )


@torch.no_grad()
def merge_drift(model: nn.Module, dtype: torch.dtype | None = None, adapter: str | None = None) -> DriftReport:
    """What a merge of the adapter would lose if the base were kept in `dtype` (None: as it is); nothing is changed. Chapter 07.

    W₀ is taken in `dtype` first, because that is the base that would be loaded; the sum W₀ + s·B A is made in float32, as `merge` does,
    and rounded once to `dtype`. Compared in float64, a matrix at a time. The adapter is the only or only active one without a name; its
    dial does not count.

    Raises AdapterError for an unknown adapter, MergeError while merged, for a quantised base, and for an update that is 0 or overflows.
    """
    model = unwrap(model)
    state = state_of(model)
    refuse_merged(state)
    name = the_adapter(state, adapter)
    found = {}
    for path, layer in lora_layers(model).items():
        if name not in layer.scalings:
            continue
        if is_quantized(layer.base_layer):
            raise MergeError(f"{path}: {QUANTIZED}")
        weight = layer.base_layer.weight.detach()
        delta = layer.delta_weight(name).detach()  # in the factors' precision
        kind = dtype or weight.dtype
        before = weight.to(kind)
        merged = (before.to(delta.dtype) + delta).to(kind)
        if not bool(torch.isfinite(merged).all()):
            raise MergeError(f"{path}: the merged weight is not finite in {kind}: keep the base in float32")
        moved, wanted = merged.double() - before.double(), delta.double()
        found[path] = LayerDrift(
            float(before.double().square().sum()),
            float(wanted.square().sum()),
            float((moved - wanted).square().sum()),
            float((moved * wanted).sum()),
            int((moved == 0).sum()),
            moved.numel(),
        )
    if not any(layer.delta for layer in found.values()):
        raise MergeError(
            f"the adapter {name!r} changes no weight (ΔW = 0), so a merge has nothing to lose: train it first"
        )
    return DriftReport(name, dtype or next(iter(lora_layers(model).values())).base_layer.weight.dtype, found)
