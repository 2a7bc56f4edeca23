"""What a learner's training loop does unseen: the gradients that its optimiser finds, the graphs that it keeps. Chapter 05."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lora_edu.course.checks.small_loop import Reader, loss_sum


class Steps:
    """What every optimiser's step inside `with` finds: the gradient of the trained weight, and whether it was given the frozen one."""

    def __init__(self, model: Reader) -> None:
        self.model, self.grads, self.frozen_too = model, list[Tensor](), False

    def __enter__(self) -> None:
        self.handle = register_optimizer_step_pre_hook(self._look)

    def __exit__(self, *_: object) -> None:
        self.handle.remove()

    def _look(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if (grad := self.model.trained.weight.grad) is not None:
            self.grads.append(grad.clone())
        given = [p for group in optimizer.param_groups for p in group["params"]]
        self.frozen_too |= any(p is self.model.table.weight for p in given)


class _Graph:
    """Lives as long as the graph behind one summed loss still holds what its backward pass needs."""


class _Watch(torch.autograd.Function):
    """The identity; its `_Graph` goes with the graph, or after its backward pass."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, graph: _Graph) -> Tensor:
        ctx.graph = graph
        return total.view_as(total)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.graph = None
        return grad, None


class WatchedLoss:
    """`loss_sum` that counts how many earlier graphs are still alive when it is called: one at most, if memory is to be saved."""

    def __init__(self) -> None:
        self.graphs, self.most = WeakSet[_Graph](), 0

    def __call__(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        self.most = max(self.most, len(self.graphs))
        total, count = loss_sum(model, batch)
        if total.requires_grad:
            self.graphs.add(graph := _Graph())
            total = _Watch.apply(total, graph)
        return total, count
