"""Every method that there is, by the word for it; and the one that a folder's adapter_config.json describes. Chapter 12."""

from ast import literal_eval
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.neighbours.bottleneck import Bottleneck
from lora_edu.adapters.neighbours.ia3 import IA3
from lora_edu.adapters.neighbours.in_place import BitFit, FullFineTuning
from lora_edu.adapters.neighbours.method import Method
from lora_edu.adapters.neighbours.prefix import PrefixTuning
from lora_edu.adapters.neighbours.prompt import PromptTuning
from lora_edu.errors import ConfigError, shown

METHODS: dict[str, Any] = {
    "lora": LoRAConfig, "ia3": IA3, "prefix": PrefixTuning, "prompt": PromptTuning, "bottleneck": Bottleneck, "bitfit": BitFit,
    "full": FullFineTuning,
}  # fmt: skip
_OF_THE_MODEL = {"base_model_name_or_path", "token_dim", "num_layers", "num_attention_heads"}  # nobody chooses these


def named(text: str) -> Any:
    """The method that a text means: its word, and settings behind a colon: "ia3", "prefix:num_virtual_tokens=16", "bitfit:norms=true".

    Raises ConfigError for a word, a setting or a value that is none.
    """
    word, _, rest = text.strip().partition(":")
    if word not in METHODS:
        raise ConfigError(f"method={shown(text, 80)}: there are {', '.join(METHODS)}")
    known = [f.name for f in fields(METHODS[word]) if f.name not in _OF_THE_MODEL]
    settings = {}
    for each in filter(None, (each.strip() for each in rest.split(","))):
        key, mark, value = each.partition("=")
        if not mark or key not in known:
            raise ConfigError(
                f"method={shown(text, 80)}: {word} takes {', '.join(f'{k}=…' for k in known) or 'no settings'}"
            )
        try:
            settings[key] = literal_eval(value.capitalize() if value.lower() in ("true", "false") else value)
        except (ValueError, SyntaxError):
            settings[key] = value
    return METHODS[word](**settings)


def from_dict(content: Any) -> Any:
    """The configuration that adapter_config.json holds: a `Method`, or a `LoRAConfig` (with its variant). Raises ConfigError."""
    kind = content.get("peft_type") if isinstance(content, Mapping) else None
    for method in METHODS.values():
        if issubclass(method, Method) and method.peft_type == kind:
            return method.from_dict(content)
    return LoRAConfig.from_dict(content)
