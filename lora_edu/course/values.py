"""What a learner hands over or returns, in whatever type: as a number, a tensor, a truth value, or the parts of a pair.

Every checker takes every kind of number (Python's, NumPy's, a tensor of one element, a Fraction) and, where a tensor is asked for,
an array or a list. `same` and `close` compare with a tolerance that single precision keeps, so nobody is refused for computing in float32.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lora_edu.course.open_parts import NotAttempted, Wrong, open_in
from lora_edu.errors import shown

SINGLE = 1e-6  # relative: what a few operations in single precision leave


def _plain(value: Any) -> Any:
    """A tensor or array of one element as Python's number; anything else as it is."""
    if isinstance(shape := getattr(value, "shape", None), tuple) and math.prod(shape) == 1 and hasattr(value, "item"):
        return value.item()
    return value


def kind(value: Any) -> str:
    """What a message calls the type of a value: "a list", "a tensor of shape (2, 3)"."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if isinstance(value, str):
        return f"the text {shown(value)}"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}"


def as_number(value: Any, what: str, *, truth: bool = False) -> Any:
    """`value` as a plain number: an int where it is whole, else a float. `truth`: True and False count as 1 and 0.

    Raises: Wrong("not a number") for what is none, for text, nan and inf; NotAttempted where it was left open.
    """
    if parts := open_in(value, what):
        raise NotAttempted(*parts)
    plain = _plain(value)
    if isinstance(plain, str | bytes) or plain is None or (isinstance(plain, bool) and not truth):
        raise Wrong("not a number", f"{what} is {shown(plain)}, and should be a number")
    if isinstance(plain, int):
        return int(plain)
    try:
        number = float(plain)
    except OverflowError:
        raise Wrong("not a number", f"{what} is too large for a number") from None
    except Exception:
        raise Wrong("not a number", f"{what} is {kind(plain)}, and should be a number") from None
    if not math.isfinite(number):
        raise Wrong("not a number", f"{what} is {number}")
    return int(number) if number.is_integer() else number


def as_whole(value: Any, what: str) -> int:
    """`value` as a whole number, 3.0 included. Raises: Wrong("not a whole number"), and what `as_number` raises."""
    number = as_number(value, what)
    if not isinstance(number, int):
        raise Wrong("not a whole number", f"{what} is {number!r}, and should be a whole number")
    return number


def as_truth(value: Any, what: str) -> bool:
    """True or False, also NumPy's, a tensor's, 1 and 0. Raises: Wrong("not True or False"); NotAttempted where it was left open."""
    if parts := open_in(value, what):
        raise NotAttempted(*parts)
    plain = _plain(value)
    if isinstance(plain, bool | int | float) and plain in (0, 1):
        return bool(plain)
    raise Wrong("not True or False", f"{what} is {shown(plain)}, and should be True or False")


def as_parts(value: Any, names: Sequence[str], what: str) -> tuple[Any, ...]:
    """The parts of a pair or triple, from a tuple, list, array or tensor: one for each of `names`.

    Raises: Wrong("not a pair"), or "not three values", where there are more, fewer or none; NotAttempted that names what was left open.
    """
    count = {2: "a pair", 3: "three values"}.get(len(names), f"{len(names)} values")
    wanted = f"({', '.join(names)})"
    sized = hasattr(value, "__len__") and getattr(value, "shape", True) != ()
    if isinstance(value, str | bytes | Mapping | set | frozenset) or not sized:
        raise Wrong(f"not {count}", f"{what} should be {wanted}, and is {kind(value)}")
    if len(value) != len(names):
        raise Wrong(f"not {count}", f"{what} should be {wanted}, and has {len(value)} parts")
    parts = tuple(value)
    if left := [place for name, part in zip(names, parts) for place in open_in(part, name)]:
        raise NotAttempted(*left)
    return parts


def as_list(value: Any, what: str) -> list[Any]:
    """What a list, tuple, tensor, array, range or iterator holds. Raises: Wrong("not a list") for text, a mapping and what holds nothing."""
    if hasattr(value, "tolist") and getattr(value, "shape", ()) != ():
        return value.tolist()
    if (
        isinstance(value, str | bytes | Mapping)
        or getattr(value, "shape", True) == ()
        or not isinstance(value, Iterable)
    ):
        raise Wrong("not a list", f"{what} is {kind(value)}, and should be a list")
    values = list(value)
    if left := [place for i, part in enumerate(values) for place in open_in(part, f"{what}[{i}]")]:
        raise NotAttempted(*left)
    return values


def as_numbers(value: Any, what: str) -> list[Any]:
    """The numbers of a list, tuple, tensor or array. Raises: Wrong("not a list"), Wrong("not a number")."""
    return [as_number(part, f"{what}[{i}]") for i, part in enumerate(as_list(value, what))]


def as_tensor(value: Any, like: torch.Tensor, what: str) -> torch.Tensor:
    """`value` (a tensor, an array, lists of numbers or of tensors) as a detached tensor of `like`'s shape and dtype.

    Raises: Wrong("wrong shape"), Wrong("not a tensor"); NotAttempted where it was left open.
    """
    if parts := open_in(value, what):
        raise NotAttempted(*parts)
    should = f"should be a tensor of shape {tuple(like.shape)}"
    found = value
    if not isinstance(value, torch.Tensor):
        try:
            found = _stacked(value)
        except Exception:
            raise Wrong("not a tensor", f"{what} is {kind(value)}, and {should}") from None
    if found.is_complex():
        raise Wrong("not a tensor", f"{what} holds complex numbers, and {should}")
    if found.shape != like.shape:
        raise Wrong("wrong shape", f"{what} has shape {tuple(found.shape)} and should have {tuple(like.shape)}")
    return found.detach().to_dense().to(like.device, like.dtype)


def _stacked(value: Any) -> torch.Tensor:
    if isinstance(value, list | tuple) and any(isinstance(part, torch.Tensor | list | tuple) for part in value):
        return torch.stack([part if isinstance(part, torch.Tensor) else _stacked(part) for part in value])
    if isinstance(value, str | bytes | bool | int | float) or not hasattr(value, "__len__"):
        raise TypeError
    array = np.asarray(value, dtype=float) if isinstance(value, list | tuple) else np.asarray(value)
    return torch.tensor(array.copy(order="C"))  # a copy: an array turned round has negative strides, which torch refuses


def same(got: float, want: float, rtol: float = SINGLE) -> bool:
    """Whether two numbers agree to `rtol`. Where `want` is whole, one more or less is never the same."""
    if got == want:
        return True
    if want == int(want) and got == int(got):  # counts: equal, or what single precision makes of a large one
        return got == float(np.float32(want))
    return abs(got - want) <= max(rtol, SINGLE) * abs(want) + 1e-12


def close(got: torch.Tensor, want: torch.Tensor, rtol: float = 1e-4) -> bool:
    """True when the two differ by less than `rtol` of what is wanted, in norm; never less than single precision leaves."""
    return got.shape == want.shape and bool((got - want).norm() <= max(rtol, SINGLE) * want.norm() + 1e-12)


def named(got: float, bugs: Mapping[str, float | Iterable[float]], otherwise: str) -> str:
    """The first of `bugs` (name: the value it leads to, or several) that `got` is the same as, else `otherwise`."""
    for bug, values in bugs.items():
        if any(same(got, value) for value in (values if isinstance(values, Iterable) else (values,))):
            return bug
    return otherwise


def apart(got: float, want: float) -> tuple[str, str]:
    """Both numbers with as many digits as it takes to tell them apart, four at least: never "0.6 and not 0.6"."""
    if got == int(got) and want == int(want):
        return f"{got:,.0f}", f"{want:,.0f}"
    for digits in range(4, 18):
        pair = f"{got:,.{digits}g}", f"{want:,.{digits}g}"
        if pair[0] != pair[1]:
            break
    return pair
