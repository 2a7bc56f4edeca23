"""What a model carries for an adapter that stands beside no layer: a child of the model itself, which knows all of that adapter. Chapter 12.

LoRA layers hold their own factors. A prefix, or the list of what trains in place, belongs to the model as a whole: such things live in a
carrier, which shares the layers' `AdapterState`, so that names, switching, saving and the audit need know of one state alone.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor, nn

from lora_edu.adapters.layer import AdapterState
from lora_edu.models.modules import unwrap


class Carrier(nn.Module):
    """A child of the model called `place`; it begins with `lora_`, by which adapters are told from the base."""

    place: ClassVar[str]
    before: str | None = None  # the base's fingerprint before training, where the base itself trains

    def __init__(self, state: AdapterState) -> None:
        super().__init__()
        self.state = state

    def forward(self, x: Any) -> Any:
        """What it is given: `nn.Sequential` calls each of its children, this one too."""
        return x

    def tensors(self, model: nn.Module, name: str) -> dict[str, nn.Parameter]:
        """{name in the model: parameter} of the adapter `name`; {} if this carrier has none of it."""
        raise NotImplementedError

    def buffers_of(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        """The same of buffers that are saved with it."""
        return {}

    def forget(self, name: str) -> None:
        """Drop what is held of the adapter `name`."""
        raise NotImplementedError

    def release(self, model: nn.Module) -> None:
        """Take this carrier, and all that it put into the model, out."""
        delattr(model, self.place)


def carriers(model: nn.Module) -> Iterator[Carrier]:
    """The carriers in `model`."""
    return (child for child in unwrap(model)._modules.values() if isinstance(child, Carrier))
