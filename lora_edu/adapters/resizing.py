"""Give an adapter another rank after training: as small as keeps enough of it, or larger, to go on. Chapter 07.

The cut is the nearest of its rank in every layer (Eckart and Young 1936), taken from the r × r core of QR factors: for r = 16 on a
1536 × 576 matrix that is an SVD of 256 numbers instead of 884,736. It is the same idea as `resize_lora.py` in kohya's sd-scripts, which
builds ΔW first. Cutting is not training at the smaller rank: what a run at rank r would have found need not be the best part of this one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from lora_edu.adapters.factors import (
    Factors,
    balanced,
    check_size,
    refuse_variant,
    silent_factors,
    size_for,
    svd_of,
    the_adapter,
    uniform,
)
from lora_edu.adapters.finding import lora_layers, state_of
from lora_edu.adapters.layer import LoRALayer
from lora_edu.adapters.switching import refuse_merged
from lora_edu.errors import ConfigError
from lora_edu.linalg import numerical_rank
from lora_edu.models.modules import unwrap


@dataclass(frozen=True)
class LayerResize:
    """What became of one layer: its rank before and after, and ‖ΔW‖_F² before and after."""

    before: int
    after: int
    total: float
    kept: float

    @property
    def energy(self) -> float:
        """The share of ‖ΔW‖_F² that is left, 1 for an update that was 0."""
        return self.kept / self.total if self.total else 1.0


@dataclass(frozen=True)
class ResizeReport:
    """What a resize did: `layers` says it by path; `parameters` are (before, after) of all factors together."""

    adapter: str
    layers: dict[str, LayerResize]
    parameters: tuple[int, int]

    @property
    def ranks(self) -> dict[str, int]:
        """{path: rank now}."""
        return {path: layer.after for path, layer in self.layers.items()}

    @property
    def energy(self) -> float:
        """The share of ‖ΔW‖_F², summed over all layers, that is left."""
        total = sum(layer.total for layer in self.layers.values())
        return sum(layer.kept for layer in self.layers.values()) / total if total else 1.0

    def __str__(self) -> str:
        before, after = self.parameters
        least = min(self.layers.values(), key=lambda layer: layer.energy)
        return (
            f"{self.adapter}: rank {_span(layer.before for layer in self.layers.values())} → "
            f"{_span(self.ranks.values())} in {len(self.layers)} matrices, {before:,} → {after:,} parameters; "
            f"{self.energy:.2%} of ‖ΔW‖² kept (at worst {least.energy:.2%})"
        )


@torch.no_grad()
def resize(
    model: nn.Module, rank: int | None = None, *, energy: float | None = None, adapter: str | None = None
) -> ResizeReport:
    """Give the adapter another rank, in place: `rank` in every layer, or the least that keeps the share `energy` of ‖ΔW‖_F². Chapter 07.

    Smaller: A (r', in) and B (out, r') of the nearest ΔW of that rank, with s·B A = U_r' S_r' V_r'ᵀ and both factors of equal length
    (√(σ/s)). Larger: the factors as they are, and new directions that say nothing yet and can learn, as at the start of training; they
    are drawn from torch's own random numbers. A layer never gets more than the smaller side of its matrix.
    The scale s of each layer stays what it was, so a run that goes on takes steps of the same size: α becomes s·r' (s·√r' with
    `use_rslora`), and where layers differ, rank_pattern and alpha_pattern say so. Modules trained in full are not touched.
    ΔW is never built: the SVD is that of an r × r matrix.

    `adapter` is the only or only active one without a name; its dial does not count. The factors become new parameters, which train if the
    old ones did. An optimizer made before holds the old ones, and would go on training what the model no longer has: make a new one.

    Raises ConfigError for no size or an impossible one, AdapterError for an unknown adapter or a variant, MergeError while merged;
    the model is then as it was. Source of the cut: Eckart and Young 1936.
    """
    model = unwrap(model)
    state = state_of(model)
    name = the_adapter(state, adapter)
    check_size(rank, energy)
    refuse_merged(state)
    refuse_variant(state, [name], "resized")
    config = state.configs[name]
    layers = {path: layer for path, layer in lora_layers(model).items() if name in layer.scalings}
    if rank is not None and rank > (most := max(min(layer.shape) for layer in layers.values())):
        raise ConfigError(f"rank={rank}: no update here has a rank above {most}")
    made: dict[str, tuple[Factors, LayerResize]] = {}
    for path, layer in layers.items():
        made[path] = _resized(layer, name, rank, energy, config.init_lora_weights)
    # `uniform` may round α: the scale that a reader of the folder will compute is the one that counts, here too.
    config = uniform(config, {p: r.after for p, (_, r) in made.items()}, {p: layers[p].scalings[name] for p in made})
    before = after = 0
    for path, ((A, B), _) in made.items():
        layer = layers[path]
        layer.scalings[name] = config.scaling_for(path)
        for held, value in zip(layer.factors, (A, B), strict=True):
            before += held[name].numel()
            after += value.numel()
            # A new object, and not other data in the old one: a result that is still kept remembers the old one's shape.
            held[name] = nn.Parameter(value.contiguous(), requires_grad=held[name].requires_grad)
    state.configs[name] = config
    return ResizeReport(name, {path: report for path, (_, report) in made.items()}, (before, after))


def _resized(
    layer: LoRALayer, name: str, rank: int | None, energy: float | None, init: bool | str
) -> tuple[Factors, LayerResize]:
    A, B = (held[name].detach() for held in layer.factors)
    U, S, Vh = svd_of(layer, name)
    now, wanted = A.shape[0], size_for(S, layer.shape, rank, energy)
    total = float(S.double().square().sum())
    kept = total
    if wanted < now:
        # Directions that are only rounding would have both factors near 0, and could never learn: silent ones take their place.
        k = min(wanted, numerical_rank(S, layer.shape))
        A, B = (factor.to(A.dtype) for factor in balanced(U[:, :k], S[:k], Vh[:k], layer.scalings[name]))
        kept = float(S[:k].double().square().sum())
    if wanted > (have := A.shape[0]):
        more_A, more_B = silent_factors(layer, wanted, layer.factors[0][name], init)
        A, B = torch.cat([A, more_A[have:]]), torch.cat([B, more_B[:, have:]], dim=1)
    return (A, B), LayerResize(now, wanted, total, kept)


def _span(ranks: Iterable[int]) -> str:
    values = sorted(ranks)
    return str(values[0]) if values[0] == values[-1] else f"{values[0]}–{values[-1]}"
