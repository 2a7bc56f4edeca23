"""One call for every way to fine-tune: `attach(model, method)`. Chapter 12."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.injection import inject
from lora_edu.adapters.layer import DEFAULT
from lora_edu.adapters.neighbours.known import METHODS
from lora_edu.adapters.neighbours.method import Method, put
from lora_edu.adapters.targets import plan
from lora_edu.errors import ConfigError
from lora_edu.models.modules import unwrap


def attach(model: nn.Module, method: Any, name: str = DEFAULT, data: Any = None) -> nn.Module:
    """Make `model` train as `method` says, under `name`, and nothing else of it; in place. Returns the same model. Chapter 12.

    method: LoRAConfig (then this is `inject`), IA3, PrefixTuning, PromptTuning, Bottleneck, BitFit, FullFineTuning.
    What follows is the same for all: Trainer, audit, measure_memory, checkpoints, save, load, set_adapter, disabled, generate, evaluate.
    Raises ConfigError for what is no method, and what the method itself raises; the model is then untouched.
    """
    if isinstance(method, LoRAConfig):
        return inject(model, method, name, data)
    if isinstance(method, Method):
        put(unwrap(model), method, name)
        return model
    if hasattr(method, "lora_config"):
        return inject(model, method.lora_config(unwrap(model)), name, data)
    raise ConfigError(f"{method!r} is no method: give one of {', '.join(kind.__name__ for kind in METHODS.values())}")


def trainable_count(model: nn.Module, method: Any) -> int:
    """How many numbers `method` would train on `model`, by its formula; nothing is attached. Chapter 12."""
    if isinstance(method, LoRAConfig) and method.variant is None and not method.modules_to_save:
        return sum(target.parameters for target in plan(unwrap(model), method))
    if hasattr(method, "count"):
        return method.count(unwrap(model))
    raise ConfigError(
        f"how many numbers {method!r} trains is not known before it is attached: audit(model) says it then"
    )


def exemptions(method: Any) -> Mapping[int, str]:
    """{number of a law: why this method cannot keep it}; {} for plain LoRA, for which the laws are written. Chapter 12."""
    own = method.variant if isinstance(method, LoRAConfig) else method
    return getattr(own, "exempt", {})
