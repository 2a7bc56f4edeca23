"""The LoRA layers: y = W₀x + b + s·B(A x), with A (r, in), B (out, r) and s = α/r. Chapter 03 builds LoRALinear by hand.

Source: Hu et al. 2021, §4.1 and equation 3.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.adapters import fused
from lora_edu.adapters.arithmetic import Part
from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.layer import DEFAULT, AdapterState, LoRALayer
from lora_edu.adapters.obstacles import is_conv1d
from lora_edu.errors import ConfigError, TargetError


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
            LoRAConfig(r=r, lora_alpha=lora_alpha, lora_dropout=lora_dropout)  # one place that says what is valid
            check_rank(r, self.shape, type(base_layer).__name__)
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

    def oriented(self, matrix: Tensor) -> Tensor:
        return matrix.T if self.fan_in_fan_out else matrix

    def reset_factors(self, A: Tensor, B: Tensor, init: bool | str) -> None:
        _reset_linear(A, B, init)

    def fused_part(self) -> Part | None:
        """This layer as the fast path sees it; None where only the plain formula of `forward` is right."""
        active = self.active_adapters()
        if type(self) is not LoRALinear or self.merged or len(active) > 1:
            return None
        if active and active[0][0] in self.variants:
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
        if self.variants and (y := self._alone(x)) is not None:
            return y
        base_output = self.base_layer(x)  # (..., out), bias included: the update never touches it
        if self.merged or not self.state.active:
            return base_output
        y = base_output
        for name, s in self.active_adapters():
            if name in self.variants:
                y = torch.add(y, self.variants[name].update(self, name, x, base_output), alpha=s / self.scalings[name])
                continue
            A, B = self.factors[0][name], self.factors[1][name]
            h = x if torch.is_autocast_enabled(x.device.type) else x.to(A.dtype)
            h = F.dropout(h, self.dropouts[name], self.training) if self.training and self.dropouts[name] else h
            low = F.linear(h, A)  # (..., r): x Aᵀ, and never the (out, in) matrix B A
            y = torch.add(y, F.linear(low, B), alpha=s)  # (..., out)
        return y.to(base_output.dtype)

    def _alone(self, x: Tensor) -> Tensor | None:
        """The output by a variant's shorter way, where it has one and is the only one that speaks."""
        active = self.active_adapters()
        if self.merged or len(active) != 1 or active[0][0] not in self.variants:
            return None
        [(name, s)] = active
        return self.variants[name].alone(self, name, x, s / self.scalings[name])


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

    def oriented(self, matrix: Tensor) -> Tensor:
        return matrix.T

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
            if name in self.variants:
                y = torch.add(
                    y, self.variants[name].update(self, name, ids, base_output), alpha=s / self.scalings[name]
                )
                continue
            A, B = self.factors[0][name], self.factors[1][name]
            # padding_idx matters to the gradient alone: the padding token's column of A stays as it is.
            low = F.embedding(ids, A.T, self.base_layer.padding_idx)  # (..., r)
            y = torch.add(y, F.linear(low, B) * embed_scale, alpha=s)  # (..., dim)
        return y.to(base_output.dtype)


class LoRAConv2d(LoRALayer):
    """LoRA on `nn.Conv2d` (one group): y = W₀ ∗ x + b + s·B(A ∗ x), ∗ with W₀'s stride, padding and dilation. Chapters 10 and 12.

    A (r, in·kh·kw) is r filters of W₀'s size, B (out, r) mixes what they give at each place: as matrices, ΔW = s·B A of
    W₀ (out, in, kh, kw) laid out as (out, in·kh·kw). PEFT's file has them as (r, in, kh, kw) and (out, r, 1, 1). PEFT's own A leaves out
    dilation and a padding_mode, so that there such layers differ from their merge; here they do not.
    """

    def __init__(self, base_layer: nn.Conv2d, state: AdapterState | None = None) -> None:
        if not isinstance(base_layer, nn.Conv2d):
            raise TargetError(f"LoRAConv2d adapts nn.Conv2d, not {type(base_layer).__name__}")
        super().__init__(base_layer, state)

    @property
    def shape(self) -> tuple[int, int]:
        out, *rest = self.base_layer.weight.shape
        return out, math.prod(rest)

    def as_matrix(self, weight: Tensor) -> Tensor:
        return weight.reshape(self.shape)

    def reset_factors(self, A: Tensor, B: Tensor, init: bool | str) -> None:
        _reset_linear(A, B, init)

    def through(self, x: Tensor, A: Tensor, B: Tensor) -> Tensor:
        """x (N, in, H, W) → B(A ∗ x) (N, out, H', W'), for A (k, in·kh·kw) and B (out, k)."""
        filters = A.view(-1, *self.base_layer.weight.shape[1:])
        low = self.base_layer._conv_forward(x, filters, None)  # (N, k, H', W')
        return F.conv2d(low, B[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in, H, W) → (N, out, H', W')."""
        base_output = self.base_layer(x)
        if self.merged or not self.state.active:
            return base_output
        y = base_output
        for name, s in self.active_adapters():
            if name in self.variants:
                update = self.variants[name].update(self, name, x, base_output)
                y = torch.add(y, update, alpha=s / self.scalings[name])
                continue
            y = torch.add(y, self.through(self.dropped(name, x), *(held[name] for held in self.factors)), alpha=s)
        return y.to(base_output.dtype)


LAYERS = {"linear": LoRALinear, "conv1d": LoRALinear, "embedding": LoRAEmbedding, "conv2d": LoRAConv2d}


def _reset_linear(A: Tensor, B: Tensor, init: bool | str) -> None:
    if init == "gaussian":
        nn.init.normal_(A, std=1 / A.shape[0])
    else:
        nn.init.kaiming_uniform_(A, a=math.sqrt(5))  # U(±1/√in): what nn.Linear itself starts from
    nn.init.zeros_(B)


class SavedModule(nn.Module):
    """A module of the base beside full copies of it, one an adapter, that train whole (PEFT's `modules_to_save`)."""

    original_module: Any

    def __init__(self, original_module: nn.Module, state: AdapterState) -> None:
        super().__init__()
        self.original_module = original_module.requires_grad_(False)
        self.copies = nn.ModuleDict()
        self.state = state

    def current(self) -> Any:
        """The copy of the active adapter that has one, else the original."""
        return next((self.copies[n] for n in self.state.active if n in self.copies), self.original_module)

    @property
    def weight(self) -> Tensor:
        return self.current().weight

    def forward(self, *args, **kwargs):
        return self.current()(*args, **kwargs)


def check_rank(r: int, shape: tuple[int, int], what: str) -> None:
    """Raise ConfigError when an update of rank `r` has more room than a whole matrix of `shape` (out, in)."""
    if r > min(shape):
        raise ConfigError(
            f"rank {r} exceeds the smaller side of {what} {shape[0]}×{shape[1]}: no update there has a rank above {min(shape)}; "
            "choose a smaller r, or a rank_pattern for this module"
        )
