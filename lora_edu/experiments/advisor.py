"""A configuration in which every choice carries its reason and its evidence. `lora-edu advise`. Chapter 09."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from torch import nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.targets import plan
from lora_edu.errors import CheckpointError, ConfigError
from lora_edu.experiments.capacity import bits_each, capacities, free_in_model, free_parameters
from lora_edu.experiments.choices import ALL_LINEAR, LAYERS
from lora_edu.experiments.evidence import (
    LARGE,
    RATES_7B,
    SMALL,
    Case,
    better_place,
    gathered,
    rate_of,
    rounded,
    targets,
    token_bits,
)
from lora_edu.experiments.reasons import Advice, Reasoned
from lora_edu.experiments.room import fitted, usable_bytes
from lora_edu.training.config import TrainConfig, total_steps
from lora_edu.training.memory.ledger import SHAPES, sketch

RANKS = tuple(2**k for k in range(3, 9))  # 8 … 256
ENOUGH_STEPS, MOST_EPOCHS, MIDDLE_RATE = 60, 20, 1e-3


class Described(Protocol):
    """What is asked of a task (lora_edu.tasks.Task is the full form)."""

    name: str
    recipe: Any
    max_new_tokens: int


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
    room = usable_bytes(memory)
    train, dtype, ledger, fitting = fitted(shape, lora, train, case, tokens, room)
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
            f"the answers by heart ({rounded(case.need)} bits) are more than any rank up to {max(room)} has room for: its most",
        )
    r = fitting[0]
    if r == least:
        return (
            r,
            f"the rank of the course's recipes; it has room for {rounded(room[r])} bits, and the answers by heart are at most {rounded(case.need)}",
        )
    return (
        r,
        f"the smallest rank with room for the answers by heart: at least {rounded(room[r])} bits for {rounded(case.need)}",
    )


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
