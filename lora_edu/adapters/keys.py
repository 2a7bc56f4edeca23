"""The names under which an adapter stands in PEFT's file, and the configuration with which PEFT finds the same layers. Chapter 07."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.finding import base_name, base_parameters, kept_buffers, lora_layers
from lora_edu.adapters.layer import LoRALayer
from lora_edu.adapters.layers import LoRAConv2d, LoRAEmbedding, SavedModule
from lora_edu.adapters.patterns import inside_saved, matches
from lora_edu.adapters.targets import Target, adaptable_tree
from lora_edu.adapters.variants import Variant
from lora_edu.adapters.walk import outside
from lora_edu.models.quantized.linear import QuantizedLinear

PREFIX = "base_model.model."


def disk_key(name: str, adapter: str) -> str:
    """Our parameter's name → PEFT's key on disk: the adapter's name is dropped, and linear factors end in `.weight`."""
    path, mark, inside = name.partition(f".copies.{adapter}.")
    if mark:
        return f"{PREFIX}{path}.{inside}"
    plain = name.removesuffix(f".{adapter}")
    return PREFIX + (f"{plain}.weight" if plain.endswith((".lora_A", ".lora_B")) else plain)


def variant_keys(variant: Variant, targets: Sequence[Target], adapter: str) -> dict[str, str]:
    """{our parameter's name: key on disk} of what a variant saves; a shared tensor stands under the first layer's name."""
    found = {
        f"{target.name}.{slot}.{adapter}": f"base_model.{variant.key(target.name, slot)}"
        for target in targets
        for slot, made in variant.slots(target).items()
        if made.saved
    }
    for slot, made in variant.shared(targets).items():
        if made.saved:
            found[f"{targets[0].name}.{slot}.{adapter}"] = f"base_model.{variant.key('', slot)}"
    return found


def targets_in(model: nn.Module, name: str, config: LoRAConfig) -> list[Target]:
    """The plan of an adapter that is in the model, read off its layers."""
    return [
        Target(path, _kind(layer), layer.shape, config.rank_for(path), config.alpha_for(path), _kernel(layer))
        for path, layer in lora_layers(model).items()
        if name in layer.scalings
    ]


def _kernel(layer: LoRALayer) -> tuple[int, ...]:
    return tuple(layer.weight.shape[1:]) if isinstance(layer, LoRAConv2d) else ()


def _kind(layer: LoRALayer) -> str:
    if isinstance(layer, LoRAEmbedding):
        return "embedding"
    if isinstance(layer, LoRAConv2d):
        return "conv2d"
    return "conv1d" if getattr(layer, "fan_in_fan_out", False) else "linear"


# -- what a file must hold ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Expected:
    """One tensor that the file must hold: its shape there, the dtype it will have in the model, our name for it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    name: str


def expected(
    model: nn.Module, config: LoRAConfig, targets: list[Target], saved: list[str], adapter: str
) -> dict[str, Expected]:
    """{key on disk: what must stand there} of every tensor that an adapter of this plan has on this model."""
    tree, found = dict(outside(model)), dict[str, Expected]()
    slots: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for target in targets:
        layer: Any = tree[target.name]
        base = layer.base_layer if isinstance(layer, LoRALayer) else layer
        like = base if isinstance(base, QuantizedLinear) else base.weight
        dtype = torch.promote_types(like.dtype, torch.float32) if like.dtype.is_floating_point else torch.float32
        if config.variant:
            for slot, made in config.variant.slots(target).items():
                slots[f"{target.name}.{slot}.{adapter}"] = made.shape, dtype
            for slot, made in config.variant.shared(targets).items() if target is targets[0] else ():
                slots[f"{target.name}.{slot}.{adapter}"] = made.shape, dtype
            continue
        n_out, n_in = target.shape
        A, B = ("lora_embedding_A", "lora_embedding_B") if target.kind == "embedding" else ("lora_A", "lora_B")
        for factor, shape in ((A, (target.r, n_in)), (B, (n_out, target.r))):
            name = f"{target.name}.{factor}.{adapter}"
            found[disk_key(name, adapter)] = Expected(target.on_disk(factor) or shape, dtype, name)
    if config.variant:
        for name, key in variant_keys(config.variant, targets, adapter).items():
            found[key] = Expected(*slots[name], name)
    for path in saved:
        module: nn.Module = model.get_submodule(path)
        module = module.original_module if isinstance(module, SavedModule) else module
        for n, tensor in (*module.named_parameters(), *kept_buffers(module)):
            found[f"{PREFIX}{path}.{n}"] = Expected(tuple(tensor.shape), tensor.dtype, f"{path}.copies.{adapter}.{n}")
    return found


def base_by_key(model: nn.Module) -> dict[str, Tensor]:
    """{key on disk: tensor} of every weight of the base, a tied one under each of its names."""
    found = {PREFIX + name: tensor for name, tensor in base_parameters(model)}
    by_identity = {
        id(p): found[PREFIX + base_name(n)] for n, p in model.named_parameters() if PREFIX + base_name(n) in found
    }
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in by_identity:
            found.setdefault(PREFIX + base_name(name), by_identity[id(parameter)])
    return found


def plain_key(key: str) -> str:
    """A key as the base has it: PEFT names the weight beside an adapter `.base_layer.weight`."""
    return key.replace(".base_layer.", ".")


# -- a configuration that means the same in PEFT -----------------------------------------------------------------------
def portable(model: nn.Module, config: LoRAConfig, paths: Iterable[str]) -> LoRAConfig:
    """The same adapter in words by which PEFT, and readers that know less of them, find exactly the layers `paths`.

    The first that fits: as it was asked for, last names ("q_proj"), whole paths, a regular expression. "all-linear" is written out.
    """
    wanted = set(paths)
    names = [name for name, _ in adaptable_tree(model)]
    there = replace(config, layers_to_transform=None, layers_pattern=None)
    bare = replace(there, exclude_modules=None)
    candidates = [] if config.target_modules == "all-linear" else [config]
    candidates += [
        replace(there, target_modules=tuple(sorted({path.rsplit(".", 1)[-1] for path in wanted}))),
        replace(bare, target_modules=tuple(sorted(wanted))),
    ]
    for candidate in candidates:
        if {name for name in names if _peft_chooses(candidate, name)} == wanted:
            return candidate
    return replace(bare, target_modules="|".join(re.escape(path) for path in sorted(wanted)))


def _peft_chooses(config: LoRAConfig, name: str) -> bool:
    """PEFT's rule to the letter: `check_target_module_exists` in its tuners_utils (0.21)."""
    targets, layers = config.target_modules, config.layers_to_transform
    if isinstance(targets, str) and layers:
        return False  # PEFT refuses such a configuration
    if (config.exclude_modules and matches(config.exclude_modules, name)) or inside_saved(config.modules_to_save, name):
        return False
    if isinstance(targets, str) or name in targets or not layers:
        return matches(targets, name)
    if not matches(targets, name):
        return False
    if config.layers_pattern:
        given = (config.layers_pattern,) if isinstance(config.layers_pattern, str) else config.layers_pattern
        found = next((m for p in given if (m := re.match(rf"(?:^|.*?\.){p}\.(\d+)\.", name))), None)
    else:
        found = re.match(r".*?\.[^.]*\.(\d+)\.", name)
    return found is not None and int(found[1]) in layers


def task_type(model: Any, config: LoRAConfig) -> str | None:
    """PEFT's word for the model's task, where PEFT could then wrap the model; None is always right."""
    generates = hasattr(model, "prepare_inputs_for_generation")
    if config.task_type not in (None, "CAUSAL_LM", "SEQ_2_SEQ_LM") or (config.task_type and generates):
        return config.task_type
    if not generates or not hasattr(getattr(model, "config", None), "model_type"):
        return None
    return "SEQ_2_SEQ_LM" if getattr(model.config, "is_encoder_decoder", False) else "CAUSAL_LM"


def base_model_name(model: Any, config: LoRAConfig) -> str | None:
    """What the configuration calls the base."""
    return config.base_model_name_or_path or getattr(getattr(model, "config", None), "_name_or_path", "") or None


def written(model: nn.Module, name: str, config: LoRAConfig) -> tuple[LoRAConfig, Mapping[str, str]]:
    """(the configuration as it is written, {our parameter's name: key on disk}) of the adapter `name`."""
    targets = targets_in(model, name, config)
    found = portable(model, config, [target.name for target in targets])
    found = replace(found, task_type=task_type(model, config), base_model_name_or_path=base_model_name(model, config))
    return found, variant_keys(config.variant, targets, name) if config.variant else {}
