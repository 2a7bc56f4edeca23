"""How much two adapters push the same weights: the angle between their updates, and between the spaces they read and write. Chapter 07.

Two updates add without touching each other where they read other directions (rows of A) or write other ones (columns of B). All from the
thin factors: no ΔW is built.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lora_edu.adapters.factors import factors_of, refuse_variant, svd_of
from lora_edu.adapters.finding import lora_layers, state_of
from lora_edu.adapters.switching import known
from lora_edu.errors import AdapterError
from lora_edu.linalg import inner_of_products, norm_of_product, numerical_rank, principal_angles
from lora_edu.models.modules import unwrap


@dataclass(frozen=True)
class Overlap:
    """Two updates ΔW_a and ΔW_b of one layer."""

    inner: float  # ⟨ΔW_a, ΔW_b⟩_F
    norms: tuple[float, float]  # ‖ΔW_a‖_F, ‖ΔW_b‖_F
    reads: Tensor  # angles in degrees between the row spaces, (min of the ranks,): 0 where both listen to one direction
    writes: Tensor  # and between the column spaces: 0 where both speak in one direction

    @property
    def cosine(self) -> float:
        """⟨ΔW_a, ΔW_b⟩ / (‖ΔW_a‖·‖ΔW_b‖): 1 the same update up to its size, −1 its opposite, 0 where one of them is 0 too."""
        product = self.norms[0] * self.norms[1]
        return max(-1.0, min(1.0, self.inner / product)) if product else 0.0

    @property
    def shared_reads(self) -> float:
        """Mean cos² of the angles between the row spaces: 1 one lies in the other, 0 they are orthogonal. By chance about max(r)/in."""
        return _mean_square_cosine(self.reads)

    @property
    def shared_writes(self) -> float:
        """The same of the column spaces. By chance about max(r)/out."""
        return _mean_square_cosine(self.writes)


@torch.no_grad()
def overlap(model: nn.Module, a: str, b: str) -> dict[str, Overlap]:
    """{path: Overlap} of the adapters `a` and `b` in each layer that has both; their scales count. Chapter 07.

    The cosine is that of the two ΔW as vectors: Σ(B_aᵀB_b) ⊙ (A_aA_bᵀ) over the product of their norms. The angles are those between the
    spaces that ΔW reads from (rows) and writes to (columns), by its singular vectors, so that directions that carry nothing do not count.
    `mean_cosine(found)` is the cosine over all layers together.

    Raises AdapterError for an unknown adapter, a variant, and two adapters without a layer in common.
    """
    model = unwrap(model)
    state = state_of(model)
    known(state, [a, b])
    refuse_variant(state, {a: None, b: None}, "compared")
    found = {}
    for path, layer in lora_layers(model).items():
        if a not in layer.scalings or b not in layer.scalings:
            continue
        (A1, B1), (A2, B2) = factors_of(layer, a), factors_of(layer, b)
        spaces = []
        for name in (a, b):
            U, S, Vh = svd_of(layer, name)
            k = numerical_rank(S, layer.shape)
            spaces.append((U[:, :k], Vh[:k].T))
        (columns1, rows1), (columns2, rows2) = spaces
        found[path] = Overlap(
            inner_of_products(B1, A1, B2, A2),
            (norm_of_product(B1, A1), norm_of_product(B2, A2)),
            principal_angles(rows1, rows2),
            principal_angles(columns1, columns2),
        )
    if not found:
        raise AdapterError(f"{a!r} and {b!r} have no layer in common: nothing to compare")
    return found


def mean_cosine(layers: dict[str, Overlap]) -> float:
    """The cosine of the two updates as one long vector each, over all these layers. Chapter 07."""
    inner = sum(layer.inner for layer in layers.values())
    norms = [math.hypot(*(layer.norms[i] for layer in layers.values())) for i in (0, 1)]
    return inner / (norms[0] * norms[1]) if norms[0] and norms[1] else 0.0


def _mean_square_cosine(angles: Tensor) -> float:
    return float(torch.deg2rad(angles).cos().square().mean()) if len(angles) else 0.0
