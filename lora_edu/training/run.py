"""A run: what it is made of and where it stands. The trainer moves it on; checkpoints, context, failures and callbacks share it.

Chapter 05. Whoever needs the run's state reads it here and nowhere else, so no part of the trainer has to know the trainer itself.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lora_edu.errors import TrainingError
from lora_edu.models.device import Precision, fastest_settings
from lora_edu.models.modules import kept_buffers, unwrap
from lora_edu.models.quantized.linear import QuantizedLinear
from lora_edu.models.sharded import put, reshard
from lora_edu.training.callbacks import Callback, History
from lora_edu.training.config import TrainConfig, total_steps
from lora_edu.training.folder import held
from lora_edu.training.identity import run_identity
from lora_edu.training.optimizers import freeze_for, new_optimizer
from lora_edu.training.processes import distribute, new_accelerator, of_the_first
from lora_edu.training.rng import State


class LossSum(NamedTuple):
    """A loss summed over `count` answer tokens, in nats. `total` is a scalar tensor that carries the graph."""

    total: Tensor
    count: int  # type: ignore[assignment]  # tuple has a method of this name, which nobody calls on a LossSum

    @property
    def mean(self) -> float:
        """Nats per answer token; NaN when there is none."""
        return self.total.item() / self.count if self.count else float("nan")


def variant_hooks(model: nn.Module) -> Any:
    """`lora_edu.adapters.training_hooks` if a layer of the model has a variant of LoRA, else None: no other run needs adapters."""
    held = (getattr(module, "variants", None) for module in model.modules())
    if not any(isinstance(variants, dict) and variants for variants in held):
        return None
    from lora_edu.adapters import training_hooks

    return training_hooks


LossFunction = Callable[[nn.Module, Any], LossSum]


class Run:
    """The state of a run.

    What it is made of: `config`, `model` (spread over the processes), `parameters` (what trains, by name), `optimizer`, `examples`,
    `eval_examples`, `loss_fn`, `collate`, `callbacks`, `total_steps`.
    Where it stands, which is what a checkpoint keeps: `step` (optimiser steps done), `learning_rate` (the schedule's peak, which a
    callback may change), `history`, `best_weights` (None, or those of the best evaluation), `precision` and `threads` (measured once),
    `rng` (the random generators while it does not run). `updating` is True between the first and the last parameter of an update.
    """

    resume_hint = (
        "make the trainer again from the same model, examples and config, and call resume()."  # the CLI has its own
    )

    def __init__(
        self,
        model: nn.Module,
        examples: Sequence[Any],
        loss_fn: LossFunction,
        config: TrainConfig,
        collate: Callable[[list[Any]], Any],
        eval_examples: Sequence[Any] | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> None:
        self.config = config
        self.examples, self.eval_examples = examples, eval_examples
        self.loss_fn, self.collate, self.callbacks, self.progress = loss_fn, collate, list(callbacks), progress
        self.accelerator = new_accelerator()
        freeze_for(model, config)
        self.model = distribute(self.accelerator, model)
        self.parameters = {name: p for name, p in unwrap(self.model).named_parameters() if p.requires_grad}
        self.optimizer = new_optimizer(unwrap(self.model), self.parameters, config)
        self.total_steps = total_steps(len(examples), config)
        self.step = 0
        self.updating = False
        self.learning_rate = config.learning_rate
        self.history = History()
        self.precision, self.threads = self._precision_and_threads()
        self.best_weights: dict[str, Tensor] | None = None
        self.rng: State | None = None
        self.seconds = 0.0  # spent so far
        self._holds_folder = False

    @property
    def output_dir(self) -> Path | None:
        """Where checkpoints go."""
        return Path(self.config.output_dir) if self.config.output_dir else None

    @property
    def is_main_process(self) -> bool:
        """Whether this is the one process that speaks and writes."""
        return self.accelerator.is_main_process

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be this run's. Told once, before the first step: hashing gigabytes takes a while, and
        a batch norm's running statistics move in training."""
        return run_identity(
            self.config, self.model, self.parameters, self.of_variants(), self.examples, self.eval_examples,
            self.loss_fn, self.collate,
        )  # fmt: skip

    def buffers(self) -> dict[str, Tensor]:
        """The model's persistent buffers by name: a forward pass may change them, all but the packed weights of a base in four bits."""
        model = unwrap(self.model)
        return dict(
            kept_buffers(model, (pair for pair in model.named_modules() if not isinstance(pair[1], QuantizedLinear)))
        )

    def carried(self) -> dict[str, Tensor]:
        """What a step may change beside the parameters, by name: buffers, and what a variant of LoRA keeps for itself."""
        return self.buffers() | self.of_variants()

    def of_variants(self) -> dict[str, Tensor]:
        """What the variants of LoRA in training have and do not train, by name; {} without any."""
        hooks = variant_hooks(self.model)
        return hooks.variant_state(unwrap(self.model)) if hooks else {}

    def weights(self) -> dict[str, Tensor]:
        """Copies of all that a step may change in the model, by name; `put` is the inverse."""
        return {name: t.detach().clone() for name, t in (self.parameters | self.carried()).items()}

    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Copies `weights` into the model's parameters, buffers and variants' tensors of the same names."""
        reshard(self.model)
        for name, tensor in (self.parameters | self.carried()).items():
            put(tensor, weights[name])

    def stop(self, why: str) -> None:
        """Ends the run after the current step. For callbacks; the first reason given is the one kept."""
        self.history.stopped = self.history.stopped or why

    def move_to(self, values: Mapping[str, Any], best_weights: dict[str, Tensor] | None, rng: State | None) -> None:
        """Takes over where a checkpoint stands; weights, buffers and optimiser state are put there by whoever read it."""
        self.step, self.learning_rate = values["step"], values["learning_rate"]
        self.precision, self.threads = values["precision"], values["threads"]
        self.history = History.from_dict(values["history"])
        self.seconds = self.history.steps[-1]["seconds"] if self.history.steps else 0.0
        self.best_weights, self.updating = best_weights, False
        if rng is not None:
            self.rng = rng
        if self.history.stopped and best_weights is not None:
            self.put(best_weights)

    @contextmanager
    def in_its_folder(self) -> Iterator[None]:
        """Within the block no other run writes into output_dir. Raises TrainingError if one does, or if nobody can write there."""
        if self.output_dir is None or self._holds_folder:
            yield
            return
        hold, refusal = held(self.output_dir), ""
        if self.is_main_process:
            try:
                hold.__enter__()
            except TrainingError as error:
                refusal = str(error)
        if refusal := of_the_first(refusal):  # all processes know
            raise TrainingError(refusal)
        self._holds_folder = True
        try:
            yield
        finally:
            self._holds_folder = False
            if self.is_main_process:
                hold.__exit__(None, None, None)

    def _precision_and_threads(self) -> tuple[Precision, int]:
        """What the config says, or what was faster here; the same in all processes."""
        if self.config.precision != "auto":
            return self.config.precision, torch.get_num_threads()
        settings = of_the_first(fastest_settings())
        exact = any(p.dtype == torch.float64 for p in self.model.parameters())  # nobody asks for float64 to lose it
        return ("fp32" if exact else settings.precision), settings.threads
