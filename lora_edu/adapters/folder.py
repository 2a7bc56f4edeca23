"""An adapter's folder: read with every check that needs no model, written so that its two files always belong together. Chapter 07."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lora_edu.adapters.neighbours.known import from_dict
from lora_edu.errors import CheckpointError
from lora_edu.files import room_for

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_OLD, _NEW = ".old", ".new"
_LARGEST_CONFIG = 10 * 2**20


# -- reading -----------------------------------------------------------------------------------------------------------
def read(folder: str | Path) -> tuple[Any, dict[str, Tensor], dict[str, str]]:
    """The configuration, the tensors under PEFT's keys, and the file's metadata. Raises CheckpointError."""
    config = read_config(folder)
    with opened(folder) as file:
        return config, file.tensors(file.shapes), file.metadata


def read_config(folder: str | Path) -> Any:
    """The configuration alone: a LoRAConfig, or another `Method`. Raises CheckpointError."""
    folder = Path(folder)
    path = _whole(folder)
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes: that is no adapter's configuration")
        return from_dict(json.loads(path.read_text(encoding="utf-8")))
    except CheckpointError:
        raise
    except (ValueError, TypeError, AttributeError, RecursionError, OSError) as error:
        text = str(error) or type(error).__name__
        raise CheckpointError(f"{path}: {text[:500]}") from error


class WeightsFile:
    """An open safetensors file: shapes and dtypes from its header, tensors when they are asked for."""

    def __init__(self, path: Path, file: Any) -> None:
        self._file, self._path = file, path
        self._names: Mapping[str, str] = {}
        self.metadata: dict[str, str] = file.metadata() or {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for key in file.keys():  # noqa: SIM118  (a safetensors file, no dict)
            self.shapes[key] = tuple(file.get_slice(key).get_shape())

    def rename(self, names: Mapping[str, str]) -> None:
        """From here on know each tensor by another key, {new key: key in the file}; all of them are in `names`."""
        self.shapes = {new: self.shapes[old] for new, old in names.items()}
        self._names = names

    def tensors(self, keys: Any) -> dict[str, Tensor]:
        """{key: tensor} of these keys."""
        return {key: self._file.get_tensor(self._names.get(key, key)) for key in keys}


@contextmanager
def opened(folder: str | Path) -> Iterator[WeightsFile]:
    """The folder's weights, open. Raises CheckpointError for what is no whole safetensors file."""
    path = Path(folder) / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            yield WeightsFile(path, file)
    except (SafetensorError, OSError, MemoryError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file ({error}): copy or train it again") from error


def _whole(folder: Path) -> Path:
    """The configuration that belongs to the folder's weights. Raises CheckpointError when a file is missing."""
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file: name the folder it is in, {folder.parent}")
    path = _config_of(folder)
    for file, there in ((CONFIG, path is not None), (WEIGHTS, (folder / WEIGHTS).is_file())):
        if there:
            continue
        hint = (
            f"{folder} does not exist"
            if not folder.exists()
            else f"it holds: {', '.join(sorted(p.name for p in folder.iterdir())[:20]) or 'nothing'}"
        )
        if (folder / "adapter_model.bin").exists():
            hint = "adapter_model.bin is a pickle, which can run code and is not read: save it as safetensors with PEFT first"
        raise CheckpointError(f"no {file} in {folder}; {hint}")
    assert path is not None
    return path


def _config_of(folder: Path) -> Path | None:
    """Where the configuration lies: under its name, or, after a kill in the middle of `write`, under the one that fits the weights."""
    if (folder / CONFIG).is_file():
        return folder / CONFIG
    unfinished = (folder / (WEIGHTS + _NEW)).is_file()  # the new weights are not in place yet
    left = folder / (CONFIG + (_OLD if unfinished else _NEW))
    return left if (folder / (CONFIG + _OLD)).is_file() and left.is_file() else None


# -- writing -----------------------------------------------------------------------------------------------------------
def write(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], metadata: dict[str, str]) -> None:
    """Both files, or what was there before. There is no moment at which one reads new weights with an old configuration.

    No file system replaces two files at once. So the old configuration is put aside first and the new one comes last: whoever reads
    in between, after a kill, finds none under its name (PEFT says so), and `read` takes the one that belongs to the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(config, indent=2) + "\n"
    weights, settings, old = folder / WEIGHTS, folder / CONFIG, folder / (CONFIG + _OLD)
    new_weights, new_settings = folder / (WEIGHTS + _NEW), folder / (CONFIG + _NEW)
    if not settings.is_file() and (left := _config_of(folder)) is not None:
        os.replace(left, settings)  # an earlier save was killed; this one begins from what it left
    try:
        with room_for(CONFIG, len(content), folder, new_settings):
            new_settings.write_text(content, encoding="utf-8")
        with room_for(WEIGHTS, sum(t.nbytes for t in tensors.values()), folder, new_weights):
            save_file(dict(tensors), new_weights, metadata=metadata)
    except BaseException:
        new_weights.unlink(missing_ok=True)
        new_settings.unlink(missing_ok=True)
        raise
    if settings.is_file():
        os.replace(settings, old)
    os.replace(new_weights, weights)
    os.replace(new_settings, settings)
    old.unlink(missing_ok=True)


def floating(dtype: torch.dtype) -> bool:
    """Whether a factor may be stored so: torch's ordinary floating-point types (not float8, which has no arithmetic of its own)."""
    return dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
