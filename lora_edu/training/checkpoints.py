"""A run on disk: everything that decides its next step, as safetensors and JSON, written so that a kill at any moment loses nothing.

Chapter 05. A checkpoint is a folder `step-00000120` with `tensors.safetensors` (trainable parameters, AdamW's moments, the states of
the random generators) and `run.json` (step, history, settings, and the identity of model and data). It is written beside its place
under another name, flushed to the disk, and renamed: a folder with the right name is a whole one.
"""

import hashlib
import json
import os
import random
import shutil
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lora_edu.errors import DiskFullError, TrainingError
from lora_edu.files import room_for
from lora_edu.models.modules import unwrap
from lora_edu.models.sharded import as_shards, whole
from lora_edu.training.callbacks import History
from lora_edu.training.processes import gathered, of_the_first

if TYPE_CHECKING:
    from lora_edu.training.trainer import Trainer

TENSORS, VALUES = "tensors.safetensors", "run.json"
PREFIX, UNFINISHED = "step-", ".writing-"
KEEP = 2  # the newest, and one to fall back on


class State(NamedTuple):
    """Tensors by name, and plain JSON values."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


# --- random generators ------------------------------------------------------------------------------------------------


def capture_rng() -> State:
    """The states of Python's, NumPy's and torch's generators (CPU, CUDA, MPS)."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    tensors = {
        "python": torch.tensor(words, dtype=torch.int64),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "cpu": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        tensors |= {f"cuda{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    if torch.backends.mps.is_available():
        tensors["mps"] = torch.mps.get_rng_state()
    return State(tensors, {"python": [version, gauss], "numpy": [kind, position, has_gauss, cached]})


def restore_rng(state: State) -> None:
    """The inverse of `capture_rng`; the states of devices that are not here are left out."""
    tensors, values = state
    version, gauss = values["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    kind, position, has_gauss, cached = values["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["cpu"])
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            if f"cuda{i}" in tensors:
                torch.cuda.set_rng_state(tensors[f"cuda{i}"], i)
    if torch.backends.mps.is_available() and "mps" in tensors:
        torch.mps.set_rng_state(tensors["mps"])


# --- the optimiser ----------------------------------------------------------------------------------------------------


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """AdamW's state as `{parameter}/{exp_avg, exp_avg_sq, step}`; empty before its first step."""
    return {
        f"{name}/{key}": value for name, p in parameters.items() for key, value in optimizer.state.get(p, {}).items()
    }


def put_optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """The inverse of `optimizer_tensors`. The moments live beside (and as) their parameter; the step count stays on the CPU."""
    optimizer.state.clear()
    for full_name, value in tensors.items():
        name, key = full_name.rsplit("/", 1)
        p = parameters[name]
        optimizer.state[p][key] = value if key == "step" else as_shards(value, p)


# --- whose run is it? -------------------------------------------------------------------------------------------------


def data_identity(examples: Sequence[Any] | None) -> dict[str, Any] | None:
    """How many examples, and a hash of their content in their order."""
    if examples is None:
        return None
    digest = hashlib.sha256()
    for example in examples:
        _feed(digest, example)
    return {"rows": len(examples), "content": digest.hexdigest()[:16]}


def _feed(digest: "hashlib._Hash", value: Any) -> None:
    """Hashes tensors and arrays by their bytes, containers and plain objects by what they hold, anything else by its repr."""
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode() + _bytes(value).tobytes())
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, Mapping):
        for key, item in value.items():
            digest.update(repr(key).encode())
            _feed(digest, item)
    elif isinstance(value, list | tuple) and not all(isinstance(item, int) for item in value):
        digest.update(f"[{len(value)}".encode())
        for item in value:
            _feed(digest, item)
    elif type(value).__repr__ is object.__repr__:  # it would show an address, which is another one next time
        _feed(digest, vars(value))
    else:
        digest.update(repr(value).encode())


def _bytes(tensor: Tensor) -> np.ndarray:
    """The tensor's content as bytes (NumPy knows no bfloat16)."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def model_identity(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> dict[str, Any]:
    """The trainable parameters' types and shapes, and a hash of everything frozen."""
    digest = hashlib.sha256()
    by_name = dict(model.named_parameters(remove_duplicate=False))  # a tied weight has two names
    trained = {id(by_name[name]) for name in parameters}
    names = {name for name, p in by_name.items() if id(p) in trained}
    for name, tensor in model.state_dict().items():
        if name not in names:
            content = zlib.crc32(_bytes(whole(tensor)).data)
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}{content}".encode())
    return {
        "trainable": {
            name: f"{str(p.dtype).removeprefix('torch.')} {tuple(p.shape)}" for name, p in parameters.items()
        },
        "frozen weights": digest.hexdigest()[:16],
    }


def differences(saved: Any, now: Any, what: str = "") -> list[str]:
    """What differs between two identities, in words: `config learning_rate: 0.001 then, 0.002 now`."""
    if isinstance(saved, dict) and isinstance(now, dict):
        keys = list(dict.fromkeys([*saved, *now]))
        return [line for key in keys for line in differences(saved.get(key), now.get(key), f"{what} {key}".strip())]
    return [] if saved == now else [f"{what}: {saved} then, {now} now"]


# --- the whole state of a run -----------------------------------------------------------------------------------------


def run_identity(trainer: "Trainer") -> dict[str, Any]:
    """What a checkpoint must agree with to be this run's: what decides its steps in config, data and model."""
    return {
        "config": trainer.config.decisive(),
        "examples": data_identity(trainer.examples),
        "eval_examples": data_identity(trainer.eval_examples),
        "model": model_identity(unwrap(trainer.model), trainer.parameters),
    }


def snapshot(trainer: "Trainer") -> State:
    """Everything that decides the run's next step. All processes must call it; the tensors are in the first one's state."""
    generators: list[State] = gather_object([trainer.rng or capture_rng()])  # one a process
    weights: dict[str, Tensor] = {f"weights/{name}": p for name, p in trainer.parameters.items()}
    weights |= {f"adamw/{name}": t for name, t in optimizer_tensors(trainer.optimizer, trainer.parameters).items()}
    weights |= {f"best/{name}": t for name, t in (trainer.best_weights or {}).items()}
    tensors = gathered(trainer.accelerator, weights)
    tensors |= {f"rng/{rank}/{name}": t for rank, rng in enumerate(generators) for name, t in rng.tensors.items()}
    values = {
        "step": trainer.step,
        "learning_rate": trainer.learning_rate,
        "precision": trainer.precision,
        "threads": trainer.threads,
        "rng": [rng.values for rng in generators],
        "identity": trainer.identity,
        "history": trainer.history.to_dict(),
    }
    return State(tensors, values)


def restore(trainer: "Trainer", state: State) -> None:
    """The inverse of `snapshot`. Raises TrainingError, and changes nothing, if the state is of another run."""
    values = state.values
    if other := differences(values["identity"], trainer.identity):
        raise TrainingError(
            f"The checkpoint in {trainer.output_dir} is of another run. What differs: {'; '.join(other[:6])}."
        )

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in state.tensors.items() if name.startswith(prefix)}

    trainer.put(part("weights/"))
    put_optimizer_tensors(trainer.optimizer, trainer.parameters, part("adamw/"))
    trainer.best_weights = part("best/") or None
    trainer.step, trainer.learning_rate = values["step"], values["learning_rate"]
    trainer.precision, trainer.threads = values["precision"], values["threads"]
    trainer.history = History.from_dict(values["history"])
    trainer.updating = False
    trainer.seconds = trainer.history.steps[-1]["seconds"] if trainer.history.steps else 0.0
    rank, processes = trainer.accelerator.process_index, trainer.accelerator.num_processes
    if len(values["rng"]) == processes:  # at another number of processes: the same batches, other dropout masks
        trainer.rng = State(part(f"rng/{rank}/"), values["rng"][rank])
    if trainer.history.stopped and trainer.best_weights is not None:
        trainer.put(trainer.best_weights)


# --- on disk ----------------------------------------------------------------------------------------------------------


def checkpoint_name(step: int) -> str:
    """The folder's name, so padded that names sort as steps do."""
    return f"{PREFIX}{step:08d}"


def write_checkpoint(folder: Path, state: State) -> None:
    """Writes a whole checkpoint or none, then removes all but the newest ones and what a kill left behind.

    Raises DiskFullError when there is no room for it; the checkpoints that were there are then whole, and the room is given back.
    """
    output_dir = folder.parent
    temporary = output_dir / f"{UNFINISHED}{folder.name}"
    values = json.dumps(state.values, indent=1)
    size = sum(tensor.nbytes for tensor in state.tensors.values()) + len(values)
    with room_for(f"The checkpoint {folder.name}", size, output_dir, temporary):
        output_dir.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        save_file({name: tensor.detach().contiguous() for name, tensor in state.tensors.items()}, temporary / TENSORS)
        (temporary / VALUES).write_text(values, encoding="utf-8")
        for path in (temporary / TENSORS, temporary / VALUES, temporary):
            _flush(path)
    shutil.rmtree(folder, ignore_errors=True)  # only ever a damaged one: a run does not save the same step twice
    os.replace(temporary, folder)
    _flush(output_dir)
    for old in [*checkpoints(output_dir)[KEEP:], *output_dir.glob(f"{UNFINISHED}*")]:
        shutil.rmtree(old, ignore_errors=True)


def save_checkpoint(trainer: "Trainer") -> Path:
    """`Trainer.save`: all processes take part, the first one writes, and all know whether there was room."""
    if trainer.output_dir is None:
        raise TrainingError("The config has no output_dir to save to.")
    folder = trainer.output_dir / checkpoint_name(trainer.step)
    state = snapshot(trainer)
    full = ""
    if trainer.accelerator.is_main_process:
        try:
            write_checkpoint(folder, state)
        except DiskFullError as error:
            full = str(error)
    if full := of_the_first(full):
        raise DiskFullError(full)
    return folder


def save_or_warn(trainer: "Trainer") -> None:
    """A checkpoint on the way: a full disk is no reason to lose the run, and there may be room for the next one."""
    try:
        save_checkpoint(trainer)
    except DiskFullError as error:
        warnings.warn(f"Nothing was saved after step {trainer.step}; the run goes on. {error}", stacklevel=3)


def save_for_later(trainer: "Trainer") -> str:
    """Saves an interrupted run, if it can be saved; says how to go on with it."""
    stopped, here = f"Stopped after step {trainer.step}", "train() of the same trainer goes on"
    if trainer.output_dir is None:
        return f"{stopped}. {here}; there is no output_dir to save to."
    try:
        return f"{stopped} and saved {save_checkpoint(trainer)}. To go on: {trainer.resume_hint}"
    except DiskFullError as error:
        return f"{stopped}, but could not save. {error} Then save() saves, or {here}."


def checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoint folders, newest first."""
    return sorted(output_dir.glob(f"{PREFIX}*"), reverse=True)


def newest_checkpoint(output_dir: Path) -> State:
    """The newest checkpoint that is whole; damaged ones are passed over with a warning. Raises TrainingError if there is none."""
    for folder in checkpoints(output_dir):
        try:
            values = json.loads((folder / VALUES).read_text(encoding="utf-8"))
            return State(load_file(folder / TENSORS), values)
        except (OSError, ValueError, SafetensorError) as error:
            warnings.warn(f"Passing over the damaged checkpoint {folder}: {error}", stacklevel=3)
    raise TrainingError(f"There is no whole checkpoint in {output_dir} to resume from: start the run with train().")


def _flush(path: Path) -> None:
    """Makes the disk hold what was written (a folder's entries too, where the system can)."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
