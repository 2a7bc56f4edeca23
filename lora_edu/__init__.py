"""lora-edu: a course on LoRA (Low-Rank Adaptation) in which nothing is taken on trust, and the tested module under it.

The public names are few:

    model, tokenizer = load_base("smollm2-135m")
    inject(model, LoRAConfig(r=8, lora_alpha=16))
    print(audit(model))
    Trainer(...).train()
    save(model, "my_adapter"); load(model, "my_adapter"); merge(model)

They are imported on first use, so that `import lora_edu` itself is instant.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "load_base": "models",
    "LoRAConfig": "config",
    "inject": "adapters",
    "audit": "adapters",
    "Trainer": "trainer",
    "TrainConfig": "trainer",
    "save": "checkpoint",
    "load": "checkpoint",
    "merge": "merging",
    "evaluate": "evaluation",
}


__all__ = ["LoRAConfig", "TrainConfig", "Trainer", "audit", "evaluate", "inject", "load", "load_base", "merge", "save"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lora_edu' has no attribute {name!r}")
    return getattr(import_module(f"lora_edu.{_HOME[name]}"), name)
