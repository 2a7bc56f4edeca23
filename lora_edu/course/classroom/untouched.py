"""Whether a student's code has put something of its own in the place of what checks it."""

import builtins
import inspect
import math
import sys
from typing import Any

import torch
from torch import nn

_OTHERS: tuple[Any, ...] = (
    builtins,
    math,
    inspect,
    torch,
    torch.Tensor,
    nn,
    nn.Module,
    nn.Linear,
    nn.Parameter,
    nn.functional,
    torch.linalg,
)
Seen = dict[tuple[str, str], tuple[Any, Any]]


def look() -> Seen:
    """What every function, class and method of the course, and of what its checks stand on, is now."""
    seen: Seen = {}
    for space in (*_ours(), *_OTHERS):
        for name, thing in list(vars(space).items()):
            if callable(thing):
                where = f"{space.__module__}.{space.__qualname__}" if inspect.isclass(space) else space.__name__
                seen[where, name] = (thing, _insides(thing))
    return seen


def changed(before: Seen) -> list[str]:
    """The names, at most six, that no longer mean what they meant."""
    now = look()
    found = [f"{space}.{name}" for (space, name), was in before.items() if not _same(now.get((space, name)), was)]
    return sorted(found)[:6]


def _ours() -> list[Any]:
    modules = [module for name, module in list(sys.modules.items()) if name.split(".")[0] == "lora_edu" and module]
    classes = {
        id(c): c
        for m in modules
        for c in list(vars(m).values())
        if inspect.isclass(c) and c.__module__.startswith("lora_edu")
    }
    return [*modules, *classes.values()]


def _insides(thing: Any) -> Any:
    return getattr(thing, "__code__", None), getattr(thing, "__defaults__", None)


def _same(now: tuple[Any, Any] | None, was: tuple[Any, Any]) -> bool:
    return now is not None and now[0] is was[0] and all(a is b for a, b in zip(now[1], was[1]))
