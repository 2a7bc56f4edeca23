"""Results that took minutes to make, kept so that a chapter opens in seconds: tensors in safetensors, and where they come from.

Each file carries in its header the command that remakes it, the fingerprint of the base model, versions and date.
"""

import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lora_edu.errors import CheckpointError
from lora_edu.files import replacing

FOLDER = Path(__file__).parent / "stored"


class Stored(NamedTuple):
    """Tensors by name, and `about`: at least "command" (what remakes the file) and "fingerprint" (of the base model)."""

    tensors: dict[str, Tensor]
    about: dict[str, Any]


def stored(name: str, folder: Path = FOLDER) -> Stored:
    """The stored result `name`. Raises CheckpointError that names those there are, or says that the file is damaged."""
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in folder.glob("*.safetensors"))) or "none"
        raise CheckpointError(f"there is no stored result {name!r}; there are: {there}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            return Stored({key: file.get_tensor(key) for key in file.keys()}, about)  # noqa: SIM118 - no mapping
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"the stored result {path.name} is damaged ({error}): install the package again"
        ) from error


def store(name: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any], folder: Path = FOLDER) -> Path:
    """Write a stored result; it appears whole or not at all. Raises ValueError when `about` lacks the command or the fingerprint."""
    if missing := {"command", "fingerprint"} - set(about):
        raise ValueError(f"a stored result must say where it comes from: {', '.join(sorted(missing))} is missing")
    path = folder / f"{name}.safetensors"
    content = {key: tensor.contiguous() for key, tensor in tensors.items()}
    with replacing(path) as unfinished:
        save_file(content, unfinished, {"about": json.dumps(dict(about))})
    return path


def environment() -> dict[str, Any]:
    """Machine, threads, versions and date: what a figure must be read with."""
    versions = {}
    for name in ("torch", "transformers", "peft", "accelerate", "safetensors"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
