"""Where an adapter goes: one module of the plan that `targets` makes. Chapter 04."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One module that gets an adapter: its path in the model, its shape (out, in), its rank and α."""

    name: str
    kind: str  # "linear", "conv1d", "embedding" or "conv2d"
    shape: tuple[int, int]  # of a convolution (out, in·kh·kw)
    r: int
    lora_alpha: float
    kernel: tuple[int, ...] = ()  # (in, kh, kw) of a convolution

    def on_disk(self, slot: str) -> tuple[int, ...] | None:
        """The shape in which PEFT's file has the factor `slot`, where it is not the one here."""
        if self.kind != "conv2d" or slot not in ("lora_A", "lora_B"):
            return None
        return (self.r, *self.kernel) if slot == "lora_A" else (self.shape[0], self.r, 1, 1)

    @property
    def parameters(self) -> int:
        """r·(in + out): what this adapter trains."""
        return self.r * sum(self.shape)
