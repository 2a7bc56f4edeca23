"""Fold adapters into the weights and take them out again. Chapter 07.

merge: W ← W₀ + s·B A, so that inference costs what the base costs (Hu et al. 2021, §4.1). unmerge gives W₀ back bit for
bit, because W₀ was kept: subtracting what was added does not, since every sum of floats is rounded (law 5).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from lora_edu.adapters.finding import lora_layers, of_base, saved_modules, state_of
from lora_edu.adapters.layer import LoRALayer
from lora_edu.errors import MergeError
from lora_edu.models.modules import unwrap
from lora_edu.models.quantized.linear import is_quantized


@dataclass(frozen=True)
class MergeReport:
    """What a merge did: how many matrices changed, and how many bytes W₀ takes while it is kept (0 when it is not)."""

    matrices: int
    kept_bytes: int

    def __str__(self) -> str:
        kept = (
            f"W₀ kept aside: {self.kept_bytes / 2**20:.1f} MiB"
            if self.kept_bytes
            else "W₀ not kept: this cannot be undone"
        )
        return f"merged into {self.matrices} matrices; {kept}"


def merge(model: nn.Module, keep_base: bool = True) -> MergeReport:
    """Fold the active adapters, at their scales, into the weights they stand beside; in place. Law 5, chapter 07.

    The sum is taken in float32 (or better) and rounded once to the weight's own dtype. With `keep_base` W₀ stays in memory
    and `unmerge` restores it; without, it is overwritten. `unload(model)` then gives the plain merged model.

    Raises MergeError, with no weight changed, for a second merge, nothing active, a quantised base, a weight tied to
    another module, or factors that are not finite.
    """
    model = unwrap(model)
    state = state_of(model)
    if state.merged_layers:
        raise MergeError("merged already: merging again would apply the update twice; unmerge(model) first")
    for name, dial in state.active.items():
        if dial and (reason := getattr(state.configs[name], "unmergeable", "")):
            raise MergeError(f"{name!r}: {reason}")
    layers = {path: layer for path, layer in lora_layers(model).items() if layer.active_adapters()}
    if not layers:
        raise MergeError(
            f"no adapter is active, so there is nothing to merge; the model has: {', '.join(state.configs)}"
        )
    _refuse_tied(model, {path: layer for path, layer in layers.items() if not is_quantized(layer.base_layer)})
    for path, layer in layers.items():
        try:
            layer.check_mergeable()
        except MergeError as error:
            raise MergeError(f"{path}: {error}") from None
    for layer in layers.values():
        layer.merge(keep_base, checked=True)
    kept = sum(layer.W0.nbytes for layer in layers.values() if layer.W0 is not None)
    return MergeReport(len(layers), kept)


def unmerge(model: nn.Module) -> None:
    """Give every weight its W₀ back, bit for bit. Law 5, chapter 07.

    Raises MergeError, with no weight changed, when nothing is merged or W₀ was not kept.
    """
    layers = [layer for layer in lora_layers(model).values() if layer.merged]
    if not layers:
        raise MergeError("nothing is merged")
    if any(layer.W0 is None for layer in layers):
        raise MergeError("merged with keep_base=False: W₀ was not kept, so it cannot be restored; load the base again")
    for layer in layers:
        layer.unmerge()


def untie(model: Any) -> Any:
    """Give every tied table a weight of its own, equal to the one it shared, so that either can be merged or saved alone. Chapter 07.

    A decoder ties its output head to its embedding, an encoder–decoder both sides' embeddings as well; each costs the table's bytes
    again (vocabulary × dim). The configuration says so too, or a reload would tie them again.
    """
    inner: Any = unwrap(model)
    owners: dict[int, nn.Module] = {}
    for name, parameter in list(inner.named_parameters(remove_duplicate=False)):
        if not of_base(name):  # what a variant's layers share, they share on purpose
            continue
        path, _, attribute = name.rpartition(".")
        module = inner.get_submodule(path)
        if owners.setdefault(id(parameter), module) is not module:  # one module under two names is no tie
            own = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
            setattr(module, attribute, own)
            owners[id(own)] = module
    config: Any = getattr(inner, "config", None)  # a plain module has none
    for each in (config, *(getattr(config, part, None) for part in getattr(config, "sub_configs", ()))):
        if each is not None and hasattr(each, "tie_word_embeddings"):
            each.tie_word_embeddings = False
    if hasattr(inner, "all_tied_weights_keys"):
        inner.all_tied_weights_keys = {}
    return model


def _refuse_tied(model: Any, layers: Mapping[str, LoRALayer]) -> None:
    """A tied weight is one tensor under two names: merging into one edits the other, and a reload keeps only one of them."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name.removesuffix(".weight").removesuffix(".base_layer"))
    tied_by_config = bool(getattr(getattr(model, "config", None), "tie_word_embeddings", False))
    for path, layer in layers.items():
        others = [o for o in owners[id(layer.base_layer.weight)] if o != path]
        if others:
            raise MergeError(
                f"{path} shares its weight with {', '.join(others)}, so merging into one edits both: untie(model) first"
            )
    heads = [m for m in saved_modules(model).values() if m.current() is not m.original_module]
    if tied_by_config and any(m is model.get_output_embeddings() or m is model.get_input_embeddings() for m in heads):
        raise MergeError(
            "a tied embedding or head was trained in full, and a saved model would tie it again: untie(model) first"
        )
