"""Put adapters into a model and take them out again; see what trains. Chapter 04.

`inject` changes the model in place. All its LoRA layers share one `AdapterState`, so switching is a matter of microseconds
and never reads a file (law 9).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from lora_edu.adapters import fused, stillness
from lora_edu.adapters.carrier import carriers
from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.finding import adapter_names, lora_layers, saved_modules, state_of
from lora_edu.adapters.layer import DEFAULT, AdapterState, LoRALayer
from lora_edu.adapters.layers import LAYERS, SavedModule
from lora_edu.adapters.obstacles import refuse_peft
from lora_edu.adapters.switching import known, refuse_merged
from lora_edu.adapters.targets import Target, plan, saved_paths
from lora_edu.adapters.variants import Slot, check_slots
from lora_edu.adapters.walk import everywhere, outside
from lora_edu.errors import AdapterError, ConfigError
from lora_edu.models.modules import unwrap
from lora_edu.models.quantized.conversion import packed_weights
from lora_edu.models.quantized.linear import is_quantized


def inject(model: nn.Module, config: LoRAConfig, name: str = DEFAULT, data: Any = None) -> nn.Module:
    """Freeze `model` and put the adapter `name` into it, active and the only thing that trains; in place. Chapter 04.

    The new adapter is silent until it is trained (law 1). Adapters already there stay as they are, but stop training and
    speaking; `set_adapter` brings them back. `data` goes to a variant that starts from data or gradients. Returns the same model.

    Frozen running statistics (BatchNorm's) stand still from here on, in training mode too: laws 3 and 9.

    Raises TargetError or ConfigError when the plan does not fit the model, AdapterError when the name is taken or the
    model is merged; the model is then untouched.
    """
    inner = unwrap(model)
    install(inner, config, name, plan(inner, config), saved_paths(inner, config), data=data)
    return model


def install(
    model: nn.Module,
    config: LoRAConfig,
    name: str,
    targets: list[Target],
    saved: list[str],
    *,
    empty: bool = False,
    data: Any = None,
) -> nn.Module:
    """`inject` with the plan already made. `empty` leaves the factors without values, for a caller that has some to put in."""
    state = state_of(model) if adapter_names(model) else AdapterState()
    check_name(state, name)
    check_company(state, config)
    refuse_merged(state)
    refuse_peft(model)
    variant = config.variant
    if variant and variant.needs_data and data is None and not empty:
        raise ConfigError(f"{type(variant).__name__} starts from data: inject(model, config, data=batches)")
    tree = dict(outside(model))
    if variant and variant.reads_base:
        _refuse_quantised(tree, targets, type(variant).__name__)
    start_only = variant is not None and variant.start_only
    slots = {target.name: variant.slots(target) if variant else {} for target in targets}
    shared = variant.shared(targets) if variant else {}
    for each in (*slots.values(), shared):
        check_slots(each, type(variant).__name__)
    config = replace(config, fan_in_fan_out=any(t.kind == "conv1d" for t in targets))
    trained = [p for _, m in everywhere(model) for p in m._parameters.values() if p is not None and p.requires_grad]

    for parameter in trained:
        parameter.requires_grad_(False)
    layers: dict[str, LoRALayer] = {}
    for target in targets:
        layer: Any = tree[target.name]
        if not isinstance(layer, LoRALayer):
            layer = LAYERS[target.kind](layer, state=state)
            layer.train(layer.base_layer.training)
            _replace(model, target.name, layer)
        init = None if empty else config.init_lora_weights
        # By place: an adapter has a few hundred of these calls, and they are most of what a load costs.
        layer.add_adapter(
            name,
            target.r,
            target.lora_alpha,
            config.lora_dropout,
            config.use_rslora,
            init if variant is None else None,
            None if start_only else variant,
            slots[target.name],
        )
        layers[target.name] = layer
    for path in saved:
        module: Any = model.get_submodule(path)
        if not isinstance(module, SavedModule):
            module = SavedModule(module, state)
            _replace(model, path, module)
        module.copies[name] = copy.deepcopy(module.original_module).requires_grad_(True)
        stillness.release(module.copies[name])
    state.configs[name] = config
    state.active, active = {}, state.active  # while a variant looks at data, the base speaks
    _share(layers, shared, name)
    made_again = any(not slot.saved for each in (*slots.values(), shared) for slot in each.values())
    if variant and (not empty or made_again):  # a file brings values, but not those that it leaves out
        try:
            with torch.no_grad():
                variant.start(model, layers, name, data)
        except BaseException:  # whatever the variant met in its data: the model is as it was
            remove_adapter(model, name)
            state.active = active
            for parameter in trained:
                parameter.requires_grad_(True)
            raise
    if start_only:
        state.configs[name] = replace(config, variant=None)
    state.active = {name: 1.0}
    fused.attach(model)
    stillness.hold(model)
    return model


def check_name(state: AdapterState, name: str) -> None:
    """Raise AdapterError for a name that is taken, or that cannot be one."""
    if name in state.configs:
        raise AdapterError(
            f"there is an adapter {name!r} already: choose another name, or remove_adapter(model, {name!r}) first"
        )
    if not name or name in ("..", "weight") or set(name) & set("./\\"):
        raise AdapterError(
            f"{name!r} cannot name an adapter: it becomes part of parameter names and a folder's name, so it must not be empty or "
            "hold a dot or a slash"
        )


def check_company(state: AdapterState, newcomer: Any) -> None:
    """Raise AdapterError where one adapter would train the base that another stands on."""
    for name, config in state.configs.items():
        if config.changes_base or newcomer.changes_base:
            who, other = (name, "another adapter") if config.changes_base else ("the new one", repr(name))
            raise AdapterError(
                f"{who} trains the base's own weights, and {other} stands on them as they were: attach them to two copies of the base, or "
                "first make what is there plain (unload(model); merge(model) before it where an adapter is to stay in)"
            )


def _refuse_quantised(tree: Mapping[str, nn.Module], targets: Sequence[Target], what: str) -> None:
    """Raise ConfigError where a variant computes with W₀ and the base holds codes."""
    for target in targets:
        layer: Any = tree[target.name]
        if is_quantized(layer.base_layer if isinstance(layer, LoRALayer) else layer):
            raise ConfigError(
                f"{what} computes with the weights themselves, and {target.name} is quantised: load the base in full precision, or "
                "leave the variant out (plain LoRA trains on a quantised base)"
            )


def _share(layers: Mapping[str, LoRALayer], shared: Mapping[str, Slot], name: str) -> None:
    """One parameter for each shared slot, in every layer: it moves, copies and trains once."""
    for slot, made in shared.items():
        parameter = next(iter(layers.values())).empty(made)
        for layer in layers.values():
            layer.put(slot, name, parameter)


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)


def remove_adapter(model: nn.Module, name: str) -> None:
    """Take the adapter `name` out; the others stay. Taking the last one out leaves the plain model. Chapter 07."""
    state = state_of(model)
    known(state, [name])
    refuse_merged(state)
    if state.configs[name].changes_base:
        raise AdapterError(
            f"{name!r} has trained the base's own weights, and the old ones were not kept: load the base again. unload(model) makes it a "
            "plain model with the weights that it has now"
        )
    if list(state.configs) == [name]:
        unload(model)
        return
    for layer in lora_layers(model).values():
        layer.remove_adapter(name)
    for saved in saved_modules(model).values():
        if name in saved.copies:
            del saved.copies[name]
    for carrier in carriers(model):
        carrier.forget(name)
    state.active.pop(name, None)
    del state.configs[name]


def unload(model: nn.Module) -> nn.Module:
    """Take every adapter out and give the plain modules back; what was merged, or trained in place, stays. Returns the same model. Chapter 07."""
    inner = unwrap(model)
    merged = bool(state_of(inner).merged_layers)
    fused.detach(inner)
    for carrier in list(carriers(inner)):
        carrier.release(inner)
    for path, layer in lora_layers(inner).items():
        _replace(inner, path, layer.base_layer)
    for path, saved in saved_modules(inner).items():
        _replace(inner, path, saved.current() if merged else saved.original_module)
    stillness.release(inner)
    return model


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
    trainable, total = 0, packed_weights(model)  # which are no parameters
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
