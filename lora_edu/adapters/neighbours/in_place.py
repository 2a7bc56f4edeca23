"""Training the base's own weights: all of them, or its biases alone (BitFit). Chapter 12.

    full fine-tuning:  W ← W − η·∂L/∂W for every weight         BitFit:  b ← b − η·∂L/∂b, W stays

Nothing stands beside the base: it is the base that changes. So there is no dial and no switch (law 9), W₀'s bytes move (law 3), there is
nothing to merge (law 5), and no other adapter may stand on a base that moves. What is saved is what has trained, under the base's names.
Source of BitFit: Ben Zaken, Goldberg and Ravfogel 2021, BitFit (arXiv 2106.10199), §3: all biases, those of the norms too. Today's decoders
have next to none; norms' weights, as in LN-tuning (Qi et al. 2022, arXiv 2211.08402), are trained on demand.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from lora_edu.adapters.carrier import Carrier
from lora_edu.adapters.identity import fingerprint
from lora_edu.adapters.keys import PREFIX, Expected
from lora_edu.adapters.layer import AdapterState
from lora_edu.adapters.neighbours.method import Method, named_after
from lora_edu.errors import TargetError
from lora_edu.models.modules import kept_buffers
from lora_edu.models.quantized.conversion import quantized_layers

_EXEMPT: Mapping[int, str] = {
    3: "it trains the base's own weights",
    4: "it has no A and B",
    5: "what it learns is in the weights already, and the old ones are not kept",
    6: "PEFT has no such method: the folder is read here alone",
    9: "the base that it could be switched off to is gone",
}


@dataclass(frozen=True)
class InPlace(Method):
    """What both have: some of the base's parameters train, as they are."""

    changes_base: ClassVar[bool] = True
    unmergeable: ClassVar[str] = (
        "it has trained the weights themselves, so there is nothing to merge: unload(model) makes it a plain model"
    )
    exempt: ClassVar[Mapping[int, str]] = _EXEMPT

    def chosen(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """{name: parameter} of what trains; a tied or shared one once, under its first name."""
        raise NotImplementedError

    def buffers(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """(name, buffer) of what else a forward pass in training changes."""
        return iter(())

    def fitted(self, model: nn.Module):
        chosen = self.chosen(model)
        if whole := [name for name, p in chosen.items() if not p.is_floating_point() or hasattr(p, "quant_state")]:
            raise TargetError(
                f"{whole[0]} is quantised, and codes cannot be trained: load the base in full precision, or train a LoRA"
            )
        return named_after(self, model)

    def count(self, model: nn.Module) -> int:
        return sum(p.numel() for p in self.chosen(model).values())

    def carrier(self, model: nn.Module, state: AdapterState) -> "Unfrozen":
        return Unfrozen(state, fingerprint(model))

    def add(self, model: nn.Module, carrier: "Unfrozen", name: str, start: Any) -> None:
        chosen = self.chosen(model)
        if any(p.element_size() < 4 for p in chosen.values()):
            warnings.warn(
                f"{type(self).__name__} trains weights of 16 bits: a step smaller than their rounding is lost; load the base in float32",
                stacklevel=4,
            )
        for parameter in chosen.values():
            parameter.requires_grad_(True)
        carrier.names = list(chosen)

    def expected(self, model: nn.Module, name: str) -> dict[str, Expected]:
        held = {**self.chosen(model), **dict(self.buffers(model))}
        return {PREFIX + n: Expected(tuple(t.shape), t.dtype, n) for n, t in held.items()}


@dataclass(frozen=True)
class FullFineTuning(InPlace):
    """Every weight trains. Chapter 12.

    save(model, folder) writes them all, for `load`; unload(model) and model.save_pretrained(folder) make a plain model's folder of them.
    """

    peft_type: ClassVar[str] = "FULL"
    still: ClassVar[bool] = False

    def fitted(self, model: nn.Module):
        if packed := next(iter(quantized_layers(model)), None):
            raise TargetError(
                f"{packed} is quantised, and codes cannot be trained: load the base without bits, dequantize(model), or train a LoRA"
            )
        return super().fitted(model)

    def chosen(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return _own(model)

    def buffers(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        return kept_buffers(model)  # a batch norm's averages move with it


@dataclass(frozen=True)
class BitFit(InPlace):
    """The biases train, and nothing else; with `norms` the norms' weights, too. Source: Ben Zaken et al. 2021. Chapter 12.

    Raises TargetError for a model without biases (Llama's kind) unless `norms`, which is then not BitFit but LN-tuning (Qi et al. 2022).
    """

    norms: bool = False

    peft_type: ClassVar[str] = "BITFIT"

    def chosen(self, model: nn.Module) -> dict[str, nn.Parameter]:
        found = {name: p for name, p in _own(model).items() if name.rpartition(".")[2].endswith("bias")}
        if not found and not self.norms:
            raise TargetError(
                f"{type(model).__name__} has no bias, so BitFit has nothing to train, as with most of today's decoders. BitFit(norms=True) "
                "trains the norms' weights instead"
            )
        if self.norms:
            vectors = {
                f"{path}.weight"
                for path, module in model.named_modules()
                if "Norm" in type(module).__name__ and getattr(module, "weight", None) is not None
            }
            found = {name: p for name, p in _own(model).items() if name in found or name in vectors}
        return found


class Unfrozen(Carrier):
    """Which of the base's parameters train, and what the base was before they did."""

    place = "lora_unfrozen"

    def __init__(self, state: AdapterState, before: str) -> None:
        super().__init__(state)
        self.before = before
        self.names: list[str] = []

    def tensors(self, model: nn.Module, name: str) -> dict[str, nn.Parameter]:
        own = _own(model)
        return {n: own[n] for n in self.names} if name in self.state.configs else {}

    def buffers_of(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        config = self.state.configs.get(name)
        return dict(config.buffers(model)) if isinstance(config, InPlace) else {}


def _own(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if not name.startswith("lora_")}
