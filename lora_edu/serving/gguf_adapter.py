"""An adapter as a GGUF file, which llama.cpp puts beside a base at any scale. Chapter 15.

llama.cpp computes y + scale · α/r · B (A x) with one α for the file and each matrix's own rank r, and knows no other rule. So whatever
gives our scale s otherwise (rsLoRA, α by pattern) is folded into B: B ← B · s r/α.
"""

import math
from pathlib import Path
from typing import Any

import gguf
from torch import nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.keys import PREFIX
from lora_edu.adapters.layer import DEFAULT
from lora_edu.adapters.save_load import content
from lora_edu.errors import ExportError
from lora_edu.files import replacing, room_for
from lora_edu.models.modules import unwrap
from lora_edu.serving.gguf_model import write_tensors
from lora_edu.serving.gguf_names import Names
from lora_edu.serving.rules import refuse


def write_adapter_gguf(model: nn.Module, path: str | Path, name: str = DEFAULT) -> Path:
    """Write the adapter `name` of `model` to `path` as GGUF, whole or not at all, in the place of what was there. Chapter 15.

    Factors stay float32. It belongs on the same base (`write_gguf(..., base_only=True)`). What a GGUF adapter cannot hold is refused.
    Raises ExportError for that and for a family that was not verified, AdapterError for no such adapter, DiskFullError.
    """
    inner: Any = unwrap(model)
    path, names = Path(path), Names(getattr(inner, "config", None))
    refuse(inner, name, "gguf-adapter")
    config, tensors = content(inner, name)
    arrays: dict[str, Any] = {}
    for key in sorted(key for key in tensors if key.endswith(".lora_A.weight")):
        place = key.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        A = tensors[key].float().cpu()  # (r, in)
        B = tensors[key.replace(".lora_A.", ".lora_B.")].float().cpu()  # (out, r)
        if not (A.isfinite().all() and B.isfinite().all()):
            raise ExportError(f"the adapter's factors at {place} hold values that are not finite numbers")
        if not math.isclose(factor := left_over(config, place, len(A)), 1.0):
            B = B * factor
        base = f"{names.of(place)}.weight"
        arrays[f"{base}.lora_a"] = A.contiguous().numpy(), gguf.GGMLQuantizationType.F32
        arrays[f"{base}.lora_b"] = names.oriented(place, B).contiguous().numpy(), gguf.GGMLQuantizationType.F32
    with (
        replacing(path) as unfinished,
        room_for(path.name, sum(a.nbytes for a, _ in arrays.values()), path.parent, unfinished),
    ):
        writer = gguf.GGUFWriter(unfinished, names.family.name)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(config.lora_alpha))
        write_tensors(writer, arrays)
    return path


def left_over(config: LoRAConfig, place: str, r: int) -> float:
    """What of our scale s at `place` llama.cpp's own α/r does not give: s r/α."""
    return config.scaling_for(place) * r / config.lora_alpha
