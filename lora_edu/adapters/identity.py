"""What tells one base model from another, in milliseconds. Chapter 07."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.adapters.finding import base_buffers, base_parameters
from lora_edu.adapters.layer import LoRALayer
from lora_edu.adapters.layers import SavedModule
from lora_edu.models.sharded import whole

_SAMPLE = 1024


def fingerprint(model: nn.Module, without: Sequence[str] = ()) -> str:
    """16 hex digits that tell one base from another: SHA-256 over names, shapes and up to 1024 values of each weight and buffer.

    Values are taken evenly spaced through each tensor, in float32, so that it takes milliseconds even for a large model; where that
    does not come out even, the last ones too. `without` leaves out what is inside the modules of these paths. Adapters do not count,
    nor does a merge that kept W₀. It tells models apart; it is no proof that every bit is the same.
    """
    digest = hashlib.sha256()
    inside = tuple(f"{path}." for path in without)
    tensors = [*base_parameters(model), *base_buffers(model)]
    for name, weight in sorted(tensors, key=lambda pair: pair[0]):
        if inside and name.startswith(inside):
            continue
        flat = whole(weight.detach()).reshape(-1)  # of a sharded base one weight after the other, never all at once
        step = max(1, flat.numel() // _SAMPLE)
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(_bytes(flat[: step * _SAMPLE : step]))
        if flat.numel() > _SAMPLE and flat.numel() % _SAMPLE:
            digest.update(_bytes(flat[-_SAMPLE:]))  # an embedding's new rows stand at its end
    return digest.hexdigest()[:16]


def _bytes(values: Tensor) -> bytes:
    values = values.to("cpu", torch.float32) if values.dtype.is_floating_point else values.cpu()
    return values.numpy().tobytes()


# -- tables that got new rows ------------------------------------------------------------------------------------------
def tables(model: Any) -> dict[str, Tensor]:
    """{path: weight} of the base's embedding and of its output head; a tied head is the embedding, and not named again."""
    found: dict[str, Tensor] = {}
    wanted = [getattr(model, f"get_{kind}_embeddings", lambda: None) for kind in ("input", "output")]
    for module in (get() for get in wanted):
        if module is None:
            continue
        path = next((name for name, each in model.named_modules() if each is module), "")
        while isinstance(module, LoRALayer | SavedModule):
            module = module.base_layer if isinstance(module, LoRALayer) else module.original_module
        weight = getattr(module, "weight", None)
        if path and isinstance(weight, Tensor) and not any(weight is each for each in found.values()):
            found[path] = weight
    return found


def rows_of_file(model: Any) -> int | None:
    """How many tokens the base on the disk has, by its config.json, in its folder or in the hub's cache; None where there is none."""
    config = getattr(model, "config", None)
    name, version = (getattr(config, key, None) for key in ("_name_or_path", "_commit_hash"))
    if not name:
        return None
    try:
        path = Path(name) / "config.json"
        if not path.is_file():
            from huggingface_hub import try_to_load_from_cache

            path = Path(try_to_load_from_cache(name, "config.json", revision=version))  # type: ignore[arg-type]  # None: not there
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = content.get("vocab_size", content.get("text_config", {}).get("vocab_size"))
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return rows if isinstance(rows, int) else None


def resized(model: Any) -> tuple[int, dict[str, Tensor]] | None:
    """(rows of the base on the disk, {path: table}) where `resize_token_embeddings` has given the tables other rows; else None."""
    rows = rows_of_file(model)
    found = {path: table for path, table in tables(model).items() if table.shape[0] != rows} if rows else {}
    return (rows, found) if rows and found else None
