"""A frozen base that stays as it is: what PyTorch would do to it, or past it, behind an adapter's back. Laws 3 and 9, chapter 04.

Two things are kept from happening while a model has adapters:

- A BatchNorm in training mode averages what it sees into its running statistics, frozen or not, and spectral norm turns its vectors.
  Those that do not train stay in evaluation mode, whatever mode the model is put in; the copy that trains in full does not.
- `nn.TransformerEncoderLayer` without gradients reads its layers' weights and calls one kernel, past every adapter. It does not while
  something listens to it.
"""

from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from lora_edu.adapters.layers import SavedModule
from lora_edu.adapters.walk import outside


def hold(model: nn.Module) -> None:
    """Put both in force, for what is in the model now; a second call changes nothing."""
    training_copies = {
        id(inner) for _, saved in outside(model) if isinstance(saved, SavedModule) for inner in saved.copies.modules()
    }
    for _, module in outside(model):
        if moves_in_training(module) and id(module) not in training_copies and "train" not in module.__dict__:
            own: Any = module
            own.train = partial(_stay, module)
            module.training = False
        if isinstance(module, nn.TransformerEncoderLayer) and _listener(module) is None:
            module.register_forward_pre_hook(_listen)


def release(model: nn.Module) -> None:
    """Take away what `hold` put in."""
    for module in model.modules():
        held: Any = module.__dict__.get("train")
        if getattr(held, "func", None) is _stay:
            del module.train
            module.training = model.training
        if (number := _listener(module)) is not None:
            del module._forward_pre_hooks[number]


def moves_in_training(module: nn.Module) -> bool:
    """Whether a forward pass in training mode changes the module's own buffers."""
    if isinstance(module, _NormBase):
        return module.track_running_stats
    if isinstance(module, _SpectralNorm):
        return True
    return any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values())


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """In place of `module.train`: the module's children follow, it does not."""
    for child in module.children():
        child.train(mode)
    module.training = False
    return module


def _listen(module: nn.Module, inputs: Any) -> None:
    """Hears nothing: that it is there keeps PyTorch on the path that calls the layers."""


def _listener(module: nn.Module) -> int | None:
    return next((n for n, hook in module._forward_pre_hooks.items() if hook is _listen), None)
