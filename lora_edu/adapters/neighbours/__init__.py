"""LoRA's neighbours: other ways to spend a budget of trainable numbers, behind one call, `attach(model, method)`. Chapter 12.

| method | what it trains | numbers | merged? |
|---|---|---|---|
| `LoRAConfig` | ΔW = s·B A beside a matrix | r·(in + out) a matrix | yes |
| `IA3` | a factor for each key, value and MLP unit | 2·d_kv + d_ff a block | yes |
| `PrefixTuning` | V keys and values in every layer | V·2·L·d_kv | no |
| `PromptTuning` | V vectors before the first token's | V·d | no |
| `Bottleneck` | d → m → d behind attention and MLP | 2·m·d + m + d a place | no |
| `BitFit` | the base's biases | as many as there are | they are the weights |
| `FullFineTuning` | everything | everything | they are the weights |

`attach(model, LoRAConfig(...))` is `inject`. What works on one layer (IA³, bottlenecks) is a variant of the LoRA layer, so that dials, several
adapters, merging and folders are the layer's own. What belongs to the model as a whole (virtual tokens, the base's own weights) is a `Method`
and lives in a `Carrier`, a child of the model that shares the layers' state: names, switching, saving and the audit know no difference.
Each method has `exempt`: {number of a law: why it cannot keep it}; `exemptions(method)` says it for any.
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
