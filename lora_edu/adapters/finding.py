"""What of a model is adapter and what is base: the layers, the names, the tensors of either. Chapter 04."""

from collections.abc import Iterator

from torch import Tensor, nn

from lora_edu.adapters.carrier import carriers
from lora_edu.adapters.layer import DEFAULT, AdapterState, LoRALayer
from lora_edu.adapters.layers import SavedModule
from lora_edu.adapters.walk import everywhere, outside
from lora_edu.errors import AdapterError
from lora_edu.models.modules import kept_buffers, unwrap


def lora_layers(model: nn.Module) -> dict[str, LoRALayer]:
    """{path in the base model: LoRA layer}, in the model's order."""
    return {name: m for name, m in outside(unwrap(model)) if isinstance(m, LoRALayer)}


def saved_modules(model: nn.Module) -> dict[str, SavedModule]:
    """{path in the base model: module that trains in full}."""
    return {name: m for name, m in outside(unwrap(model)) if isinstance(m, SavedModule)}


def state_of(model: nn.Module) -> AdapterState:
    """The state that the model's adapters share. Raises AdapterError for a model without adapters."""
    for carrier in carriers(model):
        return carrier.state
    for _, module in outside(model):
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
    """{name in the model: parameter} of the adapter `name`, whether it trains or not; one that layers share under its first name."""
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for path, layer in lora_layers(model).items():
        for slot, parameter in layer.tensors(name).items():
            if id(parameter) not in seen:
                found[f"{path}.{slot}.{name}"] = parameter
                seen.add(id(parameter))
    for path, saved in saved_modules(model).items():
        if name in saved.copies:
            found |= {f"{path}.copies.{name}.{n}": p for n, p in saved.copies[name].named_parameters()}
    for carrier in carriers(model):
        found |= carrier.tensors(unwrap(model), name)
    return found


def adapter_buffers(model: nn.Module, name: str = DEFAULT) -> dict[str, Tensor]:
    """{name in the model: buffer} of the modules that the adapter `name` trains in full: a BatchNorm's running statistics, for one."""
    found = {
        f"{path}.copies.{name}.{n}": buffer
        for path, saved in saved_modules(model).items()
        if name in saved.copies
        for n, buffer in kept_buffers(saved.copies[name], everywhere(saved.copies[name]))
    }
    for carrier in carriers(model):
        found |= carrier.buffers_of(unwrap(model), name)
    return found


def base_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name in the base model, tensor) of every weight of the base, adapters or not, merged with W₀ kept or not."""
    tree = list(outside(unwrap(model)))
    kept: dict[int, Tensor] = {}
    for _, layer in tree:
        if isinstance(layer, LoRALayer) and layer.merged:
            for parameter, before in ((layer.weight, layer.W0), (layer.bias, layer.b0)):
                if before is not None:
                    kept[id(parameter)] = before
    seen: set[int] = set()
    for path, module in tree:
        inner = module.base_layer if isinstance(module, LoRALayer) else module
        for name, parameter in inner.named_parameters(path, recurse=inner is not module):
            if of_base(name) and id(parameter) not in seen:
                seen.add(id(parameter))
                yield base_name(name), kept.get(id(parameter), parameter.data)


def base_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name in the base model, tensor) of every buffer of the base that is saved with it: what is not is made from its settings."""
    for name, buffer in kept_buffers(unwrap(model), everywhere(unwrap(model))):
        if of_base(name):
            yield base_name(name), buffer


def of_base(name: str) -> bool:
    """Whether a tensor of that name belongs to the base."""
    return ".lora_" not in f".{name}" and ".copies." not in name


def base_name(name: str) -> str:
    """A tensor's name in the model with adapters → its name in the plain base."""
    return name.replace(".base_layer.", ".").replace(".original_module.", ".")
