"""Whose run is it? What a checkpoint must agree with before a run goes on from it, as JSON values and hashes. Chapter 05.

A resumed run must be the run that was begun, or its weights end where no run would have ended. So everything that decides a step is
told here: the config, the rows, the loss and the collate, what is frozen, the adapters with their dials, and every plain setting of
every module (an epsilon, a dropout, an activation). Values are kept where they are short, so that an error can say what differs.
"""

import dataclasses
import enum
import functools
import hashlib
import inspect
import json
import re
import types
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lora_edu.models.modules import unwrap
from lora_edu.models.sharded import whole
from lora_edu.training.config import TrainConfig

# Attributes of modules that say how a step is computed or what happened on the way, not what it is.
_PASSING = {
    "training", "forward", "gradient_checkpointing", "name_or_path", "warnings_issued", "max_seq_len_cached", "model_tags",
}  # fmt: skip
# Keys of a base's config, and of an adapter's, that decide no step: names, versions, and what only said where adapters go or how
# they began (the names and shapes of what trains, and the weights themselves, are in the checkpoint).
_NOTES = {
    "name_or_path", "transformers_version", "architectures", "use_cache", "dtype", "torch_dtype", "model_type", "return_dict",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "init_lora_weights", "task_type",
    "base_model_name_or_path", "inference_mode", "peft_type", "peft_version",
}  # fmt: skip
_UNTOLD = object()  # no short value says what this is


def run_identity(
    config: TrainConfig,
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    carried: Mapping[str, Tensor],
    examples: Sequence[Any],
    eval_examples: Sequence[Any] | None,
    loss_fn: Callable[..., Any],
    collate: Callable[..., Any],
) -> dict[str, Any]:
    """What a checkpoint must agree with to be this run's, as JSON gives it back."""
    inner = unwrap(model)
    identity = {
        "config": config.decisive(),
        "loss_fn": told(loss_fn),
        "collate": told(collate),
        "adapter": adapter_settings(inner),
        "base config": base_settings(inner),
        "examples": data_identity(examples),
        "eval_examples": data_identity(eval_examples),
        "model": model_identity(inner, parameters, carried),
        "modules": module_settings(inner),
    }
    return json.loads(json.dumps(identity, default=str))


def differences(saved: Any, now: Any, what: str = "") -> list[str]:
    """What differs between two identities, in words: `config learning_rate: 0.001 then, 0.002 now`."""
    if isinstance(saved, dict) and isinstance(now, dict):
        keys = list(dict.fromkeys([*saved, *now]))
        return [line for key in keys for line in differences(saved.get(key), now.get(key), f"{what} {key}".strip())]
    return [] if saved == now else [f"{what}: {_short(saved)} then, {_short(now)} now"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:117]}…"


# --- rows -------------------------------------------------------------------------------------------------------------


def data_identity(examples: Sequence[Any] | None) -> dict[str, Any] | None:
    """How many examples, and a hash of their content in their order."""
    if examples is None:
        return None
    digest = hashlib.sha256()
    for example in examples:
        _feed(digest, example)
    return {"rows": len(examples), "content": digest.hexdigest()[:16]}


def _feed(digest: "hashlib._Hash", value: Any) -> None:
    """Hashes tensors and arrays by their bytes, containers and objects by what they hold, anything else by its repr."""
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode() + tensor_bytes(value).tobytes())
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, Mapping):
        for key, item in value.items():
            digest.update(repr(key).encode())
            _feed(digest, item)
    elif isinstance(value, set | frozenset):
        digest.update(repr(sorted(map(repr, value))).encode())  # a set of strings has another order in every process
    elif isinstance(value, list | tuple) and not all(isinstance(item, int) for item in value):
        digest.update(f"[{len(value)}".encode())
        for item in value:
            _feed(digest, item)
    elif isinstance(value, types.FunctionType | types.MethodType | functools.partial):
        digest.update(told(value).encode())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):  # its repr would shorten long tensors
        _feed(digest, {f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    elif type(value).__repr__ is object.__repr__:  # it would show an address, which is another one next time
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        _feed(digest, held | getattr(value, "__dict__", {}))
    else:
        digest.update(repr(value).encode())


def tensor_bytes(tensor: Tensor) -> np.ndarray:
    """The tensor's content as bytes (NumPy knows no bfloat16)."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


# --- functions --------------------------------------------------------------------------------------------------------


def told(function: Any) -> str:
    """A function in words: its name, what it was given beforehand, and a hash of its source if it is not this package's own.

    `lora_edu.data.examples.collate(pad_token_id=2)`; `my_loss [3f0c61aa]`. Of a callable object: its class and its public
    plain attributes. What a function reads from global variables is not told.
    """
    if isinstance(function, functools.partial):
        given = [*map(_given, function.args), *(f"{key}={_given(item)}" for key, item in function.keywords.items())]
        return f"{told(function.func)}({', '.join(given)})"
    if isinstance(function, types.MethodType):
        return f"{told(function.__self__)}.{function.__func__.__name__}"
    if isinstance(function, types.FunctionType):
        held = [_given(cell.cell_contents) for cell in function.__closure__ or () if _filled(cell)]
        held += map(_given, [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()])
        return _named(function, function, held)
    if hasattr(function, "__dict__") and not isinstance(function, type):
        held = [f"{key}={value!r}" for key, value in _plain_attributes(function).items()]
        return _named(type(function), type(function), held)
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__name__)}"


def _named(thing: Any, source: Any, held: list[str]) -> str:
    name = f"{thing.__module__}.{thing.__qualname__}"
    if name.startswith("lora_edu."):
        return name + (f"({', '.join(held)})" if held else "")
    text = _source(source)
    digest = hashlib.sha256(repr((text, held)).encode()).hexdigest()[:8]
    # The text tells it apart; its module has another name in a script that is run than in one that is imported.
    return f"{thing.__qualname__ if text else name} [{digest}]"


def _source(thing: Any) -> str:
    """The text of a function or class; of a lambda, whose text is a line with much else on it, the compiled code."""
    if getattr(thing, "__name__", "") != "<lambda>":
        try:
            return inspect.getsource(thing)
        except (OSError, TypeError):
            pass
    code = getattr(thing, "__code__", None)
    if code is None:
        return ""
    constants = [repr(item) for item in code.co_consts if not isinstance(item, types.CodeType)]
    return f"{code.co_code.hex()} {constants} {code.co_names}"


def _given(value: Any) -> str:
    """A value that a function was given beforehand: as it is if it is short, else a hash; an object of another kind by its class."""
    if callable(value):
        return told(value)
    if isinstance(value, Tensor | np.ndarray | Mapping | list | tuple | set | frozenset):
        digest = hashlib.sha256()
        _feed(digest, value)
        return f"{type(value).__name__} {digest.hexdigest()[:8]}"
    known = plain(value)
    return type(value).__qualname__ if known is _UNTOLD else repr(known)


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # an empty cell raises
    except ValueError:
        return False
    return True


# --- the model --------------------------------------------------------------------------------------------------------


def model_identity(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], carried: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The trainable parameters' types and shapes, and a hash of everything frozen but what is `carried` in the checkpoint itself."""
    digest = hashlib.sha256()
    by_name = dict(model.named_parameters(remove_duplicate=False))  # a tied weight has two names
    trained = {id(by_name[name]) for name in (*parameters, *carried)}
    names = {name for name, p in by_name.items() if id(p) in trained}
    for name, tensor in (dict(model.named_buffers()) | model.state_dict()).items():
        if name not in names:
            content = zlib.crc32(tensor_bytes(whole(tensor)).data)
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}{content}".encode())
    return {
        "trainable": {
            name: f"{str(p.dtype).removeprefix('torch.')} {tuple(p.shape)}" for name, p in parameters.items()
        },
        "frozen weights": digest.hexdigest()[:16],
    }


def adapter_settings(model: nn.Module) -> dict[str, Any]:
    """Of each adapter what its config says of the arithmetic, and its dial (0: switched off). Known by the state that its layers share."""
    for module in model.modules():
        state: Any = getattr(module, "state", None)
        if hasattr(state, "configs") and hasattr(state, "active"):
            return {
                name: {key: value for key, value in config.to_dict().items() if key not in _NOTES}
                | {"dial": state.active.get(name, 0)}
                for name, config in state.configs.items()
            }
    return {}


def base_settings(model: nn.Module) -> dict[str, Any]:
    """The base's own config, as far as it decides a step."""
    config: Any = getattr(model, "config", None)
    read = getattr(config, "to_diff_dict", None) or getattr(config, "to_dict", None)
    if read is None:
        return {}
    settings = {key: value for key, value in read().items() if key not in _NOTES and not key.startswith("_")}
    return settings | {"attention": getattr(config, "_attn_implementation", None)}


def module_settings(model: nn.Module) -> dict[str, Any]:
    """Every plain public attribute of every module, and its class. Layers of one kind share an entry: `model.layers.*.mlp.act_fn class`."""
    found: dict[str, list[Any]] = defaultdict(list)
    for name, module in model.named_modules():
        path = ".".join("*" if part.isdigit() else part for part in name.split("."))
        kind = type(module)
        if kind.__mro__[1].__name__ == "FSDPModule":  # a class made on the fly; the second parent is the module's own
            kind = kind.__mro__[2]
        found[f"{path} class".strip()].append(kind.__qualname__)
        for key, value in _plain_attributes(module).items():
            found[f"{path} {key}".strip()].append(value)
    return {
        key: values[0] if all(value == values[0] for value in values) else _hash(values)
        for key, values in found.items()
    }


def _plain_attributes(thing: Any) -> dict[str, Any]:
    known = {key: plain(value) for key, value in vars(thing).items() if not key.startswith("_") and key not in _PASSING}
    return {key: value for key, value in known.items() if value is not _UNTOLD}


def plain(value: Any) -> Any:
    """The value as JSON can hold it, functions and classes by their names; a marker for what has no short value."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        items = [plain(item) for item in (sorted(value, key=repr) if isinstance(value, set | frozenset) else value)]
        return _UNTOLD if _UNTOLD in items else items
    if isinstance(value, dict):
        pairs = {str(key): plain(item) for key, item in value.items()}
        return _UNTOLD if any(item is _UNTOLD for item in pairs.values()) else pairs
    if isinstance(value, torch.dtype | enum.Enum):
        return str(value)
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | type):
        return re.sub(r" at 0x\w+", "", f"{value.__module__}.{value.__qualname__}")
    return _UNTOLD


def _hash(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()[:8]
