"""Any adapter whose update is a matrix becomes plain LoRA, which every tool reads. Chapter 10.

Where ΔW has thin factors (PiSSA, OLoRA, AdaLoRA, VeRA) these are taken as they are, or cut from their r × r core: ΔW is never built. DoRA's
ΔW has full rank: it is built one matrix at a time, and cut to the nearest of a smaller rank. PEFT's `convert_to_lora` does the same by a
dense SVD of each matrix.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from lora_edu.adapters.factors import Factors, balanced, check_size, silent_factors, size_for, the_adapter, uniform
from lora_edu.adapters.finding import lora_layers, state_of
from lora_edu.adapters.layer import LoRALayer
from lora_edu.adapters.resizing import LayerResize, ResizeReport, resize
from lora_edu.adapters.switching import refuse_merged
from lora_edu.errors import AdapterError, ConfigError
from lora_edu.linalg import leading_svd, norm_of_product, svd_of_product
from lora_edu.models.modules import unwrap


@torch.no_grad()
def convert(
    model: nn.Module, rank: int | None = None, *, energy: float | None = None, adapter: str | None = None
) -> ResizeReport:
    """Make plain LoRA of the adapter, in place: exactly, or the nearest of `rank`, or the least that keeps the share `energy`. Chapter 10.

    Without a size ΔW stays what it is, to rounding, which DoRA's cannot, because it has full rank. A plain adapter without a size
    is left alone; with one it is what `resize` does. The scale s of each layer stays, and α follows. The new factors train if some tensor
    of the layer did; an optimizer made before holds the old ones.

    Raises AdapterError for an unknown adapter, for one that changes a bias, and for a ΔW of full rank without a size; ConfigError
    for an impossible size; MergeError while merged. The model is then as it was. Source of the cut: Eckart and Young 1936.
    """
    model = unwrap(model)
    state = state_of(model)
    name = the_adapter(state, adapter)
    refuse_merged(state)
    if rank is not None or energy is not None:
        check_size(rank, energy)
    config = state.configs[name]
    layers = {path: layer for path, layer in lora_layers(model).items() if name in layer.scalings}
    if config.variant is None:
        if rank is None and energy is None:
            return _as_it_is(name, layers)
        return resize(model, rank, energy=energy, adapter=name)
    if rank is not None and rank > (most := max(min(layer.shape) for layer in layers.values())):
        raise ConfigError(f"rank={rank}: no update here has a rank above {most}")
    made = {path: _factors(path, layer, name, rank, energy) for path, layer in layers.items()}
    ranks = {path: report.after for path, (_, report) in made.items()}
    config = uniform(replace(config, variant=None), ranks, {path: layers[path].scalings[name] for path in made})
    before = after = 0
    seen: set[int] = set()
    for path, (factors, _) in made.items():
        layer = layers[path]
        s, old = config.scaling_for(path), layer.tensors(name)
        before += sum(t.numel() for t in old.values() if id(t) not in seen)
        seen |= {id(t) for t in old.values()}
        trains, dropout = any(t.requires_grad for t in old.values()), layer.dropouts[name]
        A, B = factors[0], factors[1] * (layer.scalings[name] / s)  # `uniform` may round α
        layer.remove_adapter(name)
        for held, value in zip(layer.factors, (A, B), strict=True):
            held[name] = nn.Parameter(value.contiguous(), requires_grad=trains)
            after += value.numel()
        layer.scalings[name], layer.dropouts[name] = s, dropout
    state.configs[name] = config
    return ResizeReport(name, {path: report for path, (_, report) in made.items()}, (before, after))


def _factors(
    path: str, layer: LoRALayer, name: str, rank: int | None, energy: float | None
) -> tuple[Factors, LayerResize]:
    """A (k, in) and B (out, k) with ΔW = s·B A, and what they hold of it."""
    variant, s = layer.variants[name], layer.scalings[name]
    if variant.delta_bias(layer, name) is not None:
        raise AdapterError(f"{type(variant).__name__} changes the bias of {path}, which no LoRA can: merge it instead")
    thin = variant.factors(layer, name)
    if rank is None and energy is None and thin is not None and len(thin[0]) > min(layer.shape):
        rank = min(layer.shape)  # no matrix has a rank above that
    if rank is None and energy is None:
        if thin is None:
            raise AdapterError(
                f"the update of {type(variant).__name__} has full rank, so that a LoRA can only come near: give a rank or an energy "
                "(convert(model, energy=0.9)), or merge it"
            )
        A, B = thin[0].detach().clone(), thin[1].detach() / s
        total = norm_of_product(thin[1], A) ** 2
        return (A, B), LayerResize(len(A), len(A), total, total)
    U, S, Vh, total = _svd(layer, name, thin, rank)
    k = size_for(S, layer.shape, rank, energy)
    kept = float(S[:k].double().square().sum())
    A, B = balanced(U[:, :k], S[:k], Vh[:k], s)
    if (missing := k - len(A)) > 0:  # a rank that ΔW does not have: silent directions
        more, _ = silent_factors(layer, missing, A, True)
        A, B = torch.cat([A, more]), torch.cat([B, B.new_zeros(len(B), missing)], dim=1)
    return (A, B), LayerResize(min(layer.shape) if thin is None else len(thin[0]), k, total, min(kept, total))


def _svd(layer: LoRALayer, name: str, thin: Factors | None, rank: int | None) -> tuple[Tensor, Tensor, Tensor, float]:
    """The leading singular triplets of ΔW, and ‖ΔW‖_F²."""
    if thin is not None:
        U, S, Vh = svd_of_product(thin[1], thin[0])
        return U, S, Vh, float(S.double().square().sum())
    delta = layer.variants[name].delta(layer, name)
    return *leading_svd(delta, None if rank is None else min(rank, *delta.shape)), float(delta.double().square().sum())


def _as_it_is(name: str, layers: dict[str, LoRALayer]) -> ResizeReport:
    found, count = {}, 0
    for path, layer in layers.items():
        A, B = (held[name].detach() for held in layer.factors)
        total = (layer.scalings[name] * norm_of_product(B, A)) ** 2
        found[path] = LayerResize(len(A), len(A), total, total)
        count += A.numel() + B.numel()
    return ResizeReport(name, found, (count, count))
