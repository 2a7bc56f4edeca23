"""What a learner's training loop does unseen: what its optimiser finds at each step, the memory that it keeps. Chapter 05."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from lora_edu.course.checks.small_loop import Batch, Reader, copy_of, flat, loss_sum


@dataclass
class Step:
    """What one step of an optimiser found."""

    optimizer: Optimizer  # kept, so that two of them are never one object at one address
    settings: Mapping[str, Any]  # of its first group
    given: list[int]  # ids of the parameters that it holds
    batch: int  # how many times `loss_sum` had been called
    grad: Tensor | None  # of the factors, as one vector; None: there was none
    model: Reader  # as it was then


class _Held:
    """A tensor that a graph keeps for its backward pass; it goes with the graph, or in a backward pass that frees it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # a node's own output would hold the node, and so itself, for ever


@dataclass
class _Graph:
    held: WeakSet[_Held]
    gone_back: bool = False  # its backward pass has been

    def back(self, _grad: Tensor) -> None:
        self.gone_back = True


class WatchedLoss:
    """`loss_sum` that keeps count of its batches, and of how many earlier graphs still hold memory when it is called.

    most: so many at most. retained: so many of them at most although their backward pass has been.
    """

    def __init__(self) -> None:
        self.batches, self.most, self.retained = list[Batch](), 0, 0
        self._graphs = list[_Graph]()

    def __repr__(self) -> str:
        return "loss_sum"  # what a message shows when it lists the arguments

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
        alive = [graph for graph in self._graphs if len(graph.held)]
        self.most = max(self.most, len(alive))
        self.retained = max(self.retained, sum(graph.gone_back for graph in alive))
        self.batches.append({name: tensor.detach().clone() for name, tensor in batch.items()})
        self._graphs.append(graph := _Graph(WeakSet()))

        def pack(tensor: Tensor) -> _Held:
            graph.held.add(kept := _Held(tensor))
            return kept

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
            total, count = loss_sum(model, batch)
        if total.requires_grad:
            total.register_hook(graph.back)
        return total, count


class Steps:
    """Every step that an optimiser takes inside `with`."""

    def __init__(self, model: Reader, watched: WatchedLoss) -> None:
        self.model, self.watched, self.taken = model, watched, list[Step]()

    def __enter__(self) -> None:
        self.handle = register_optimizer_step_pre_hook(self._look)

    def __exit__(self, *_: object) -> None:
        self.handle.remove()

    def _look(self, optimizer: Optimizer, *_: Any) -> None:
        grads = [p.grad for p in self.model.factors]
        none = all(grad is None or not grad.any() for grad in grads)
        groups = optimizer.param_groups
        self.taken.append(
            Step(
                optimizer=optimizer,
                settings={key: value for key, value in groups[0].items() if key != "params"},
                given=[id(p) for group in groups for p in group["params"]],
                batch=len(self.watched.batches),
                grad=None if none else flat(grads, self.model.factors),
                model=copy_of(self.model),
            )
        )
