"""What every neighbour says of itself that is no variant of the LoRA layer, and how it is put into a model. Chapter 12."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, TypeVar

from torch import nn

from lora_edu.adapters import stillness
from lora_edu.adapters.carrier import Carrier, carriers
from lora_edu.adapters.finding import adapter_names, state_of
from lora_edu.adapters.injection import check_company, check_name
from lora_edu.adapters.keys import Expected
from lora_edu.adapters.layer import AdapterState
from lora_edu.adapters.obstacles import refuse_peft
from lora_edu.adapters.switching import refuse_merged
from lora_edu.errors import ConfigError, shown

# PEFT keys that say nothing of the arithmetic.
_HARMLESS = {
    "peft_type", "peft_version", "auto_mapping", "inference_mode", "revision", "base_model_name_or_path", "task_type",
    "num_transformer_submodules", "encoder_hidden_size", "prefix_projection", "prompt_tuning_init", "prompt_tuning_init_text",
    "tokenizer_name_or_path", "tokenizer_kwargs", "init_weights",
}  # fmt: skip
_M = TypeVar("_M", bound="Method")


@dataclass(frozen=True)
class Method:
    """A way to fine-tune. A subclass is a setting, `attach` puts it into a model, and all that it holds there is in a `Carrier`."""

    peft_type: ClassVar[str]
    exempt: ClassVar[Mapping[int, str]]  # {number of the law: why it cannot be kept}
    unmergeable: ClassVar[str]  # why there is nothing to merge
    changes_base: ClassVar[bool] = (
        False  # the base's own weights train: no other adapter can stand on it, and nothing switches it off
    )
    virtual: ClassVar[bool] = False  # it puts positions before the first token: two of them cannot speak at once
    still: ClassVar[bool] = True  # running statistics stand still, as with every adapter
    variant: ClassVar[None] = None  # what a LoRAConfig has, and this has not
    modules_to_save: ClassVar[None] = None

    base_model_name_or_path: str | None = field(default=None, kw_only=True)

    # -- what a subclass says -----------------------------------------------------------------------------------------
    def fitted(self: _M, model: nn.Module) -> _M:
        """The same with all numbers that the model decides filled in. Raises what keeps it from being put into `model`."""
        raise NotImplementedError

    def count(self, model: nn.Module) -> int:
        """How many numbers it trains on `model`."""
        raise NotImplementedError

    def start(self, model: nn.Module) -> Any:
        """Values to begin with, read off the model while no adapter speaks; `add` gets them."""
        return None

    def carrier(self, model: nn.Module, state: AdapterState) -> Carrier:
        """A new carrier of this method's kind."""
        raise NotImplementedError

    def add(self, model: nn.Module, carrier: Any, name: str, start: Any) -> None:
        """Put the adapter `name` into the carrier, without values where `start` is None."""
        raise NotImplementedError

    def expected(self, model: nn.Module, name: str) -> dict[str, Expected]:
        """{key in the file: what must stand there}."""
        raise NotImplementedError

    # -- on disk ------------------------------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        """The content of adapter_config.json."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if not f.metadata.get("start")}
        return {"peft_type": self.peft_type, "inference_mode": True, **own}

    @classmethod
    def from_dict(cls: type[_M], content: Mapping[str, Any]) -> _M:
        """Read adapter_config.json. Raises ConfigError for every key set to something that is not known here."""
        names = {f.name for f in fields(cls) if not f.metadata.get("start")}
        if refused := [key for key, value in content.items() if key not in names | _HARMLESS and value]:
            raise ConfigError(f"unknown or unsupported settings: {', '.join(sorted(map(str, refused)))}")
        if content.get("num_transformer_submodules") not in (None, 1):
            raise ConfigError(
                "num_transformer_submodules is 2, for an encoder and a decoder: only decoders are served here"
            )
        return cls(**{key: value for key, value in content.items() if key in names and value is not None})


def put(model: nn.Module, method: Method, name: str, *, empty: bool = False) -> None:
    """Put `method` into `model` under `name`, active and all that trains; `empty` leaves it without values, for a caller that has some.

    Raises what `fitted` does, and AdapterError for a name that is taken or for adapters that it cannot stand beside; nothing is changed then.
    """
    state = state_of(model) if adapter_names(model) else AdapterState()
    check_name(state, name)
    refuse_merged(state)
    refuse_peft(model)
    check_company(state, method)
    method = method.fitted(model)
    active, state.active = state.active, {}
    try:
        start = None if empty else method.start(model)
    except BaseException:
        state.active = active
        raise
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    carrier = method.carrier(model, state)
    carrier = next((held for held in carriers(model) if held.place == carrier.place), carrier)
    model.add_module(carrier.place, carrier)
    method.add(model, carrier, name, start)
    state.configs[name] = method
    state.active = {name: 1.0}
    if method.still:
        stillness.hold(model)


def whole_number(key: str, value: Any, largest: int = 2**16) -> None:
    """Raise ConfigError for what is no whole number from 1 to `largest`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise ConfigError(f"{key}={shown(value, 60)}: a whole number of at least 1")


def named_after(method: _M, model: Any) -> _M:
    """The method with the name of the base that it is put into."""
    name = method.base_model_name_or_path or getattr(getattr(model, "config", None), "_name_or_path", "") or None
    return replace(method, base_model_name_or_path=name)
