"""The ledger: where the bytes of fine-tuning go, predicted from shapes and measured on a run. Chapter 04; chapter 00 shows its bars.

Four entries: weights, gradients, optimiser, activations. LoRA all but removes the second and third. Of the fourth its plain formula
keeps nine tenths or more, so that at long sequences it saves little; this module's fast path, which computes part of it again, keeps
half to two thirds. `predict_memory` needs no memory itself: it reads shapes, so `sketch` builds a 7B model on the meta device, where tensors have no content.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lora_edu.adapters import save_load as checkpoint
from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.finding import adapter_names, saved_modules, state_of
from lora_edu.adapters.injection import inject
from lora_edu.errors import ConfigError
from lora_edu.models.modules import checkpointing, modes
from lora_edu.models.quantized.conversion import (
    packed_bytes,
    packed_weights,
    quantization_of,
    quantize,
    quantized_layers,
)
from lora_edu.models.quantized.linear import Quantization
from lora_edu.tables import html_table
from lora_edu.training.losses import causal_lm_loss
from lora_edu.training.memory.activations import Batch, predict_activations, saved_for_backward

Optimizer = Literal["adamw", "sgd"]

# Shapes of the models that the course speaks of, as arguments of transformers' LlamaConfig.
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
    },
    "llama-2-7b": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "tie_word_embeddings": False,
    },
    "llama-3.2-1b": {
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True,
    },
    "llama-65b": {
        "vocab_size": 32000, "hidden_size": 8192, "intermediate_size": 22016, "num_hidden_layers": 80,
        "num_attention_heads": 64, "num_key_value_heads": 64, "tie_word_embeddings": False,
    },
    "llama-2-70b": {
        "vocab_size": 32000, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
        "num_attention_heads": 64, "num_key_value_heads": 8, "tie_word_embeddings": False,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Ledger:
    """Bytes of one training step. Their sum bounds the peak from above but for passing workspace: gradients come as activations go.

    trainable and parameters are counts; file is the size of what is saved (the adapter, or the whole model); parts splits the
    activations (predicted ledgers only); peak is the largest allocation seen (measured on CUDA only); gathered is how much of weights
    and gradients a process holds for a moment only (sharded models only).
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    trainable: int
    parameters: int
    file: int
    parts: Mapping[str, int] = field(default_factory=dict)
    peak: int | None = None
    gathered: int = 0

    @property
    def total(self) -> int:
        """Bytes of the four entries."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def entries(self) -> dict[str, int]:
        """The four, by name, for bars and tables."""
        return {name: getattr(self, name) for name in ("weights", "gradients", "optimizer", "activations")}

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    def _rows(self) -> list[tuple[str, str]]:
        rows = [(name, megabytes(size)) for name, size in self.entries().items()]
        rows[3:] = [rows[3], *((f"  {part}", megabytes(size)) for part, size in self.parts.items())]
        if self.gathered:
            rows.insert(2, ("  of both, for a moment", megabytes(self.gathered)))
        rows.append(("sum", megabytes(self.total)))
        if self.peak is not None:
            rows.append(("largest allocation", megabytes(self.peak)))
        share = f"{self.trainable:,} of {self.parameters:,} ({self.trainable / self.parameters:.2%})"
        return [*rows, ("file", megabytes(self.file)), ("trains", share)]

    def __str__(self) -> str:
        return "\n".join(f"{name:<28}{value:>12}" for name, value in self._rows())

    def _repr_html_(self) -> str:
        return html_table((), self._rows(), "Memory of one training step", "lr")


def megabytes(size: int) -> str:
    """Bytes for people, in powers of ten: `538 MB`, `27.0 GB`."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}" if size < 100 * scale else f"{size / scale:.0f} {unit}"
    return f"{size} B"


# --- predicted --------------------------------------------------------------------------------------------------------


def sketch(
    shape: str | Any,
    lora: LoRAConfig | None = None,
    dtype: torch.dtype = torch.float32,
    quantization: Quantization | None = None,
) -> nn.Module:
    """A Llama-shaped model without content: on the meta device it takes no memory and gives `predict` its shapes.

    shape: a name in SHAPES or a transformers config. lora: the adapter that trains; None means full fine-tuning. quantization: how the
    base's matrices are rounded to four bits (None: not at all); what stays dense is of type `dtype`.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    if isinstance(shape, str):
        if shape not in SHAPES:
            raise ConfigError(
                f"No shape is called {shape!r}. Known: {', '.join(SHAPES)}; or give a transformers config."
            )
        shape = LlamaConfig(**SHAPES[shape])
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(shape)
        model = model.to(dtype)
        if quantization is not None:
            quantize(model, quantization)
        return model if lora is None else inject(model, lora)


def predict_memory(
    model: nn.Module | str,
    batch_size: int,
    seq_len: int,
    *,
    lora: LoRAConfig | None = None,
    dtype: torch.dtype = torch.float32,
    optimizer: Optimizer = "adamw",
    gradient_checkpointing: bool = False,
    answer_tokens: int | None = None,
    padded: bool = False,
    autocast: bool = False,
    quantization: Quantization | None = None,
) -> Ledger:
    """The ledger of one training step, from shapes alone. Chapter 04.

    model: a model as it stands (what trains is read off it), or a name in SHAPES, which is sketched with `lora` (None: full
    fine-tuning) and `dtype`. answer_tokens: how many tokens of the batch are predicted (all of them, if not given). padded: whether
    rows differ in length. autocast: bf16 autocast, as the trainer's precision="bf16". quantization: the base in four bits (chapter 11);
    one dense matrix at a time, which a product needs, is passing workspace.

    Weights, gradients, optimiser and file are exact; activations are worked out by `predict_activations`. Raises ConfigError for an
    unknown name, for a model that is not Llama-shaped, and for a variant of LoRA, which keeps other things (`measure_memory` counts them).
    """
    if isinstance(model, str):
        model = sketch(model, lora, dtype, quantization)
    elif lora is not None or quantization is not None:
        raise ConfigError(
            "A model that is there already says itself what trains and what is rounded: inject the adapter, quantize(model), or give a "
            "name of SHAPES."
        )
    answers = batch_size * (seq_len - 1) if answer_tokens is None else answer_tokens
    parts = predict_activations(model, Batch(batch_size, seq_len, answers, padded, autocast), gradient_checkpointing)
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = sum(p.nbytes for p in trained)
    state = {"adamw": _adamw(gradients, len(trained)), "sgd": 0}
    if optimizer not in state:
        raise ConfigError(f"The optimiser {optimizer!r} is not known here. Known: {', '.join(state)}.")
    return Ledger(
        weights=weight_bytes(model),
        gradients=gradients,
        optimizer=state[optimizer],
        activations=sum(parts.values()),
        trainable=sum(p.numel() for p in trained),
        parameters=_count(model),
        file=file_bytes(model),
        parts=parts,
    )


def _adamw(gradients: int, tensors: int) -> int:
    """Bytes of AdamW's state: two moments, and a step count a tensor."""
    return 2 * gradients + 4 * tensors


def sharded(ledger: Ledger, model: nn.Module, processes: int) -> Ledger:
    """The ledger of one process among `processes` that share a model under FSDP2 (`fully_shard` on each block, then on the model).

    Chapter 14. Weights, gradients and optimiser state are split by rows of each tensor, exactly as the first process holds them (the
    others hold as much or less); packed four-bit weights are buffers, which are not split. Activations are not split: `ledger` is that
    of one process's own micro-batch. `gathered` is what stands whole for a moment, an upper bound found on CPUs
    (benchmarks/processes.py): what lies outside the blocks; with it, either its own parts and the first block with its parts, or the
    block at work and the next one, both with theirs; and the gradients of a block five times, or of what lies outside four times, on
    their way to their owners.
    """

    def split(parameters: Iterable[nn.Parameter]) -> int:
        return sum(-(-p.shape[0] // processes) * p.nbytes // p.shape[0] for p in parameters)

    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    block = max((_parameter_bytes(block) for block in blocks), default=0)
    outside = _parameter_bytes(model) - sum(map(_parameter_bytes, blocks))
    trained = [p for p in model.parameters() if p.requires_grad]
    in_blocks = [sum(p.nbytes for p in block.parameters() if p.requires_grad) for block in blocks]
    outside_trained = sum(p.nbytes for p in trained) - sum(in_blocks)
    weights = outside + max(outside + 2 * block, 4 * block)
    gradients = max(5 * max(in_blocks, default=0), 4 * outside_trained)
    return replace(
        ledger,
        weights=split(model.parameters()) + weights + packed_bytes(model),
        gradients=split(trained) + gradients,
        optimizer=_adamw(split(trained), len(trained)) if ledger.optimizer else 0,
        gathered=weights + gradients,
    )


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters, a tied one once, and of the packed weights of quantised layers."""
    return _parameter_bytes(model) + packed_bytes(model)


def _parameter_bytes(model: nn.Module) -> int:
    return sum(p.nbytes for p in model.parameters())


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters()) + packed_weights(model)


def file_bytes(model: nn.Module) -> int:
    """Exact size of the safetensors file that holds what trained: the active adapter, or else every weight. Chapter 07."""
    if adapter_names(model):
        name = next(iter(state_of(model).active))
        _, tensors = checkpoint.content(model, name)
        metadata = {"format": "pt", checkpoint.FINGERPRINT: "0" * 16}
        if (how := quantization_of(model)) is not None:
            metadata[checkpoint.BASE_IN_BITS] = how.to_json()
        if any(name in module.copies for module in saved_modules(model).values()):
            metadata[checkpoint.FROZEN] = "0" * 16
        return safetensors_bytes(tensors, metadata)
    packed = {f"{n}.{b}": t for n, layer in quantized_layers(model).items() for b, t in layer.named_buffers()}
    return safetensors_bytes(dict(model.named_parameters()) | packed, {"format": "pt"})


_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """Size of a safetensors file: 8 bytes, a JSON header padded to a multiple of 8, the numbers."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, tensor in sorted(tensors.items(), key=lambda pair: (-pair[1].element_size(), pair[0])):
        end = offset + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + offset


# --- measured ---------------------------------------------------------------------------------------------------------


def measure_memory(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    *,
    loss_fn: Any = causal_lm_loss,
    gradient_checkpointing: bool = False,
    autocast: bool = False,
) -> Ledger:
    """The ledger of one real training step with AdamW, at learning rate 0: nothing of the model changes. Chapter 04.

    Activations are what autograd saves in the forward pass, each storage once; on CUDA also the peak of the allocator. With gradient
    checkpointing: what the forward pass keeps, and the largest block, which the backward pass recomputes.
    """
    device = next(model.parameters()).device
    on_cuda = device.type == "cuda"
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0)
    model.zero_grad(set_to_none=True)
    batch = {name: value.to(device) for name, value in batch.items()}

    def forward() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            return loss_fn(model, batch).total

    with modes(model, training=True), torch.random.fork_rng(enabled=True):
        recomputed = 0
        if gradient_checkpointing:
            from transformers.modeling_layers import GradientCheckpointingLayer

            blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
            inner: Any = model
            inner.enable_input_require_grads()  # as checkpointing does: the first block's input wants a gradient too
            with saved_for_backward(model, blocks) as whole:
                forward()
            inner.disable_input_require_grads()
            recomputed = max(whole.by_block.values(), default=0)
        with checkpointing(model, gradient_checkpointing):
            if on_cuda:
                torch.cuda.reset_peak_memory_stats(device)
            with saved_for_backward(model) as saved:
                loss = forward()
            loss.backward()
    optimizer.step()
    ledger = Ledger(
        weights=weight_bytes(model),
        gradients=sum(p.grad.nbytes for p in trained if p.grad is not None),
        optimizer=sum(value.nbytes for state in optimizer.state.values() for value in state.values()),
        activations=saved.total + recomputed,
        trainable=sum(p.numel() for p in trained),
        parameters=_count(model),
        file=file_bytes(model),
        peak=torch.cuda.max_memory_allocated(device) if on_cuda else None,
    )
    model.zero_grad(set_to_none=True)
    return ledger
