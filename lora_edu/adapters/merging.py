"""Fold adapters into the weights and take them out again; make one adapter of several. Chapter 07.

merge: W ← W₀ + s·B A, so that inference costs what the base costs (Hu et al. 2021, §4.1). unmerge gives W₀ back bit for
bit, because W₀ was kept: subtracting what was added does not, since every sum of floats is rounded (law 5).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.finding import adapter_parameters, lora_layers, of_base, saved_modules, state_of
from lora_edu.adapters.layer import LoRALayer
from lora_edu.errors import AdapterError, MergeError
from lora_edu.linalg import numerical_rank, svd_of_product
from lora_edu.models.modules import unwrap


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
    layers = {path: layer for path, layer in lora_layers(model).items() if layer.active_adapters()}
    if not layers:
        raise MergeError(
            f"no adapter is active, so there is nothing to merge; the model has: {', '.join(state.configs)}"
        )
    _refuse_tied(model, layers)
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
    for config in (inner.config, *(getattr(inner.config, part, None) for part in inner.config.sub_configs)):
        if hasattr(config, "tie_word_embeddings"):
            config.tie_word_embeddings = False
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


# -- several adapters into one -----------------------------------------------------------------------------------------
@torch.no_grad()
def combine(
    model: nn.Module, weights: Mapping[str, float], into: str = "combined", method: str = "cat", r: int | None = None
) -> None:
    """Add the adapter `into`, whose update is Σ weightᵢ·ΔWᵢ of the adapters named in `weights`; inactive at first. Chapter 07.

    method="cat"     factors stacked: exact, rank Σrᵢ.
    method="compact" the same sum, exact, at the smallest rank that holds it (two adapters may share directions).
    method="svd"     the best approximation of rank `r` (default: the largest rᵢ); Eckart–Young, exact once r = Σrᵢ.

    Averaging A with A and B with B, as PEFT's "linear" does, is *not* the sum: it adds cross terms B₁A₂ that neither adapter learnt.
    It is refused by that name. Raises AdapterError for unknown or taken names, modules trained in full, variants, or an unknown method.
    """
    state = state_of(model)
    if method == "linear":
        raise AdapterError(
            'method="linear": PEFT\'s method of that name adds A with A and B with B, which is another update than the sum of the '
            "adapters'; choose cat or compact for the sum, svd for the nearest of a given rank"
        )
    if method not in ("cat", "compact", "svd"):
        raise AdapterError(f"method={method!r}: choose cat, compact or svd")
    if into in state.configs:
        raise AdapterError(f"there is an adapter {into!r} already: choose another name")
    if unknown := [n for n in weights if n not in state.configs]:
        raise AdapterError(f"no adapter {', '.join(unknown)}; the model has: {', '.join(state.configs)}")
    if len(weights) < 1:
        raise AdapterError("name at least one adapter to combine")
    if whole := [n for n in weights if state.configs[n].modules_to_save]:
        raise AdapterError(f"{', '.join(whole)} trained whole modules, which have no factors to combine")
    if varied := [n for n in weights if state.configs[n].variant]:
        raise AdapterError(
            f"{', '.join(varied)} are more than factors B A, and have no sum of that form: merge them instead"
        )
    if r is not None and (method != "svd" or r < 1):
        raise AdapterError(f"r={r} with method={method!r}: only svd takes a rank, of at least 1")

    made: dict[str, tuple[Tensor, Tensor]] = {}
    for path, layer in lora_layers(model).items():
        present = {n: w for n, w in weights.items() if n in layer.scalings}
        if present:
            made[path] = _combined_factors(layer, present, method, r or max(state.configs[n].r for n in weights))
    ranks = {path: A.shape[0] for path, (A, _) in made.items()}
    top = max(ranks.values())
    config = LoRAConfig(
        r=top,
        lora_alpha=top,  # s = 1: every scale is inside the factors
        target_modules=tuple(ranks),
        rank_pattern={path.replace(".", r"\."): rank for path, rank in ranks.items() if rank != top},
        alpha_pattern={path.replace(".", r"\."): rank for path, rank in ranks.items() if rank != top},
        fan_in_fan_out=any(state.configs[n].fan_in_fan_out for n in weights),
    )
    layers = lora_layers(model)
    for path, (A, B) in made.items():
        layer = layers[path]
        layer.add_adapter(into, ranks[path], ranks[path])
        for factor, value in zip(layer.factors, (A, B)):
            factor[into].copy_(value)
    state.configs[into] = config
    for parameter in adapter_parameters(model, into).values():
        parameter.requires_grad_(False)


def _combined_factors(layer: LoRALayer, weights: Mapping[str, float], method: str, r: int) -> tuple[Tensor, Tensor]:
    """A (k, in) and B (out, k) with B A = Σ weight·s·BᵢAᵢ, exactly or as the nearest of rank r."""
    As, Bs = layer.factors
    A = torch.cat([As[n] for n in weights])  # (Σr, in)
    B = torch.cat([w * layer.scalings[n] * Bs[n] for n, w in weights.items()], dim=1)  # (out, Σr)
    if method == "cat":
        if A.shape[0] <= min(layer.shape):
            return A, B
        method, r = (
            "svd",
            min(layer.shape),
        )  # no update has a rank above the layer's: the SVD is exact here, and smaller
    U, S, Vh = svd_of_product(B, A)
    k = max(1, numerical_rank(S, layer.shape)) if method == "compact" else min(r, len(S))
    root = S[:k].sqrt()
    return root[:, None] * Vh[:k], U[:, :k] * root
