"""ΔW = s·B A by its thin factors: its singular values, the rank that keeps enough of it, and factors of another rank. Chapter 07.

(A, B) and (M A, B M⁻¹) are one adapter for every invertible M, so a factor alone says nothing; what is cut, compared or added up is
the product. It is never built: with B = Q_b R_b and Aᵀ = Q_a R_a its singular values are those of the r × r matrix R_b R_aᵀ.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.layer import AdapterState, LoRALayer
from lora_edu.adapters.switching import known
from lora_edu.errors import AdapterError, ConfigError
from lora_edu.linalg import effective_rank, numerical_rank, svd_of_product

Factors = tuple[Tensor, Tensor]  # A (r, in), B (out, r)


def factors_of(layer: LoRALayer, name: str) -> Factors:
    """(A, s·B) of a plain adapter, without gradients: its ΔW is their product, B A."""
    A, B = (held[name].detach() for held in layer.factors)
    return A, layer.scalings[name] * B


def svd_of(layer: LoRALayer, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """U (out, r), S (r,), Vh (r, in) of ΔW, s inside."""
    A, B = factors_of(layer, name)
    return svd_of_product(B, A)


def balanced(U: Tensor, S: Tensor, Vh: Tensor, s: float = 1.0) -> Factors:
    """Factors with s·B A = U diag(S) Vh and columns of B as long as the rows of A: √(σ/s) each."""
    root = (S / s).sqrt()
    return root[:, None] * Vh, U * root


def check_size(rank: int | None, energy: float | None) -> None:
    """Raise ConfigError unless exactly one of the two is given, and can be."""
    if (rank is None) == (energy is None):
        raise ConfigError(
            f"rank={rank} and energy={energy}: give one of them, a rank or the share of ‖ΔW‖² to keep (energy=0.9)"
        )
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise ConfigError(f"rank={rank!r}: a whole number of at least 1")
    if energy is not None and not 0 < energy <= 1:
        raise ConfigError(f"energy={energy!r}: a share of ‖ΔW‖² in (0, 1]; 0.9 keeps 90 % of it")


def size_for(S: Tensor, shape: tuple[int, int], rank: int | None, energy: float | None) -> int:
    """The rank that a layer gets, at least 1: `rank`, or the least that keeps `energy`, and never more than a matrix of `shape` can have."""
    if rank is not None:
        return min(rank, *shape)
    assert energy is not None
    return max(1, min(effective_rank(S, energy), numerical_rank(S, shape)))


def uniform(config: LoRAConfig, ranks: Mapping[str, int], s: Mapping[str, float] | float = 1.0) -> LoRAConfig:
    """`config` with these ranks and scales, {path: value}: the commonest as r and α, the others as patterns.

    α is what gives the scale s at that rank: s·r, or s·√r with `use_rslora`.
    """
    alphas: dict[str, float] = {}
    for path, r in ranks.items():
        alpha = (s if isinstance(s, float) else s[path]) * (math.sqrt(r) if config.use_rslora else r)
        alphas[path] = int(alpha) if alpha == int(alpha) else alpha  # 8 and not 8.0: some readers want a whole number
    r = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    return replace(
        config, r=r, lora_alpha=alpha, rank_pattern=_but(ranks, ranks, r), alpha_pattern=_but(alphas, ranks, alpha)
    )  # fmt: skip


def _but(values: Mapping[str, Any], paths: Mapping[str, int], default: Any) -> dict[str, Any]:
    """A pattern for each path that has another value; where one path is the end of another, each keeps its own: the longest first."""
    odd = {path for path, value in values.items() if value != default}
    ends = {
        path for path in paths for other in odd if path.endswith(f".{other}")
    }  # matched by a pattern that is not theirs
    ordered = sorted(odd | ends, key=lambda path: (-path.count("."), path))
    return {re.escape(path): values[path] for path in ordered}


def the_adapter(state: AdapterState, name: str | None) -> str:
    """The adapter that was named, or the only one that there is, or that is active. Raises AdapterError for none, or several."""
    if name is None:
        candidates = list(state.configs) if len(state.configs) == 1 else list(state.active)
        if len(candidates) != 1:
            raise AdapterError(f"which adapter? Name one of {', '.join(state.configs)} (adapter=…)")
        return candidates[0]
    known(state, [name])
    return name


def refuse_variant(state: AdapterState, names: Any, what: str) -> None:
    """Raise AdapterError for adapters that are more than factors B A, or none at all."""
    if others := [
        f"{n} ({type(state.configs[n]).__name__})" for n in names if not isinstance(state.configs[n], LoRAConfig)
    ]:
        raise AdapterError(f"{', '.join(others)}: no LoRA, without factors B A that could be {what}")
    if varied := [f"{n} ({type(state.configs[n].variant).__name__})" for n in names if state.configs[n].variant]:
        raise AdapterError(
            f"{', '.join(varied)}: more than factors B A, so that they cannot be {what}: merge them instead, or make plain LoRA of them "
            "(convert)"
        )


@torch.no_grad()
def silent_factors(layer: LoRALayer, r: int, like: Tensor, init: bool | str) -> Factors:
    """Factors of rank r as a new adapter starts with: their product is 0, and yet one of them gets a gradient."""
    n_out, n_in = layer.shape
    A, B = like.new_empty(r, n_in), like.new_empty(n_out, r)
    layer.reset_factors(A, B, init)
    return A, B
