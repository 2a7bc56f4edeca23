"""What of an adapter each way out can carry: one table, which the refusals, the tests and the page all read. Chapter 15.

A tool that does not know a feature seldom says so: it multiplies by another scale, or leaves a tensor out, and answers fluently. So
each feature of an adapter has a verdict for each way out: kept as it is, folded into numbers that every reader understands, or refused.
Of methods that PEFT does not have, a folder in its form is this module's own, and nothing else reads it.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.finding import lora_layers, saved_modules, state_of
from lora_edu.adapters.identity import resized
from lora_edu.adapters.layers import LoRAConv2d, LoRAEmbedding
from lora_edu.adapters.save_load import content
from lora_edu.errors import AdapterError, ExportError
from lora_edu.models.modules import unwrap

KEPT, OURS, FOLDED, REFUSED = "kept", "ours", "folded", "refused"
WAYS = {
    "peft": "the PEFT folder",
    "portable": "the portable PEFT folder",
    "merged": "the merged model",
    "gguf": "the merged model as GGUF",
    "gguf-adapter": "the adapter as GGUF",
}
_MERGE = "merge it instead (lora-edu export ADAPTER --merged DIR, or --gguf FILE)"


@dataclass(frozen=True)
class Rule:
    """What becomes of one feature: its words, a verdict for each way, what other tools do with it in silence, and the remedy where it is refused."""

    words: str
    peft: str
    portable: str
    merged: str
    gguf: str
    gguf_adapter: str
    in_silence: str
    remedy: str = _MERGE

    def verdict(self, way: str) -> str:
        """KEPT, OURS (kept, and read by `lora_edu.load` alone), FOLDED or REFUSED on that way out."""
        return str(getattr(self, way.replace("-", "_")))


# Sources: vLLM's PEFTHelper and adapter loader, llama.cpp's convert_lora_to_gguf.py and llama-adapter.cpp (read, not run, but for what
# the tests run in llama.cpp itself).
RULES = {
    "rslora": Rule(
        "scale α/√r (rsLoRA)", KEPT, FOLDED, FOLDED, FOLDED, FOLDED,
        "llama.cpp knows α/r alone: the update counts √r times too little, the answers are fluent",
    ),
    "rank_pattern": Rule(
        "another rank on some layers", KEPT, FOLDED, FOLDED, FOLDED, KEPT,
        "vLLM reads one r for the scale of all layers: those with another rank are mis-scaled",
    ),
    "alpha_pattern": Rule(
        "another α on some layers", KEPT, FOLDED, FOLDED, FOLDED, FOLDED,
        "vLLM and llama.cpp read one α: layers with another are mis-scaled",
    ),
    "variant": Rule(
        "more than factors B A (DoRA, IA³, …)", KEPT, REFUSED, FOLDED, FOLDED, REFUSED,
        "a magnitude vector that is left out leaves a plain LoRA with another direction and size",
        f"{_MERGE}, or make the nearest plain LoRA of it (lora-edu resize ADAPTER --rank R)",
    ),
    "modules_to_save": Rule(
        "modules trained in full", KEPT, REFUSED, FOLDED, FOLDED, REFUSED,
        "a reader of factors alone keeps the base's module: a head that was trained is the old one again",
    ),
    "embedding": Rule(
        "an adapter on an embedding", KEPT, REFUSED, FOLDED, FOLDED, REFUSED,
        "readers differ in which tables they adapt, and a tied head follows in some of them",
    ),
    "tied_head": Rule(
        "an adapter on a head tied to the embedding", KEPT, REFUSED, FOLDED, FOLDED, REFUSED,
        "a file with one table for both has no place for it",
        f"{_MERGE} after the two got weights of their own (--untie)",
    ),
    "new_tokens": Rule(
        "rows of new tokens in the base's tables", KEPT, REFUSED, FOLDED, FOLDED, REFUSED,
        "the base that the other tool loads has no such rows",
    ),
    "convolution": Rule(
        "an adapter on a convolution", KEPT, REFUSED, FOLDED, REFUSED, REFUSED,
        "a server of language models has no such layer",
    ),
    "bottleneck": Rule(
        "a bottleneck: a nonlinearity between two factors", OURS, REFUSED, REFUSED, REFUSED, REFUSED,
        "no change of a weight does what it does, and two factors read as B A are another model",
        "keep its folder, which lora_edu.load reads; or train a LoRA",
    ),
    "in_place": Rule(
        "the base's own weights, trained (full, BitFit)", OURS, REFUSED, FOLDED, FOLDED, REFUSED,
        "there are no factors that a reader of LoRA could take",
    ),
    "neighbour": Rule(
        "tokens that nobody wrote (a prefix, a prompt)", KEPT, REFUSED, REFUSED, REFUSED, REFUSED,
        "there are no factors that a reader of LoRA could take",
        "keep its folder, which lora_edu.load and PEFT read; or train a LoRA",
    ),
}  # fmt: skip


def features_of(model: nn.Module, name: str) -> list[str]:
    """The keys of RULES that are true of the adapter `name` in `model`, in the table's order. Raises AdapterError for no such adapter."""
    inner, state = unwrap(model), state_of(model)
    if name not in state.configs:
        raise AdapterError(f"there is no adapter {name!r}; the model has: {', '.join(state.configs)}")
    config: Any = state.configs[name]
    if not isinstance(config, LoRAConfig):
        return ["in_place" if config.changes_base else "neighbour"]
    written, _ = content(inner, name)  # a variant that is only a start is plain LoRA by then
    config = written if isinstance(written, LoRAConfig) else config
    layers = {path: layer for path, layer in lora_layers(inner).items() if name in layer.scalings}
    head = getattr(inner, "get_output_embeddings", lambda: None)()
    tied = bool(getattr(getattr(inner, "config", None), "tie_word_embeddings", False))
    ranks = {config.rank_for(path) for path in layers}
    true = {
        "rslora": config.use_rslora,
        "rank_pattern": len(ranks) > 1,
        "alpha_pattern": len({config.alpha_for(path) for path in layers}) > 1,
        "variant": config.variant is not None and not config.variant.unmergeable,
        "bottleneck": config.variant is not None and bool(config.variant.unmergeable),
        "modules_to_save": any(name in module.copies for module in saved_modules(inner).values()),
        "embedding": any(isinstance(layer, LoRAEmbedding) for layer in layers.values()),
        "tied_head": tied and any(layer is head for layer in layers.values()),
        "new_tokens": resized(inner) is not None,
        "convolution": any(isinstance(layer, LoRAConv2d) for layer in layers.values()),
    }
    return [key for key in RULES if true.get(key)]


def refuse(model: nn.Module, name: str, way: str) -> None:
    """Raise ExportError, with what other tools would do in silence and the way round it, for what `way` cannot carry."""
    faults = [RULES[key] for key in features_of(model, name) if RULES[key].verdict(way) == REFUSED]
    if faults:
        said = "; ".join(f"{rule.words} ({rule.in_silence}): {rule.remedy}" for rule in faults)
        raise ExportError(
            f"adapter {name!r} cannot go into {WAYS[way]}, and nothing is dropped in silence. It has {said}"
        )
