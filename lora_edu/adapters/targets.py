"""Which matrices get an adapter: names, suffixes, a regular expression or "all-linear" become a plan. Chapter 04.

The rules are PEFT's, so that one configuration means the same there and here. The plan is complete, checked, before anything is touched.
"""

import difflib
import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.layer import LoRALayer
from lora_edu.adapters.layers import check_rank
from lora_edu.adapters.obstacles import (
    Obstacles,
    kind_of,
    refuse,
    refuse_experts,
    warn_of_experts,
)
from lora_edu.adapters.patterns import at_the_end, inside_saved, layer_index, matches
from lora_edu.adapters.places import Target
from lora_edu.adapters.walk import outside
from lora_edu.errors import ConfigError, TargetError

ALL_LINEAR = "all-linear"


def plan(model: nn.Module, config: LoRAConfig, *, from_disk: bool = False) -> list[Target]:
    """The modules of `model` that `config` adapts, in the model's order; the model is not changed. Chapter 04.

    Raises TargetError when nothing matches (with the nearest names that exist) or a match is no layer that can be adapted,
    ConfigError when no layer that asks for a rank has room for it. Warns when one of several names matches nothing (PEFT leaves it
    out in silence), when "all-linear" has to leave a layer out, and when it leaves stacked experts frozen.

    `from_disk` leaves out what was a mistake only where somebody chose it: the adapter exists, and PEFT would read it.
    """
    tree, modules = dict(outside(model)), dict(adaptable_tree(model))
    saved = saved_paths(model, config, strict=not from_disk)
    obstacles = Obstacles(model)
    targets, matched_others, stopped = [], [], []
    for name in chosen(model, config, modules):
        module: Any = modules[name]
        kind = kind_of(module)
        if any(name.startswith(f"{path}.") for path in saved):
            continue
        if kind is None:
            matched_others.append((name, type(module).__name__))
        elif reason := obstacles.reason(name, tree[name]):
            stopped.append((name, reason))
        else:
            kernel = tuple(module.weight.shape[1:]) if kind == "conv2d" else ()
            targets.append(Target(name, kind, _shape(module), config.rank_for(name), config.alpha_for(name), kernel))
    if matched_others:
        listed = ", ".join(f"{n} ({t})" for n, t in matched_others[:4])
        raise TargetError(
            f"target_modules also matches what no adapter can be put on: {listed}; only Linear, Conv1D, Embedding and Conv2d can: narrow the pattern"
        )
    refuse(stopped, chosen_by_name=config.target_modules != ALL_LINEAR)
    if not targets:
        if isinstance(config.target_modules, tuple):
            refuse_experts(model, config.target_modules)
        raise TargetError(_no_match(model, config, modules))
    if config.variant and (others := [t for t in targets if t.kind not in config.variant.kinds]):
        raise TargetError(
            f"{type(config.variant).__name__} is not defined for {others[0].kind} layers such as {others[0].name}"
        )
    if not from_disk:
        _check_choice(model, config, modules, targets)
    return targets


def chosen(model: nn.Module, config: LoRAConfig, modules: dict[str, nn.Module] | None = None) -> list[str]:
    """Paths of every module that the names and patterns of `config` mean, whether it can have an adapter or not."""
    modules = dict(adaptable_tree(model)) if modules is None else modules
    head = _output_head(model)
    return [name for name, module in modules.items() if _chosen(name, module, config, is_head=module is head)]


def saved_paths(model: nn.Module, config: LoRAConfig, strict: bool = True) -> list[str]:
    """Paths of the modules that `config` trains in full: every one whose path ends in one of the names, outermost only.

    The rule is PEFT's, and reaches further than a suffix behind a dot: "norm" means every `…norm` too. Raises TargetError for a name
    that is not there, unless not `strict`: PEFT writes "classifier" and "score" for every classifier, whichever it has.
    """
    wanted = config.modules_to_save
    if not wanted:
        return []
    paths = [
        name
        for name, _ in model.named_modules()
        if name.endswith(wanted)
        and not any(f".{part}." in f".{name}." for part in ("copies", "original_module", "base_layer"))
    ]
    for each in wanted if strict else ():
        if not any(path.endswith(each) for path in paths):
            raise TargetError(f"modules_to_save names {each!r}, but this model has no such module")
    return [p for p in paths if not any(p.startswith(f"{other}.") for other in paths)]


def adaptable_tree(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """(name, module) as in the model before any adapter: wrapped layers appear as their base, factors not at all."""
    for name, module in outside(model):
        if name == "" or ".base_layer" in f".{name}" or ".lora_" in f".{name}":
            continue
        yield name, module.base_layer if isinstance(module, LoRALayer) else module


def _check_choice(model: nn.Module, config: LoRAConfig, modules: dict[str, nn.Module], targets: list[Target]) -> None:
    """What only somebody who chooses can have meant otherwise."""
    wanted = () if isinstance(config.target_modules, str) else config.target_modules
    if left_out := [each for each in wanted if not any(matches((each,), name) for name in modules)]:
        refuse_experts(model, left_out)
        warnings.warn(
            f"target_modules: {', '.join(left_out)} matches no layer of this model and is left out", stacklevel=3
        )
    if config.target_modules == ALL_LINEAR:
        warn_of_experts(model)
    for pattern in [*config.rank_pattern, *config.alpha_pattern]:
        if not any(at_the_end(pattern, t.name) for t in targets):
            raise TargetError(
                f"the pattern {pattern!r} of rank_pattern/alpha_pattern matches none of the {len(targets)} adapted modules"
            )
    # A gate (1 × d) or a head of two labels beside large matrices has a rank to spare, in PEFT too. A rank that no matrix has room for is a slip.
    by_rank: dict[int, list[Target]] = {}
    for target in targets:
        by_rank.setdefault(target.r, []).append(target)
    for rank, asking in by_rank.items():
        largest = max(asking, key=lambda t: min(t.shape))
        try:
            check_rank(rank, largest.shape, largest.name)
        except ConfigError as error:
            raise ConfigError(f"{error} (asked for by r or rank_pattern)") from None


def _shape(module: Any) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, nn.Conv2d):
        return module.out_channels, module.weight[0].numel()
    rows, columns = module.weight.shape  # Conv1D stores (in, out), an embedding (vocabulary, dim)
    return columns, rows


def _output_head(model: nn.Module) -> nn.Module | None:
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return head.base_layer if isinstance(head, LoRALayer) else head


def _chosen(name: str, module: nn.Module, config: LoRAConfig, is_head: bool) -> bool:
    if config.exclude_modules and matches(config.exclude_modules, name):
        return False
    if inside_saved(config.modules_to_save, name):
        return False
    if config.target_modules == ALL_LINEAR:
        return kind_of(module) in ("linear", "conv1d") and not is_head and _in_layers(name, config)
    if not matches(config.target_modules, name):
        return False
    whole_path = isinstance(config.target_modules, tuple) and name in config.target_modules
    return whole_path or _in_layers(name, config)  # PEFT: a whole path is in, whatever its layer


def _in_layers(name: str, config: LoRAConfig) -> bool:
    if not config.layers_to_transform:
        return True
    return layer_index(name, config.layers_pattern) in config.layers_to_transform


def _no_match(model: nn.Module, config: LoRAConfig, modules: dict[str, nn.Module]) -> str:
    if config.layers_to_transform:
        everywhere = replace(config, layers_to_transform=None)
        if found := [n for n in chosen(model, everywhere, modules) if kind_of(modules[n])]:
            there = sorted({i for n in found if (i := layer_index(n, config.layers_pattern)) is not None})
            numbers = f"{there[0]} to {there[-1]}" if there else "none, with this layers_pattern"
            return (
                f"layers_to_transform={list(config.layers_to_transform)} leaves none of the {len(found)} layers that "
                f"target_modules={config.target_modules!r} matches; their numbers: {numbers}"
            )
    ends = sorted({name.rsplit(".", 1)[-1] for name, module in modules.items() if kind_of(module)})
    wanted = [config.target_modules] if isinstance(config.target_modules, str) else list(config.target_modules)
    near = sorted({hit for w in wanted for hit in difflib.get_close_matches(w.rsplit(".", 1)[-1], ends, n=2)})
    if isinstance(config.target_modules, str) and config.target_modules in ends:
        hint = f"a string is a regular expression for the whole name: write [{config.target_modules!r}], or '.*{config.target_modules}'"
    elif near:
        hint = f"did you mean {', '.join(near)}?"
    else:
        hint = f"what can be adapted here ends in: {', '.join(ends) or 'nothing'}"
    return f"target_modules={config.target_modules!r} matches no layer of this model; {hint}"
