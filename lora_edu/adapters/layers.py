"""The LoRA layers: y = W₀x + b + s·B(A x), with A (r, in), B (out, r) and s = α/r. Chapter 03 builds LoRALinear by hand.

Source: Hu et al. 2021, §4.1 and equation 3. One layer holds any number of named adapters; which of them speak, and how
loud, is written in one `AdapterState` that all layers of a model share: to switch is to change that one object.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.adapters import fused
from lora_edu.adapters.config import LoRAConfig, scaling
from lora_edu.errors import AdapterError, ConfigError, MergeError, TargetError

DEFAULT = "default"


@dataclass
class AdapterState:
    """What a model's layers share: each adapter's configuration, and how loud each active one is (1 = as trained)."""

    configs: dict[str, LoRAConfig] = field(default_factory=dict)
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
        self.W0: Tensor | None = None  # the untouched base weight while merged with keep_base
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
    ) -> None:
        """Put a new, silent adapter of rank `r` on this layer; with init=None its factors have no values yet.

        It speaks once its name is in `state.active`.
        """
        As, Bs = self.factors
        if name in As:
            raise AdapterError(f"there is an adapter {name!r} already: choose another name, or remove it first")
        LoRAConfig(r=r, lora_alpha=lora_alpha, lora_dropout=lora_dropout)  # one place that says what is valid
        n_out, n_in = self.shape
        check_rank(r, (n_out, n_in), type(self.base_layer).__name__)
        weight = self.base_layer.weight
        # Factors stay in float32 on a half-precision (or quantised) base: their updates are smaller than its steps.
        dtype = torch.promote_types(weight.dtype, torch.float32) if weight.is_floating_point() else torch.float32
        As[name] = nn.Parameter(torch.empty(r, n_in, dtype=dtype, device=weight.device))
        Bs[name] = nn.Parameter(torch.empty(n_out, r, dtype=dtype, device=weight.device))
        if init is not None:
            with torch.no_grad():
                self.reset_factors(As[name], Bs[name], init)
        self.scalings[name] = scaling(r, lora_alpha, use_rslora)
        self.dropouts[name] = lora_dropout

    def remove_adapter(self, name: str) -> None:
        """Forget the adapter `name` if this layer has it."""
        for factors in self.factors:
            if name in factors:
                del factors[name]
        self.scalings.pop(name, None)
        self.dropouts.pop(name, None)

    def active_adapters(self) -> list[tuple[str, float]]:
        """(name, s·dial) of each adapter that changes this layer's output now."""
        return [(n, self.scalings[n] * dial) for n, dial in self.state.active.items() if n in self.scalings]

    def delta_weight(self, name: str | None = None) -> Tensor:
        """ΔW = s·B A in the base weight's own orientation: of the adapter `name`, or of all that are active together."""
        chosen = self.active_adapters() if name is None else [(name, self.scalings[name])]
        weight = self.base_layer.weight
        return self._add(torch.zeros_like(weight, dtype=self._factor_dtype()), chosen)

    def _add(self, weight: Tensor, chosen: list[tuple[str, float]]) -> Tensor:
        """weight + Σ s·B A, one matrix product and no other temporary for each."""
        for name, s in chosen:
            left, right = self.product(self.factors[0][name], self.factors[1][name])
            weight = torch.addmm(weight, left, right, alpha=s)
        return weight

    def _factor_dtype(self) -> torch.dtype:
        return next((A.dtype for A in self.factors[0].values()), torch.float32)

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
        weight = self.base_layer.weight
        if self.merged:
            raise MergeError("merged already: merging again would apply the update twice; unmerge first")
        if not weight.is_floating_point() or hasattr(weight, "quant_state"):
            raise MergeError(
                f"the base weight is quantised ({weight.dtype}): rounding it again would erase most of the update; "
                "load the base in full precision, put the adapter on it, and merge there"
            )
        for name, _ in self.active_adapters():
            for factor in (self.factors[0][name], self.factors[1][name]):
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
        if not keep_base and weight.dtype == self._factor_dtype():
            for name, s in self.active_adapters():
                weight.data.addmm_(*self.product(self.factors[0][name], self.factors[1][name]), alpha=s)
        else:
            weight.data = self._merged_weight().to(W0.dtype)
        self.W0 = W0 if keep_base else None
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
        self.W0, self.merged = None, False
        self.state.merged_layers -= 1

    def _apply(self, fn, recurse=True):
        # .to(device) and the like must take the kept W₀ along, or unmerge would bring back one on the old device.
        super()._apply(fn, recurse)
        if self.W0 is not None:
            self.W0 = fn(self.W0)
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


class LoRALinear(LoRALayer):
    """LoRA on `nn.Linear`, or on GPT-2's `Conv1D`, which stores its weight as (in, out). Chapter 03.

    base_layer     the layer to adapt; it is frozen, and used as it is: neither its weight nor its bias is copied.
    r, lora_alpha  rank and α of the one adapter a layer standing alone has. Without `r` the layer starts with none.

    A ~ U(−1/√in, 1/√in) and B = 0, so at the start the output is the base's, bit for bit.
    """

    def __init__(
        self,
        base_layer: nn.Module,
        r: int | None = None,
        lora_alpha: float = 16,
        lora_dropout: float = 0.0,
        use_rslora: bool = False,
        state: AdapterState | None = None,
    ) -> None:
        if not (isinstance(base_layer, nn.Linear) or is_conv1d(base_layer)):
            raise TargetError(f"LoRALinear adapts nn.Linear or Conv1D, not {type(base_layer).__name__}")
        super().__init__(base_layer, state)
        self.fan_in_fan_out = is_conv1d(base_layer)
        if r is not None:
            self.add_adapter(DEFAULT, r, lora_alpha, lora_dropout, use_rslora)
            self.state.active[DEFAULT] = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        if isinstance(self.base_layer, nn.Linear):
            return self.base_layer.out_features, self.base_layer.in_features
        n_in, n_out = self.base_layer.weight.shape  # Conv1D
        return n_out, n_in

    def product(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        return (A.T, B.T) if self.fan_in_fan_out else (B, A)  # (B A)ᵀ = Aᵀ Bᵀ

    def reset_factors(self, A: Tensor, B: Tensor, init: bool | str) -> None:
        if init == "gaussian":
            nn.init.normal_(A, std=1 / A.shape[0])
        else:
            nn.init.kaiming_uniform_(A, a=math.sqrt(5))  # U(±1/√in): what nn.Linear itself starts from
        nn.init.zeros_(B)

    def fused_part(self) -> fused.Part | None:
        """This layer as the fast path sees it; None where only the plain formula of `forward` is right."""
        active = self.active_adapters()
        if type(self) is not LoRALinear or self.merged or len(active) > 1:
            return None
        if not active:
            return fused.part(self.base_layer)
        [(name, s)] = active
        p = self.dropouts[name] if self.training else 0.0
        return fused.part(self.base_layer, self.factors[0][name], self.factors[1][name], s, p)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) → (..., out), in the base layer's dtype."""
        if fused.is_on() and (part := self.fused_part()) is not None and fused.applies(x, part):
            return fused.linear(x, part)  # the same numbers, with less kept for the backward pass
        base_output = self.base_layer(x)  # (..., out), bias included: the update never touches it
        if self.merged or not self.state.active:
            return base_output
        y = base_output
        for name, s in self.active_adapters():
            A, B = self.factors[0][name], self.factors[1][name]
            h = x if torch.is_autocast_enabled(x.device.type) else x.to(A.dtype)
            h = F.dropout(h, self.dropouts[name], self.training) if self.training and self.dropouts[name] else h
            low = F.linear(h, A)  # (..., r): x Aᵀ, and never the (out, in) matrix B A
            y = torch.add(y, F.linear(low, B), alpha=s)  # (..., out)
        return y.to(base_output.dtype)


class LoRAEmbedding(LoRALayer):
    """LoRA on `nn.Embedding`: a token's vector becomes W₀[i] + s·B A[:, i]. A is (r, vocabulary), B is (dim, r). Chapter 04.

    Mirrors LoRALinear's start, as PEFT does: A = 0 and B ~ N(0, 1), so the first gradient reaches A, not B.
    PEFT names these factors `lora_embedding_A` and `lora_embedding_B`; dropout does not apply to token numbers.
    """

    names_of_factors = ("lora_embedding_A", "lora_embedding_B")

    def __init__(self, base_layer: nn.Embedding, state: AdapterState | None = None) -> None:
        if not isinstance(base_layer, nn.Embedding):
            raise TargetError(f"LoRAEmbedding adapts nn.Embedding, not {type(base_layer).__name__}")
        if base_layer.max_norm is not None:
            raise TargetError(
                "an embedding with max_norm rescales its own weight while reading it: it cannot be adapted"
            )
        super().__init__(base_layer, state)

    @property
    def shape(self) -> tuple[int, int]:
        return self.base_layer.embedding_dim, self.base_layer.num_embeddings

    def product(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        return A.T, B.T  # the table is stored as (vocabulary, dim)

    def reset_factors(self, A: Tensor, B: Tensor, init: bool | str) -> None:
        nn.init.zeros_(A)
        nn.init.normal_(B)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (...) → (..., dim)."""
        base_output = self.base_layer(ids)  # (..., dim)
        if self.merged or not self.state.active:
            return base_output
        embed_scale = getattr(self.base_layer, "embed_scale", 1.0)  # Gemma multiplies its table's rows as it reads them
        y = base_output
        for name, s in self.active_adapters():
            A, B = self.factors[0][name], self.factors[1][name]
            # padding_idx matters to the gradient alone: the padding token's column of A stays as it is.
            low = F.embedding(ids, A.T, self.base_layer.padding_idx)  # (..., r)
            y = torch.add(y, F.linear(low, B) * embed_scale, alpha=s)  # (..., dim)
        return y.to(base_output.dtype)


def is_conv1d(module: nn.Module) -> bool:
    """GPT-2's `Conv1D`: a linear layer whose weight is stored as (in, out). Told by name, so that torch is all we import."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def check_rank(r: int, shape: tuple[int, int], what: str) -> None:
    """Raise ConfigError when an update of rank `r` has more room than a whole matrix of `shape` (out, in)."""
    if r > min(shape):
        raise ConfigError(
            f"rank {r} exceeds the smaller side of {what} {shape[0]}×{shape[1]}: no update there has a rank above {min(shape)}; "
            "choose a smaller r, or a rank_pattern for this module"
        )
