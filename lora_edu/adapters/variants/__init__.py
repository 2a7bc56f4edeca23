"""The hook through which a variant of LoRA changes what a layer computes, how it starts, trains and is saved. Chapter 10.

A variant is one file in this folder with one frozen dataclass: its fields are its settings, its methods what it does otherwise.
The layers know of no variant; they ask the adapter's configuration for one (`LoRAConfig(variant=...)`) and call it.

    @register
    @dataclass(frozen=True)
    class Diagonal(Variant):                       # ΔW = B diag(d) A
        start_at: float = 1.0

        def slots(self, target):                   # the tensors of one layer, by name
            return {**super().slots(target), "lora_d": Slot((target.r,))}

        def reset(self, layer, name):              # their values at the start, ΔW = 0 (law 1)
            super().reset(layer, name)
            layer.tensor("lora_d", name).fill_(self.start_at)

        def update(self, layer, name, x, base_output):     # Δy (..., out), as trained
            low = F.linear(layer.dropped(name, x), layer.tensor("lora_A", name)) * layer.tensor("lora_d", name)
            return F.linear(low, layer.tensor("lora_B", name)) * layer.scalings[name]

        def factors(self, layer, name):            # (A, B) with ΔW = B A, s inside: what a merge adds, and what `convert` cuts
            return layer.tensor("lora_A", name), layer.scalings[name] * layer.tensor("lora_B", name) * layer.tensor("lora_d", name)

        def to_config(self):                       # what adapter_config.json says of it, in PEFT's words where PEFT has it
            return {"use_diagonal": True, "start_at": self.start_at}

        @classmethod
        def from_config(cls, content):             # the reverse; None for any other adapter. Takes the keys that it read.
            return cls(content.pop("start_at", 1.0)) if content.pop("use_diagonal", False) else None

It is chosen by its file's name, in Python, on the command line and in a YAML file alike, settings behind a colon:
`LoRAConfig(variant="diagonal:start_at=0.5")` is `LoRAConfig(variant=Diagonal(0.5))`.

Two rules keep every law true. `update` and `delta` are *additions* to the base layer as it stands, so that the dial multiplies them,
several adapters add up, `disabled` is the base, and merge and unmerge are the layers' own. A layer whose adapter has a variant never
takes the fused path. What else there is to change: `shared` (tensors that all layers have in common), `start` (values from data or from
gradients), `penalty` (a term of the loss), `after_step` (a change after each optimiser step), `delta` (for a ΔW of full rank),
`delta_bias`, `key`, `to_disk`, `check` (what it does not go with).

Who trains calls `variant_loss(model)` before the backward pass and `after_step(model, step, steps)` after the optimiser's step, while
the gradients are still there; both are in `lora_edu.adapters` and do nothing for plain LoRA. The `Trainer` calls them, and keeps in its
checkpoints what a variant has and does not train.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from lora_edu.adapters.places import Target
from lora_edu.errors import AdapterError, ConfigError

if TYPE_CHECKING:  # a configuration, and with it the command line's --help, is read without torch
    from torch import Tensor, nn


class Layer(Protocol):
    """What a variant may use of the layer that it is on (`adapters.layer.LoRALayer`)."""

    base_layer: Any
    state: Any  # of all layers together: `state.configs[name]` is the adapter's configuration
    scalings: dict[str, float]  # s = α/r (α/√r) of each adapter
    dropouts: dict[str, float]
    training: bool

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""

    @property
    def bias(self) -> Tensor | None:
        """(out,), or None."""

    def oriented(self, matrix: Tensor) -> Tensor:
        """(out, in) ↔ as the base stores its weight."""

    def tensor(self, slot: str, name: str) -> nn.Parameter:
        """The tensor `slot` of the adapter `name`."""

    def tensors(self, name: str) -> dict[str, nn.Parameter]:
        """{slot: tensor} of the adapter `name`."""

    def dropped(self, name: str, x: Tensor) -> Tensor:
        """x as the adapter `name` reads it: in its own precision, with its dropout in training."""

    def reset_factors(self, A: Tensor, B: Tensor, init: bool | str) -> None:
        """Plain LoRA's start."""


@dataclass(frozen=True)
class Slot:
    """A tensor of an adapter. What does not train is kept beside the model's weights all the same; what is not saved is made again.

    A slot that is neither (a running mean, say) is set by `reset` or `start`, when the adapter is put in and when it is loaded.
    """

    shape: tuple[int, ...]
    trains: bool = True
    saved: bool = True


@dataclass(frozen=True)
class Variant:
    """What an adapter does otherwise than plain LoRA; each method's default is plain LoRA. See the module's docstring.

    In every method `name` is the adapter's, and `layer.tensor(slot, name)` one of its tensors. Nothing is kept on the variant itself:
    it is a setting, and what changes belongs in a slot.
    """

    kinds: ClassVar[tuple[str, ...]] = ("linear", "conv1d")  # layers that it can be put on: also "embedding"
    unmergeable: ClassVar[str] = ""  # why it cannot be merged, for a variant that is no change of the weight
    needs_data: ClassVar[bool] = False  # whether `start` wants batches: inject(model, config, data=batches)
    start_only: ClassVar[bool] = (
        False  # whether it is plain LoRA once it has begun: fused, combined, resized, written as such
    )
    reads_base: ClassVar[bool] = False  # whether it computes with W₀'s numbers, which a quantised base does not have

    def check(self, config: Any) -> None:
        """Raise ConfigError, with the reason, for a `LoRAConfig` that this does not go with."""

    # -- tensors ------------------------------------------------------------------------------------------------------
    def slots(self, target: Target) -> dict[str, Slot]:
        """{slot: shape …} of one layer. A slot's name begins with `lora_`, which is how adapters are told from the base."""
        n_out, n_in = target.shape
        return {"lora_A": Slot((target.r, n_in)), "lora_B": Slot((n_out, target.r))}

    def shared(self, targets: Sequence[Target]) -> dict[str, Slot]:
        """{slot: shape …} of tensors that exist once and belong to every layer, sized by all of them."""
        return {}

    def start(self, model: nn.Module, layers: Mapping[str, Layer], name: str, data: Any = None) -> None:
        """Give all tensors their values, without gradients; `data` is what `inject` was given. Shared tensors are in every layer.

        What needs gradients of the base switches them on itself (`torch.enable_grad()`), and leaves the model as it found it.
        """
        for layer in layers.values():
            self.reset(layer, name)

    def reset(self, layer: Layer, name: str) -> None:
        """Values of one layer's own tensors at the start, such that ΔW = 0."""
        init = layer.state.configs[name].init_lora_weights
        layer.reset_factors(layer.tensor("lora_A", name), layer.tensor("lora_B", name), init)

    # -- arithmetic ----------------------------------------------------------------------------------------------------
    def update(self, layer: Layer, name: str, x: Tensor, base_output: Tensor) -> Tensor:
        """Δy (..., out), which is added to the base layer's output `base_output` (bias included), as trained (dial = 1)."""
        raise NotImplementedError

    def alone(self, layer: Layer, name: str, x: Tensor, dial: float) -> Tensor | None:
        """The layer's whole output (..., out) where this adapter is the only one that speaks, at `dial`, if there is a shorter way to it."""
        return None

    def factors(self, layer: Layer, name: str) -> tuple[Tensor, Tensor] | None:
        """A (k, in) and B (out, k) with ΔW = B A, s inside; None where ΔW has no low rank, and `delta` says what it is."""
        return None

    def delta(self, layer: Layer, name: str) -> Tensor:
        """ΔW (out, in) such that Δy = x ΔWᵀ (+ delta_bias), in the tensors' own precision."""
        thin = self.factors(layer, name)
        if thin is None:
            raise NotImplementedError
        A, B = thin
        return B @ A

    def delta_bias(self, layer: Layer, name: str) -> Tensor | None:
        """What is added to the bias (out,), for a variant that changes it."""
        return None

    # -- training ------------------------------------------------------------------------------------------------------
    def penalty(self, layers: Mapping[str, Layer], name: str) -> Tensor | None:
        """A term of the loss, in the loss's own unit (a mean, not a sum), or None."""
        return None

    def after_step(self, layers: Mapping[str, Layer], name: str, step: int, steps: int) -> None:
        """Called without gradients after optimiser step `step` (1 …) of `steps`; each parameter's `.grad` is that step's."""

    # -- on disk -------------------------------------------------------------------------------------------------------
    def key(self, path: str, slot: str) -> str:
        """The tensor's key in the file, without the prefix `base_model.`; `path` is "" for a shared tensor."""
        end = f"{slot}.weight" if slot in ("lora_A", "lora_B") else slot
        return f"model.{path}.{end}" if path else end

    def to_disk(self, config: Any, tensors: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
        """(config, tensors by their full keys) as they are written: for a variant that is saved as plain LoRA (PiSSA)."""
        return config, tensors

    def to_config(self) -> dict[str, Any]:
        """The keys of adapter_config.json that say what this is."""
        raise NotImplementedError

    def written(self, content: dict[str, Any]) -> dict[str, Any]:
        """The whole adapter_config.json, from what it is without the variant: for one whose file calls LoRA's own settings otherwise."""
        return content | self.to_config()

    @classmethod
    def from_config(cls, content: dict[str, Any]) -> Variant | None:
        """The variant that `content` describes, its keys taken out of `content`; None when it describes another.

        What is only a start, or is written as plain LoRA, is never read again.
        """
        return None


VARIANTS: list[type[Variant]] = []
_Kind = TypeVar("_Kind", bound=type[Variant])


def register(kind: _Kind) -> _Kind:
    """Class decorator: adapters on disk are read by this variant, too."""
    VARIANTS.append(kind)
    return kind


def names() -> list[str]:
    """What variants are called: the files of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def named(text: str) -> Variant:
    """The variant that a text means: its file's name, and settings behind a colon: "dora", "adalora:target_r=4,init_r=8".

    Raises ConfigError for a name, a setting or a value that is none.
    """
    name, _, rest = text.strip().partition(":")
    if name not in names():
        raise ConfigError(f"variant={text!r}: there are {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    kind = next(kind for kind in VARIANTS if kind.__module__ == module.__name__)
    known = [f.name for f in fields(kind)]
    settings = {}
    for word in filter(None, (word.strip() for word in rest.split(","))):
        key, mark, value = word.partition("=")
        if not mark or key not in known:
            raise ConfigError(f"variant={text!r}: {name} takes {', '.join(f'{k}=…' for k in known) or 'no settings'}")
        settings[key] = _value(value)
    return kind(**settings)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text.capitalize() if text.lower() in ("true", "false", "none") else text)
    except (ValueError, SyntaxError):
        return text


def from_config(content: dict[str, Any]) -> Variant | None:
    """The variant that a configuration describes, its keys taken out; None for plain LoRA. Reads every file of this folder."""
    for name in names():
        importlib.import_module(f"{__name__}.{name}")
    for kind in VARIANTS:
        if (found := kind.from_config(content)) is not None:
            return found
    return None


def check_slots(slots: Mapping[str, Slot], what: str) -> None:
    """Raise AdapterError for a slot's name that could not be told from a weight of the base."""
    for slot in slots:
        if not slot.startswith("lora_") or "." in slot:
            raise AdapterError(f"{what}: the slot {slot!r} must begin with lora_ and hold no dot")
