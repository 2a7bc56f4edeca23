"""Tensors of which every process holds a part: torch's `DTensor`, which is what FSDP2 makes of a model's parameters. Chapter 14.

Reading such a tensor as if it were whole is a silent error: `bool(p.any())` answers for this process's part alone. `whole` first.
"""

from typing import Any

import torch
from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds a part only. (Told by its method: importing DTensor takes a second.)"""
    return hasattr(tensor, "full_tensor")


def has_shards(model: nn.Module) -> bool:
    """Whether a parameter of the model is sharded, as after `fully_shard(model)`."""
    return any(is_sharded(p) for p in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or, of a sharded one, all its parts together. Then all processes must call it, in the same order."""
    part: Any = tensor
    return part.full_tensor() if is_sharded(tensor) else tensor


@torch.no_grad()
def put(parameter: Tensor, value: Tensor) -> None:
    """Copies a whole `value` (every process has it), or one that is sharded alike, into `parameter`."""
    if is_sharded(parameter) and not is_sharded(value):
        value = as_shards(value, parameter)
    parameter.copy_(value)


def as_shards(value: Tensor, like: Tensor) -> Tensor:
    """A whole `value` in the parts, and on the device, of `like`; on the device alone if that is not sharded."""
    value = value.to(like.device)
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    parts: Any = like
    return distribute_tensor(value, parts.device_mesh, parts.placements)


def reshard(model: nn.Module) -> None:
    """Lets go of the whole weights that a forward pass without a backward pass has left behind (the root's are).

    Without it a value put into a parameter would not be seen: the next forward pass would find whole weights there, the old ones.
    """
    for module in model.modules():
        if let_go := getattr(module, "reshard", None):
            let_go()
