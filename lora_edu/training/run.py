"""What the parts of a run share."""

from typing import NamedTuple

from torch import Tensor


class LossSum(NamedTuple):
    """A loss summed over `count` answer tokens, in nats. `total` is a scalar tensor that carries the graph."""

    total: Tensor
    count: int  # type: ignore[assignment]  # tuple has a method of this name, which nobody calls on a LossSum

    @property
    def mean(self) -> float:
        """Nats per answer token; NaN when there is none."""
        return self.total.item() / self.count if self.count else float("nan")
