"""What who trains an adapter asks its variant for: a term of the loss, a change after each step, what a checkpoint must keep. Chapter 10.

All do nothing for plain LoRA, and nothing for an adapter that is silent or does not train.
"""

import torch
from torch import Tensor, nn

from lora_edu.adapters.finding import adapter_names, lora_layers, state_of
from lora_edu.adapters.layer import LoRALayer
from lora_edu.adapters.variants import Variant


def variant_loss(model: nn.Module) -> Tensor | None:
    """The sum of the active variants' terms, to be added to the mean loss before the backward pass; None where there is none."""
    terms = [term for name, variant, layers in _training(model) if (term := variant.penalty(layers, name)) is not None]
    return sum(terms[1:], terms[0]) if terms else None


@torch.no_grad()
def after_step(model: nn.Module, step: int, steps: int) -> None:
    """Tell the active variants that optimiser step `step` (1 …) of `steps` was made; each parameter still has that step's gradient."""
    for name, variant, layers in _training(model):
        variant.after_step(layers, name, step, steps)


def variant_state(model: nn.Module) -> dict[str, Tensor]:
    """{name in the model: tensor} of what the active variants have and do not train: where a run stands, because `after_step` may change it.

    A tensor that layers share stands under its first name.
    """
    found = {
        id(tensor): (f"{path}.{slot}.{name}", tensor)
        for name, _, layers in _training(model)
        for path, layer in reversed(layers.items())  # so that the first name stays
        for slot, tensor in layer.tensors(name).items()
        if not tensor.requires_grad
    }
    return dict(found.values())


def _training(model: nn.Module) -> list[tuple[str, Variant, dict[str, LoRALayer]]]:
    if not adapter_names(model):
        return []
    state = state_of(model)
    if not any(state.configs[name].variant for name in state.active):
        return []
    found = []
    for name in state.active:
        variant = state.configs[name].variant
        layers = {path: layer for path, layer in lora_layers(model).items() if name in layer.scalings}
        trains = any(p.requires_grad for layer in layers.values() for p in layer.tensors(name).values())
        if variant and trains:
            found.append((name, variant, layers))
    return found
