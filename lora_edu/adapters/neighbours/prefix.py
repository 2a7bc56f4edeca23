"""Prefix tuning: in every layer, keys and values that come from no token. Chapter 12.

    attention of layer i:  softmax(q [P_k; k]ᵀ/√d) [P_v; v],   P_k, P_v (V, kv heads, head size) trained

One table (V, 2·L·kv_heads·head_size), the layers' keys and values in turn: k₀, v₀, k₁, v₁ … (PEFT's layout). It speaks from the start: even
a prefix of zeros takes a share of the attention away from the text, so law 1 cannot be kept.
Source: Li and Liang 2021, Prefix-Tuning (arXiv 2101.00190), §4.2; without their reparametrisation by an MLP, as PEFT's default. The start
from real tokens' keys and values is their §7.4's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lora_edu.adapters.neighbours.virtual import Virtual, is_first, read
from lora_edu.errors import TargetError
from lora_edu.models.modules import modes


@dataclass(frozen=True)
class PrefixTuning(Virtual):
    """V virtual tokens as keys and values in every layer: V·2·L·d_kv numbers. Source: Li and Liang 2021. Chapter 12.

    num_virtual_tokens  V, at least 1. start_from: "vocab" (the keys and values of tokens drawn from the vocabulary; which numbers a run
    begins with decides much here), "normal" (N(0, 1), PEFT's) or a tuple of V token numbers: the model then answers as behind that text.
    """

    peft_type: ClassVar[str] = "PREFIX_TUNING"
    unmergeable: ClassVar[str] = (
        "prefix tuning adds keys and values and changes no weight, so there is nothing to merge: keep it as a folder, save(model, folder)"
    )
    exempt: ClassVar = {
        1: "it speaks from the start: any key takes a share of the attention",
        2: "it is no change of a weight",
        4: "it has no A and B",
        5: "it is no change of a weight",
    }

    def numbers(self, config: Any, heads: int, size: int) -> dict[str, Any]:
        from transformers import DynamicCache

        if any(getattr(layer, "is_sliding", False) for layer in DynamicCache(config=config).layers):
            raise TargetError(
                "this model's attention sees a window of the last tokens, out of which a prefix would fall"
            )
        return {"token_dim": heads * size, "num_layers": config.num_hidden_layers, "num_attention_heads": heads}

    def shape(self) -> tuple[int, int]:
        assert self.num_layers and self.token_dim
        return self.num_virtual_tokens, 2 * self.num_layers * self.token_dim

    def before(self, table: Tensor) -> Any:
        """A cache that holds the prefix and nothing else, and never grows."""
        from lora_edu.adapters.neighbours.before import Before

        return Before(self.layers(table))

    def layers(self, table: Tensor) -> Tensor:
        """(V, width) → (2·L, kv heads, V, head size): keys at even places, values at odd ones."""
        assert self.num_layers and self.num_attention_heads
        return table.view(self.num_virtual_tokens, 2 * self.num_layers, self.num_attention_heads, -1).permute(
            1, 2, 0, 3
        )

    def run(self, decoder: Any, inner: Callable[..., Any], kwargs: dict[str, Any], table: Tensor) -> Any:
        cache, use = kwargs.get("past_key_values"), kwargs.get("use_cache")
        kept = cache is not None or (decoder.config.use_cache if use is None else use)
        if not is_first(kwargs):
            return inner(**kwargs)
        if kept:
            kwargs["past_key_values"] = self._filled(decoder, cache, table, kwargs)
            return inner(**kwargs)
        output = inner(**kwargs | {"past_key_values": self.before(table)})
        if hasattr(output, "past_key_values"):
            output.past_key_values = None  # nobody asked for one
        return output

    def _filled(self, decoder: Any, cache: Any, table: Tensor, kwargs: dict[str, Any]) -> Any:
        """A cache that can be gone on with, the prefix in it."""
        from transformers import DynamicCache

        cache = DynamicCache(config=decoder.config) if cache is None else cache
        kind, rows = table.device.type, read(kwargs).shape[0]
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else decoder.dtype
        each = self.layers(table).to(dtype)[:, None].expand(-1, rows, -1, -1, -1)  # (2·L, B, kv heads, V, head size)
        for i in range(len(each) // 2):
            cache.update(each[2 * i], each[2 * i + 1], i)
        return cache

    def of_tokens(self, model: Any, ids: Tensor) -> Tensor:
        with modes(model, training=False), torch.no_grad():
            layers = model.get_decoder()(input_ids=ids[None], use_cache=True).past_key_values.layers
        pairs = torch.stack(
            [each[0] for layer in layers for each in (layer.keys, layer.values)]
        )  # (2·L, heads, V, size)
        return pairs.permute(2, 0, 1, 3).reshape(self.shape())
