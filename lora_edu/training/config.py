"""A run's plan as pure functions: its settings, which rows each step sees, and the learning rate of each step. Chapter 05.

Nothing here has a state, so a resumed run and an uninterrupted one cannot disagree about them.
"""

import functools
import math
import numbers
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

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
    optimizer: Annotated[
        Literal["adamw", "lorafa", "galore"],
        "adamw; lorafa: A stays as it began, and B takes the step nearest to the whole matrix's; galore: whole matrices, moments of rank r.",
    ] = "adamw"
    galore_rank: Annotated[int, "GaLore: how many directions of a matrix's gradient the moments are kept in."] = 128
    galore_every: Annotated[int, "GaLore: steps between two choices of these directions."] = 200
    galore_scale: Annotated[float, "GaLore: what the step of a projected matrix is multiplied by."] = 0.25
    loraplus_lr_ratio: Annotated[
        float | None, "LoRA+: B's learning rate as a multiple of A's, which is learning_rate (Hayou et al. 2024)."
    ] = None
    loraplus_lr_embedding: Annotated[
        float, "LoRA+: the learning rate of adapters at an embedding; the default is PEFT's."
    ] = 1e-6
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
        for name, option in _options().items():
            object.__setattr__(self, name, option.checked(name, getattr(self, name)))
        if self.warmup_steps and self.warmup_ratio:
            raise ConfigError("Give warmup_steps or warmup_ratio, not both.")
        if self.optimizer == "lorafa" and self.loraplus_lr_ratio is not None:
            raise ConfigError("LoRA+ gives A and B two rates, and under LoRA-FA A does not train: choose one of them.")
        if self.save_every and self.output_dir is None:
            raise ConfigError("save_every needs an output_dir to save to.")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values. Later options only where they are not the defaults: what was told of a run before they were there stays true."""
        return {
            name: value
            for name, value in asdict(self).items()
            if not name.startswith(("loraplus_", "optimizer", "galore_"))
            or value != type(self).__dataclass_fields__[name].default
        }

    def decisive(self) -> dict[str, Any]:
        """What decides the run's steps. Not where or how often it saves, nor how a step is fitted into memory: the rows of a step are what
        counts, not how many go through the model at once, and checkpointed activations are the same activations."""
        rows = self.batch_size * self.gradient_accumulation_steps
        how = {"output_dir", "save_every", "batch_size", "gradient_accumulation_steps", "gradient_checkpointing"}
        if self.loraplus_lr_ratio is None:
            how.add("loraplus_lr_embedding")
        if self.optimizer != "galore":
            how |= {"galore_rank", "galore_every", "galore_scale"}
        return {"rows a step": rows} | {name: value for name, value in self.to_dict().items() if name not in how}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """The inverse of `to_dict`; an unknown key raises ConfigError."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"Training settings are names with values, not {_shown(values)}.")
        known = {f.name for f in fields(cls)}
        if unknown := sorted(map(str, set(values) - known)):
            raise ConfigError(f"Unknown training setting {', '.join(unknown)}. Known: {', '.join(sorted(known))}.")
        return cls(**values)


# --- what an option may be --------------------------------------------------------------------------------------------


class _Option(NamedTuple):
    """The kind of an option, read off its annotation, and which of its values are possible."""

    kind: type
    choices: tuple[str, ...]
    optional: bool
    possible: Callable[[Any], bool]
    words: str

    def checked(self, name: str, value: Any) -> Any:
        """The value as Python's own kind (NumPy has others). Raises ConfigError that names option, value and remedy."""
        if value is None and self.optional:
            return None
        known = _as_kind(self.kind, value)
        if known is None or not self.possible(known):
            raise ConfigError(f"{name} must be {self.words}, not {_shown(value)}{_remedy(self.kind, value)}.")
        return known


_POSSIBLE: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        (
            "galore_rank",
            "galore_every",
            "batch_size",
            "gradient_accumulation_steps",
            "epochs",
            "max_steps",
            "eval_every",
            "patience",
            "save_every",
        ),
        (lambda n: 1 <= n < 10**8, "a whole number of at least 1 and below a hundred million"),
    ),
    "warmup_steps": (lambda n: 0 <= n < 10**8, "a whole number of at least 0 and below a hundred million"),
    # NumPy's older generator takes 32 bits, and each process adds its own number.
    "seed": (lambda n: 0 <= n <= 4 * 10**9, "a whole number from 0 to 4,000,000,000"),
    "galore_scale": (lambda x: x > 0 and math.isfinite(x), "a positive number, such as 0.25"),
    "learning_rate": (lambda x: x > 0 and math.isfinite(x), "a positive number, such as 0.001"),
    "loraplus_lr_ratio": (lambda x: x > 0 and math.isfinite(x), "a positive number, such as 16 (or None for one rate)"),
    "loraplus_lr_embedding": (lambda x: x > 0 and math.isfinite(x), "a positive number, such as 0.000001"),
    "max_grad_norm": (lambda x: x > 0 and math.isfinite(x), "a positive number (or None for no clipping)"),
    "weight_decay": (lambda x: x >= 0 and math.isfinite(x), "a number of at least 0"),
    "warmup_ratio": (lambda x: 0 <= x < 1, "a share of the run, at least 0 and below 1"),
    "gradient_checkpointing": (lambda x: True, "True or False"),
    "keep_best": (lambda x: True, "True or False"),
    "output_dir": (lambda x: bool(x) and "\0" not in x, "the path of a folder"),
}


@functools.cache
def _options() -> dict[str, _Option]:
    options = {}
    for name, hint in get_type_hints(TrainConfig).items():
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        kind = next(part for part in parts if part is not type(None))
        choices = get_args(kind)  # of a Literal
        possible, words = _POSSIBLE.get(name) or (choices.__contains__, f"one of {', '.join(choices)}")
        options[name] = _Option(str if choices else kind, choices, type(None) in parts, possible, words)
    return options


def _as_kind(kind: type, value: Any) -> Any:
    """The value as an int, float, bool or str; None if it is none. True is no number, and 2.0 is no whole one."""
    if kind is bool:
        return bool(value) if isinstance(value, bool | np.bool_) else None
    if kind is str:
        return os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral if kind is int else numbers.Real):
        return None
    if isinstance(value, int | float):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _remedy(kind: type, value: Any) -> str:
    """What to write instead, where that is plain."""
    if kind in (int, float) and isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return ""
        return (
            f": that is a text, write {int(number) if kind is int and number.is_integer() else number!r} without quotes"
        )
    if kind is int and isinstance(value, float) and value.is_integer():
        return f": write {int(value)}"
    if kind is bool and value in (0, 1, "true", "false", "True", "False"):
        return f": write {value in (1, 'true', 'True')}"
    return ""


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python likes to print
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}…"


# --- the plan ---------------------------------------------------------------------------------------------------------


def plan_warnings(n_examples: int, config: TrainConfig) -> list[str]:
    """What a plan will not do although its settings ask for it, a sentence each; [] for most plans."""
    steps, found = total_steps(n_examples, config), []
    if steps < 10:
        rows = config.batch_size * config.gradient_accumulation_steps
        found.append(
            f"The run has only {steps} step{'s' * (steps > 1)} ({n_examples} rows, {min(rows, n_examples)} a step): more epochs or "
            "a smaller batch_size give it more."
        )
    warmup = config.warmup_steps or round(config.warmup_ratio * steps)
    if warmup >= steps:
        found.append(
            f"The learning rate rises for {warmup} steps and the run has {steps}: it never reaches its peak of {config.learning_rate:g}."
        )
    for name in ("eval_every", "save_every"):
        every = getattr(config, name)
        if every and every > steps:
            found.append(
                f"{name} is {every} and the run has {steps} step{'s' * (steps > 1)}: it happens at the end only."
            )
    return found


def steps_per_epoch(n_examples: int, config: TrainConfig) -> int:
    """Steps that one pass over the examples takes; the last one may be smaller."""
    return -(-n_examples // (config.batch_size * config.gradient_accumulation_steps))


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
