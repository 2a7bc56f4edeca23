"""Which matrices get an adapter: names, suffixes, a regular expression or "all-linear" become a plan. Chapter 04.

The rules are PEFT's, so that one configuration means the same there and here. The plan is complete, checked, before anything is touched.
"""

import difflib
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.layers import LoRALayer, check_rank, is_conv1d
from lora_edu.errors import ConfigError, TargetError

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class Target:
    """One module that gets an adapter: its path in the model, its shape (out, in), its rank and α."""

    name: str
    kind: str  # "linear", "conv1d" or "embedding"
    shape: tuple[int, int]
    r: int
    lora_alpha: float

    @property
    def parameters(self) -> int:
        """r·(in + out): what this adapter trains."""
        return self.r * sum(self.shape)


def plan(model: nn.Module, config: LoRAConfig) -> list[Target]:
    """The modules of `model` that `config` adapts, in the model's order; the model is not changed. Chapter 04.

    Raises TargetError when nothing matches (with the nearest names that exist) or a match is no layer that can be adapted,
    ConfigError when a rank exceeds its layer's size. Warns when one of several names matches nothing; PEFT leaves it out in silence.
    """
    modules = dict(adaptable_tree(model))
    output_head = _output_head(model)
    targets, matched_others = [], []
    for name, module in modules.items():
        if not _chosen(name, module, config, is_head=module is output_head):
            continue
        kind = kind_of(module)
        if kind is None:
            matched_others.append((name, type(module).__name__))
            continue
        targets.append(Target(name, kind, _shape(module), config.rank_for(name), config.alpha_for(name)))
    if matched_others:
        listed = ", ".join(f"{n} ({t})" for n, t in matched_others[:4])
        raise TargetError(
            f"target_modules also matches what no adapter can be put on: {listed}; only Linear, Conv1D and Embedding can: narrow the pattern"
        )
    if not targets:
        raise TargetError(_no_match(config, modules))
    wanted = () if isinstance(config.target_modules, str) else config.target_modules
    if left_out := [each for each in wanted if not any(matches((each,), name) for name in modules)]:
        warnings.warn(
            f"target_modules: {', '.join(left_out)} matches no layer of this model and is left out", stacklevel=2
        )
    for target in targets:
        try:
            check_rank(target.r, target.shape, target.name)
        except ConfigError as error:
            raise ConfigError(f"{error} (asked for by r or rank_pattern)") from None
    for pattern in [*config.rank_pattern, *config.alpha_pattern]:
        if not any(re.match(rf"(.*\.)?({pattern})$", t.name) for t in targets):
            raise TargetError(
                f"the pattern {pattern!r} of rank_pattern/alpha_pattern matches none of the {len(targets)} adapted modules"
            )
    return targets


def adaptable_tree(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """(name, module) as in the model before any adapter: wrapped layers appear as their base, factors not at all."""
    for name, module in model.named_modules():
        if name == "" or ".base_layer" in f".{name}" or ".lora_" in f".{name}":
            continue
        yield name, module.base_layer if isinstance(module, LoRALayer) else module


def kind_of(module: nn.Module) -> str | None:
    """ "linear", "conv1d", "embedding", or None for what no adapter can be put on."""
    if isinstance(module, nn.Linear):
        return "linear"
    if is_conv1d(module):
        return "conv1d"
    return "embedding" if isinstance(module, nn.Embedding) else None


def _shape(module: Any) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    rows, columns = module.weight.shape  # Conv1D stores (in, out), an embedding (vocabulary, dim)
    return columns, rows


def _output_head(model: nn.Module) -> nn.Module | None:
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return head.base_layer if isinstance(head, LoRALayer) else head


def matches(pattern: str | tuple[str, ...], name: str) -> bool:
    """PEFT's rule: a string is a regular expression for the whole name; of a list, one must be the name or its end."""
    if isinstance(pattern, str):
        return re.fullmatch(pattern, name) is not None
    return any(name == p or name.endswith(f".{p}") for p in pattern)


def _chosen(name: str, module: nn.Module, config: LoRAConfig, is_head: bool) -> bool:
    if config.exclude_modules and matches(config.exclude_modules, name):
        return False
    # A module that is trained in full needs no adapter, nor does anything inside it.
    if any(re.match(rf"(^|.*\.){m}($|\..*)", name) for m in config.modules_to_save or ()):
        return False
    if config.target_modules == ALL_LINEAR:
        chosen = kind_of(module) in ("linear", "conv1d") and not is_head
    else:
        chosen = matches(config.target_modules, name)
    if chosen and config.layers_to_transform is not None:
        index = re.match(r".*?\.[^.]*\.(\d+)\.", f".{name}")
        return index is not None and int(index[1]) in config.layers_to_transform
    return chosen


def _no_match(config: LoRAConfig, modules: dict[str, nn.Module]) -> str:
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
