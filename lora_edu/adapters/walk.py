"""A model's modules, in the order of `named_modules` in about a third of the time; and without what is inside LoRA layers. Chapter 04."""

from collections.abc import Iterator

from torch import nn

from lora_edu.adapters.layer import LoRALayer


def everywhere(
    model: nn.Module, inside_layers: bool = True, remove_duplicate: bool = True
) -> Iterator[tuple[str, nn.Module]]:
    """(path, module) as `model.named_modules()` gives them. (That one hands each through a generator a level.)"""
    seen: set[int] = set()
    waiting = [("", model)]
    while waiting:
        path, module = waiting.pop()
        if remove_duplicate and id(module) in seen:
            continue
        seen.add(id(module))
        yield path, module
        if inside_layers or not isinstance(module, LoRALayer):
            dot = "." if path else ""
            waiting += [(f"{path}{dot}{name}", m) for name, m in reversed(module._modules.items()) if m is not None]


def outside(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The same without what is inside a LoRA layer, so that it takes no longer with many adapters than with one."""
    return everywhere(model, inside_layers=False)
