"""What a forward pass must remember for the backward pass: worked out for Llama-shaped models, and counted for any. Chapter 04.

A product needs its other factor to find a gradient, so an operation saves an input only where something behind it wants a gradient.
A frozen weight's own input is therefore forgotten, an adapter on it brings the input back, and LoRA, with next to no gradients and
optimiser state, still remembers nearly as much as full fine-tuning.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.adapters import fused
from lora_edu.adapters.layers import LoRALayer, LoRALinear
from lora_edu.errors import ConfigError
from lora_edu.models.quantized.linear import QuantizedLinear
from lora_edu.training.losses import bare_head

PARTS = (
    "residual stream and norms",
    "attention",
    "MLP",
    "inputs of trained matrices",
    "A x",
    "dropout",
    "bf16 copies of weights",
    "logits",
)

# --- counted ----------------------------------------------------------------------------------------------------------


@dataclass
class Saved:
    """Bytes that autograd saved: in all, and by the checkpointable block that saved them first (its input not counted there)."""

    total: int = 0
    by_block: Counter[nn.Module] = field(default_factory=Counter)


@contextmanager
def saved_for_backward(model: nn.Module, blocks: Sequence[nn.Module] = ()) -> Iterator[Saved]:
    """Counts what the forward passes inside the `with` save for their backward pass. Parameters do not count.

    A view counts as its whole storage, and a storage once, however many operations saved it.
    """
    saved = Saved()
    known = {p.untyped_storage()._cdata: p.untyped_storage() for p in model.parameters()}  # those do not count
    inputs: dict[int, Any] = {}  # storages are kept: an address tells them apart only while they live
    inside: list[nn.Module] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            known[storage._cdata] = storage
            saved.total += storage.nbytes()
            if inside and storage._cdata not in inputs:
                saved.by_block[inside[-1]] += storage.nbytes()
        return tensor

    def enter(block: nn.Module, args: tuple) -> None:
        # A checkpointed backward pass makes again what is saved from here to the block's end, but not the block's input.
        inside.append(block)
        inputs[args[0].untyped_storage()._cdata] = args[0].untyped_storage()

    with ExitStack() as hooks:
        for block in blocks:
            hooks.callback(block.register_forward_pre_hook(enter).remove)
            hooks.callback(block.register_forward_hook(lambda *_: inside.pop() and None).remove)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield saved


# --- worked out -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Sizes of a batch: B rows of T tokens, of which `answers` are predicted in all; `padded` if rows differ in length."""

    B: int
    T: int
    answers: int
    padded: bool = False
    autocast: bool = False

    @property
    def n(self) -> int:
        return self.B * self.T


@dataclass(frozen=True)
class Matrix:
    """A linear layer as the backward pass sees it. `rank` is that of its adapters together, 0 without; `fast`: one fused step.

    `reading` counts the adapters whose A trains: these want the input remembered; one whose B alone trains (LoRA-FA) wants only A x.
    """

    n_in: int
    n_out: int
    trains: bool
    rank: int
    dropout: bool
    adapters: int
    reading: int
    fast: bool
    packed: bool = False  # four bits, made dense anew for each product: no copy is kept

    @classmethod
    def of(cls, module: nn.Module, autocast: bool) -> "Matrix":
        linear: Any = module.base_layer if isinstance(module, LoRALayer) else module
        packed = isinstance(linear, QuantizedLinear)
        n_out, n_in = (linear.out_features, linear.in_features) if packed else linear.weight.shape
        rank = adapters = reading = 0
        dropout = False
        if isinstance(module, LoRALayer):
            for name, _ in module.active_adapters():
                if name in module.variants:
                    raise ConfigError(
                        f"What {type(module.variants[name]).__name__} keeps for the backward pass is not worked out here: measure_memory() counts it."
                    )
                A, B = (factor[name] for factor in module.factors)
                if (
                    A.requires_grad or B.requires_grad
                ):  # a frozen adapter adds to the output and wants nothing remembered
                    rank, adapters, dropout = rank + A.shape[0], adapters + 1, dropout or module.dropouts[name] > 0
                    reading += A.requires_grad
        part = module.fused_part() if fused.is_on() and isinstance(module, LoRALinear) else None
        # Autocast leaves float64 alone, and there the fused step is not taken (`fused.applies`).
        fast = part is not None and rank > 0 and not (autocast and linear.weight.dtype == torch.float64)
        return cls(
            n_in, n_out, not packed and linear.weight.requires_grad, rank, dropout, adapters, reading, fast, packed
        )

    @property
    def wanted(self) -> bool:
        """Whether a gradient is wanted here, so that the output belongs to the graph."""
        return self.trains or self.rank > 0


class Tally(Counter[str]):
    """Bytes by part, filled while walking through the model in the order of its forward pass."""

    def __init__(self, batch: Batch, size: int) -> None:
        super().__init__()
        self.batch, self.size = batch, size  # bytes of a number in the residual stream
        self.out = 2 if batch.autocast else size  # and in what a linear layer gives
        self.factor = 2 if batch.autocast else max(4, size)  # and in A x: adapters on a half-precision base are fp32

    def norm(self, d: int, trains: bool, flow: bool) -> None:
        """RMSNorm: its input (in fp32, as it computes) and a number a token; a trained gain also needs the normalised input."""
        if flow:
            self["residual stream and norms"] += self.batch.n * (d * 4 + 4)
        if trains:
            self["residual stream and norms"] += self.batch.n * d * self.size

    def linear(self, matrices: Sequence[Matrix], n: int, size: int, flow: bool, saved: bool = False) -> bool:
        """Matrices that share one input of n rows, `size` bytes a number; `saved`: something else keeps it already.

        Returns whether their output belongs to the graph.
        """
        casts = self.batch.autocast and size != 2  # autocast makes a bf16 copy for each product
        for matrix in matrices:
            width = n * matrix.n_in
            if matrix.fast:
                self.beside_input(matrix, n, flow)
                continue
            # The gradient of a trained weight needs its input, as it was multiplied: in autocast's copy.
            if matrix.trains and casts:
                self["inputs of trained matrices"] += width * 2
            # B's gradient needs A x, and A's the input: behind dropout a masked copy of its own, else the input or its cast.
            if matrix.rank:
                self["A x"] += n * matrix.rank * self.factor
                if matrix.dropout:
                    number = size if self.batch.autocast else self.factor
                    kept = 2 if casts else number
                    left, masks = matrix.reading * kept, matrix.adapters * number if flow else 0
                    self["dropout"] += width * (left + masks)  # what is left of x; the mask
                elif casts or (self.factor != size and not self.batch.autocast):
                    self["inputs of trained matrices"] += matrix.reading * width * self.factor
            self.copy_of_weight(matrix, flow)
            if self.batch.autocast:
                copied = matrix.rank * (matrix.n_out * (flow or matrix.reading > 0) + matrix.n_in * flow)
                self["bf16 copies of weights"] += 2 * copied
        # These keep the input itself, and share it: one tensor, however many of them.
        as_it_is = [
            m for m in matrices
            if m.fast or (not casts and (m.trains or (m.reading and not m.dropout and (self.batch.autocast or self.factor == size))))
        ]  # fmt: skip
        if as_it_is and not saved:
            self["inputs of trained matrices"] += n * as_it_is[0].n_in * size
        return flow or any(matrix.wanted for matrix in matrices)

    def copy_of_weight(self, matrix: Matrix, flow: bool) -> None:
        """The weight in bf16, which autocast makes for the product and keeps for the way down; one in bf16 is its own copy."""
        if self.batch.autocast and self.size != 2 and flow and not matrix.packed:
            self["bf16 copies of weights"] += 2 * matrix.n_in * matrix.n_out

    def beside_input(self, matrix: Matrix, n: int, flow: bool) -> None:
        """What a fused step keeps beside its input of n rows: A x, of each number a bit whether dropout took it, the weight's copy."""
        self.copy_of_weight(matrix, flow)
        self["A x"] += n * matrix.rank * self.factor
        self["dropout"] += -(-n * matrix.n_in // 8) if matrix.dropout else 0

    def attention(self, heads: int, kv_heads: int, width: int) -> None:
        """Fused attention keeps q, k, v, its output and a number a head and token; a padding mask has keys and values repeated."""
        b = self.batch
        shared = heads if b.padded else kv_heads  # with a mask, grouped keys and values are repeated for every head
        self["attention"] += b.n * ((2 * heads + 2 * shared) * width * self.out + heads * 4)
        if b.padded:
            self["attention"] += b.B * b.T * b.T * self.out


def _refuse_neighbours(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        owner, _, last = name.rpartition(".")
        alone = last == "bias" and not getattr(model.get_submodule(owner), "weight", parameter).requires_grad
        if parameter.requires_grad and (name.startswith("lora_") or alone):
            raise ConfigError(
                f"What {name} keeps for the backward pass is not worked out here: measure_memory() counts it."
            )


def predict_activations(model: nn.Module, batch: Batch, gradient_checkpointing: bool = False) -> dict[str, int]:
    """Bytes that one forward pass of a Llama-shaped causal LM saves for its backward pass, by part. Chapter 04.

    Read off the module tree (a model on the meta device will do): which matrices train, which carry an adapter, with what rank and
    dropout. It holds for transformers' fused attention ("sdpa"), which keeps no T × T weights, and for `causal_lm_loss`. With gradient
    checkpointing: every block's input, and one block whole, which is recomputed. Raises ConfigError for another architecture, and for what
    trains neither whole matrices nor LoRA's factors (a prefix, biases alone): `measure_memory` counts it.
    """
    _refuse_neighbours(model)
    layers, config = _llama_parts(model)
    inner: Any = model.get_submodule("model")
    embedding: Any = inner.embed_tokens
    table = embedding.base_layer.weight if isinstance(embedding, LoRALayer) else embedding.weight
    size = table.element_size()
    d, n = config.hidden_size, batch.n
    width = getattr(config, "head_dim", None) or d // config.num_attention_heads
    tally = Tally(batch, size)
    # Whether the residual stream belongs to the graph yet: from the first thing that trains on. Checkpointing makes the first input want
    # a gradient.
    flow = gradient_checkpointing
    if any(p.requires_grad for p in embedding.parameters()):
        tally["inputs of trained matrices"] += n * 8  # the token numbers
        flow = True
    if isinstance(embedding, LoRALayer):
        tally["A x"] += n * sum(A.shape[0] for A in embedding.factors[0].values()) * max(4, size)

    blocks: list[Tally] = []
    for layer in layers:
        block = Tally(batch, size)
        attention, mlp = layer.self_attn, layer.mlp
        q, k, v, o = (Matrix.of(getattr(attention, f"{name}_proj"), batch.autocast) for name in "qkvo")
        gate, up, down = (Matrix.of(getattr(mlp, name), batch.autocast) for name in fused.GATE_UP_DOWN)
        block.norm(d, layer.input_layernorm.weight.requires_grad, flow)
        inputs = flow or layer.input_layernorm.weight.requires_grad
        attended = block.linear([q, k, v], n, size, inputs)
        if attended:
            block.attention(config.num_attention_heads, config.num_key_value_heads, width)
        flow = block.linear([o], n, block.out, attended, saved=attended) or flow
        block.norm(d, layer.post_attention_layernorm.weight.requires_grad, flow)
        inputs = flow or layer.post_attention_layernorm.weight.requires_grad
        gated, lifted = (inputs or matrix.wanted for matrix in (gate, up))
        # The gated MLP is one fused step where its class reads so and one of gate and up has an adapter.
        one_step = (gate.fast or up.fast) and fused.attached(mlp) and fused.gated_parts(mlp) is not None
        wide = n * config.intermediate_size * block.out
        if one_step:
            block.linear([m for m in (gate, up) if m.fast], n, size, inputs)
            for bare in (m for m in (gate, up) if not m.fast):
                block.beside_input(bare, n, inputs)
            block.beside_input(down, n, True)
            block["MLP"] += 2 * wide  # gate's output and up's
            flow = True
        else:
            block.linear([gate, up], n, size, inputs)
            block["MLP"] += wide * (2 * gated + lifted)  # gate's output and up's; silu(gate)
            flow = block.linear([down], n, block.out, gated or lifted) or flow
        blocks.append(block)
    if gradient_checkpointing:
        largest: Tally = max(blocks, key=lambda block: sum(block.values()))
        whole = Counter(largest)
        if size == 4:  # the first norm's input is the block's, which is kept anyway
            whole["residual stream and norms"] -= n * d * 4
        whole["residual stream and norms"] += len(blocks) * n * d * size
        tally.update(whole)
    else:
        for block in blocks:
            tally.update(block)
        if flow:
            tally["attention"] += (
                2 * batch.T * width * size
            )  # the rotation's cosines and sines, one table for all layers
    final_trains = inner.norm.weight.requires_grad
    tally.norm(d, final_trains, flow)
    if bare_head(model) is None:
        head = Matrix.of(model.get_submodule("lm_head"), batch.autocast)
        tally.linear([head], batch.answers, size, flow or final_trains)
        tally["logits"] += batch.answers * (config.vocab_size * max(4, size) + 8)  # log-probabilities and targets
    else:  # made in chunks: the head's input, its gradient, targets
        tally["logits"] += batch.answers * (2 * d * size + 8)
    return {part: tally[part] for part in PARTS if tally[part]}


def _llama_parts(model: nn.Module) -> tuple[Any, Any]:
    """The blocks and the config. Raises ConfigError for a model of another shape."""
    layers: Any = getattr(getattr(model, "model", None), "layers", None)
    known = layers is not None and all(
        hasattr(layer, "mlp") and hasattr(layer.mlp, "gate_proj") and hasattr(layer.self_attn, "o_proj")
        and not hasattr(layer.self_attn, "q_norm")
        for layer in layers
    )  # fmt: skip
    if not known:
        raise ConfigError(
            f"{type(model).__name__} is not Llama-shaped, so its activations cannot be worked out here: measure_memory() counts them."
        )
    return layers, model.config
