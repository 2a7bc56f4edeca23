"""What of a configuration the memory decides: rows at once, checkpointing, the type of the base's weights. Chapter 09."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.errors import ConfigError
from lora_edu.experiments.evidence import Case, Evidence
from lora_edu.experiments.reasons import Reasoned
from lora_edu.training.config import TrainConfig
from lora_edu.training.memory.advice import Shape, memory_for_this_process, what_fits
from lora_edu.training.memory.fitting import SPARE
from lora_edu.training.memory.ledger import Ledger, megabytes, predict_memory, sketch

UNITS = {"gb": 1e9, "gib": 2**30, "mb": 1e6, "mib": 2**20}


def fitted(
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


def usable_bytes(memory: float | str | None) -> int:
    """Bytes that the ledger's sum has to fit into, of a number or of a text such as "24 GB"; what this process can get, if None."""
    if memory is None:
        memory = memory_for_this_process(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
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
    return int((1 - SPARE) * memory)
