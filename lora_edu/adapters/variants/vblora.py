"""VB-LoRA: all factors are mixed from one bank of short vectors that the whole model shares. Chapter 10.

A row of A (in) and a column of B (out) are cut into pieces of length v; each piece is a mixture of the k vectors of the bank (h, v) whose
logits are largest, with softmax of these logits as weights. ΔW = B A, without α. Trains the bank, h·v numbers for the whole model, and
h logits a piece, h·r·(in + out)/v a matrix, of which a finished adapter needs 2k − 1 a piece.
Neither A nor B starts at 0: ΔW is small at the start, but not 0 (law 1 is not kept).
Source: Li, Han and Ji 2024, VB-LoRA: Extreme Parameter Efficient Fine-Tuning with Vector Banks (arXiv 2405.15179), §3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_edu.adapters.places import Target
from lora_edu.adapters.variants import Layer, Slot, Variant, register
from lora_edu.errors import ConfigError

_BANK = "lora_vector_bank"
_SETTINGS = ("num_vectors", "vector_length", "topk", "init_vector_bank_bound", "init_logits_std")
_NO_SUCH_KEY = {
    "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "init_lora_weights", "ensure_weight_tying",
}  # fmt: skip


@register
@dataclass(frozen=True)
class VBLoRA(Variant):
    """ΔW = B A, both mixed from a bank. PEFT's `VBLoRAConfig`, whose `vblora_dropout` is `lora_dropout` here.

    num_vectors, vector_length   h and v; v divides the sides of every adapted matrix.
    topk                         k, how many vectors a piece is mixed from.
    init_vector_bank_bound, init_logits_std   the bank starts uniform in ± the first, the logits normal with the second.
    """

    num_vectors: int = 256
    vector_length: int = 256
    topk: int = 2
    init_vector_bank_bound: float = 0.02
    init_logits_std: float = 0.1

    def check(self, config: Any) -> None:
        if config.use_rslora or config.rank_pattern or config.alpha_pattern or config.init_lora_weights is not True:
            raise ConfigError(
                "VB-LoRA has no α and one r for all layers: use_rslora, rank_pattern, alpha_pattern and init_lora_weights mean nothing to "
                "it; leave them out"
            )
        if not 0 < self.topk <= self.num_vectors or self.vector_length < 1:
            raise ConfigError(
                f"VB-LoRA mixes topk={self.topk} of num_vectors={self.num_vectors}: at least 1 and at most all of them"
            )

    def slots(self, target: Target) -> dict[str, Slot]:
        (n_out, n_in), v = target.shape, self.vector_length
        if n_out % v or n_in % v:
            raise ConfigError(
                f"vector_length={v} does not divide the sides of {target.name}, {n_out}×{n_in}: choose one that does"
            )
        shapes = {"lora_logits_A": (target.r, n_in // v), "lora_logits_B": (n_out // v, target.r)}
        return {slot: Slot((*shape, self.num_vectors)) for slot, shape in shapes.items()}

    def shared(self, targets: Sequence[Target]) -> dict[str, Slot]:
        return {_BANK: Slot((self.num_vectors, self.vector_length))}

    def start(self, model: Any, layers: Mapping[str, Layer], name: str, data: Any = None) -> None:
        bank = next(iter(layers.values())).tensor(_BANK, name)
        torch.nn.init.uniform_(bank, -self.init_vector_bank_bound, self.init_vector_bank_bound)
        super().start(model, layers, name, data)

    def reset(self, layer: Layer, name: str) -> None:
        for slot in ("lora_logits_A", "lora_logits_B"):
            torch.nn.init.normal_(layer.tensor(slot, name), std=self.init_logits_std)

    def factors(self, layer: Layer, name: str) -> tuple[Tensor, Tensor]:
        A = self._mixed(layer, name, "lora_logits_A")  # (r, in/v, v)
        B = self._mixed(layer, name, "lora_logits_B").transpose(1, 2)  # (out/v, v, r)
        return A.reshape(len(A), -1), B.reshape(-1, B.shape[-1])

    def _mixed(self, layer: Layer, name: str, slot: str) -> Tensor:
        logits, which = layer.tensor(slot, name).topk(self.topk, dim=-1)  # (…, k)
        return (logits.softmax(-1)[..., None] * layer.tensor(_BANK, name)[which]).sum(-2)

    def update(self, layer: Layer, name: str, x: Tensor, base_output: Tensor) -> Tensor:
        A, B = self.factors(layer, name)
        return F.linear(F.linear(layer.dropped(name, x), A), B)

    def key(self, path: str, slot: str) -> str:
        word = slot.replace("lora_", "vblora_")
        return f"model.{path}.{word}" if path else word

    def to_config(self) -> dict[str, Any]:
        return {"peft_type": "VBLORA", **{key: getattr(self, key) for key in _SETTINGS}}

    def written(self, content: dict[str, Any]) -> dict[str, Any]:
        plain = {key: value for key, value in content.items() if key not in _NO_SUCH_KEY}
        return {**plain, **self.to_config(), "vblora_dropout": content["lora_dropout"], "save_only_topk_weights": False}

    @classmethod
    def from_config(cls, content: dict[str, Any]) -> VBLoRA | None:
        if content.get("peft_type") != "VBLORA":
            return None
        if content.pop("save_only_topk_weights", False):
            raise ConfigError("save_only_topk_weights: such a file holds no logits; have PEFT write it without")
        content.update(peft_type="LORA", lora_dropout=content.pop("vblora_dropout", 0.0))
        content.setdefault("r", 4)
        return cls(**{key: content.pop(key) for key in _SETTINGS if key in content})
