"""A PEFT folder that every reader multiplies alike: scales folded into B, α = r, one rank. Chapter 15.

PEFT reads use_rslora, rank_pattern and alpha_pattern; vLLM one α, one r and use_rslora, llama.cpp's converter one α alone. With α = r
the scale is 1 by every rule, α/r or α/√r by pattern or not, and B holds what it was: B ← s B, padded with zeros to the largest rank.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import nn

from lora_edu.adapters.folder import write
from lora_edu.adapters.identity import fingerprint
from lora_edu.adapters.keys import PREFIX
from lora_edu.adapters.layer import DEFAULT
from lora_edu.adapters.save_load import FINGERPRINT, content
from lora_edu.models.modules import unwrap
from lora_edu.serving.rules import refuse

A_KEY, B_KEY = ".lora_A.weight", ".lora_B.weight"


def write_portable(model: nn.Module, folder: str | Path, name: str = DEFAULT) -> Path:
    """Write the adapter `name` to `folder` in PEFT's form, with numbers that need no setting to be understood. Chapter 15.

    The same ΔW to rounding, the same training state no longer: α is spent. vLLM wants `--max-lora-rank` of at least its r.
    Raises ExportError for what such a folder cannot hold, AdapterError for no such adapter, DiskFullError.
    """
    inner: Any = unwrap(model)
    refuse(inner, name, "portable")
    config, tensors = content(inner, name)
    rank = max(len(tensor) for key, tensor in tensors.items() if key.endswith(A_KEY))
    ready = {}
    for key in (key for key in tensors if key.endswith(A_KEY)):
        A, B = tensors[key], tensors[key.replace(A_KEY, B_KEY)]  # (r, in), (out, r)
        s, missing = config.scaling_for(key.removeprefix(PREFIX).removesuffix(A_KEY)), rank - len(A)
        ready[key] = F.pad(A, (0, 0, 0, missing)).cpu().contiguous()
        ready[key.replace(A_KEY, B_KEY)] = F.pad(B * s, (0, missing)).cpu().contiguous()
    plain = replace(config, r=rank, lora_alpha=rank, use_rslora=False, rank_pattern={}, alpha_pattern={})
    write(Path(folder), ready, plain.to_dict(), {"format": "pt", FINGERPRINT: fingerprint(inner)})
    return Path(folder)
