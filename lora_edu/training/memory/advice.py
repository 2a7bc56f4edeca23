"""What would fit where a step did not: by the ledger, with the run's steps as they are. Chapter 14."""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch
from torch import Tensor

from lora_edu.data.examples import IGNORE
from lora_edu.errors import ConfigError
from lora_edu.models.modules import unwrap
from lora_edu.training.config import TrainConfig, step_rows
from lora_edu.training.memory.ledger import megabytes, predict_memory
from lora_edu.training.run import Run


@dataclass(frozen=True)
class Shape:
    """What one process puts through the model at once: rows, tokens a row, tokens of it that are answered."""

    rows: int
    tokens: int
    answers: int


Need = Callable[[Shape, bool], int]  # bytes of a step with such micro-batches; True: with gradient checkpointing


def what_fits(config: TrainConfig, shape: Shape, need: Need, room: int) -> list[tuple[dict[str, Any], int]]:
    """Settings under which the run's steps stay as they are and fit into `room` bytes, with the bytes they need.

    Each the least change of its kind: fewer rows at once (and more gradient accumulation), gradient checkpointing, or both if
    neither is enough alone.
    """
    found: list[tuple[dict[str, Any], int]] = []
    sizes = [size for size in range(config.batch_size, 0, -1) if config.batch_size % size == 0]
    for checkpointed in (False, True):
        if checkpointed and (config.gradient_checkpointing or (found and "batch_size" not in found[-1][0])):
            break
        for size in sizes:
            rows = math.ceil(shape.rows * size / config.batch_size)
            smaller = replace(shape, rows=rows, answers=math.ceil(shape.answers * rows / shape.rows))
            bytes_needed = need(smaller, checkpointed or config.gradient_checkpointing)
            change: dict[str, Any] = {"gradient_checkpointing": True} if checkpointed else {}
            if size < config.batch_size:
                steps = config.gradient_accumulation_steps * config.batch_size // size
                change |= {"batch_size": size, "gradient_accumulation_steps": steps}
            if change and bytes_needed <= room and not (checkpointed and found and size < config.batch_size):
                found.append((change, bytes_needed))
                break
    return found


def by_the_ledger(run: Run) -> list[str]:
    """In sentences: what the step needs, what this process can have, and what would fit."""
    config, room = run.config, memory_for_this_process(run.accelerator.device)
    shape = _largest_micro_batch(run)
    model = unwrap(run.model)
    general = (
        "What helps and leaves the steps as they are: a smaller batch_size with more gradient_accumulation_steps, or "
        "gradient_checkpointing=True; shorter rows help too."
    )
    if shape is None:
        return [general]

    def need(shape: Shape, checkpointed: bool) -> int:
        return predict_memory(
            model, shape.rows, shape.tokens, answer_tokens=shape.answers, padded=shape.rows > 1,
            autocast=run.precision == "bf16", gradient_checkpointing=checkpointed,
        ).total  # fmt: skip

    try:
        needed = need(shape, config.gradient_checkpointing)
    except ConfigError:  # a model whose shapes the ledger does not know
        return [general]
    what = f"{shape.rows} row{'s' * (shape.rows > 1)} of {shape.tokens} tokens"
    words = [f"By the ledger a step with {what} needs {megabytes(needed)}; this process can have {megabytes(room)}"]
    if needed <= room:
        words[0] += (
            ", so something else holds memory here: other programs, or models and results kept by earlier cells."
        )
        return words
    words[0] += f", which is {megabytes(needed - room)} too little."
    if fitting := what_fits(config, shape, need, room):
        options = [
            f"{', '.join(f'{key}={value}' for key, value in change.items())} ({megabytes(size)})"
            for change, size in fitting
        ]
        return [*words, f"What would fit, with the same steps: {'; or '.join(options)}."]
    one = replace(shape, rows=1, answers=math.ceil(shape.answers / shape.rows))
    lengths = (shape.tokens >> halvings for halvings in range(1, shape.tokens.bit_length()))
    for tokens in lengths:
        if (size := need(replace(one, tokens=tokens, answers=min(one.answers, tokens)), True)) <= room:
            return [
                *words,
                f"Even one row does not fit. Rows of {tokens} tokens would, with gradient_checkpointing=True ({megabytes(size)}).",
            ]
    return [*words, "No batch fits: take a smaller base, load it in bf16, or shard it over several GPUs."]


def _largest_micro_batch(run: Run) -> Shape | None:
    """The largest of the step that broke off, this process's share of it; None if it is no batch of tokens."""
    rank, processes = run.accelerator.process_index, run.accelerator.num_processes
    shapes = []
    for rows in step_rows(len(run.examples), run.step, run.config):
        batch = run.collate([run.examples[row] for row in rows[rank::processes] or rows[:1]])
        ids, labels = (batch.get(key) if isinstance(batch, Mapping) else None for key in ("input_ids", "labels"))
        if not (isinstance(ids, Tensor) and isinstance(labels, Tensor) and ids.ndim == 2):
            return None
        shapes.append(Shape(ids.shape[0], ids.shape[1], int((labels != IGNORE).sum())))
    return max(shapes, key=lambda shape: shape.rows * shape.tokens)


def memory_for_this_process(device: torch.device) -> int:
    """Bytes that this process has or could get on `device`: what is free, and what it holds already."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    here = psutil.Process().memory_info()
    room = psutil.virtual_memory().available + here.rss
    if sys.platform != "win32":
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[
            0
        ]  # `ulimit -v`; counts addresses, of which more is reserved than used
        if limit != resource.RLIM_INFINITY:
            room = min(room, limit - here.vms + here.rss)
    return room
