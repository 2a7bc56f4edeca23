"""Values as bytes and back, for the two sides of the grader: plain data only, never pickle.

The side that judges reads what a student's process wrote. So nothing that is read may run: a message is JSON, tensors are their raw
bytes, and whatever is not plain data cannot cross.
"""

import base64
import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import torch

MOST_BYTES = 16_000_000  # of one message
_DEEP = 40  # levels of lists in lists
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
        torch.uint8, torch.bool,
    )
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class CannotCross(Exception):
    """A value that is more than plain data, or a message that is none of ours."""


def encode(value: Any) -> bytes:
    """`value` as a message. Raises CannotCross for what is no plain data: functions, modules, a tensor that a graph hangs on."""
    try:
        message = json.dumps(_plain(value, _DEEP), allow_nan=True).encode()
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise CannotCross(f"{type(error).__name__}: {error}") from None
    if len(message) > MOST_BYTES:
        raise CannotCross(f"{len(message):,} bytes, more than {MOST_BYTES:,}")
    return message


def decode(message: bytes) -> Any:
    """The value of a message that anybody may have written. Raises CannotCross for one that is none."""
    try:
        return _value(json.loads(message))
    except CannotCross:
        raise
    except Exception as error:  # whatever a forged message breaks
        raise CannotCross(f"not a message: {type(error).__name__}") from None


def _plain(value: Any, deep: int) -> Any:
    if not deep:
        raise CannotCross("lists in lists without an end")
    if value is None or isinstance(value, bool | str):
        return value if value is None else str(value) if isinstance(value, str) else bool(value)
    if value is ... or value is NotImplemented:
        return {"is": "..." if value is ... else "NotImplemented"}
    if isinstance(value, torch.dtype) and value in _NAMES:
        return {"is": "dtype", "of": _NAMES[value]}
    if isinstance(value, np.generic):
        return _plain(np.asarray(value), deep) | {"is": "scalar"}
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, Fraction):
        return {"is": "fraction", "of": [int(value.numerator), int(value.denominator)]}
    if isinstance(value, torch.Tensor):
        return _tensor(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf" or str(value.dtype) not in {*_DTYPES, "uint16", "uint32", "uint64"}:
            raise CannotCross(f"an array of {value.dtype}")
        raw = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"is": "array", "dtype": str(value.dtype), "shape": list(value.shape), "of": raw}
    if isinstance(value, dict):
        return {"is": "dict", "of": [[_plain(k, deep - 1), _plain(v, deep - 1)] for k, v in value.items()]}
    for name, types in _SEQUENCES.items():
        if isinstance(value, types):
            if hasattr(value, "_fields"):
                raise CannotCross(f"a {type(value).__name__}")
            return {"is": name, "of": [_plain(each, deep - 1) for each in value]}
    raise CannotCross(f"a {type(value).__name__}")


_SEQUENCES: dict[str, Any] = {"list": list, "tuple": (tuple, range), "set": (set, frozenset)}
_MAKE = {"list": list, "tuple": tuple, "set": set}


def _tensor(value: torch.Tensor) -> dict[str, Any]:
    if value.dtype not in _NAMES or value.layout != torch.strided:
        raise CannotCross(f"a tensor of {value.dtype}")
    flat = value.detach().cpu().contiguous().reshape(-1)
    raw = base64.b64encode(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"").decode()
    return {"is": "tensor", "dtype": _NAMES[value.dtype], "shape": list(value.shape), "of": raw}


def _value(plain: Any) -> Any:
    if not isinstance(plain, dict):
        if isinstance(plain, list):
            raise CannotCross("a bare list")
        return plain
    match plain["is"]:
        case "...":
            return ...
        case "NotImplemented":
            return NotImplemented
        case "dtype":
            return _DTYPES[plain["of"]]
        case "fraction":
            return Fraction(*map(int, plain["of"]))
        case "tensor":
            dtype, raw = _DTYPES[plain["dtype"]], _raw(plain, _DTYPES[plain["dtype"]].itemsize)
            flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
            return flat.reshape(plain["shape"])
        case "array" | "scalar":
            array = np.frombuffer(_raw(plain, np.dtype(plain["dtype"]).itemsize), plain["dtype"])
            array = array.reshape(plain["shape"])
            return array if plain["is"] == "array" else array[()]
        case "dict":
            return {_value(key): _value(value) for key, value in plain["of"]}
        case "list" | "tuple" | "set" as name:
            return _MAKE[name](map(_value, plain["of"]))
    raise CannotCross(f"nothing is called {plain['is']!r}")


def _raw(plain: dict[str, Any], size: int) -> bytearray:
    """The bytes of an array, as many as its shape says: a shape of 10¹² with three bytes in it is refused, not made."""
    shape, raw = plain["shape"], bytearray(base64.b64decode(plain["of"], validate=True))
    if not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) * size != len(raw):
        raise CannotCross("a shape that its bytes do not fill")
    return raw
