"""What every LoRA layer has in common: named adapters beside a frozen layer, merging, unmerging. Chapters 03 and 07.

One layer holds any number of named adapters; which of them speak, and how loud, is written in one `AdapterState` that all
layers of a model share: to switch is to change that one object. What a variant does otherwise it is asked for (`variants`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.adapters.config import scaling
from lora_edu.adapters.variants import Slot, Variant
from lora_edu.errors import AdapterError, MergeError
from lora_edu.models.quantized.linear import QuantizedLinear, is_quantized

DEFAULT = "default"
QUANTIZED = (
    "the base weight is quantised, and the sum would have to be rounded to a few bits again, which changes the adapter. Two ways are "
    "honest: load the base in 16 or 32 bits (load_base without bits), load the adapter onto it and merge there; or "
    "dequantize(model), which makes the rounded weights dense, and merge into those"
)


@dataclass
class AdapterState:
    """What a model's layers share: each adapter's configuration, and how loud each active one is (1 = as trained)."""

    configs: dict[str, Any] = field(default_factory=dict)  # a LoRAConfig, or another of `attach`'s methods
    active: dict[str, float] = field(default_factory=dict)
    merged_layers: int = 0  # while some are merged, `active` must not change: the weights would not follow


class LoRALayer(nn.Module):
    """A frozen base layer with low-rank adapters beside it; subclasses say what kind of layer the base is."""

    names_of_factors = ("lora_A", "lora_B")
    base_layer: Any

    def __init__(self, base_layer: nn.Module, state: AdapterState | None = None) -> None:
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.state = AdapterState() if state is None else state
        self.scalings: dict[str, float] = {}
        self.dropouts: dict[str, float] = {}
        self.variants: dict[str, Variant] = {}  # of the adapters that are more than plain LoRA
        self.W0: Tensor | None = None  # the untouched base weight while merged with keep_base
        self.b0: Tensor | None = None  # and the bias, where a variant changes it
        self.merged = False
        for name in self.names_of_factors:
            setattr(self, name, nn.ParameterDict())

    # -- what a subclass defines --------------------------------------------------------------------------------------
    @property
    def shape(self) -> tuple[int, int]:
        """(out, in): the shape of B A."""
        raise NotImplementedError

    def reset_factors(self, A: Tensor, B: Tensor, init: bool | str) -> None:
        """Give A and B their values at the start: one random, the other zero, so that ΔW = 0 and yet a gradient flows."""
        raise NotImplementedError

    def product(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """Two matrices whose product is B A in the orientation in which the base stores its weight."""
        return B, A

    # -- adapters -----------------------------------------------------------------------------------------------------
    @property
    def factors(self) -> tuple[nn.ParameterDict, nn.ParameterDict]:
        """The two dictionaries {adapter name: parameter}, for A and for B."""
        A, B = (getattr(self, name) for name in self.names_of_factors)
        return A, B

    def add_adapter(
        self,
        name: str,
        r: int,
        lora_alpha: float,
        lora_dropout: float = 0.0,
        use_rslora: bool = False,
        init: bool | str | None = True,
        variant: Variant | None = None,
        slots: Mapping[str, Slot] | None = None,
    ) -> None:
        """Put a new, silent adapter of rank `r` on this layer; with init=None its factors have no values yet.

        It speaks once its name is in `state.active`. A `variant` says itself what its `slots` are and gives them their values.
        The numbers are those of a `LoRAConfig`, which has checked them.
        """
        if name in self.scalings:
            raise AdapterError(f"there is an adapter {name!r} already: choose another name, or remove it first")
        n_out, n_in = self.shape
        A, B = self.names_of_factors
        for slot, made in (slots or {A: Slot((r, n_in)), B: Slot((n_out, r))}).items():
            self.put(slot, name, self.empty(made))
        if init is not None and variant is None:
            with torch.no_grad():
                self.reset_factors(self.tensor(A, name), self.tensor(B, name), init)
        if variant is not None:
            self.variants[name] = variant
        self.scalings[name] = scaling(r, lora_alpha, use_rslora)
        self.dropouts[name] = lora_dropout

    def empty(self, slot: Slot) -> nn.Parameter:
        """A parameter for `slot` without values: on the base's device, and in float32 on a half-precision (or quantised) base.

        Updates are smaller than a half-precision weight's steps.
        """
        base = self.base_layer
        like = (
            base if isinstance(base, QuantizedLinear) else base.weight
        )  # the former would make its weight dense to show it
        dtype = torch.promote_types(like.dtype, torch.float32) if like.dtype.is_floating_point else torch.float32
        return nn.Parameter(torch.empty(slot.shape, dtype=dtype, device=like.device), requires_grad=slot.trains)

    def put(self, slot: str, name: str, parameter: nn.Parameter) -> None:
        """Make `parameter` the tensor `slot` of the adapter `name`; one that several layers share may be put into each of them."""
        held = getattr(self, slot, None)
        if not isinstance(held, nn.ParameterDict):
            held = nn.ParameterDict()
            setattr(self, slot, held)
        held[name] = parameter

    def tensor(self, slot: str, name: str) -> nn.Parameter:
        """The tensor `slot` ("lora_A", …) of the adapter `name`."""
        return getattr(self, slot)[name]

    def tensors(self, name: str) -> dict[str, nn.Parameter]:
        """{slot: tensor} of the adapter `name`; {} if this layer does not have it."""
        found = {slot: held for slot, held in self.named_children() if isinstance(held, nn.ParameterDict)}
        return {slot: held[name] for slot, held in found.items() if name in held}

    def remove_adapter(self, name: str) -> None:
        """Forget the adapter `name` if this layer has it."""
        for slot in self.tensors(name):
            del getattr(self, slot)[name]
            if not getattr(self, slot) and slot not in self.names_of_factors:
                delattr(self, slot)
        for known in (self.scalings, self.dropouts, self.variants):
            known.pop(name, None)

    def active_adapters(self) -> list[tuple[str, float]]:
        """(name, s·dial) of each adapter that changes this layer's output now."""
        return [(n, self.scalings[n] * dial) for n, dial in self.state.active.items() if n in self.scalings]

    def dropped(self, name: str, x: Tensor) -> Tensor:
        """x as the adapter `name` reads it: in its own precision (but for autocast, which chooses), with its dropout in training."""
        dtype = next(iter(self.tensors(name).values())).dtype
        h = x if torch.is_autocast_enabled(x.device.type) else x.to(dtype)
        return F.dropout(h, self.dropouts[name], self.training) if self.training and self.dropouts[name] else h

    def delta_weight(self, name: str | None = None) -> Tensor:
        """ΔW = s·B A in the base weight's own orientation: of the adapter `name`, or of all that are active together."""
        chosen = self.active_adapters() if name is None else [(name, self.scalings[name])]
        weight = self.base_layer.weight
        return self._add(torch.zeros_like(weight, dtype=self._factor_dtype()), chosen)

    def _add(self, weight: Tensor, chosen: list[tuple[str, float]]) -> Tensor:
        """weight + Σ s·B A, one matrix product and no other temporary for each."""
        stored, weight = weight.shape, self.as_matrix(weight)
        for name, s in chosen:
            if name in self.variants:
                delta = self.variants[name].delta(self, name)  # (out, in), s inside
                weight = torch.add(weight, self.oriented(delta), alpha=s / self.scalings[name])
                continue
            left, right = self.product(self.factors[0][name], self.factors[1][name])
            weight = torch.addmm(weight, left, right, alpha=s)
        return weight.view(stored)

    def _added_bias(self) -> Tensor | None:
        """What the active variants add to the bias, or None."""
        found = [
            delta * (s / self.scalings[name])
            for name, s in self.active_adapters()
            if name in self.variants and (delta := self.variants[name].delta_bias(self, name)) is not None
        ]
        return sum(found[1:], found[0]) if found else None

    def as_matrix(self, weight: Tensor) -> Tensor:
        """The base's weight, or what has its shape, as two dimensions in its own orientation."""
        return weight

    def oriented(self, matrix: Tensor) -> Tensor:
        """A matrix (out, in) as the base stores its weight; the reverse is the same."""
        return matrix

    def _factor_dtype(self) -> torch.dtype:
        return next((p.dtype for n in self.scalings for p in self.tensors(n).values()), torch.float32)

    # -- shorthands for a layer that stands alone, as in chapter 03 -----------------------------------------------------
    def _only(self) -> str:
        names = list(self.scalings)
        if len(names) != 1:
            raise AdapterError(
                f"this layer has the adapters {names}: name one, as in layer.{self.names_of_factors[0]}[name]"
            )
        return names[0]

    @property
    def A(self) -> nn.Parameter:
        """A (r, in) of the layer's only adapter."""
        return self.factors[0][self._only()]

    @property
    def B(self) -> nn.Parameter:
        """B (out, r) of the layer's only adapter."""
        return self.factors[1][self._only()]

    @property
    def scaling(self) -> float:
        """s of the layer's only adapter."""
        return self.scalings[self._only()]

    # -- merging (chapter 07) -----------------------------------------------------------------------------------------
    @torch.no_grad()
    def check_mergeable(self) -> None:
        """Raise MergeError, changing nothing, when merging this layer would lose or corrupt its weight."""
        if self.merged:
            raise MergeError("merged already: merging again would apply the update twice; unmerge first")
        if is_quantized(self.base_layer):
            raise MergeError(QUANTIZED)
        weight = self.base_layer.weight
        for name, _ in self.active_adapters():
            if name in self.variants and (reason := self.variants[name].unmergeable):
                raise MergeError(reason)
        if self.bias is None and self._added_bias() is not None:
            raise MergeError("the adapter changes the bias, and this layer has none: it cannot be merged")
        for name, _ in self.active_adapters():
            for factor in self.tensors(name).values():
                # A sum is read once; only where it is not finite (it may have overflowed) are the numbers looked at one by one.
                if not math.isfinite(factor.sum().item()) and not bool(torch.isfinite(factor).all()):
                    raise MergeError(
                        f"adapter {name!r} holds values that are not finite: train it again at a lower learning rate"
                    )
        limit = torch.finfo(weight.dtype).max
        if weight.dtype != self._factor_dtype() and float(self._merged_weight().abs().max()) > limit:
            raise MergeError(
                f"the merged weight exceeds {weight.dtype}'s largest value {limit:g}: load the base in float32"
            )

    @torch.no_grad()
    def _merged_weight(self) -> Tensor:
        """W₀ + ΔW in the factors' precision: the sum is rounded once, at the end."""
        return self._add(self.base_layer.weight.detach().to(self._factor_dtype()), self.active_adapters())

    @torch.no_grad()
    def merge(self, keep_base: bool = True, checked: bool = False) -> None:
        """W ← W₀ + ΔW. With `keep_base`, W₀ is kept aside (as many bytes again), so that unmerge is exact; else it is gone.

        Raises MergeError for a second merge, a quantised base, or factors that are not finite, before anything changes; `checked`
        says that `check_mergeable` was asked already.
        """
        if not checked:
            self.check_mergeable()
        weight = self.base_layer.weight
        W0 = weight.data
        bias, added = self.bias, self._added_bias()  # of the base as it stands: before the weight changes
        in_place = not keep_base and weight.dtype == self._factor_dtype() and not self.variants
        if in_place and weight.is_contiguous():
            for name, s in self.active_adapters():
                self.as_matrix(weight.data).addmm_(*self.product(self.factors[0][name], self.factors[1][name]), alpha=s)
        else:
            weight.data = self._merged_weight().to(W0.dtype)
        self.W0 = W0 if keep_base else None
        if bias is not None and added is not None:
            self.b0 = bias.data if keep_base else None
            bias.data = (bias.data.to(added.dtype) + added).to(bias.dtype)
        self.merged = True
        self.state.merged_layers += 1

    @torch.no_grad()
    def unmerge(self) -> None:
        """W ← W₀, bit for bit: the kept tensor comes back. (W − ΔW would not: a sum of floats is rounded.)"""
        if not self.merged:
            raise MergeError("nothing is merged here")
        if self.W0 is None:
            raise MergeError(
                "merged with keep_base=False: W₀ was not kept, so it cannot be restored; load the base again"
            )
        self.base_layer.weight.data = self.W0
        if self.b0 is not None:
            self.base_layer.bias.data = self.b0
        self.W0, self.b0, self.merged = None, None, False
        self.state.merged_layers -= 1

    def _apply(self, fn, recurse=True):
        # .to(device) and the like must take the kept W₀ along, or unmerge would bring back one on the old device.
        super()._apply(fn, recurse)
        self.W0, self.b0 = (kept if kept is None else fn(kept) for kept in (self.W0, self.b0))
        return self

    @property
    def weight(self) -> Tensor:
        """The base layer's weight: some models read `layer.weight` (T5 its dtype, tied heads the tensor)."""
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        """The base layer's bias, or None."""
        return getattr(self.base_layer, "bias", None)

    def extra_repr(self) -> str:
        ranks = {n: A.shape[0] for n, A in self.factors[0].items()}
        return f"r={ranks}, scaling={self.scalings}, merged={self.merged}"
