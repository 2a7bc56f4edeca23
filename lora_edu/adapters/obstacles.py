"""Which layers an adapter cannot be put on though they look like it, and why: it would not be heard, or a merge would be wrong. Chapter 04."""

import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from lora_edu.adapters.layer import LoRALayer
from lora_edu.adapters.patterns import matches
from lora_edu.adapters.walk import everywhere, outside
from lora_edu.errors import TargetError
from lora_edu.models.quantized.linear import QuantizedLinear, is_quantized


def is_conv1d(module: nn.Module) -> bool:
    """GPT-2's `Conv1D`: a linear layer whose weight is stored as (in, out). Told by name, so that torch is all we import."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def kind_of(module: nn.Module) -> str | None:
    """ "linear", "conv1d", "embedding", "conv2d", or None for what no adapter can be put on."""
    if isinstance(module, nn.Linear):
        return "linear"
    if is_conv1d(module):
        return "conv1d"
    if isinstance(module, nn.Conv2d):
        return "conv2d"
    return "embedding" if isinstance(module, nn.Embedding) else None


def refuse_peft(model: nn.Module) -> None:
    """Raise TargetError for a model that has PEFT's layers in it already, as from a base folder in which an adapter lies."""
    for name, module in outside(model):
        if type(module).__module__.startswith("peft."):
            raise TargetError(
                f"{name or 'the model'} is PEFT's {type(module).__name__}: an adapter was put in by PEFT, or by transformers from a "
                "base folder that has an adapter_config.json in it. Merge or unload it there, or load the base from a folder without"
            )


class Obstacles:
    """What stands in the way of an adapter on one of `model`'s layers; asked for each layer by its path."""

    def __init__(self, model: nn.Module) -> None:
        self.attention: list[str] = []
        self.twice: dict[int, list[str]] = {}
        for path, module in everywhere(model, remove_duplicate=False):
            if isinstance(module, nn.MultiheadAttention):
                self.attention.append(path)
            if isinstance(module, LoRALayer) or kind_of(module):
                self.twice.setdefault(id(module), []).append(path)

    def reason(self, path: str, layer: Any) -> str | None:
        """Why the layer at `path` (or the LoRA layer there) can have no adapter, or None."""
        module = layer.base_layer if isinstance(layer, LoRALayer) else layer
        if path.rpartition(".")[0] in self.attention:
            return "nn.MultiheadAttention reads its weight without calling it, so an adapter there would not be heard"
        if len(paths := self.twice.get(id(layer), [])) > 1:
            return (
                f"it is one layer under {len(paths)} names ({', '.join(paths[:3])}): an adapter would be heard under the first alone; "
                "give each name a layer of its own (copy.deepcopy)"
            )
        if isinstance(module, QuantizedLinear):
            return None
        if parametrize.is_parametrized(module) or "weight" not in module._parameters:
            return "its weight is made from other tensors at each call (weight or spectral norm), and could not be merged; remove the parametrization first"
        forward = type(module).forward
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            return f"it has {module.groups} groups, each with inputs of its own, and no B A has that form: a merge would be wrong"
        known = forward in (nn.Linear.forward, nn.Embedding.forward, nn.Conv2d.forward)
        if known or is_conv1d(module) or is_quantized(module):
            return None
        # Gemma and its like scale what they read: `embed_scale` is counted in.
        if isinstance(module, nn.Embedding) and hasattr(module, "embed_scale"):
            return None
        return f"{type(module).__name__} has a forward of its own, which need not be x Wᵀ + b: a merge could be wrong"


def refuse(stopped: Sequence[tuple[str, str]], chosen_by_name: bool) -> None:
    """Say what stands in the way: an error where the layer was asked for by name, a warning where "all-linear" came upon it."""
    if not stopped:
        return
    listed = "; ".join(f"{path}: {reason}" for path, reason in stopped[:3])
    more = f"; and {len(stopped) - 3} more" if len(stopped) > 3 else ""
    if chosen_by_name:
        raise TargetError(
            f"no adapter can be put on {listed}{more}. Narrow target_modules, or name these in exclude_modules"
        )
    warnings.warn(f"all-linear leaves out {listed}{more}", stacklevel=4)


# What PEFT calls the parts of a fused tensor of experts.
_FUSED = {
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
    "w1": "gate_up_proj",
    "w3": "gate_up_proj",
    "w2": "down_proj",
}


def stacked(model: nn.Module) -> dict[str, int]:
    """{name: numbers} of parameters that hold many matrices in one, (experts, out, in), and are no layer that could be adapted."""
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            continue
        for name, parameter in module._parameters.items():
            if (
                parameter is not None
                and parameter.dim() >= 3
                and parameter.shape[0] > 1
                and not name.startswith("lora_")
            ):
                found[f"{path}.{name}" if path else name] = parameter.numel()
    return found


def held_in_experts(model: nn.Module, names: Sequence[str]) -> dict[str, str]:
    """{name: the stacked parameter that holds what it means} of those `names` that mean one."""
    found = {}
    for name in names:
        front, dot, last = name.rpartition(".")
        meant = (name, f"{front}{dot}{_FUSED[last]}") if last in _FUSED else (name,)
        if (path := next((p for p in stacked(model) if matches(meant, p)), None)) is not None:
            found[name] = path
    return found


def refuse_experts(model: nn.Module, names: Sequence[str]) -> None:
    """Raise TargetError where a name that matches no layer means a mixture's routed experts: PEFT would train these."""
    if held := held_in_experts(model, names):
        listed = "; ".join(f"{name}, in {path}" for name, path in held.items())
        raise TargetError(
            f"target_modules names matrices of routed experts, which are stacked in one tensor and are no layers: {listed}. No adapter can "
            f"be put on them here; leave {', '.join(held)} out"
        )


def warn_of_experts(model: nn.Module) -> None:
    """Warn where a large part of the matrices are stacked in one tensor, (experts, out, in), and no layer that "all-linear" could adapt."""
    stacked_here, total = stacked(model), sum(p.numel() for p in model.parameters())
    share = sum(stacked_here.values()) / max(total, 1)
    if share >= 0.01:
        first = next(iter(stacked_here))
        warnings.warn(
            f"all-linear leaves {len(stacked_here)} stacked tensors ({first} …: {share:.0%} of the parameters) frozen: they hold many matrices "
            "in one, as a mixture's routed experts do, and are no linear layers. Only what is around them gets an adapter",
            stacklevel=4,
        )
