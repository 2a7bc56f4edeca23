"""Put adapters into a model, see what trains, switch between them, turn them up and down. Chapter 04; the dial is chapter 00's.

`inject` changes the model in place. All its LoRA layers share one `AdapterState`, so switching is a matter of microseconds
and never reads a file (law 9).
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from lora_edu.adapters import fused
from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.layers import DEFAULT, AdapterState, LoRAEmbedding, LoRALayer, LoRALinear
from lora_edu.adapters.targets import Target, matches, plan
from lora_edu.errors import AdapterError, MergeError, TargetError


class SavedModule(nn.Module):
    """A module of the base beside full copies of it, one an adapter, that train whole (PEFT's `modules_to_save`)."""

    original_module: Any

    def __init__(self, original_module: nn.Module, state: AdapterState) -> None:
        super().__init__()
        self.original_module = original_module.requires_grad_(False)
        self.copies = nn.ModuleDict()
        self.state = state

    def current(self) -> Any:
        """The copy of the active adapter that has one, else the original."""
        return next((self.copies[n] for n in self.state.active if n in self.copies), self.original_module)

    @property
    def weight(self) -> Tensor:
        return self.current().weight

    def forward(self, *args, **kwargs):
        return self.current()(*args, **kwargs)


# -- finding -----------------------------------------------------------------------------------------------------------
def lora_layers(model: nn.Module) -> dict[str, LoRALayer]:
    """{path in the base model: LoRA layer}, in the model's order."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LoRALayer)}


def saved_modules(model: nn.Module) -> dict[str, SavedModule]:
    """{path in the base model: module that trains in full}."""
    return {name: m for name, m in model.named_modules() if isinstance(m, SavedModule)}


def state_of(model: nn.Module) -> AdapterState:
    """The state that the model's adapters share. Raises AdapterError for a model without adapters."""
    for module in model.modules():
        if isinstance(module, LoRALayer):
            return module.state
    raise AdapterError("this model has no adapter: inject(model, LoRAConfig(...)) or load(model, folder) puts one in")


def adapter_names(model: nn.Module) -> list[str]:
    """Names of the adapters in the model, in the order in which they came; [] for a plain model."""
    try:
        return list(state_of(model).configs)
    except AdapterError:
        return []


def adapter_parameters(model: nn.Module, name: str = DEFAULT) -> dict[str, nn.Parameter]:
    """{name in the model: parameter} of the adapter `name`, whether it trains or not."""
    found: dict[str, nn.Parameter] = {}
    for path, layer in lora_layers(model).items():
        for kind, factors in zip(layer.names_of_factors, layer.factors):
            if name in factors:
                found[f"{path}.{kind}.{name}"] = factors[name]
    for path, saved in saved_modules(model).items():
        if name in saved.copies:
            found |= {f"{path}.copies.{name}.{n}": p for n, p in saved.copies[name].named_parameters()}
    return found


def base_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name in the base model, tensor) of every weight of the base, adapters or not, merged with W₀ kept or not."""
    kept = {id(m.base_layer.weight): m.W0 for m in lora_layers(model).values() if m.W0 is not None}
    for name, parameter in model.named_parameters():
        if ".lora_" in name or ".copies." in name:
            continue
        plain = name.replace(".base_layer.", ".").replace(".original_module.", ".")
        yield plain, kept.get(id(parameter), parameter.data)


# -- putting in and taking out -----------------------------------------------------------------------------------------
def inject(model: nn.Module, config: LoRAConfig, name: str = DEFAULT) -> nn.Module:
    """Freeze `model` and put the adapter `name` into it, active and the only thing that trains; in place. Chapter 04.

    The new adapter is silent until it is trained (law 1). Adapters already there stay as they are, but stop training and
    speaking; `set_adapter` brings them back. Returns the same model.

    Raises TargetError or ConfigError when the plan does not fit the model, AdapterError when the name is taken or the
    model is merged; the model is then untouched.
    """
    return install(model, config, name, plan(model, config), saved_paths(model, config))


def install(
    model: nn.Module, config: LoRAConfig, name: str, targets: list[Target], saved: list[str], *, empty: bool = False
) -> nn.Module:
    """`inject` with the plan already made. `empty` leaves the factors without values, for a caller that has some to put in."""
    state = state_of(model) if adapter_names(model) else AdapterState()
    if name in state.configs:
        raise AdapterError(
            f"there is an adapter {name!r} already: choose another name, or remove_adapter(model, {name!r}) first"
        )
    if "." in name or not name:
        raise AdapterError(
            f"{name!r} cannot name an adapter: it becomes part of parameter names, so it must not be empty or hold a dot"
        )
    _refuse_merged(state)
    config = replace(config, fan_in_fan_out=any(t.kind == "conv1d" for t in targets))

    model.requires_grad_(False)
    for target in targets:
        layer: Any = model.get_submodule(target.name)
        if not isinstance(layer, LoRALayer):
            layer = LoRAEmbedding(layer, state) if target.kind == "embedding" else LoRALinear(layer, state=state)
            layer.train(layer.base_layer.training)
            _replace(model, target.name, layer)
        init = None if empty else config.init_lora_weights
        layer.add_adapter(name, target.r, target.lora_alpha, config.lora_dropout, config.use_rslora, init)
    for path in saved:
        module: Any = model.get_submodule(path)
        if not isinstance(module, SavedModule):
            module = SavedModule(module, state)
            _replace(model, path, module)
        module.copies[name] = copy.deepcopy(module.original_module).requires_grad_(True)
    fused.attach(model)
    state.configs[name] = config
    state.active = {name: 1.0}
    return model


def saved_paths(model: nn.Module, config: LoRAConfig) -> list[str]:
    """Paths of the modules that `config` trains in full, outermost only. Raises TargetError for a name that is not there."""
    wanted = config.modules_to_save
    if not wanted:
        return []
    paths = [
        name
        for name, module in model.named_modules()
        if matches(wanted, name) and not any(f".{part}." in f".{name}." for part in ("copies", "original_module"))
    ]
    for each in wanted:
        if not any(matches((each,), path) for path in paths):
            raise TargetError(f"modules_to_save names {each!r}, but this model has no such module")
    return [p for p in paths if not any(p.startswith(f"{other}.") for other in paths)]


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)


def remove_adapter(model: nn.Module, name: str) -> None:
    """Take the adapter `name` out; the others stay. Taking the last one out leaves the plain model. Chapter 07."""
    state = state_of(model)
    _known(state, [name])
    _refuse_merged(state)
    if list(state.configs) == [name]:
        unload(model)
        return
    for layer in lora_layers(model).values():
        layer.remove_adapter(name)
    for saved in saved_modules(model).values():
        if name in saved.copies:
            del saved.copies[name]
    state.active.pop(name, None)
    del state.configs[name]


def unload(model: nn.Module) -> nn.Module:
    """Take every adapter out and give the plain modules back; what was merged stays merged. Returns the same model. Chapter 07."""
    merged = bool(state_of(model).merged_layers)
    fused.detach(model)
    for path, layer in lora_layers(model).items():
        _replace(model, path, layer.base_layer)
    for path, saved in saved_modules(model).items():
        _replace(model, path, saved.current() if merged else saved.original_module)
    return model


# -- switching ---------------------------------------------------------------------------------------------------------
def set_adapter(model: nn.Module, names: str | Sequence[str] | None) -> None:
    """Make these adapters speak, at scale 1, and no other; None silences all. What trains is not changed. Law 9, chapter 07.

    Raises AdapterError for a name that is not there, MergeError while the model is merged.
    """
    state = state_of(model)
    wanted = [] if names is None else [names] if isinstance(names, str) else list(names)
    _known(state, wanted)
    _refuse_merged(state)
    owners = [n for n in wanted if state.configs[n].modules_to_save]
    if len(owners) > 1:
        raise AdapterError(
            f"{', '.join(owners)} each bring modules trained in full, which cannot be added up: activate one of them"
        )
    state.active = dict.fromkeys(wanted, 1.0)


def set_scale(model: nn.Module, scale: float, name: str | None = None) -> None:
    """Turn the dial of the active adapter(s): ΔW counts `scale` times. 1 as trained, 0 the base, −1 the opposite. Chapter 00.

    The dial is a multiplier beside s = α/r; it is not saved. Raises AdapterError for an adapter that is not active.
    """
    state = state_of(model)
    _refuse_merged(state)
    if name is not None and name not in state.active:
        raise AdapterError(
            f"adapter {name!r} is not active (active: {', '.join(state.active) or 'none'}): set_adapter(model, {name!r}) first"
        )
    state.active = {n: float(scale) if name in (None, n) else dial for n, dial in state.active.items()}


@contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """Within the block the model is its base again; afterwards the same adapters speak at the same scales. Law 9."""
    state = state_of(model)
    _refuse_merged(state)
    before, state.active = state.active, {}
    try:
        yield model
    finally:
        state.active = before


def _known(state: AdapterState, names: Iterable[str]) -> None:
    for name in names:
        if name not in state.configs:
            raise AdapterError(f"there is no adapter {name!r}; the model has: {', '.join(state.configs)}")


def _refuse_merged(state: AdapterState) -> None:
    if state.merged_layers:
        raise MergeError("adapters are merged into the weights: unmerge(model) first")


# -- what trains -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Audit:
    """What trains, by name, and out of how much. Law 3 says that `names` is exactly what was asked for."""

    names: tuple[str, ...]
    trainable: int
    total: int  # parameters of the base and of all adapters; a tied weight counts once
    by_kind: dict[str, tuple[int, int]]  # last part of the module's name → (matrices, parameters that train)

    @property
    def share(self) -> float:
        return self.trainable / self.total if self.total else 0.0

    def __str__(self) -> str:
        lines = [f"{'trains':<16}{'tensors':>9}{'parameters':>14}"]
        lines += [f"{kind:<16}{tensors:>9,}{count:>14,}" for kind, (tensors, count) in self.by_kind.items()]
        lines.append(f"{'all':<16}{len(self.names):>9,}{self.trainable:>14,}  = {self.share:.2%} of {self.total:,}")
        return "\n".join(lines)


def audit(model: nn.Module) -> Audit:
    """Count what trains, from `requires_grad` itself and not from any configuration. Chapter 04."""
    names: list[str] = []
    by_kind: dict[str, tuple[int, int]] = {}
    trainable = total = 0
    for name, parameter in model.named_parameters():
        total += parameter.numel()
        if not parameter.requires_grad:
            continue
        names.append(name)
        trainable += parameter.numel()
        path = name.split(".lora_")[0].split(".copies.")[0]
        kind = path.rsplit(".", 1)[-1] if path != name else ".".join(name.split(".")[-2:])
        tensors, count = by_kind.get(kind, (0, 0))
        by_kind[kind] = (tensors + 1, count + parameter.numel())
    return Audit(tuple(names), trainable, total, by_kind)
