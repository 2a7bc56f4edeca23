"""What ends a run from outside, in clear words and with nothing lost: no memory left, a device gone, another process gone.

Chapter 14. The words come from what torch raises; how much memory was missing, and what would fit, from the ledger (chapter 04).
"""

import contextlib
import gc
import traceback
from collections.abc import Iterator

import torch

from lora_edu.errors import DiskError, LoRAEduError, TrainingError
from lora_edu.training.checkpoints import save_checkpoint
from lora_edu.training.folder import checkpoint_name, checkpoints
from lora_edu.training.run import Run

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
def in_clear_words(run: Run) -> Iterator[None]:
    """Turns what torch raises in such a case into a TrainingError that says where the run stands and what to do."""
    try:
        yield
    except LoRAEduError:
        raise
    except (RuntimeError, MemoryError) as error:
        several = run.accelerator.num_processes > 1
        if no_memory(error):
            traceback.clear_frames(error.__traceback__)  # they hold the activations that filled the memory
            words = _out_of_memory(run)
        elif several and peer_gone(error):
            words = (
                f"Step {run.step + 1} broke off because another process of this run has ended or not answered. Its own last words "
                f"say why, unless it was killed from outside. {_go_on_elsewhere(run)}"
            )
        elif device_gone(error):
            words = (
                f"The device {run.accelerator.device} stopped answering in step {run.step + 1}, and what lay on it is lost. A "
                '"device-side assert" is mostly a token number beyond the vocabulary: the same step on a CPU names it. Else a driver was '
                f"reset, or the device overheated or was taken away. {_go_on_elsewhere(run)}"
            )
        else:
            raise
        raise TrainingError(f"{words} ({type(error).__name__}: {str(error).strip().splitlines()[0]})") from error


def _go_on_elsewhere(run: Run) -> str:
    """How a new process goes on with the run."""
    newest = checkpoints(run.output_dir)[:1] if run.output_dir else []
    if newest:
        return f"The newest checkpoint is {newest[0]}. To go on, in a new process: {run.resume_hint}"
    return "No checkpoint was written (TrainConfig's output_dir and save_every do that): start again."


# --- memory -----------------------------------------------------------------------------------------------------------


def _out_of_memory(run: Run) -> str:
    """By how much, what would fit, and where the run stands; saves it first."""
    run.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if run.accelerator.device.type == "cuda":
        torch.cuda.empty_cache()
    # Needed only now, and it brings adapters and the ledger with it.
    from lora_edu.training.memory.advice import by_the_ledger

    return " ".join([f"Out of memory in step {run.step + 1}.", *by_the_ledger(run), _kept(run)])


def _kept(run: Run) -> str:
    """What is kept of the run, in words; written to the disk first where that can be done."""
    if run.accelerator.num_processes > 1:  # the others wait inside the step, and cannot be asked to save
        return _go_on_elsewhere(run)
    if run.updating:
        return f"It was in the middle of an update, so the weights may be half new. {_go_on_elsewhere(run)}"
    weights = f"Nothing is lost: the weights are those after step {run.step}"
    here = f"{weights}, and train() of this trainer goes on, also after trainer.config = dataclasses.replace(run.config, …)."
    if run.step == 0 or run.output_dir is None:
        return here
    try:
        folder = run.output_dir / checkpoint_name(run.step)
        saved = folder if folder in checkpoints(run.output_dir) else save_checkpoint(run)
        return f"{weights}, saved in {saved}. To go on, also with such a change: {run.resume_hint}"
    except DiskError as error:
        return f"{here} It could not be saved. {error}"
