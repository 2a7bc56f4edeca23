"""Every method that there is, by the word for it; and the one that a folder's adapter_config.json describes. Chapter 12."""

from collections.abc import Mapping
from typing import Any

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.neighbours.bottleneck import Bottleneck
from lora_edu.adapters.neighbours.ia3 import IA3
from lora_edu.adapters.neighbours.in_place import BitFit, FullFineTuning
from lora_edu.adapters.neighbours.method import Method
from lora_edu.adapters.neighbours.prefix import PrefixTuning
from lora_edu.adapters.neighbours.prompt import PromptTuning

METHODS: dict[str, Any] = {
    "lora": LoRAConfig, "ia3": IA3, "prefix": PrefixTuning, "prompt": PromptTuning, "bottleneck": Bottleneck, "bitfit": BitFit,
    "full": FullFineTuning,
}  # fmt: skip


def from_dict(content: Any) -> Any:
    """The configuration that adapter_config.json holds: a `Method`, or a `LoRAConfig` (with its variant). Raises ConfigError."""
    kind = content.get("peft_type") if isinstance(content, Mapping) else None
    for method in METHODS.values():
        if issubclass(method, Method) and method.peft_type == kind:
            return method.from_dict(content)
    return LoRAConfig.from_dict(content)
