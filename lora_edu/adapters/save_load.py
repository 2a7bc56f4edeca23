"""An adapter on disk: PEFT's folder, `adapter_model.safetensors` and `adapter_config.json`. Chapter 07.

Laws 6 and 7: what is saved loads with the same output, here and in PEFT; a file that does not fit is refused whole, with
the names of what is missing, unexpected, wrongly shaped or not finite. Safetensors only: a pickle can run code.
"""

import hashlib
import json
import os
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed, nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.injection import (
    SavedModule,
    adapter_parameters,
    base_parameters,
    install,
    lora_layers,
    saved_paths,
    state_of,
)
from lora_edu.adapters.layers import DEFAULT
from lora_edu.adapters.targets import ALL_LINEAR, Target, plan
from lora_edu.errors import CheckpointError, LoRAEduError
from lora_edu.files import room_for
from lora_edu.models.sharded import whole

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."
FINGERPRINT = "base_fingerprint"  # in the file's own metadata, which PEFT ignores


def save(model: nn.Module, folder: str | Path, name: str = DEFAULT) -> Path:
    """Write the adapter `name` to `folder` as PEFT would, and return that folder. Law 6, chapter 07.

    An adapter not called "default" goes to `folder/name`, as in PEFT. Each file appears whole or not at all.
    The fingerprint of the base is kept with the weights, so that loading onto another base can be noticed.
    In a run of several processes all call it (a sharded adapter is gathered from all of them) and the first one writes.

    Raises CheckpointError when there is no such adapter, and DiskFullError with what was in `folder` still there.
    """
    state = state_of(model)
    if name not in state.configs:
        raise CheckpointError(f"there is no adapter {name!r} to save; the model has: {', '.join(state.configs)}")
    folder = Path(folder) if name == DEFAULT else Path(folder) / name
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file: name a folder")
    tensors = {
        disk_key(n, name): whole(p.detach()).cpu().contiguous() for n, p in adapter_parameters(model, name).items()
    }
    paths = {path for path, layer in lora_layers(model).items() if name in layer.scalings}
    config = _portable(model, state.configs[name], paths).to_dict()
    if not config["base_model_name_or_path"]:
        config["base_model_name_or_path"] = getattr(getattr(model, "config", None), "_name_or_path", "") or None
    metadata = {"format": "pt", FINGERPRINT: fingerprint(model)}
    if distributed.is_available() and distributed.is_initialized() and distributed.get_rank() > 0:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(config, indent=2) + "\n"
    size = sum(tensor.nbytes for tensor in tensors.values())
    _write(folder / WEIGHTS, size, lambda path: save_file(tensors, path, metadata=metadata))
    _write(folder / CONFIG, len(content), lambda path: path.write_text(content, encoding="utf-8"))
    return folder


def load(model: nn.Module, folder: str | Path, name: str = DEFAULT, trainable: bool = False) -> nn.Module:
    """Put the adapter in `folder`, written here or by PEFT, into `model` as `name`, active; in place. Laws 6 and 7, chapter 07.

    trainable=True goes on training it; otherwise nothing trains. Returns the same model.

    Raises CheckpointError, with the model as it was, when a file is missing or damaged, or tensors are missing, unexpected,
    of another shape, or not finite. Warns when the adapter was trained on a base with other weights.
    """
    folder = Path(folder)
    config, tensors, metadata = read(folder)
    try:
        targets, saved = plan(model, config), saved_paths(model, config)
        faults = _faults(_expected(model, targets, saved), tensors, model)
        if not faults:
            install(model, config, name, targets, saved, empty=True)
    except LoRAEduError as error:
        raise CheckpointError(f"the adapter in {folder} does not fit this model: {error}") from error
    if faults:
        raise CheckpointError(f"the adapter in {folder} does not fit this model:\n  " + "\n  ".join(faults))
    with torch.no_grad():
        for parameter_name, parameter in adapter_parameters(model, name).items():
            parameter.copy_(tensors[disk_key(parameter_name, name)])
            parameter.requires_grad_(trainable)
    trained_on = metadata.get(FINGERPRINT)
    if trained_on is not None and trained_on != (here := fingerprint(model)):
        warnings.warn(
            f"the adapter in {folder} was trained on a base with other weights (fingerprint {trained_on}, here {here}): "
            "it will run, but its scores were not measured on this base",
            stacklevel=2,
        )
    return model


def read(folder: str | Path) -> tuple[LoRAConfig, dict[str, Tensor], dict[str, str]]:
    """The configuration, the tensors under PEFT's keys, and the file's metadata. Raises CheckpointError."""
    folder = Path(folder)
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            hint = (
                f"{folder} does not exist"
                if not folder.exists()
                else f"it holds: {', '.join(sorted(p.name for p in folder.iterdir())) or 'nothing'}"
            )
            if (folder / "adapter_model.bin").exists():
                hint = "adapter_model.bin is a pickle, which can run code and is not read: save it as safetensors with PEFT first"
            raise CheckpointError(f"no {file} in {folder}; {hint}")
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config = LoRAConfig.from_dict(content)
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from error
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (a safetensors file, no dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{folder / WEIGHTS} is damaged or no safetensors file ({error}): copy or train it again"
        ) from error
    return config, tensors, metadata


def fingerprint(model: nn.Module) -> str:
    """16 hex digits that tell one base from another: SHA-256 over names, shapes and up to 1024 values of each weight.

    Values are taken evenly spaced through each tensor, in float32, so that it takes milliseconds even for a large model.
    Adapters do not count, nor does a merge that kept W₀. It tells models apart; it is no proof that every bit is the same.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(base_parameters(model), key=lambda pair: pair[0]):
        flat = whole(weight.detach()).reshape(-1)  # of a sharded base one weight after the other, never all at once
        step = max(1, flat.numel() // 1024)
        sample = (
            flat[::step][:1024].to("cpu", torch.float32) if flat.dtype.is_floating_point else flat[::step][:1024].cpu()
        )
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(sample.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


# -- keys --------------------------------------------------------------------------------------------------------------
def disk_key(name: str, adapter: str) -> str:
    """Our parameter's name → PEFT's key on disk: the adapter's name is dropped, and linear factors end in `.weight`."""
    plain = name.replace(f".copies.{adapter}.", ".")
    if plain.endswith(f".{adapter}"):
        plain = plain.removesuffix(f".{adapter}")
        if plain.endswith((".lora_A", ".lora_B")):
            plain += ".weight"
    return _PREFIX + plain


def _expected(model: nn.Module, targets: list[Target], saved: list[str]) -> dict[str, tuple[int, ...]]:
    """{key on disk: shape} of every tensor that an adapter of this plan has on this model."""
    shapes: dict[str, tuple[int, ...]] = {}
    for target in targets:
        n_out, n_in = target.shape
        A, B = (
            ("lora_embedding_A", "lora_embedding_B")
            if target.kind == "embedding"
            else ("lora_A.weight", "lora_B.weight")
        )
        shapes[f"{_PREFIX}{target.name}.{A}"] = (target.r, n_in)
        shapes[f"{_PREFIX}{target.name}.{B}"] = (n_out, target.r)
    for path in saved:
        module: nn.Module = model.get_submodule(path)
        module = module.original_module if isinstance(module, SavedModule) else module
        shapes |= {f"{_PREFIX}{path}.{n}": tuple(p.shape) for n, p in module.named_parameters()}
    return shapes


def _portable(model: nn.Module, config: LoRAConfig, paths: set[str]) -> LoRAConfig:
    """The same adapter with "all-linear" written out: readers other than PEFT do not know the word."""
    if config.target_modules != ALL_LINEAR:
        return config
    suffixes = replace(
        config, target_modules=tuple(sorted({path.rsplit(".", 1)[-1] for path in paths})), layers_to_transform=None
    )
    if {target.name for target in plan(model, suffixes)} == paths:
        return suffixes
    return replace(
        config, target_modules=tuple(sorted(paths)), layers_to_transform=None
    )  # a suffix would match too much


def _faults(expected: dict[str, tuple[int, ...]], tensors: dict[str, Tensor], model: nn.Module) -> list[str]:
    """What keeps `tensors` from being exactly what is `expected`, a line each; PEFT's copies of base weights are accepted if equal."""
    faults = []
    unexpected = []
    strangers = tensors.keys() - expected.keys()
    base = dict(base_parameters(model)) if strangers else {}
    for key in strangers:
        original = base.get(key.removeprefix(_PREFIX).replace(".base_layer.", "."))
        if original is None:
            unexpected.append(key)
        elif original.shape != tensors[key].shape or not torch.equal(original.cpu(), tensors[key].to(original.dtype)):
            faults.append(
                f"{key} is a weight of the base, and differs from this model's: the adapter belongs to another base"
            )
    if missing := sorted(expected.keys() - tensors.keys()):
        faults.append(f"missing: {_few(missing)}")
    if unexpected:
        faults.append(f"unexpected: {_few(sorted(unexpected))}")
    for key in sorted(expected.keys() & tensors.keys()):
        if expected[key] != tuple(tensors[key].shape):
            faults.append(f"{key} has shape {tuple(tensors[key].shape)}, this model needs {expected[key]}")
        elif not bool(torch.isfinite(tensors[key]).all()):
            faults.append(f"{key} holds values that are not finite")
    return faults if len(faults) <= 8 else [*faults[:8], f"… and {len(faults) - 8} more"]


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _write(path: Path, size: int, writer) -> None:
    """Write beside the file and rename: a reader sees the old file or the new one, never half of one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with room_for(path.name, size, path.parent, part):
            writer(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
