"""What a folder must hold before transformers may read it as a base model: looked at here, because transformers would fill in, guess or unpickle. Chapter 14.

A pickle can run code when it is opened, so every file of weights that the folder names must be safetensors, and lie in the folder itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from lora_edu.errors import ModelError, cut, shown

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
# JSON that transformers reads as settings. (tokenizer.json is a vocabulary, of tens of megabytes, and has a parser of its own.)
SETTINGS = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
_LARGEST_SETTINGS = 20e6  # bytes; an index of 10,000 tensors has 1e6
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_NUMBER_OF_LAYERS = re.compile(r"(num|n)_(\w+_)?layers?")
# Names that only a model with adapters, or one in a wrapper, has; what it is, and how to save it so that anyone can read it.
_LEFTOVERS = {
    r"\.(base_layer|lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|modules_to_save)\.": (
        "a model that still carries its adapters (merging alone leaves them in place)",
        "merge(model), then unload(model).save_pretrained(folder); or `lora-edu merge`. To keep the adapter "
        "apart, save it alone with save(model, folder), and give load_base the base",
    ),
    r"^base_model\.model\.": (
        "a model inside PEFT's wrapper",
        "save what merge_and_unload() returns, or give load_base the base and load the adapter from its own folder",
    ),
    r"^_orig_mod\.": ("a compiled model", "save the model that torch.compile was given"),
    r"^module\.": ("a model inside DistributedDataParallel or DataParallel", "save its .module"),
}


class Header(NamedTuple):
    """What a safetensors file says of a tensor before it is read."""

    dtype: str  # "F32", "BF16", "I64", …
    shape: tuple[int, ...]


def check_folder(folder: Path) -> dict[str, Header]:
    """The tensors that lie in a base model's folder, by name, if transformers may read it.

    Raises ModelError, with the remedy, for a folder that holds an adapter, a pickle in place of weights, weights outside of it,
    a model saved with its adapters or its wrapper, and settings that are not JSON objects.
    """
    config = settings(folder)
    if (folder / ADAPTER).exists():
        raise ModelError(
            f"{folder} holds a base model and an adapter ({ADAPTER}). transformers would put that adapter on the base in silence. Move "
            f"{ADAPTER} and adapter_model.safetensors to a folder of their own, load the base, then load(model, that folder)."
        )
    tensors = headers(weight_files(folder, config))
    _check_names(folder, tensors)
    _check_layers(folder, config, len(tensors))
    return tensors


def settings(folder: Path) -> dict[str, Any]:
    """config.json, if it and every other file of settings is a JSON object."""
    if not (folder / "config.json").is_file():
        hint = (
            " It holds an adapter: load its base model, then load(model, folder)."
            if (folder / ADAPTER).exists()
            else ""
        )
        raise ModelError(f"{folder} holds no model: there is no config.json in it.{hint}")
    config, *_ = [json_object(folder / name) for name in SETTINGS if (folder / name).exists()]
    return config


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of settings; raises ModelError for anything else."""
    try:
        if path.stat().st_size > _LARGEST_SETTINGS:
            raise ModelError(f"{path} has {path.stat().st_size / 1e6:,.0f} MB: that is no file of settings.")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, a number of 5,000 digits
        raise ModelError(
            f"{path} cannot be read as JSON: {cut(str(error))}. Copy the model again from where it came from."
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} must hold a JSON object, with names and values; it holds {shown(content, 60)}.")
    return content


def weight_files(folder: Path, config: Mapping[str, Any]) -> list[Path]:
    """The safetensors files that transformers will read, in its order of preference; raises ModelError if one is anything else."""
    named = config.get("transformers_weights")
    if any(re.match(r"shard-\d{5}-model-", path.name) for path in folder.iterdir()):
        raise ModelError(
            f"{folder} holds a distributed checkpoint (shard-…-model-….safetensors). Write it as one model first: load it with the "
            "tool that saved it, then model.save_pretrained(another folder)."
        )
    if named is None and not (folder / WEIGHTS).exists() and not (folder / INDEX).exists():
        raise ModelError(_no_weights(folder))
    files = [folder / name for name in named_weights(folder, named)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise ModelError(
            f"{folder} lacks {shown(missing)}, which its index or its config.json names: copy the model again, whole."
        )
    return files


def named_weights(folder: Path, named: object = None) -> list[str]:
    """The names of the files of weights: what config.json calls `transformers_weights`, else model.safetensors, else what the index lists."""
    if named is None:
        named = WEIGHTS if (folder / WEIGHTS).exists() or not (folder / INDEX).exists() else INDEX
    if not isinstance(named, str) or not named.endswith(".index.json"):
        return _plain_names([named], folder / "config.json")
    index = folder / _plain_names([named], folder / "config.json", ending=".safetensors.index.json")[0]
    if not index.is_file():
        raise ModelError(f"{folder} lacks {named}, which its config.json names: copy the model again, whole.")
    shards = json_object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelError(
            f"{index} must list the tensors and their files under 'weight_map'; there it has {shown(shards, 60)}."
        )
    return _plain_names(dict.fromkeys(map(_hashable, shards.values())), index)


def _hashable(value: object) -> object:
    return value if isinstance(value, str) else repr(value)


def _plain_names(names: Iterable[object], said_by: Path, ending: str = ".safetensors") -> list[str]:
    """The same names if each is that of a safetensors file in the folder itself: nothing else is opened."""
    plain: list[str] = []
    for name in names:
        if (
            not isinstance(name, str)
            or not name.endswith(ending)
            or re.search(r"[\\/\0]", name)
            or name.startswith(".")
        ):
            raise ModelError(
                f"{said_by} names {shown(name, 80)} as weights. Only files ending in {ending}, in the model's own folder, are read: "
                f"{_why_no_pickle}, choose a copy of the model in safetensors."
            )
        plain.append(name)
    return plain


_why_no_pickle = (
    "files ending in .bin and the like are pickles, which can run code when they are opened, so they are never read"
)


def _no_weights(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    if gguf := [name for name in names if name.endswith(".gguf")]:
        return f"{folder} holds {gguf[0]}, and load_base reads safetensors: take the model in transformers' own format, or convert it."
    pickles = [name for name in names if name.endswith(_PICKLES)]
    return f"{folder} has no weights in safetensors (no {WEIGHTS}, and no {INDEX})." + (
        f" It has {pickles[0]}; {_why_no_pickle}. Choose a copy of the model that has {WEIGHTS}, or convert it on a machine you can "
        "afford to lose."
        if pickles
        else " Copy the model again, whole."
    )


def headers(files: Iterable[Path]) -> dict[str, Header]:
    """What the files say of their tensors, by name; raises ModelError for a damaged file."""
    tensors: dict[str, Header] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118  # not a dictionary: it cannot be gone through itself
                    tensor = opened.get_slice(name)
                    tensors[name] = Header(tensor.get_dtype(), tuple(tensor.get_shape()))
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{file} is damaged ({cut(str(error))}): copy it again from where it came from."
            ) from error
    return tensors


def _check_names(folder: Path, names: Iterable[str]) -> None:
    for pattern, (what, remedy) in _LEFTOVERS.items():
        if found := [name for name in names if re.search(pattern, name)]:
            raise ModelError(f"{folder} was saved from {what}: it holds {some(found)}. Not so: {remedy}.")


def _check_layers(folder: Path, config: Mapping[str, Any], tensors: int) -> None:
    """A model has no more layers than tensors: a billion of them would be built before anything was found missing."""
    for name, value in config.items():
        if isinstance(value, dict):
            _check_layers(folder, value, tensors)
        elif _NUMBER_OF_LAYERS.fullmatch(name) and isinstance(value, int) and value > tensors:
            raise ModelError(
                f"{folder / 'config.json'} says {name} = {shown(value, 40)}, but there are only {tensors} tensors in the folder: "
                "copy the model again, whole."
            )


def some(names: Iterable[str], limit: int = 4) -> str:
    """The first few names in order, and how many more there are."""
    ordered = sorted(names)
    return ", ".join(cut(name, 100) for name in ordered[:limit]) + (
        f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    )
