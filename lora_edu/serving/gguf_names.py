"""Families of models that are written as GGUF: names, the order of rotary halves, and the numbers that llama.cpp needs. Chapter 15.

llama.cpp's Llama turns neighbouring rows of a head (0 and 1, 2 and 3, …) against each other, transformers' row i and row i + d/2. The
same weights therefore stand there in another order: q and k are permuted by head. Its Qwen keeps transformers' order. Nothing in either
file says so, and a model written in the wrong order says nonsense, without an error. Source: llama.cpp's conversion/llama.py and qwen.py.
"""

from dataclasses import dataclass
from typing import Any

import gguf
import torch
from torch import Tensor

from lora_edu.errors import ExportError


@dataclass(frozen=True)
class Family:
    """What llama.cpp calls the architecture, and whether its q and k stand in the order of neighbouring pairs."""

    arch: gguf.MODEL_ARCH
    permuted: bool

    @property
    def name(self) -> str:
        return str(gguf.MODEL_ARCH_NAMES[self.arch])


FAMILIES = {
    "llama": Family(gguf.MODEL_ARCH.LLAMA, True),
    "mistral": Family(gguf.MODEL_ARCH.LLAMA, True),
    "qwen2": Family(gguf.MODEL_ARCH.QWEN2, False),
    "qwen3": Family(gguf.MODEL_ARCH.QWEN3, False),
}
_POINTER = (
    "merge it (lora-edu export ADAPTER --merged DIR) and use llama.cpp's own convert_hf_to_gguf.py on that folder"
)


def family_of(config: Any) -> Family:
    """The family of a model with this configuration. Raises ExportError, with a way round it, for any that was not verified here."""
    kind = getattr(config, "model_type", None)
    if kind not in FAMILIES:
        raise ExportError(
            f"models of type {kind!r} are not written as GGUF here, only {', '.join(FAMILIES)}: {_POINTER}"
        )
    if getattr(config, "hidden_act", "silu") not in ("silu", "swish"):
        raise ExportError(
            f"hidden_act={config.hidden_act!r}: llama.cpp computes this family with SiLU whatever the file says"
        )
    rope = rope_of(config)
    known = ("default", "linear", "llama3") if kind in ("llama", "mistral") else ("default", "linear")
    if rope["rope_type"] not in known or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ExportError(
            f"rotary positions of the kind {rope['rope_type']!r} were not verified for {kind}: {_POINTER}"
        )
    if kind == "qwen3" and getattr(config, "attention_bias", False):
        raise ExportError(f"attention_bias=True: llama.cpp's {kind} has no place for these biases")
    return FAMILIES[kind]


def rope_of(config: Any) -> dict[str, Any]:
    """The rotary positions' settings: rope_type, rope_theta and what belongs to the type."""
    found = dict(getattr(config, "rope_parameters", None) or {})
    return {"rope_type": "default", "rope_theta": 10_000.0, **found}


def head_dim(config: Any) -> int:
    """Rows of q that belong to one head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def permuted(rows: Tensor, heads: int) -> Tensor:
    """Rows (heads · d, …) of transformers' order in llama.cpp's: of each head rows 0, d/2, 1, d/2 + 1, … A weight, a bias or a factor B."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, half, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def restored(rows: Tensor, heads: int) -> Tensor:
    """The inverse of `permuted`."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


class Names:
    """From a tensor of transformers' model to what llama.cpp calls it, in llama.cpp's order."""

    def __init__(self, config: Any) -> None:
        self.family, self.config = family_of(config), config
        self._map = gguf.get_tensor_name_map(self.family.arch, config.num_hidden_layers)

    def of(self, path: str) -> str:
        """ "model.layers.0.self_attn.q_proj" → "blk.0.attn_q". Raises ExportError for a module that this family does not have there."""
        found = self._map.get_name(path)
        if found is None:
            raise ExportError(f"{path} has no place in llama.cpp's {self.family.name}: {_POINTER}")
        return str(found)

    def oriented(self, path: str, rows: Tensor) -> Tensor:
        """The rows (out, …) of the module at `path` in the order in which llama.cpp reads them."""
        heads = {"q_proj": self.config.num_attention_heads, "k_proj": self.config.num_key_value_heads}
        count = heads.get(path.rpartition(".")[2])
        return permuted(rows, count) if self.family.permuted and count else rows


def describe(writer: gguf.GGUFWriter, config: Any) -> None:
    """The sizes and settings of the model, under llama.cpp's keys."""
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(context_of(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim(config))
    writer.add_value_length(head_dim(config))
    writer.add_rope_dimension_count(head_dim(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = rope_of(config)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    writer.add_vocab_size(config.vocab_size)


def context_of(config: Any) -> int:
    """How many tokens the model takes. Of one that attends through a sliding window only the window: llama.cpp's form of these families
    attends to everything, which is the same as long as no token lies further back."""
    window = getattr(config, "sliding_window", None)
    slides = getattr(config, "use_sliding_window", True) and window
    return min(config.max_position_embeddings, window) if slides else int(config.max_position_embeddings)


def rope_factors(config: Any, model: Any) -> Tensor | None:
    """By how much each rotary frequency is divided (d/2,), where Llama 3's long contexts need it: read off the model itself."""
    rope = rope_of(config)
    if rope["rope_type"] != "llama3":
        return None
    dim = head_dim(config)
    plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    return plain / model.model.rotary_emb.inv_freq.detach().float().cpu()
