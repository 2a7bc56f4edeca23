"""Virtual tokens: positions before the first token, which no text has. What prefix and prompt tuning share. Chapter 12.

They enter at the decoder, behind the model's own forward: whoever calls the model sees logits of its own tokens alone, so labels, the loss,
`logits_to_keep` and `generate` need know nothing of them. Masks are widened by V ones and positions moved by V, as they are where V
tokens of text stand in front.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lora_edu.adapters.carrier import Carrier
from lora_edu.adapters.keys import Expected
from lora_edu.adapters.layer import AdapterState
from lora_edu.adapters.neighbours.method import Method, named_after, whole_number
from lora_edu.errors import AdapterError, ConfigError, TargetError, shown
from lora_edu.models.limits import limits_of

KEY = "prompt_embeddings"  # PEFT's, in the file
STARTS = ("vocab", "normal")


@dataclass(frozen=True)
class Virtual(Method):
    """The part that both have. What `num_virtual_tokens` are started from is said by `start_from`: "vocab" (as if tokens drawn from the
    vocabulary stood there), "normal" (N(0, 1), as PEFT does it) or a tuple of token numbers; it is not saved.
    """

    num_virtual_tokens: int = 8
    start_from: str | tuple[int, ...] = field(default="vocab", metadata={"start": True})
    # PEFT's names for what the model decides; `attach` fills them in.
    token_dim: int | None = field(default=None, kw_only=True)
    num_layers: int | None = field(default=None, kw_only=True)
    num_attention_heads: int | None = field(default=None, kw_only=True)

    virtual: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole_number("num_virtual_tokens", self.num_virtual_tokens)
        start = self.start_from
        if isinstance(start, str):
            if start not in STARTS:
                raise ConfigError(f"start_from={shown(start, 60)}: {' or '.join(STARTS)}, or token numbers")
            return
        object.__setattr__(self, "start_from", tuple(int(i) for i in start))
        if len(self.start_from) != self.num_virtual_tokens:
            raise ConfigError(
                f"start_from has {len(self.start_from)} tokens for {self.num_virtual_tokens} virtual ones: give as many"
            )

    def shape(self) -> tuple[int, int]:
        """(V, numbers of one virtual token), once fitted."""
        raise NotImplementedError

    def run(self, decoder: nn.Module, inner: Callable[..., Any], kwargs: dict[str, Any], table: Tensor) -> Any:
        """The decoder's forward with the virtual tokens in front. kwargs: all of its arguments, by name; it may change them."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "task_type": "CAUSAL_LM", "num_transformer_submodules": 1}

    def count(self, model: nn.Module) -> int:
        tokens, width = self.fitted(model).shape()
        return tokens * width

    def fitted(self, model: Any):
        config = getattr(model, "config", None)
        if config is None or getattr(config, "is_encoder_decoder", False) or not hasattr(model, "get_decoder"):
            raise TargetError(
                f"virtual tokens are for decoders of transformers' kind, which {type(model).__name__} is not"
            )
        decoder = model.get_decoder()
        if "past_key_values" not in inspect.signature(type(decoder).forward).parameters:
            raise TargetError(
                f"{type(decoder).__name__} keeps no keys and values of earlier tokens: it cannot have virtual ones"
            )
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        own = self.numbers(config, heads, size)
        for key, value in own.items():
            if getattr(self, key) not in (None, value):
                raise TargetError(
                    f"{key} is {getattr(self, key)}, and this model's is {value}: it was made for another model"
                )
        return named_after(replace(self, **own), model)

    def numbers(self, config: Any, heads: int, size: int) -> dict[str, Any]:
        """What of the model is written down."""
        raise NotImplementedError

    def start(self, model: Any) -> Tensor:
        """(V, width)."""
        if self.start_from == "normal":
            return torch.randn(self.shape())
        table = model.get_input_embeddings()
        if self.start_from == "vocab":
            ids = torch.randint(0, int(limits_of(model).tokens or table.weight.shape[0]), (self.num_virtual_tokens,))
        else:
            ids = torch.tensor(self.start_from)
        return self.of_tokens(model, ids.to(table.weight.device))

    def of_tokens(self, model: nn.Module, ids: Tensor) -> Tensor:
        """(V, width) such that the virtual tokens are these (V,)."""
        raise NotImplementedError

    def carrier(self, model: nn.Module, state: AdapterState) -> "VirtualTokens":
        return VirtualTokens(state)

    def add(self, model: Any, carrier: "VirtualTokens", name: str, start: Tensor | None) -> None:
        weight = model.get_input_embeddings().weight
        values = torch.empty(self.shape()) if start is None else start
        dtype = torch.promote_types(weight.dtype, torch.float32) if weight.is_floating_point() else torch.float32
        carrier.prompt_embeddings[name] = nn.Parameter(values.detach().to(weight.device, dtype))
        carrier.listen(model)

    def expected(self, model: Any, name: str) -> dict[str, Expected]:
        fitted, weight = self.fitted(model), model.get_input_embeddings().weight
        dtype = torch.promote_types(weight.dtype, torch.float32) if weight.is_floating_point() else torch.float32
        return {KEY: Expected(fitted.shape(), dtype, f"{VirtualTokens.place}.prompt_embeddings.{name}")}


class VirtualTokens(Carrier):
    """The virtual tokens of a model's adapters, (V, width) each, and the decoder's forward that puts the active one in front."""

    place = "lora_virtual"

    def __init__(self, state: AdapterState) -> None:
        super().__init__(state)
        self.prompt_embeddings = nn.ParameterDict()

    def tensors(self, model: nn.Module, name: str) -> dict[str, nn.Parameter]:
        held = self.prompt_embeddings
        return {f"{self.place}.prompt_embeddings.{name}": held[name]} if name in held else {}

    def forget(self, name: str) -> None:
        if name in self.prompt_embeddings:
            del self.prompt_embeddings[name]

    def speaking(self) -> tuple[Any, Tensor] | None:
        """(method, its table) of the virtual tokens that are switched on."""
        names = [n for n, dial in self.state.active.items() if dial and n in self.prompt_embeddings]
        return (self.state.configs[names[0]], self.prompt_embeddings[names[0]]) if names else None

    def listen(self, model: Any) -> None:
        """Stand in the decoder's forward, once."""
        decoder = model.get_decoder()
        if getattr(decoder.__dict__.get("forward"), "func", None) is not _forward:
            before = decoder.forward  # a plain method, or what another tool has put on the instance
            decoder.forward = partial(_forward, self, decoder, before)
            for module in decoder.modules():
                if _is_attention(module):
                    module.register_forward_pre_hook(self._at_attention, with_kwargs=True)
                elif hasattr(module, "gradient_checkpointing") and module is not decoder:
                    module.register_forward_pre_hook(_at_block, with_kwargs=True)

    def _at_attention(self, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        # Under gradient checkpointing a block gets no cache, and with it no prefix: here it comes back.
        spoken = self.speaking() if kwargs.get("past_key_values") is None else None
        if spoken is None or not hasattr(spoken[0], "before"):
            return None
        return args, {**kwargs, "past_key_values": spoken[0].before(spoken[1])}

    def release(self, model: Any) -> None:
        decoder = model.get_decoder()
        before = decoder.__dict__["forward"].args[2]
        del decoder.forward
        if getattr(before, "__func__", None) is not type(decoder).forward:
            decoder.forward = before
        for module in decoder.modules():
            for number, hook in list(module._forward_pre_hooks.items()):
                if hook is _at_block or getattr(hook, "__func__", None) is VirtualTokens._at_attention:
                    module._forward_pre_hooks.pop(number)
                    module._forward_pre_hooks_with_kwargs.pop(number, None)
        super().release(model)


def _at_block(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """transformers would do the same, and warn of a cache that nobody asked for."""
    checkpointed = module.training and module.gradient_checkpointing
    return (args, {**kwargs, "past_key_values": None}) if checkpointed and "past_key_values" in kwargs else None


def _is_attention(module: nn.Module) -> bool:
    return "Attention" in type(module).__name__ and isinstance(getattr(module, "layer_idx", None), int)


def _forward(carrier: VirtualTokens, decoder: nn.Module, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """In the place of the decoder's forward."""
    if (spoken := carrier.speaking()) is None:
        return inner(*args, **kwargs)
    given = dict(zip(inspect.signature(inner).parameters, args)) | kwargs
    method, table = spoken
    _widen(method.num_virtual_tokens, decoder, given)
    return method.run(decoder, inner, given, table)


def read(kwargs: dict[str, Any]) -> Tensor:
    """What the decoder is given to read: ids (B, T), or embeddings (B, T, d)."""
    return kwargs["input_ids"] if kwargs.get("input_ids") is not None else kwargs["inputs_embeds"]


def is_first(kwargs: dict[str, Any]) -> bool:
    """Whether nothing was read before: then the virtual tokens are still to come, else the cache has them."""
    cache = kwargs.get("past_key_values")
    return cache is None or not cache.get_seq_length()


def _widen(V: int, decoder: nn.Module, kwargs: dict[str, Any]) -> None:
    """Mask and positions as they are with V tokens in front."""
    mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            raise AdapterError(
                "virtual tokens widen a mask of (rows, tokens); this one is made for every pair of positions already, as with a cache of "
                "fixed size: leave cache_implementation out, and give the mask as the tokenizer makes it"
            )
        kwargs["attention_mask"] = torch.cat([mask.new_ones(mask.shape[0], V), mask], dim=1)  # (B, V + T)
    if positions is not None:
        if mask is None and bool((positions[:, 1:] != positions[:, :-1] + 1).any()):
            raise AdapterError(
                "these rows are packed one behind the other, and virtual tokens stand before the first alone: train without packing"
            )
        kwargs["position_ids"] = positions + V
    if kwargs.get("token_type_ids") is not None:
        raise AdapterError("virtual tokens have no token type: leave token_type_ids out")
    limits, length = limits_of(decoder), read(kwargs).shape[1] + V
    if limits.learnt and limits.positions is not None and length > limits.positions:
        raise AdapterError(
            f"{length - V} tokens and {V} virtual ones are more than the {limits.positions} positions that this model has: shorten either"
        )
