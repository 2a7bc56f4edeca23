"""What every module here may ask of a model: the one inside a wrapper, its modes, its checkpointing, what its forward takes."""

import contextlib
import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from lora_edu.errors import TrainingError


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside a wrapper that only distributes or compiles it (DistributedDataParallel, DataParallel, torch.compile)."""
    while True:
        inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel) else None
        inner = model._modules.get("_orig_mod") if inner is None else inner
        if inner is None:
            return model
        model = inner


def forward_takes(model: nn.Module, argument: str) -> bool:
    """Whether the model's forward has an argument of that name (`logits_to_keep`: most decoders of transformers 5 do)."""
    return argument in inspect.signature(unwrap(model).forward).parameters


def kept_buffers(
    module: nn.Module, inside: Iterable[tuple[str, nn.Module]] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """(name, buffer) of every buffer that belongs to the module's saved state. `inside`: its named_modules, if they are at hand."""
    for path, inner in module.named_modules() if inside is None else inside:
        for name, buffer in inner._buffers.items():
            if buffer is not None and name not in inner._non_persistent_buffers_set:
                yield f"{path}.{name}" if path else name, buffer


@contextlib.contextmanager
def modes(model: nn.Module, training: bool) -> Iterator[None]:
    """Puts the model in training or evaluation mode and gives every module its own mode back."""
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode


@contextlib.contextmanager
def checkpointing(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Gradient checkpointing for the length of a run: activations are recomputed in the backward pass instead of kept.

    The non-reentrant kind, because the older one gives adapters no gradient when the block's input needs none.
    """
    if not wanted:
        yield
        return
    inner: Any = unwrap(model)
    kind = "activation" if hasattr(inner, "activation_checkpointing_enable") else "gradient"  # transformers renames it
    if not hasattr(inner, f"{kind}_checkpointing_enable"):
        raise TrainingError(f"{type(inner).__name__} has no gradient checkpointing: set gradient_checkpointing=False.")
    getattr(inner, f"{kind}_checkpointing_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        getattr(inner, f"{kind}_checkpointing_disable")()
        if hasattr(inner, "disable_input_require_grads"):
            inner.disable_input_require_grads()  # switched on along with checkpointing, but not off with it
