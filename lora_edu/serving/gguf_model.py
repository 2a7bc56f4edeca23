"""A whole model as one GGUF file: weights, sizes, tokenizer and chat template, as llama.cpp and its like read them. Chapter 15."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray
from torch import Tensor, nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.finding import (
    adapter_names,
    base_name,
    base_parameters,
    lora_layers,
    of_base,
    saved_modules,
    state_of,
)
from lora_edu.errors import ExportError
from lora_edu.files import replacing, room_for
from lora_edu.models.modules import unwrap
from lora_edu.models.quantized.conversion import quantization_of
from lora_edu.serving.gguf_names import Names, describe, rope_factors
from lora_edu.serving.gguf_tokenizer import verify_tokens, vocabulary, write_vocabulary
from lora_edu.serving.llama_cpp import available

# What --dtype calls it → (how matrices are stored, embeddings and head, what the file calls itself). Embeddings are read a row at a time
# and the head is the answer itself, so four bits are not for them, as in the files that llama.cpp's own tools make.
DTYPES = {
    "f32": (Kind.F32, Kind.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (Kind.F16, Kind.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (Kind.Q8_0, Kind.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (Kind.Q4_0, Kind.Q8_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}
_TABLES = ("token_embd.weight", "output.weight")


def write_gguf(
    model: nn.Module,
    tokenizer: Any,
    path: str | Path,
    dtype: str = "f32",
    *,
    base_only: bool = False,
    verify: bool | None = None,
) -> Path:
    """Write the model to `path` as GGUF, whole or not at all, in the place of what was there; returns the path. Chapter 15.

    model: a plain one, or one with adapters that are merged; `base_only=True` writes the base of a model with adapters, as it was.
    dtype: "f32", "f16", "q8_0" (8.5 bits a weight) or "q4_0" (4.5 bits; embeddings and head 8.5). Norms and biases stay float32; so, in
    float16, do rows whose length no block of 32 divides.
    verify: have llama.cpp make tokens of a hundred texts before the file takes its place; None does so where it is installed.

    Raises ExportError for a family or tokenizer that was not verified, unmerged adapters, a base held in four bits, numbers too large
    for float16; DiskFullError.
    """
    inner: Any = unwrap(model)
    path = Path(path)
    if dtype not in DTYPES:
        raise ExportError(f"dtype={dtype!r}: choose one of {', '.join(DTYPES)}")
    if quantization_of(inner) is not None:
        raise ExportError("this model is held in four bits of another kind than GGUF's: dequantize(model) first")
    names = Names(getattr(inner, "config", None))
    weights = dict(_weights(inner, base_only))
    found = vocabulary(tokenizer, inner.config.vocab_size)
    matrices, tables, file_type = DTYPES[dtype]
    stored = {}
    for name, tensor in _renamed(names, weights):
        kind = Kind.F32 if tensor.dim() < 2 else tables if name in _TABLES else matrices
        stored[name] = _stored(name, tensor, kind)
    if (factors := rope_factors(inner.config, inner)) is not None:
        stored["rope_freqs.weight"] = factors.numpy(), Kind.F32
    with replacing(path) as unfinished:
        with room_for(path.name, sum(array.nbytes for array, _ in stored.values()), path.parent, unfinished):
            writer = gguf.GGUFWriter(unfinished, names.family.name)
            writer.add_type(gguf.GGUFType.MODEL)
            writer.add_name(_name(inner))
            writer.add_file_type(file_type)
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            describe(writer, inner.config)
            write_vocabulary(writer, found)
            write_tensors(writer, stored)
        if available() if verify is None else verify:
            verify_tokens(unfinished, tokenizer)
    return path


def write_tensors(writer: gguf.GGUFWriter, tensors: dict[str, tuple[NDArray[Any], Kind]]) -> None:
    """Everything that the writer holds, and these tensors, to its file."""
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _weights(model: Any, base_only: bool) -> Iterator[tuple[str, Tensor]]:
    """(name in the plain model, tensor) of what is to be written. Raises ExportError where the model computes something else."""
    if not adapter_names(model):
        yield from ((name, p.detach()) for name, p in model.named_parameters())
        return
    state = state_of(model)
    if base_only:
        if trained := [name for name, config in state.configs.items() if config.changes_base]:
            raise ExportError(
                f"{', '.join(trained)} trained the base itself, so that this model has no untouched base: load it again"
            )
        yield from base_parameters(model)
        return
    speaking = [name for name, dial in state.active.items() if dial]
    apart = [name for name in speaking if not isinstance(state.configs[name], LoRAConfig)]
    unmerged = any(layer.active_adapters() and not layer.merged for layer in lora_layers(model).values())
    if apart or unmerged or (speaking and saved_modules(model)):
        raise ExportError(
            f"adapters are active beside the weights ({', '.join(speaking)}), which a GGUF model cannot hold: merge(model) and unload(model) "
            "first, or write the base alone (base_only=True) and the adapter as a file of its own (write_adapter_gguf)"
        )
    yield from ((base_name(name), p.detach()) for name, p in model.named_parameters() if of_base(name))


def _renamed(names: Names, weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in weights.items():
        path, _, end = name.rpartition(".")
        yield f"{names.of(path)}.{end}", names.oriented(path, tensor.float().cpu()).contiguous()


def _stored(name: str, tensor: Tensor, kind: Kind) -> tuple[NDArray[Any], Kind]:
    """The tensor as the file holds it, and what that is."""
    array = tensor.numpy()
    if not torch.isfinite(tensor).all():
        raise ExportError(f"{name} holds values that are not finite numbers")
    if kind in (Kind.Q8_0, Kind.Q4_0) and array.shape[-1] % 32:
        kind = Kind.F16
    if kind is Kind.F16:
        if np.abs(array).max(initial=0) > np.finfo(np.float16).max:
            raise ExportError(
                f"{name} reaches {np.abs(array).max():.3g}, and float16 ends at 65504: choose f32 or q8_0"
            )
        return array.astype(np.float16), kind
    return (array, kind) if kind is Kind.F32 else (gguf.quants.quantize(array, kind), kind)


def _name(model: Any) -> str:
    return Path(str(getattr(model.config, "_name_or_path", "") or type(model).__name__)).name
