"""A run's plan as pure functions: its settings, which rows each step sees, and the learning rate of each step. Chapter 05.

Nothing here has a state, so a resumed run and an uninterrupted one cannot disagree about them.
"""

import functools
import math
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

import numpy as np

from lora_edu.errors import ConfigError


@dataclass(frozen=True)
class TrainConfig:
    """How to train; all counts of steps are optimiser steps. Chapter 05.

    Each option says beside it what it does; `lora-edu train --help` shows the same words. Raises ConfigError for a value that cannot be.
    """

    learning_rate: Annotated[float, "Peak of the schedule."] = 1e-3
    batch_size: Annotated[int, "Rows that go through the model at once."] = 8
    gradient_accumulation_steps: Annotated[int, "Batches a step; a step sees batch_size times as many rows."] = 1
    epochs: Annotated[int, "Passes over the rows."] = 1
    max_steps: Annotated[int | None, "Length of the run in optimiser steps, instead of epochs."] = None
    warmup_steps: Annotated[int, "Steps in which the learning rate rises from 0."] = 0
    warmup_ratio: Annotated[float, "The same as a share of the run."] = 0.0
    scheduler: Annotated[
        Literal["cosine", "linear", "constant"], "How the learning rate falls: cosine, linear or constant."
    ] = "cosine"
    max_grad_norm: Annotated[
        float | None, "Longer gradients are clipped to this norm; Python's None clips nothing."
    ] = 1.0
    weight_decay: Annotated[float, "AdamW's decay of what trains, a step and unit of learning rate."] = 0.0
    seed: Annotated[int, "Seed of order, dropout and A."] = 0
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        "auto (what was faster here), fp32, or bf16 (autocast; weights keep their type).",
    ] = "auto"
    gradient_checkpointing: Annotated[
        bool, "Recompute activations instead of keeping them: less memory, more time."
    ] = False
    eval_every: Annotated[
        int | None, "Steps between evaluations on held-out rows; the end of each epoch without it."
    ] = None
    patience: Annotated[int | None, "Stop after so many evaluations without a new best one."] = None
    keep_best: Annotated[bool, "End with the weights of the best evaluation, not the last ones."] = False
    save_every: Annotated[
        int | None, "Steps between checkpoints; there is one at the end and on Ctrl-C without it."
    ] = None
    output_dir: Annotated[str | None, "Folder of the checkpoints."] = None

    def __post_init__(self) -> None:
        optional = ("max_steps", "eval_every", "patience", "save_every")
        for name in ("batch_size", "gradient_accumulation_steps", "epochs", *optional):
            value = getattr(self, name)
            if not (value is None and name in optional) and (type(value) is not int or value < 1):
                raise ConfigError(f"{name} must be a whole number of at least 1, not {value!r}.")
        for name, choices in (("scheduler", ("cosine", "linear", "constant")), ("precision", ("auto", "fp32", "bf16"))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}.")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ConfigError(f"learning_rate must be a positive number, not {self.learning_rate!r}.")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ConfigError(f"max_grad_norm must be positive (or None for no clipping), not {self.max_grad_norm!r}.")
        if self.weight_decay < 0 or self.seed < 0 or self.warmup_steps < 0 or not 0 <= self.warmup_ratio < 1:
            raise ConfigError(
                "weight_decay, seed and warmup_steps must not be negative, and warmup_ratio lies in [0, 1)."
            )
        if self.warmup_steps and self.warmup_ratio:
            raise ConfigError("Give warmup_steps or warmup_ratio, not both.")
        if self.save_every and self.output_dir is None:
            raise ConfigError("save_every needs an output_dir to save to.")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    def decisive(self) -> dict[str, Any]:
        """What decides the run's steps. Not where it saves, nor how a step is fitted into memory: the rows of a step are what
        counts, not how many go through the model at once, and checkpointed activations are the same activations."""
        rows = self.batch_size * self.gradient_accumulation_steps
        how = ("output_dir", "batch_size", "gradient_accumulation_steps", "gradient_checkpointing")
        return {"rows a step": rows} | {name: value for name, value in self.to_dict().items() if name not in how}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """The inverse of `to_dict`; an unknown key raises ConfigError."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"Unknown training setting {', '.join(unknown)}. Known: {', '.join(sorted(known))}.")
        return cls(**values)


def steps_per_epoch(n_examples: int, config: TrainConfig) -> int:
    """Steps that one pass over the examples takes; the last one may be smaller."""
    return math.ceil(n_examples / (config.batch_size * config.gradient_accumulation_steps))


def total_steps(n_examples: int, config: TrainConfig) -> int:
    """Steps of the whole run."""
    return config.max_steps or config.epochs * steps_per_epoch(n_examples, config)


@functools.lru_cache(maxsize=2)
def epoch_order(n_examples: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The order in which an epoch visits the examples: each exactly once."""
    return tuple(np.random.default_rng([seed, epoch]).permutation(n_examples).tolist())


def step_rows(n_examples: int, step: int, config: TrainConfig) -> list[list[int]]:
    """The rows (indices into the examples) of step `step` (from 0), one list a micro-batch: a function of seed, epoch and step."""
    epoch, inside = divmod(step, steps_per_epoch(n_examples, config))
    size = config.batch_size * config.gradient_accumulation_steps
    rows = epoch_order(n_examples, config.seed, epoch)[inside * size : (inside + 1) * size]
    return [list(rows[i : i + config.batch_size]) for i in range(0, len(rows), config.batch_size)]


def lr_factor(step: int, steps: int, config: TrainConfig) -> float:
    """The learning rate of step `step` (from 0) of `steps`, as a fraction of its peak.

    Warm-up rises linearly, step 0 of it already above 0 (a first step at rate 0 would learn nothing); then cosine or linear decay
    to 0 just after the last step, or no decay.
    """
    warmup = config.warmup_steps or round(config.warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.scheduler == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return 0.5 * (1 + math.cos(math.pi * done)) if config.scheduler == "cosine" else 1 - done
