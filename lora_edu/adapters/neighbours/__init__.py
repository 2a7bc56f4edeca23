"""LoRA's neighbours: other ways to spend a budget of trainable numbers, behind one call, `attach(model, method)`. Chapter 12.

| method | what it trains | numbers | merged? |
|---|---|---|---|
| `LoRAConfig` | ΔW = s·B A beside a matrix | r·(in + out) a matrix | yes |
| `IA3` | a factor for each key, value and MLP unit | 2·d_kv + d_ff a block | yes |

`attach(model, LoRAConfig(...))` is `inject`. What works on a layer's output (IA³) is a variant of the LoRA layer, so that dials, several
adapters, merging and folders are the layer's own. Each method has `exempt`: {number of the law: why it cannot keep it}.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Written:
    """A configuration as it is written into adapter_config.json, where that is not the one that the model has."""

    content: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The content of the file."""
        return self.content
