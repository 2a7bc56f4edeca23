"""A base model out of a folder, whole or not at all: transformers would give every weight it does not find a random value. Chapter 14."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from lora_edu.errors import LoRAEduError, ModelError, cut
from lora_edu.models.folders import Header, check_folder, some


class Base(NamedTuple):
    """A base model, in eval mode, with the tokenizer that belongs to it."""

    model: Any  # transformers.PreTrainedModel
    tokenizer: Any  # transformers.PreTrainedTokenizerBase


def read(folder: Path, dtype: torch.dtype | str) -> Base:
    """The model and tokenizer in a folder: safetensors only, never the model's own Python code, nothing from the network.

    A tokenizer without an end-of-text token takes the one that the model's config names, and one without padding pads with that.
    Raises ModelError if the folder may not be read, lacks a weight, holds one too many or one of another shape or kind.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tensors = check_folder(folder)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with quiet(), whatever_is_wrong_with(folder):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **options)
        options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # what does not fit is named below
        both: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, use_safetensors=True, **options)
    model, found = both
    _check_keys(folder, model, found)
    _check_kinds(folder, model, tensors)
    _complete(folder, tokenizer, model.config)
    return Base(model, tokenizer)


def check_values(model: nn.Module, name: str) -> None:
    """Raises ModelError if a parameter holds what is not a number: one in a thousand is enough to make every answer NaN."""
    broken = [
        key for key, p in model.named_parameters()
        if p.is_floating_point() and p.numel() and not torch.stack(p.detach().aminmax()).isfinite().all()
    ]  # fmt: skip
    if broken:
        raise ModelError(
            f"{len(broken)} weights of {name} hold values that are not finite numbers (NaN or infinity): {some(broken)}. Either the file "
            "is damaged: copy it again; or its numbers are too large for the dtype they were loaded in: choose another."
        )


def _check_keys(folder: Path, model: nn.Module, found: Mapping[str, Any]) -> None:
    """transformers' own list of what may be missing (tied weights) or left over is taken off already."""
    faults = []
    if missing := found["missing_keys"]:
        faults.append(f"{len(missing)} weights are missing, and would get random values: {some(missing)}")
    if surplus := found["unexpected_keys"]:
        faults.append(f"{len(surplus)} tensors in the folder belong nowhere in it: {some(surplus)}")
    if mismatched := found["mismatched_keys"]:
        shapes = (f"{name} {tuple(stored)}, not {tuple(wanted)}" for name, stored, wanted in mismatched)
        faults.append(f"{len(mismatched)} have another shape than config.json says: {some(shapes)}")
    if faults:
        raise ModelError(
            f"{folder} is not a whole {type(model).__name__}: {'; '.join(faults)}. Either the weights and config.json do not belong "
            "together, or the folder was saved from another class of model, or only in part: copy it again, whole, from where it came from."
        )


def _check_kinds(folder: Path, model: Any, tensors: Mapping[str, Header]) -> None:
    """Whole numbers read as weights are somebody's quantisation without its scales (or a damaged file): the values mean nothing."""
    if getattr(model.config, "quantization_config", None) is not None:
        return  # stored as whole numbers on purpose, and the config says how to read them
    parameters = {name for name, _ in model.named_parameters()}
    whole = [name for name, header in tensors.items() if header.dtype[0] in "IUB" and header.dtype != "BF16"]
    if wrong := [name for name in whole if name in parameters or name.endswith(".weight")]:
        kinds = sorted({tensors[name].dtype for name in wrong})
        raise ModelError(
            f"{folder}: {len(wrong)} weights are stored as whole numbers ({', '.join(kinds)}): {some(wrong)}. Without a "
            "quantization_config in config.json their values mean nothing. Choose a copy of the model in F32, F16 or BF16."
        )


def _complete(folder: Path, tokenizer: Any, config: Any) -> None:
    """The end-of-text token, without which no answer ends, and one to pad with."""
    if tokenizer.eos_token is None and isinstance(number := getattr(config, "eos_token_id", None), int):
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(number) if 0 <= number < len(tokenizer) else None
    if tokenizer.eos_token is None or tokenizer.eos_token_id is None:
        raise ModelError(
            f'The tokenizer in {folder} names no end-of-text token, so no answer could end. Name it as "eos_token" in '
            "tokenizer_config.json (is that file missing?), or give its number as eos_token_id in config.json."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token


@contextlib.contextmanager
def whatever_is_wrong_with(folder: Path) -> Iterator[None]:
    """Turns any error of transformers or tokenizers over a folder into a ModelError: they raise some 45 kinds, down to a plain Exception."""
    try:
        yield
    except LoRAEduError:
        raise
    except Exception as error:
        raise ModelError(_explain(folder, error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # what a panic in Rust becomes; it is no Exception
            raise
        raise ModelError(_explain(folder, error)) from error


def _explain(folder: Path, error: BaseException) -> str:
    reason = " ".join(str(error).split())
    if "trust_remote_code" in reason or "custom code" in reason:
        return f"{folder} needs Python code of its own to run. This course never runs a model's code: choose a model whose architecture transformers knows."
    if "Unrecognized configuration class" in reason:
        return f"{folder} is not a causal language model (one that continues text), and those are all that load_base reads."
    if re.search(r"does not recognize this architecture|Unrecognized model in", reason):
        return (
            f"{folder}: this transformers does not know the architecture that config.json names as model_type. Upgrade transformers, or choose another model. "
            f"({cut(reason, 120)})"
        )
    kind = "" if isinstance(error, OSError | ValueError | RuntimeError) else f"{type(error).__name__}: "
    return f"{folder} could not be loaded as a causal language model: {kind}{cut(reason, 400) or 'no reason given'}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers without its bars and its advice; what was set before is set again afterwards."""
    from transformers import modeling_gguf_pytorch_utils as gguf_reader
    from transformers.utils import logging as switches

    bars, level, reader_bar = switches.is_progress_bar_enabled(), switches.get_verbosity(), gguf_reader.tqdm
    switches.disable_progress_bar()
    switches.set_verbosity(logging.ERROR)
    gguf_reader.tqdm = lambda tensors, **_: tensors  # type: ignore[assignment]  # this one bar does not ask the switch
    try:
        yield
    finally:
        gguf_reader.tqdm = reader_bar
        switches.set_verbosity(level)
        if bars:
            switches.enable_progress_bar()
