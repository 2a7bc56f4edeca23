"""Several adapters into one: exactly, at a rank, or by the recipes that go by PEFT's names. Chapter 07.

The exact sum of updates is Σ wᵢ·sᵢ·BᵢAᵢ = [w₁s₁B₁, w₂s₂B₂, …] [A₁; A₂; …]: stack the factors, add the ranks ("cat"). Whatever adds A with
A and B with B is another update: (ΣBᵢ)(ΣAᵢ) has the cross terms B₁A₂, which no adapter learnt, and it depends on which of the many
pairs (M A, B M⁻¹) of one and the same adapter happens to lie in the folder.

Sources: Ilharco et al. 2023 (task arithmetic), Yadav et al. 2023 (TIES), Yu et al. 2024 (DARE); the arithmetic is that of PEFT's
`add_weighted_adapter` (0.21) to the letter, so that one name means one thing.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.factors import Factors, balanced, factors_of, refuse_variant, uniform
from lora_edu.adapters.finding import adapter_parameters, lora_layers, state_of
from lora_edu.adapters.injection import check_name
from lora_edu.adapters.layer import AdapterState, LoRALayer
from lora_edu.adapters.switching import known
from lora_edu.errors import AdapterError
from lora_edu.linalg import inner_of_products, norm_of_product, numerical_rank, svd_of_product, truncated_svd
from lora_edu.models.modules import unwrap

# The recipes that first thin each adapter out ("trim": the largest entries stay; "drop": random ones, the rest scaled up) and then add up
# ("sum", or "elect": only entries of the sign that won). Each on the factors, or, with _svd, on ΔW.
_RECIPES = {
    "linear": (None, "sum"),
    "magnitude_prune": ("trim", "sum"),
    "ties": ("trim", "elect"),
    "dare_linear": ("drop", "sum"),
    "dare_ties": ("drop", "elect"),
}
METHODS = ("cat", "compact", "svd", *_RECIPES, *(f"{name}_svd" for name in _RECIPES if name != "linear"))


@dataclass(frozen=True)
class CombineReport:
    """What a combination is: the rank of each layer, and how far it is from the exact sum Σ wᵢΔWᵢ."""

    adapter: str
    method: str
    ranks: dict[str, int]
    missed: dict[str, float]  # ‖combined − sum‖_F of each layer
    norms: dict[str, float]  # ‖sum‖_F of each layer

    @property
    def off(self) -> float:
        """‖combined − sum‖_F / ‖sum‖_F over all layers: 0 is the sum itself, 1 as far from it as nothing at all."""
        missed, norm = math.hypot(*self.missed.values()), math.hypot(*self.norms.values())
        return missed / norm if norm else (math.inf if missed else 0.0)

    def __str__(self) -> str:
        low, high = min(self.ranks.values()), max(self.ranks.values())
        rank = str(low) if low == high else f"{low}–{high}"
        return f"{self.adapter} ({self.method}): rank {rank} in {len(self.ranks)} matrices, {self.off:.2%} off the exact sum"


@torch.no_grad()
def combine(
    model: nn.Module,
    weights: Mapping[str, float],
    name: str = "combined",
    method: str = "cat",
    rank: int | None = None,
    density: float | None = None,
    seed: int = 0,
) -> CombineReport:
    """Add the adapter `name`, made of those in `weights`, {adapter: wᵢ}; inactive and not training at first. Chapter 07.

    Exact, or nearest to, the sum Σ wᵢ·ΔWᵢ:
      cat      factors stacked: exact, rank Σrᵢ (never more than the matrix has). The default.
      compact  the same sum at the smallest rank that holds it: two adapters may share directions.
      svd      the nearest of `rank` (without it the largest rᵢ of the layer); exact once rank = Σrᵢ. By thin factors only.
    PEFT's recipes of the same names, all of which are other updates than the sum:
      linear   Σ√|wᵢsᵢ|·Bᵢ times Σ±√|wᵢsᵢ|·Aᵢ: w₁s₁B₁A₁ + w₂s₂B₂A₂ and the cross terms √|w₁s₁w₂s₂|·(B₁A₂ + B₂A₁) besides. On two unrelated
               adapters of one length and w = (1, 1) these are as long as the sum itself; the report's `off` says how far it is.
      ties     per factor: of each adapter the share `density` of largest entries, then only those of the sign that won, their mean.
      dare_linear, dare_ties   per factor: a random share `density` of the entries, divided by `density`; then summed, or as in ties.
      magnitude_prune          per factor: the largest entries, summed.
    A sign or a size of one entry of A means nothing by itself ((−A, −B) is the same adapter and may come out otherwise), so these four
    are better asked for on ΔW: ties_svd, dare_linear_svd, dare_ties_svd, magnitude_prune_svd, each then cut to `rank`. Those build
    ΔW (out, in), of one layer at a time. TIES takes a *mean* where signs agree: at equal weights of 1 it is smaller than the sum.

    Of a single adapter PEFT makes "linear" whatever was asked for; here it is what was asked for.

    `seed` chooses DARE's entries: the same on every device. On the factors all adapters of a layer need one rank. The new adapter's
    scale is 1 (α = r): weights and scales are inside the factors.

    Raises AdapterError, with the model as it was, for an unknown or taken name, a weight that is no number, modules trained in full,
    variants, an unknown method, and a rank or density that the method does not take or is missing.
    """
    model = unwrap(model)
    state = state_of(model)
    check_method(method, rank, density)
    _check_adapters(state, weights, name)
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Factors] = {}
    missed, norms = {}, {}
    for path, layer in lora_layers(model).items():
        present = {n: w for n, w in weights.items() if n in layer.scalings}
        if not present:
            continue
        A, B = _stacked(layer, present)
        if method in ("cat", "compact", "svd"):
            made[path] = _sum(layer, present, A, B, method, rank)
        else:
            made[path] = _by_recipe(path, layer, present, method, rank, density, generator)
        new_A, new_B = made[path]
        if new_B is B:  # exact by construction, nothing was computed but the stack; a norm by the cheaper way, then
            missed[path], norms[path] = 0.0, math.sqrt(max(0.0, inner_of_products(B, A, B, A)))
        else:
            missed[path] = norm_of_product(torch.cat([new_B, -B], dim=1), torch.cat([new_A, A]))
            norms[path] = norm_of_product(B, A)
    ranks = {path: A.shape[0] for path, (A, _) in made.items()}
    fan_in_fan_out = any(state.configs[n].fan_in_fan_out for n in weights)
    config = uniform(LoRAConfig(target_modules=tuple(ranks), fan_in_fan_out=fan_in_fan_out), ranks)
    layers = lora_layers(model)
    for path, factors in made.items():
        layers[path].add_adapter(name, ranks[path], ranks[path], init=None)
        for held, value in zip(layers[path].factors, factors, strict=True):
            held[name].copy_(value)
    state.configs[name] = config
    for parameter in adapter_parameters(model, name).values():
        parameter.requires_grad_(False)
    return CombineReport(name, method, ranks, missed, norms)


def check_method(method: str, rank: int | None = None, density: float | None = None) -> None:
    """Raise AdapterError for an unknown method, and for a rank or a density that it does not take, or that is missing."""
    if method not in METHODS:
        raise AdapterError(f"method={method!r}: choose {', '.join(METHODS)}")
    if rank is not None and not (method.endswith("svd") and not isinstance(rank, bool) and rank >= 1):
        raise AdapterError(f"rank={rank} with method={method!r}: only svd and the …_svd take a rank, of at least 1")
    thinned = _RECIPES.get(method.removesuffix("_svd"), (None, ""))[0] is not None
    if thinned and density is None:
        raise AdapterError(f"method={method!r} needs density=…: the share of each adapter's entries that stays, as 0.5")
    if density is not None and not (thinned and 0 < density <= 1):
        raise AdapterError(
            f"density={density} with method={method!r}: ties, dare and magnitude_prune take one, in (0, 1]"
        )


def _check_adapters(state: AdapterState, weights: Mapping[str, float], name: str) -> None:
    check_name(state, name)
    if not weights:
        raise AdapterError('name at least one adapter to combine: weights={"a": 0.5, "b": 0.5}')
    known(state, weights)
    if odd := {n: w for n, w in weights.items() if not math.isfinite(w)}:
        raise AdapterError(f"weights={odd}: each a finite number")
    if whole := [n for n in weights if state.configs[n].modules_to_save]:
        raise AdapterError(f"{', '.join(whole)} trained whole modules, which have no factors to combine")
    refuse_variant(state, weights, "combined")


# -- the sum -----------------------------------------------------------------------------------------------------------
def _stacked(layer: LoRALayer, weights: Mapping[str, float]) -> Factors:
    """A (Σr, in) and B (out, Σr) with B A = Σ w·ΔW."""
    pairs = {n: factors_of(layer, n) for n in weights}
    return torch.cat([pairs[n][0] for n in weights]), torch.cat([w * pairs[n][1] for n, w in weights.items()], dim=1)


def _sum(
    layer: LoRALayer, weights: Mapping[str, float], A: Tensor, B: Tensor, method: str, rank: int | None
) -> Factors:
    most = min(layer.shape)
    if method == "cat" and A.shape[0] <= most:
        return A, B
    U, S, Vh = svd_of_product(B, A)
    largest = max(layer.factors[0][n].shape[0] for n in weights)
    k = {"cat": most, "compact": max(1, numerical_rank(S, layer.shape)), "svd": rank or largest}[method]
    return balanced(U[:, :k], S[:k], Vh[:k])


# -- PEFT's recipes ----------------------------------------------------------------------------------------------------
def _by_recipe(
    path: str,
    layer: LoRALayer,
    weights: Mapping[str, float],
    method: str,
    rank: int | None,
    density: float | None,
    generator: torch.Generator,
) -> Factors:
    """One layer, on ΔW if the method says so, else on A and on B; A before B, as PEFT draws its random numbers."""
    thin, add = _RECIPES[method.removesuffix("_svd")]
    names, w = list(weights), list(weights.values())
    if method.endswith("_svd"):
        # In the base's own orientation: that is the order in which PEFT draws.
        deltas = list(_thinned([layer.delta_weight(n) for n in names], thin, density, generator))
        whole = layer.oriented(_added(deltas, w, add))  # (out, in)
        k = min(rank or max(layer.factors[0][n].shape[0] for n in names), *layer.shape)
        return balanced(*truncated_svd(whole, k))
    ranks = {n: layer.factors[0][n].shape[0] for n in names}
    if len(set(ranks.values())) > 1:
        raise AdapterError(
            f"{path}: {', '.join(f'{n} has rank {r}' for n, r in ranks.items())}, and method={method!r} adds factor to factor: resize "
            "them to one rank first, or choose cat or svd"
        )
    found = []
    scaled = [weight * layer.scalings[n] for n, weight in weights.items()]
    root = [math.sqrt(abs(each)) for each in scaled]
    signed = [math.copysign(one, each) for one, each in zip(root, scaled, strict=True)]  # a minus sign counts once
    for held, each in zip(layer.factors, (signed, root), strict=True):
        parts = list(_thinned([held[n].detach() for n in names], thin, density, generator))
        found.append(_added(parts, each, add))
    return found[0], found[1]


def _thinned(
    parts: Sequence[Tensor], how: str | None, density: float | None, generator: torch.Generator
) -> Iterator[Tensor]:
    """Each tensor with the share `density` of its entries, the others 0."""
    for part in parts:
        if how is None or density is None or density == 1:
            yield part
        elif how == "drop":
            kept = torch.bernoulli(torch.full(part.shape, density, dtype=part.dtype), generator=generator)
            yield part * kept.to(part.device) / density
        else:
            kept = torch.zeros_like(part).reshape(-1)
            kept[part.abs().reshape(-1).topk(int(density * part.numel())).indices] = 1
            yield part * kept.reshape(part.shape)


def _added(parts: Sequence[Tensor], weights: Sequence[float], how: str) -> Tensor:
    """Σ w·part; with "elect" of each entry only those with the sign of the unweighted sum, divided by how many these are."""
    stack = torch.stack(list(parts))  # (adapters, …)
    weighted = stack * torch.tensor(weights, dtype=stack.dtype, device=stack.device).view(-1, 1, 1)
    if how == "sum":
        return weighted.sum(dim=0)
    elected = torch.where(stack.sum(dim=0) >= 0, 1, -1)
    agrees = stack.sign() == elected  # zeros agree with nobody
    return (weighted * agrees).sum(dim=0) / agrees.sum(dim=0).clamp(min=1)
