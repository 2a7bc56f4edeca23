"""The run that scales itself: what a machine has to decide about a recipe, decided from the ledger and said in words. Chapter 14.

A recipe says what is learnt: the adapter, the rows a step, the learning rate, the passes. The machine says how: the precision, how
many rows go through at once, whether activations are kept or computed again, and how many steps the time allows. `fit` fills in the
second and leaves the first alone, so the steps are the same on a laptop and on a GPU.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import nn

from lora_edu.adapters.arithmetic import emulated
from lora_edu.data.examples import IGNORE, Example
from lora_edu.errors import ConfigError, DataError
from lora_edu.models.device import Precision, fastest_settings
from lora_edu.models.quantized.conversion import packed_bytes, quantization_of
from lora_edu.tables import html_table, text_table
from lora_edu.training.config import TrainConfig, total_steps
from lora_edu.training.losses import causal_lm_loss
from lora_edu.training.memory.advice import Shape, memory_for_this_process, what_fits
from lora_edu.training.memory.ledger import Ledger, measure_memory, megabytes, predict_memory
from lora_edu.training.run import LossFunction
from lora_edu.training.trainer import Trainer

SPARE = 0.1  # of the memory is left to what the ledger does not count: the program, passing workspace, other models
PROBES = 2  # steps that are timed, after one that warms up

Ledgers = Callable[[Shape, bool], Ledger]  # of a step with such micro-batches; True: with gradient checkpointing


@dataclass(frozen=True)
class Decision:
    """One line of the table: what was chosen, its value, and why."""

    what: str
    value: str
    why: str


@dataclass(frozen=True, repr=False)
class Fit:
    """What `fit` chose. Prints as a table.

    config: the recipe with the choices filled in, ready for the Trainer. precision: what the Trainer will make of the config's.
    ledger: of its largest micro-batch. room: bytes that the ledger's sum had to fit into. seconds: of one step, None if no time
    budget was given.
    """

    config: TrainConfig
    precision: Precision
    ledger: Ledger
    room: int
    seconds: float | None
    choices: tuple[Decision, ...]

    def __str__(self) -> str:
        return text_table(self._lines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(("", "chosen", "why"), self._lines(), "How this run fits this machine")

    def _lines(self) -> list[tuple[str, str, str]]:
        return [(each.what, each.value, each.why) for each in self.choices]


def fit(
    model: nn.Module,
    examples: Sequence[Example],
    recipe: TrainConfig,
    *,
    collate: Callable[[list[Example]], Any],
    loss_fn: LossFunction = causal_lm_loss,
    minutes: float | None = None,
    room: int | None = None,
) -> Fit:
    """Fits `recipe` to the device that `model` lies on. Chapter 14.

    The rows of a step, batch_size × gradient_accumulation_steps, are the recipe's and stay. As many of them go through at once as the
    ledger says there is memory for; gradient checkpointing comes only where one row alone would not fit. No row is cut: the longest
    decides. `minutes`: a few steps are timed and, if the whole run would take longer, only as many are planned as the time allows
    (evaluations come on top). `room`: bytes to use; what this process can get, if not given.
    With several processes, fit in one and hand its config to all: batch_size counts the rows of all of them.

    The model is as it was afterwards. Raises DataError for a row beyond the model's longest sequence; ConfigError where no choice
    fits, with how much is missing and what would help, and where the time allows not one step.
    """
    if not examples:
        raise DataError("There are no examples to fit a run to.")
    device = next(model.parameters()).device
    longest = _longest(model, examples)
    precision, why_precision = _precision(model, recipe)
    usable = int((1 - SPARE) * (memory_for_this_process(device) if room is None else room))
    ledger = _ledgers(model, examples, collate, loss_fn, autocast=precision == "bf16")
    config, shape, why_rows, why_again = _rows_at_once(recipe, examples, ledger, usable)
    seconds, why_steps = None, "the recipe's; nothing was timed"
    if minutes is not None:
        seconds = _seconds_a_step(model, examples, config, collate, loss_fn)
        config, why_steps = _steps(config, len(examples), seconds, minutes)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    steps, whole = total_steps(len(examples), config), total_steps(len(examples), recipe)
    times = config.gradient_accumulation_steps
    return Fit(
        config, precision, ledger(shape, config.gradient_checkpointing), usable, seconds,
        (
            Decision("device", name, "the model lies there"),
            Decision("precision", precision, why_precision),
            Decision("base weights", *_base_weights(model, precision, config)),
            Decision("sequence length", f"{longest} tokens", f"the longest of {len(examples):,} rows; nothing is cut"),
            Decision("rows a step", str(config.batch_size * config.gradient_accumulation_steps), "the recipe's: the same everywhere"),
            Decision("rows at once", f"{config.batch_size}{f', {times} times a step' if times > 1 else ''}", why_rows),
            Decision("gradient checkpointing", "on" if config.gradient_checkpointing else "off", why_again),
            Decision("steps", f"{steps:,}" if steps == whole else f"{steps:,} of {whole:,}", why_steps),
        ),
    )  # fmt: skip


# --- the choices ------------------------------------------------------------------------------------------------------


def _longest(model: nn.Module, examples: Sequence[Example]) -> int:
    lengths = [len(example.input_ids) for example in examples]
    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if limit and max(lengths) > limit:
        number = lengths.index(max(lengths)) + 1
        raise DataError(
            f"Example {number} has {max(lengths):,} tokens, and this model reads {limit:,} at most: shorten or split it. Nothing is cut "
            "in silence."
        )
    return max(lengths)


def _precision(model: nn.Module, recipe: TrainConfig) -> tuple[Precision, str]:
    """What the trainer will take for the recipe's precision, and why."""
    if recipe.precision != "auto":
        return recipe.precision, "the recipe says so"
    if any(p.dtype == torch.float64 for p in model.parameters()):
        return "fp32", "no autocast: the weights are float64"
    settings = fastest_settings()
    exact, short = (settings.timings[precision, settings.threads] for precision in ("fp32", "bf16"))
    if short == float("inf"):
        return "fp32", "bf16 does not run on this device"
    times = f"a trial on two small layers: {_clock(short / 1000)} in bf16, {_clock(exact / 1000)} in fp32"
    return (
        settings.precision,
        times if settings.precision == "bf16" else f"exact, and bf16 is not clearly faster ({times})",
    )


def _base_weights(model: nn.Module, precision: Precision, config: TrainConfig) -> tuple[str, str]:
    """In which type the frozen weights are held, whether the run keeps 16-bit copies of them, and what the other way would take."""
    if (how := quantization_of(model)) is not None:
        dense = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
        return str(how), f"as they were loaded: {megabytes(packed_bytes(model))} packed, {megabytes(dense)} dense"
    frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    sizes = Counter({p.dtype: 0 for p in frozen})
    for p in frozen:
        sizes[p.dtype] += p.nbytes
    if not sizes:
        return "none", "every weight trains"
    [(dtype, size)] = sizes.most_common(1)
    name = str(dtype).removeprefix("torch.")
    if any(p.dtype == dtype and emulated(p) for p in frozen):
        return name, (
            f"as they were loaded: {megabytes(size)}; this CPU has no arithmetic for {name}: load_base(…, dtype=torch.float32) would be "
            f"several times as fast, and hold {megabytes(2 * size)}"
        )
    if precision != "bf16" or dtype != torch.float32:
        return name, f"as they were loaded: {megabytes(size)}"
    instead = f"load_base(…, dtype=torch.bfloat16) would hold {megabytes(size // 2)} alone"
    if config.gradient_checkpointing:
        return name, f"as they were loaded, {megabytes(size)}, cast at every use; {instead}"
    return f"{name}, and copies in bf16", f"cast once a run and not once a step, the same bits; {instead}"


def _ledgers(
    model: nn.Module, examples: Sequence[Example], collate: Any, loss_fn: LossFunction, autocast: bool
) -> Ledgers:
    """The ledger of any micro-batch: worked out for Llama-shaped models, else measured on the longest row and scaled."""
    answers = sorted((sum(label != IGNORE for label in example.labels[1:]) for example in examples), reverse=True)

    def worked_out(shape: Shape, checkpointed: bool) -> Ledger:
        most = min(sum(answers[: shape.rows]), shape.rows * shape.tokens)  # however the rows are drawn
        return predict_memory(
            model, shape.rows, shape.tokens, answer_tokens=most, padded=shape.rows > 1, autocast=autocast,
            gradient_checkpointing=checkpointed,
        )  # fmt: skip

    @cache
    def one_row(checkpointed: bool) -> tuple[int, Ledger]:
        row = max(examples, key=lambda example: len(example.input_ids))
        found = measure_memory(
            model, collate([row]), loss_fn=loss_fn, gradient_checkpointing=checkpointed, autocast=autocast
        )
        return len(row.input_ids), found

    def scaled(shape: Shape, checkpointed: bool) -> Ledger:
        tokens, found = one_row(checkpointed)
        return replace(found, activations=found.activations * shape.rows * shape.tokens // tokens)

    try:
        worked_out(Shape(1, 1, 1), False)
    except ConfigError:  # not Llama-shaped
        return scaled
    return worked_out


def _rows_at_once(
    recipe: TrainConfig, examples: Sequence[Example], ledger: Ledgers, room: int
) -> tuple[TrainConfig, Shape, str, str]:
    """The recipe with micro-batches that fit into `room`, the largest of them, and why so many rows and why (no) checkpointing."""
    rows = recipe.batch_size * recipe.gradient_accumulation_steps
    whole = replace(recipe, batch_size=rows, gradient_accumulation_steps=1)
    tokens = max(len(example.input_ids) for example in examples)
    shape = Shape(min(rows, len(examples)), tokens, tokens)

    def need(shape: Shape, checkpointed: bool) -> int:
        return ledger(shape, checkpointed).total

    def said(size: int) -> str:
        return f"by the ledger {megabytes(size)} of the {megabytes(room)} there are to use"

    full = need(shape, recipe.gradient_checkpointing)
    as_recipe = "the recipe says so" if recipe.gradient_checkpointing else "the activations fit as they are"
    if full <= room:
        return whole, shape, f"{'all of them' if rows > 1 else 'one'}: {said(full)}", as_recipe
    found = what_fits(whole, shape, need, room)
    if not found:
        raise ConfigError(_nowhere(Shape(1, tokens, tokens), ledger, room))
    change, size = found[0]
    config = replace(whole, **change)
    smaller = replace(shape, rows=min(config.batch_size, len(examples)))
    why_rows = f"{said(size)}; all {rows} at once would need {megabytes(full)}"
    if config.gradient_checkpointing and not recipe.gradient_checkpointing:
        as_recipe = (
            f"without it one row alone would need {megabytes(need(replace(shape, rows=1), False))}; it costs time"
        )
        if config.batch_size == rows:
            why_rows = f"all of them: {said(size)}"
    return config, smaller, why_rows, as_recipe


def _nowhere(row: Shape, ledger: Ledgers, room: int) -> str:
    """Why not even one row fits, by how much, and which knob would help."""
    least = ledger(row, True)
    words = (
        f"Nothing fits: even one row of {row.tokens} tokens with gradient checkpointing needs {megabytes(least.total)} by the ledger, and "
        f"there are {megabytes(room)} to use, {megabytes(least.total - room)} too little."
    )
    trained = least.gradients + least.optimizer
    if least.weights + trained < room:
        for halvings in range(1, row.tokens.bit_length()):
            shorter = replace(row, tokens=row.tokens >> halvings)
            if (size := ledger(shorter, True).total) <= room:
                return f"{words} The activations are too large: rows of {shorter.tokens} tokens would fit ({megabytes(size)})."
        return f"{words} The activations are too large, even of short rows: take a smaller base."
    if least.weights < room:
        return (
            f"{words} The weights fit ({megabytes(least.weights)}), gradients and optimiser do not ({megabytes(trained)}): train an adapter "
            "instead of all weights, or one of a lower rank."
        )
    half = "load the base in bf16, " if least.weights >= 3 * least.parameters else ""
    half += "load it in four bits (load_base(…, bits=4)), " if least.weights >= 1.5 * least.parameters else ""
    return f"{words} The weights alone take {megabytes(least.weights)}: {half}take a smaller base, or shard it over several GPUs."


def _steps(config: TrainConfig, n_examples: int, seconds: float, minutes: float) -> tuple[TrainConfig, str]:
    """As many of the run's steps as the time allows."""
    whole, budget = total_steps(n_examples, config), 60 * minutes
    allowed = int(budget / seconds)
    if allowed < 1:
        raise ConfigError(
            f"One step takes {_clock(seconds)}, and the time allowed is {_clock(budget)}: give it more minutes, fewer rows a step, or a "
            "smaller base."
        )
    if allowed >= whole:
        return config, f"all of the recipe's: {_clock(seconds)} a step, {_clock(whole * seconds)} in all"
    return replace(config, max_steps=allowed), f"{_clock(seconds)} a step, and the time allowed is {_clock(budget)}"


def _clock(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.2g} ms"


def _seconds_a_step(
    model: nn.Module, examples: Sequence[Example], config: TrainConfig, collate: Any, loss_fn: LossFunction
) -> float:
    """Mean seconds of a few real steps, optimiser and all; what they changed is put back bit for bit."""
    probe = replace(config, max_steps=1 + PROBES, output_dir=None, save_every=None, patience=None, keep_best=False)
    trainer = Trainer(model, examples, loss_fn, probe, collate=collate, progress=False)
    before = trainer.weights()
    try:
        steps = trainer.train().steps
    finally:
        trainer.put(before)
    return max((steps[-1]["seconds"] - steps[0]["seconds"]) / PROBES, 1e-3)  # the clock of a record has milliseconds
