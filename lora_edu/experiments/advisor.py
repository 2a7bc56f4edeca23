"""A configuration in which every choice carries its reason and its evidence. `lora-edu advise`. Chapter 09."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.targets import plan
from lora_edu.errors import CheckpointError, ConfigError
from lora_edu.experiments.capacity import bits_each, capacities, free_in_model, free_parameters
from lora_edu.experiments.choices import ALL_LINEAR, LAYERS
from lora_edu.experiments.evidence import (
    RATES_7B,
    SMALL,
    Case,
    Evidence,
    better_place,
    gathered,
    rate_of,
    targets,
    token_bits,
)
from lora_edu.tables import html_table
from lora_edu.training.config import TrainConfig, total_steps
from lora_edu.training.memory.advice import Shape, memory_for_this_process, what_fits
from lora_edu.training.memory.fitting import SPARE
from lora_edu.training.memory.ledger import SHAPES, Ledger, megabytes, predict_memory, sketch

LARGE = 2048  # hidden size from which a model is taken for one of the billions, of which this course has measured none
RANKS = tuple(2**k for k in range(3, 9))  # 8 … 256
ENOUGH_STEPS, MOST_EPOCHS, MIDDLE_RATE = 60, 20, 1e-3
UNITS = {"gb": 1e9, "gib": 2**30, "mb": 1e6, "mib": 2**20}
HEAD = ("", "chosen", "why", "evidence", "how sure", "for a 7B")


class Described(Protocol):
    """What is asked of a task (lora_edu.tasks.Task is the full form)."""

    name: str
    recipe: Any
    max_new_tokens: int


@dataclass(frozen=True)
class Reasoned:
    """One choice: what, its value, why, what speaks for it, how sure that makes it, and what a 7B model would change."""

    what: str
    value: str
    why: str
    evidence: tuple[Evidence, ...]
    for_7b: str

    @property
    def sure(self) -> str:
        """In words, from the evidence alone."""
        told = [each for each in self.evidence if each.kind != "missing"]
        verdicts = [each for each in told if each.speaks != "open"]
        against = " Not all of it agrees." if any(each.speaks == "against" for each in told) else ""
        kinds = {each.kind for each in verdicts}
        if any(each.near for each in verdicts):
            return f"Measured here, on this task and model.{against}"
        if "stored" in kinds:
            return f"Measured here, on another task or model.{against}"
        if "counted" in kinds:
            return f"Counted.{against}"
        if "paper" in kinds:
            here = ", and without a verdict here" if any(each.kind == "stored" for each in told) else ", not here"
            return f"Measured elsewhere{here}.{against}"
        return "Not measured here."

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "what": self.what, "value": self.value, "why": self.why, "evidence": [each.to_dict() for each in self.evidence],
            "how sure": self.sure, "for a 7B": self.for_7b,
        }  # fmt: skip


@dataclass(frozen=True, repr=False)
class Advice:
    """What `advise` recommends. Prints as text, shows as a table.

    lora, train: configurations, ready for `inject` and `Trainer`. dtype: of the base's weights ("float32", "bfloat16"). ledger: of the
    largest micro-batch. choices: each with its reason and evidence.
    """

    lora: LoRAConfig
    train: TrainConfig
    dtype: str
    ledger: Ledger
    choices: tuple[Reasoned, ...]

    def __str__(self) -> str:
        blocks = []
        for each in self.choices:
            evidence = [f"    evidence: {said}" for said in each.evidence] or ["    evidence: none"]
            blocks.append(
                "\n".join(
                    [
                        f"{each.what}: {each.value}",
                        f"    why: {each.why}",
                        *evidence,
                        f"    how sure: {each.sure}",
                        f"    for a 7B: {each.for_7b}",
                    ]
                )
            )
        return "\n".join(blocks)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [
            (each.what, each.value, each.why, "; ".join(map(str, each.evidence)) or "none", each.sure, each.for_7b)
            for each in self.choices
        ]
        return html_table(HEAD, rows, "A configuration with its reasons")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "lora": self.lora.to_dict(), "train": self.train.to_dict(), "dtype": self.dtype, "ledger": self.ledger.to_dict(),
            "choices": [each.to_dict() for each in self.choices],
        }  # fmt: skip


def advise(
    model: str | nn.Module,
    task: Described | None,
    memory: float | str | None = None,
    rows: int = 400,
    *,
    tokens: int = 128,
    answer_tokens: int | None = None,
) -> Advice:
    """A configuration for `rows` training rows of a task in so much memory, every choice with its reason and evidence. Chapter 09.

    model: a name of `training.memory`'s shapes ("smollm2-135m", "llama-2-7b", …) or a Llama-shaped model. task: one of `lora_edu.tasks`; None
    for rows of your own. memory: bytes, or "24 GB"; what this process can get, if not given. tokens: of the longest row, answer included.
    answer_tokens: of an answer; the task's limit, or half of `tokens`, if not given.

    What this course has not measured is called so. Raises ConfigError for a model whose shapes are not known, for rows and memory that
    cannot be, and where nothing fits, with how much is missing.
    """
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise ConfigError(f"rows={rows!r}: the number of training rows is a whole number of at least 1.")
    shape = _shape(model)
    length = answer_tokens or min(task.max_new_tokens if task else tokens // 2, tokens)
    name = model if isinstance(model, str) else str(getattr(shape, "_name_or_path", "") or "a model of your own")
    known = token_bits(task.name if task else None) if name == SMALL else None
    case = Case(
        name, _size(shape, "hidden_size"), task.name if task else None, rows, length,
        math.log2(_size(shape, "vocab_size")) if known is None else known,
        "no token foretold" if known is None else "the base's loss, measured",
    )  # fmt: skip
    lora, where = _adapter(shape, case)
    train, how = _run(task, case)
    room = int((1 - SPARE) * _bytes(memory))
    train, dtype, ledger, fitting = _fitted(shape, lora, train, case, tokens, room)
    return Advice(lora, train, dtype, ledger, (*where, *how, *fitting))


# --- the adapter ------------------------------------------------------------------------------------------------------


def _adapter(shape: Any, case: Case) -> tuple[LoRAConfig, list[Reasoned]]:
    winner = better_place() if case.model == SMALL else None  # the layers of another model are others
    place = winner or ALL_LINEAR
    layers = None if place.layers == (0, LAYERS - 1) else tuple(range(place.layers[0], place.layers[1] + 1))
    config = LoRAConfig(r=place.r, target_modules=targets(place), layers_to_transform=layers)
    sides = [target.shape for target in plan(sketch(shape), config)]  # (out, in)
    r, why = _rank(case, sides, config.r)
    config = replace(config, r=r)
    why_place = (
        "it beat all-linear with every seed"
        if winner
        else "no place of equal size was shown to beat it with every seed"
    )
    one_size = "the same: attention and MLP alike are where others measured most"
    return config, [
        Reasoned("places", place.place if winner else "all-linear", why_place, tuple(gathered("places", case)), one_size),
        Reasoned(
            "rank", str(r), why, tuple(gathered("rank", case)),
            f"the same count: {free_in_model('llama-2-7b', 'all-linear', r):,} free numbers at this rank, all-linear, where SmolLM2 has "
            f"{free_in_model('smollm2-135m', 'all-linear', r):,}",
        ),
        Reasoned(
            "alpha", f"{config.lora_alpha:g}, with α/r",
            "one α for every rank: a rate that was found at one rank is the first to try at another",
            tuple(gathered("alpha", case)), "the same; not measured here",
        ),
    ]  # fmt: skip


def _rank(case: Case, sides: list[tuple[int, int]], least: int) -> tuple[int, str]:
    """The smallest rank, from the one that recipes were measured with, that has room for all answers by heart, by the least bits measured."""
    try:
        bits = bits_each(capacities()).least
    except CheckpointError:
        return (
            least,
            "the rank that the course's recipes were measured with; how much it holds is not measured here yet",
        )
    room = {r: bits * sum(free_parameters(n_in, n_out, r) for n_out, n_in in sides) for r in sorted({least, *RANKS})}
    fitting = [r for r in room if r >= least and room[r] >= case.need]
    if not fitting:
        return (
            max(room),
            f"the answers by heart ({case.need:.3g} bits) are more than any rank up to {max(room)} has room for: its most",
        )
    r = fitting[0]
    if r == least:
        return (
            r,
            f"the rank of the course's recipes; it has room for {room[r]:.3g} bits, and the answers by heart are at most {case.need:.3g}",
        )
    return r, f"the smallest rank with room for the answers by heart: {room[r]:.3g} of {case.need:.3g} bits at least"


# --- the run ----------------------------------------------------------------------------------------------------------


def _run(task: Described | None, case: Case) -> tuple[TrainConfig, list[Reasoned]]:
    recipe: TrainConfig = task.recipe.train if task else TrainConfig(warmup_ratio=0.05)
    large = case.hidden >= LARGE
    neighbours = "; try a third and three times of it on validation rows"
    if large:
        rate, why = (
            round(math.sqrt(math.prod(RATES_7B)), 4),
            "the middle of the range that others found for a 7B" + neighbours,
        )
    elif found := rate_of(case):
        rate, why = found
    elif task:
        rate, why = recipe.learning_rate, "the recipe's: its score was measured, other rates were not" + neighbours
    else:
        rate, why = MIDDLE_RATE, "where this course's model learnt other tasks; not measured on your rows" + neighbours
    config = replace(recipe, learning_rate=rate)
    if recipe.max_steps is None or case.rows * MOST_EPOCHS < recipe.max_steps * recipe.batch_size:
        each = math.ceil(case.rows / (config.batch_size * config.gradient_accumulation_steps))
        epochs = min(MOST_EPOCHS, max(recipe.epochs, math.ceil(ENOUGH_STEPS / each)))
        config = replace(config, max_steps=None, epochs=epochs)
        length = f"{config.epochs} pass{'es' * (config.epochs > 1)}, {total_steps(case.rows, config)} steps"
        why_length = f"passes until there are {ENOUGH_STEPS} steps, {MOST_EPOCHS} at most: a rule of thumb"
    else:
        length, why_length = f"{config.max_steps} steps", "the recipe's length: its score was measured with it"
    evidence = gathered("learning rate", case)
    return config, [
        Reasoned("learning rate", f"{rate:g}", why, tuple(evidence), f"{RATES_7B[0]:g} to {RATES_7B[1]:g}, and a sweep of its own"),
        Reasoned("length", length, why_length, tuple(gathered("length", case)), "fewer passes; not measured here"),
        Reasoned(
            "dropout, weight decay", "none", "what the course's recipes leave out; whether they help is open",
            tuple(gathered("dropout, weight decay", case)), "open too",
        ),
    ]  # fmt: skip


# --- the memory -------------------------------------------------------------------------------------------------------


def _fitted(
    shape: Any, lora: LoRAConfig, train: TrainConfig, case: Case, tokens: int, room: int
) -> tuple[TrainConfig, str, Ledger, list[Reasoned]]:
    """The run's steps cut into micro-batches that fit, in the longest type of the base's weights for which something does."""
    whole = replace(
        train, batch_size=train.batch_size * train.gradient_accumulation_steps, gradient_accumulation_steps=1
    )
    at_once = min(whole.batch_size, case.rows)
    full = Shape(at_once, tokens, at_once * case.answer_tokens)
    least: Ledger | None = None
    for dtype in (torch.float32, torch.bfloat16):
        model = sketch(shape, lora, dtype)

        def ledger(size: Shape, checkpointed: bool, model: nn.Module = model) -> Ledger:
            return predict_memory(
                model,
                size.rows,
                size.tokens,
                answer_tokens=size.answers,
                padded=size.rows > 1,
                gradient_checkpointing=checkpointed,
            )

        change: dict[str, Any] | None = None
        if ledger(full, whole.gradient_checkpointing).total <= room:
            change = {}
        elif found := what_fits(whole, full, lambda size, again: ledger(size, again).total, room):
            change = found[0][0]
        if change is None:
            least = ledger(Shape(1, tokens, case.answer_tokens), True)
            continue
        config = replace(whole, **change)
        rows = min(config.batch_size, case.rows)
        used = ledger(Shape(rows, tokens, rows * case.answer_tokens), config.gradient_checkpointing)
        return (
            config,
            str(dtype).removeprefix("torch."),
            used,
            _told(config, used, room, tokens, str(dtype), shape, lora),
        )
    assert least is not None
    raise ConfigError(
        f"Nothing fits: even one row of {tokens} tokens with gradient checkpointing and weights in bf16 needs {megabytes(least.total)} by the ledger, "
        f"and there are {megabytes(room)} to use ({SPARE:.0%} are kept back), {megabytes(least.total - room)} too little. Its weights alone take "
        f"{megabytes(least.weights)}: take a smaller base or shorter rows, shard it over several GPUs, or hold it in four bits (chapter 11)."
    )


def _told(
    config: TrainConfig, used: Ledger, room: int, tokens: int, dtype: str, shape: Any, lora: LoRAConfig
) -> list[Reasoned]:
    seven = predict_memory(
        sketch("llama-2-7b", replace(lora, layers_to_transform=None), torch.bfloat16),
        1,
        tokens,
        gradient_checkpointing=True,
    )
    counted = Evidence(
        f"weights {megabytes(used.weights)}, gradients {megabytes(used.gradients)}, optimiser {megabytes(used.optimizer)}, activations "
        f"{megabytes(used.activations)}: {megabytes(used.total)} of {megabytes(room)}",
        "the ledger, chapter 04", "counted",
    )  # fmt: skip
    times = config.gradient_accumulation_steps
    again = "with gradient checkpointing" if config.gradient_checkpointing else "activations kept"
    at_once = f"{config.batch_size}{f', {times} times a step' if times > 1 else ''}; {again}"
    short = dtype.removeprefix("torch.")
    return [
        Reasoned(
            "rows at once", at_once, "as many of the step's rows as fit; the steps stay the same", (counted,),
            f"one row of {tokens} tokens, weights in bf16, with gradient checkpointing: {megabytes(seven.total)}",
        ),
        Reasoned(
            "base weights", short, "the longest type that fits: nothing is rounded" if short == "float32" else "float32 does not fit",
            (counted,), f"bfloat16: {megabytes(seven.weights)}",
        ),
    ]  # fmt: skip


def _shape(model: str | nn.Module) -> Any:
    if isinstance(model, str):
        if model not in SHAPES:
            raise ConfigError(f"No shape is called {model!r}. Known: {', '.join(SHAPES)}; or give a loaded model.")
        return model
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "hidden_size"):
        raise ConfigError("advise needs a Llama-shaped language model, which carries its shapes in `config`.")
    return config


def _size(shape: Any, name: str) -> int:
    sizes: Mapping[str, Any] = SHAPES[shape] if isinstance(shape, str) else vars(shape)
    return int(sizes[name])


def _bytes(memory: float | str | None) -> float:
    """Bytes of a number, or of a text such as "24 GB"."""
    if memory is None:
        return memory_for_this_process(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if isinstance(memory, str):
        digits = memory.strip().rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
        unit = memory.strip()[len(digits) :].strip().lower()
        try:
            memory = float(digits) * UNITS[unit]
        except (ValueError, KeyError):
            raise ConfigError(
                f"memory={memory!r}: write bytes as a number, or a text such as '24 GB' or '16 GiB'."
            ) from None
    if not (isinstance(memory, int | float) and 0 < memory < math.inf):
        raise ConfigError(f"memory={memory!r}: a positive number of bytes, or a text such as '24 GB'.")
    return memory
