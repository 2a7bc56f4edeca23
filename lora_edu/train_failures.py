"""What ends a run from outside, in clear words and with nothing lost: no memory left, a device gone, another process gone.

Chapter 14. The words come from what torch raises; how much memory was missing, and what would fit, from the ledger (chapter 04).
"""

import contextlib
import gc
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor

from lora_edu.errors import ConfigError, DiskFullError, LoRAEduError, TrainingError
from lora_edu.losses import IGNORE, unwrap
from lora_edu.memory import megabytes, predict
from lora_edu.train_plan import TrainConfig, step_rows
from lora_edu.train_state import checkpoint_name, checkpoints

if TYPE_CHECKING:
    from lora_edu.trainer import Trainer

# Which messages mean what. torch has classes for some of these errors on some devices; on others the text is all there is.
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
_DEVICE_GONE = ("cuda error", "hip error", "device-side assert", "no cuda gpus are available", "mps backend error")
_PEER_GONE = ("gloo", "nccl", "connection closed by peer", "connection reset")


def no_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out, on whatever device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or _says(error, _NO_MEMORY)


def device_gone(error: BaseException) -> bool:
    """Whether the error says that the device no longer answers; whatever lay on it is then lost."""
    return isinstance(error, getattr(torch, "AcceleratorError", ())) or _says(error, _DEVICE_GONE)


def peer_gone(error: BaseException) -> bool:
    """Whether the error says that another process of the run no longer answers."""
    return isinstance(error, torch.distributed.DistError) or _says(error, _PEER_GONE)


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


@contextlib.contextmanager
def in_clear_words(trainer: "Trainer") -> Iterator[None]:
    """Turns what torch raises in such a case into a TrainingError that says where the run stands and what to do."""
    try:
        yield
    except LoRAEduError:
        raise
    except (RuntimeError, MemoryError) as error:
        several = trainer.accelerator.num_processes > 1
        if no_memory(error):
            traceback.clear_frames(error.__traceback__)  # they hold the activations that filled the memory
            words = _out_of_memory(trainer)
        elif several and peer_gone(error):
            words = (
                f"Step {trainer.step + 1} broke off because another process of this run has ended or not answered. Its own last words "
                f"say why, unless it was killed from outside. {_go_on_elsewhere(trainer)}"
            )
        elif device_gone(error):
            words = (
                f"The device {trainer.accelerator.device} stopped answering in step {trainer.step + 1}, and what lay on it is lost. A "
                '"device-side assert" is mostly a token number beyond the vocabulary: the same step on a CPU names it. Else a driver was '
                f"reset, or the device overheated or was taken away. {_go_on_elsewhere(trainer)}"
            )
        else:
            raise
        raise TrainingError(f"{words} ({type(error).__name__}: {str(error).strip().splitlines()[0]})") from error


def _go_on_elsewhere(trainer: "Trainer") -> str:
    """How a new process goes on with the run."""
    newest = checkpoints(trainer.output_dir)[:1] if trainer.output_dir else []
    if newest:
        return f"The newest checkpoint is {newest[0]}. To go on, in a new process: {trainer.resume_hint}"
    return "No checkpoint was written (TrainConfig's output_dir and save_every do that): start again."


# --- memory -----------------------------------------------------------------------------------------------------------


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


def _out_of_memory(trainer: "Trainer") -> str:
    """By how much, what would fit, and where the run stands; saves it first."""
    trainer.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if trainer.accelerator.device.type == "cuda":
        torch.cuda.empty_cache()
    return " ".join([f"Out of memory in step {trainer.step + 1}.", *_by_the_ledger(trainer), _kept(trainer)])


def _by_the_ledger(trainer: "Trainer") -> list[str]:
    config, room = trainer.config, memory_for_this_process(trainer.accelerator.device)
    shape = _largest_micro_batch(trainer)
    model = unwrap(trainer.model)
    general = (
        "What helps and leaves the steps as they are: a smaller batch_size with more gradient_accumulation_steps, or "
        "gradient_checkpointing=True; shorter rows help too."
    )
    if shape is None:
        return [general]

    def need(shape: Shape, checkpointed: bool) -> int:
        return predict(
            model, shape.rows, shape.tokens, answer_tokens=shape.answers, padded=shape.rows > 1,
            autocast=trainer.precision == "bf16", gradient_checkpointing=checkpointed,
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


def _kept(trainer: "Trainer") -> str:
    """What is kept of the run, in words; written to the disk first where that can be done."""
    if trainer.accelerator.num_processes > 1:  # the others wait inside the step, and cannot be asked to save
        return _go_on_elsewhere(trainer)
    if trainer.updating:
        return f"It was in the middle of an update, so the weights may be half new. {_go_on_elsewhere(trainer)}"
    weights = f"Nothing is lost: the weights are those after step {trainer.step}"
    here = f"{weights}, and train() of this trainer goes on, also after trainer.config = dataclasses.replace(trainer.config, …)."
    if trainer.step == 0 or trainer.output_dir is None:
        return here
    try:
        folder = trainer.output_dir / checkpoint_name(trainer.step)
        saved = folder if folder.exists() else trainer.save()
        return f"{weights}, saved in {saved}. To go on, also with such a change: {trainer.resume_hint}"
    except DiskFullError as error:
        return f"{here} It could not be saved. {error}"


def _largest_micro_batch(trainer: "Trainer") -> Shape | None:
    """The largest of the step that broke off, this process's share of it; None if it is no batch of tokens."""
    rank, processes = trainer.accelerator.process_index, trainer.accelerator.num_processes
    shapes = []
    for rows in step_rows(len(trainer.examples), trainer.step, trainer.config):
        batch = trainer.collate([trainer.examples[row] for row in rows[rank::processes] or rows[:1]])
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
