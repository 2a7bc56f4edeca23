"""An adapter on disk: PEFT's folder, `adapter_model.safetensors` and `adapter_config.json`. Chapter 07.

Laws 6 and 7: what is saved loads with the same output, here and in PEFT; a file that does not fit is refused whole, with
the names of what is missing, unexpected, wrongly shaped or not finite. Safetensors only: a pickle can run code.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from lora_edu.adapters.carrier import carriers
from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.finding import adapter_buffers, adapter_parameters, saved_modules, state_of
from lora_edu.adapters.folder import CONFIG, WEIGHTS, WeightsFile, floating, opened, read, read_config, write
from lora_edu.adapters.identity import fingerprint, resized
from lora_edu.adapters.injection import install
from lora_edu.adapters.keys import PREFIX, Expected, base_by_key, disk_key, expected, plain_key, targets_in, written
from lora_edu.adapters.layer import DEFAULT
from lora_edu.adapters.neighbours.method import Method, put
from lora_edu.adapters.prefixes import complaint, mending
from lora_edu.adapters.targets import plan, saved_paths
from lora_edu.errors import CheckpointError, LoRAEduError
from lora_edu.models.modules import unwrap
from lora_edu.models.quantized.conversion import quantization_of
from lora_edu.models.quantized.linear import Quantization
from lora_edu.models.sharded import whole

__all__ = [
    "BASE_IN_BITS",
    "CONFIG",
    "FINGERPRINT",
    "FROZEN",
    "WEIGHTS",
    "disk_key",
    "fingerprint",
    "load",
    "read",
    "save",
]

FINGERPRINT = "base_fingerprint"  # in the file's own metadata, which PEFT ignores
FROZEN = "frozen_fingerprint"  # the same without modules trained in full, where there are any: a new head is random each time
BASE_IN_BITS = "base_quantization"  # how the base's weights were rounded, where they were
_ROWS = "base_rows"  # how many rows the base's tables had before new tokens were added to them


def save(model: nn.Module, folder: str | Path, name: str = DEFAULT) -> Path:
    """Write the adapter `name` to `folder` as PEFT would, and return that folder. Law 6, chapter 07.

    An adapter not called "default" goes to `folder/name`, as in PEFT. Both files appear whole, and together, or not at all.
    The fingerprint of the base is kept with the weights, and how it was rounded to four bits, so that loading onto another base can be
    noticed; a base whose tables
    got rows for new tokens has these tables written too, as PEFT does.
    In a run of several processes all call it (a sharded adapter is gathered from all of them) and the first one writes.

    Raises CheckpointError when there is no such adapter, and DiskFullError with what was in `folder` still there.
    """
    model = unwrap(model)
    state = state_of(model)
    if name not in state.configs:
        raise CheckpointError(f"there is no adapter {name!r} to save; the model has: {', '.join(state.configs)}")
    folder = Path(folder) if name == DEFAULT else Path(folder) / name
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file: name a folder")
    config, tensors = content(model, name)
    tensors = {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}
    metadata = {"format": "pt", FINGERPRINT: _of_the_base(model)}
    if whole_modules := [path for path, module in saved_modules(model).items() if name in module.copies]:
        metadata[FROZEN] = fingerprint(model, whole_modules)
    if (how := quantization_of(model)) is not None:
        metadata[BASE_IN_BITS] = how.to_json()
    if (grown := resized(model)) is not None:
        metadata[_ROWS] = str(grown[0])
        tensors |= _tables(model, grown[1], tensors)
    if distributed.is_available() and distributed.is_initialized() and distributed.get_rank() > 0:
        return folder
    write(folder, tensors, config.to_dict(), metadata)
    return folder


def content(model: nn.Module, name: str) -> tuple[Any, dict[str, Tensor]]:
    """What `save` writes of the adapter itself: its configuration and {key in the file: tensor}, where the model has them."""
    config: Any = state_of(model).configs[name]
    if isinstance(config, Method):
        held = {**adapter_parameters(model, name), **adapter_buffers(model, name)}
        return config, {k: whole(held[e.name].detach()) for k, e in config.expected(unwrap(model), name).items()}
    config, keys = written(model, name, config)
    tensors = {}
    shapes = {
        f"{target.name}.{slot}.{name}": shape
        for target in targets_in(model, name, config)
        for slot in (() if config.variant else ("lora_A", "lora_B"))
        if (shape := target.on_disk(slot)) is not None
    }
    for n, tensor in {**adapter_parameters(model, name), **adapter_buffers(model, name)}.items():
        key = keys.get(n) if config.variant and ".copies." not in n else disk_key(n, name)
        if key is not None:  # what a variant makes again is not written
            tensors[key] = whole(tensor.detach())
            if n in shapes:
                tensors[key] = tensors[key].reshape(shapes[n])
    return config.variant.to_disk(config, tensors) if config.variant else (config, tensors)


def load(
    model: nn.Module, folder: str | Path, name: str = DEFAULT, trainable: bool = False, mend_keys: bool = False
) -> nn.Module:
    """Put the adapter in `folder`, written here or by PEFT, into `model` as `name`, active; in place. Laws 6 and 7, chapter 07.

    trainable=True goes on training it; otherwise nothing trains. mend_keys=True also reads a folder all of whose keys have the wrong
    prefix (PEFT loads nothing of it, with a warning), by the one rule that the error names without it. Returns the same model.

    Raises CheckpointError, with the model as it was, when a file is missing or damaged, or tensors are missing, unexpected,
    of another shape or kind, or not finite. Warns when the adapter was trained on a base with other weights, and when it brings the
    rows of new tokens, which are then put into the base's tables.
    """
    folder, inner = Path(folder), unwrap(model)
    config = read_config(folder)
    with opened(folder) as file:
        try:
            wanted, saved, place = _planned(inner, config, name, file.shapes, trainable)
            mended = mending(wanted, file.shapes)
            if mended and mend_keys:
                file.rename(mended.names)
            faults = _differences(wanted, file.shapes)
            faults = (complaint(wanted, file.shapes, mended) if faults else []) + faults
            base = _of_base(inner, file, wanted) if file.shapes.keys() - wanted.keys() else {}
            ready, more = _read(file, wanted) if not faults else ({}, [])
            rows, others = _compared(file, base, wanted)
            if not (faults := faults + more + others):
                place()
        except LoRAEduError as error:
            raise CheckpointError(f"the adapter in {folder} does not fit this model: {error}") from error
    if faults:
        lines = faults if len(faults) <= 8 else [*faults[:8], f"… and {len(faults) - 8} more"]
        raise CheckpointError(f"the adapter in {folder} does not fit this model:\n  " + "\n  ".join(lines))
    _fill(inner, name, ready, rows, trainable)
    _compare_bases(inner, folder, file.metadata, saved, rows)
    return model


def _planned(
    model: nn.Module, config: Any, name: str, shapes: Mapping[str, Any], trainable: bool
) -> tuple[dict[str, Expected], list[str], Callable[[], object]]:
    """(what the file must hold, paths of modules trained in full, what puts the adapter into the model without values)."""
    if isinstance(config, Method):
        return config.expected(model, name), [], partial(put, model, config, name, empty=True)
    config = _with_tied(model, config, shapes, trainable)
    targets, saved = plan(model, config, from_disk=True), saved_paths(model, config, strict=False)
    wanted = expected(model, config, targets, saved, name)
    return wanted, saved, partial(install, model, config, name, targets, saved, empty=True)


def _of_the_base(model: nn.Module, without: Sequence[str] = ()) -> str:
    """The fingerprint of the base that the adapters were put on: of one that trains itself, as it was before."""
    return next((held.before for held in carriers(model) if held.before), None) or fingerprint(model, without)


def _fill(model: nn.Module, name: str, ready: Mapping[str, Tensor], rows: Mapping[str, Any], trainable: bool) -> None:
    """Put the values that were read into the adapter that was installed, and the new tokens' rows into the base."""
    with torch.no_grad():
        for own, parameter in adapter_parameters(model, name).items():
            if own in ready:
                parameter.copy_(ready[own].view(parameter.shape))  # a convolution's factors are matrices here
            parameter.requires_grad_(trainable and parameter.requires_grad)
        for own, buffer in adapter_buffers(model, name).items():
            buffer.copy_(ready[own])
        for table, first, values in rows.values():
            table[first:].copy_(values)


def _compare_bases(model: nn.Module, folder: Path, metadata: Mapping[str, str], saved: list[str], rows: Any) -> None:
    """Warn when the base is not the one that the adapter was trained on."""
    if rows:
        warnings.warn(
            f"the adapter in {folder} was trained on a base with new tokens: their rows, from {metadata[_ROWS]} on, were put into "
            f"{', '.join(sorted(rows))}; without the adapter the base keeps them",
            stacklevel=3,
        )
    before, now = Quantization.from_json(metadata.get(BASE_IN_BITS)), quantization_of(model)
    if before != now and FINGERPRINT in metadata:
        first, second = (
            f"in four bits ({how})" if how else "that was not rounded to four bits" for how in (before, now)
        )
        warnings.warn(
            f"the adapter in {folder} was trained on a base {first}, and this is one {second}: it will run, but its scores were not "
            "measured on this base",
            stacklevel=3,
        )
        return
    without = saved if FROZEN in metadata else []
    trained_on = metadata.get(FROZEN if without else FINGERPRINT)
    if trained_on is not None and trained_on != (here := _of_the_base(model, without)):
        warnings.warn(
            f"the adapter in {folder} was trained on a base with other weights (fingerprint {trained_on}, here {here}): "
            "it will run, but its scores were not measured on this base",
            stacklevel=3,
        )


# -- what is in the file, against what the model needs -----------------------------------------------------------------
def _differences(wanted: Mapping[str, Expected], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """By the file's header alone, a line each: what is missing, and what has another shape."""
    faults = []
    if missing := sorted(wanted.keys() - shapes.keys()):
        faults.append(f"missing: {_few(missing)}")
    for key in sorted(wanted.keys() & shapes.keys()):
        if wanted[key].shape != shapes[key]:
            faults.append(f"{key} has shape {shapes[key]}, this model needs {wanted[key].shape}")
    return faults


def _read(file: WeightsFile, wanted: Mapping[str, Expected]) -> tuple[dict[str, Tensor], list[str]]:
    """({our name: tensor as the model will hold it}, faults). What is finite is looked at after the cast: 1e39 is not, in float32."""
    ready: dict[str, Tensor] = {}
    faults = []
    for key, tensor in file.tensors(wanted).items():
        want = wanted[key]
        if tensor.dtype != want.dtype and not (floating(tensor.dtype) and floating(want.dtype)):
            faults.append(f"{key} holds {str(tensor.dtype).removeprefix('torch.')}, this model needs {want.dtype}")
            continue
        ready[want.name] = tensor.to(want.dtype)
    if not _surely_finite(list(ready.values())):
        names = {want.name: key for key, want in wanted.items()}
        faults += [
            f"{names[n]} holds values that are not finite (in {str(t.dtype).removeprefix('torch.')})"
            for n, t in sorted(ready.items())
            if not bool(torch.isfinite(t).all())
        ]
    return ready, faults


def _surely_finite(tensors: list[Tensor]) -> bool:
    """True only where all are finite, in one quick pass: a norm is ∞ or NaN where a number is, and seldom where none is (1e30² is)."""
    full = [t for t in tensors if t.is_floating_point() and t.numel()]
    return not full or all(math.isfinite(norm) for norm in torch._foreach_norm(full))


def _of_base(
    model: nn.Module, file: WeightsFile, wanted: Mapping[str, Expected]
) -> dict[str, tuple[str, Tensor | None]]:
    """{key in the file that the adapter does not need: (as the base has it, the base's tensor or None)}."""
    base = base_by_key(model)
    return {key: (plain_key(key), base.get(plain_key(key))) for key in file.shapes.keys() - wanted.keys()}


def _compared(
    file: WeightsFile, base: Mapping[str, tuple[str, Tensor | None]], wanted: Mapping[str, Expected]
) -> tuple[dict[str, tuple[Tensor, int, Tensor]], list[str]]:
    """PEFT writes copies of base weights beside an embedding's adapter. Equal ones are accepted; so are rows of new tokens.

    Returns ({key: (the base's table, first new row, the rows)} of tables that differ in new rows alone, faults).
    """
    rows: dict[str, tuple[Tensor, int, Tensor]] = {}
    faults, unexpected = [], []
    first = int(text) if (text := file.metadata.get(_ROWS, "")).isdecimal() else None
    for key, (plain, original) in base.items():
        if original is None or plain in wanted:
            unexpected.append(key)
            continue
        if tuple(original.shape) != file.shapes[key]:
            faults.append(
                f"{key} has {file.shapes[key]} numbers, this model's table {tuple(original.shape)}: resize it first"
            )
            continue
        stored = file.tensors([key])[key].to(original.dtype)
        mine = original.cpu()
        if torch.equal(mine, stored):
            continue
        if first is not None and 0 < first < len(stored) and torch.equal(mine[:first], stored[:first]):
            rows[key] = original, first, stored[first:]
            if not bool(torch.isfinite(stored[first:]).all()):
                faults.append(f"{key} holds values that are not finite")
        else:
            faults.append(
                f"{key} is a weight of the base, and differs from this model's: the adapter belongs to another base"
            )
    if unexpected:
        faults.append(f"unexpected: {_few(sorted(unexpected))}")
    return rows, faults


def _tables(model: nn.Module, grown: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tables that got new rows, under PEFT's keys, but for those that the adapter trains in full and holds already."""
    found = {}
    for path, table in grown.items():
        adapted = any(key.startswith(f"{PREFIX}{path}.lora_") for key in tensors)
        key = f"{PREFIX}{path}.base_layer.weight" if adapted else f"{PREFIX}{path}.weight"
        if f"{PREFIX}{path}.weight" not in tensors:
            found[key] = whole(table.detach()).cpu().contiguous()
    return found


def _with_tied(model: Any, config: LoRAConfig, shapes: Mapping[str, Any], trainable: bool) -> LoRAConfig:
    """PEFT's `ensure_weight_tying` writes a tied head's share beside the embedding's; here the head gets it as its own."""
    if not config.ensure_weight_tying:
        return config
    head = getattr(model, "get_output_embeddings", lambda: None)()
    path = next((name for name, module in model.named_modules() if module is head), "")
    names = config.target_modules
    if not isinstance(names, tuple) or not path:
        return config
    found = config
    if f"{PREFIX}{path}.lora_A.weight" in shapes and path not in names:
        found = replace(config, target_modules=(*names, path))
    elif f"{PREFIX}{path}.weight" in shapes and config.modules_to_save and path not in config.modules_to_save:
        found = replace(config, modules_to_save=(*config.modules_to_save, path))
    if found is config:
        return config
    if trainable:
        raise CheckpointError(
            "it trains the embedding and the head as one (ensure_weight_tying); here they would part. Load it to use it only"
        )
    return replace(found, ensure_weight_tying=False)


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
