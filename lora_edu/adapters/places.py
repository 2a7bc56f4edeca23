"""Where an adapter goes: one module of the plan that `targets` makes. Chapter 04."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One module that gets an adapter: its path in the model, its shape (out, in), its rank and α."""

    name: str
    kind: str  # "linear", "conv1d" or "embedding"
    shape: tuple[int, int]
    r: int
    lora_alpha: float

    @property
    def parameters(self) -> int:
        """r·(in + out): what this adapter trains."""
        return self.r * sum(self.shape)
