"""A run on disk: everything that decides its next step, as safetensors and JSON, written so that a kill at any moment loses nothing.

Chapter 05. A checkpoint is a folder `step-00000120` with `tensors.safetensors` (trainable parameters, AdamW's moments, buffers and
what else a step may change, the states of the random generators) and `run.json` (step, history, settings, the identity of model and data, and a hash of all of it,
tensors included). It is written beside its place under another name, flushed to the disk, and renamed: a folder with the right name
is a whole one, and one whose bits have changed since is passed over.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lora_edu.errors import DiskError, DiskFullError, TrainingError
from lora_edu.files import room_for
from lora_edu.models.sharded import as_shards
from lora_edu.training.callbacks import History
from lora_edu.training.folder import checkpoint_name, checkpoints, step_of, unfinished, unfinished_name
from lora_edu.training.identity import differences, tensor_bytes
from lora_edu.training.optimizers import state_like
from lora_edu.training.processes import gathered, of_the_first
from lora_edu.training.rng import State, capture_rng
from lora_edu.training.run import Run

TENSORS, VALUES = "tensors.safetensors", "run.json"
KEEP = 2  # the newest, and one to fall back on


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


# --- the whole state of a run -----------------------------------------------------------------------------------------


def snapshot(run: Run) -> State:
    """Everything that decides the run's next step. All processes must call it; the tensors are in the first one's state."""
    generators: list[State] = gather_object([run.rng or capture_rng()])  # one a process
    kept: dict[str, Tensor] = {f"weights/{name}": p for name, p in run.parameters.items()}
    kept |= {f"adamw/{name}": t for name, t in optimizer_tensors(run.optimizer, run.parameters).items()}
    kept |= {f"best/{name}": t for name, t in (run.best_weights or {}).items()}
    kept |= {f"buffers/{name}": t for name, t in run.carried().items()}
    tensors = gathered(run.accelerator, kept)
    tensors |= {f"rng/{rank}/{name}": t for rank, rng in enumerate(generators) for name, t in rng.tensors.items()}
    values = {
        "step": run.step,
        "learning_rate": run.learning_rate,
        "precision": run.precision,
        "threads": run.threads,
        "rng": [rng.values for rng in generators],
        "identity": run.identity,
        "history": run.history.to_dict(),
    }
    return State(tensors, values)


def part(state: State, prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix/`, by the rest of their names."""
    return {name.removeprefix(prefix): t for name, t in state.tensors.items() if name.startswith(prefix)}


def restore(run: Run, state: State) -> None:
    """The inverse of `snapshot`, of a state that `check_state` has passed: from here on nothing is refused."""
    rank, processes = run.accelerator.process_index, run.accelerator.num_processes
    rng = None
    if len(state.values["rng"]) == processes:  # at another number of processes: the same batches, other dropout masks
        rng = State(part(state, f"rng/{rank}/"), state.values["rng"][rank])
    run.put(part(state, "weights/") | part(state, "buffers/"))
    put_optimizer_tensors(run.optimizer, run.parameters, part(state, "adamw/"))
    run.move_to(state.values, part(state, "best/") or None, rng)


def check_state(run: Run, state: State) -> None:
    """Raises ValueError that names what keeps this state from being put into the run; the run is not touched."""
    values = state.values
    rules: list[tuple[str, Any]] = [
        ("step", lambda x: type(x) is int and 0 <= x <= run.total_steps),
        ("learning_rate", lambda x: isinstance(x, float | int) and math.isfinite(x)),
        ("precision", lambda x: x in ("fp32", "bf16")),
        ("threads", lambda x: type(x) is int and 1 <= x <= 4096),
        ("rng", lambda x: isinstance(x, list) and x and all(isinstance(y, dict) and y.keys() == {"python", "numpy"} for y in x)),
        ("history", _is_history),
    ]  # fmt: skip
    for key, fits in rules:
        if key not in values or not fits(values[key]):
            raise ValueError(f"{VALUES} has no usable {key!r}")
    if len(values["history"]["steps"]) > values["step"]:
        raise ValueError(f"{VALUES} has more records than steps")
    expected: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for name, p in run.parameters.items():
        like = p.dtype, tuple(p.shape)
        expected[f"weights/{name}"] = like
        if values["step"]:
            expected |= {f"adamw/{name}/{key}": kept for key, kept in state_like(run.optimizer, p).items()}
    expected |= {f"buffers/{name}": (t.dtype, tuple(t.shape)) for name, t in run.carried().items()}
    if any(key.startswith("best/") for key in state.tensors):
        expected |= {f"best/{name}": (t.dtype, tuple(t.shape)) for name, t in (run.parameters | run.carried()).items()}
    generators = capture_rng().tensors
    for rank in range(len(values["rng"])):
        expected |= {f"rng/{rank}/{name}": (generators[name].dtype, tuple(generators[name].shape)) for name in ("python", "numpy", "cpu")}  # fmt: skip
    found = {name: (t.dtype, tuple(t.shape)) for name, t in state.tensors.items()}
    for name, like in expected.items():
        if name not in found:
            raise ValueError(f"{TENSORS} lacks {name}")
        if found[name] != like:
            raise ValueError(f"{name} is {found[name][0]} {found[name][1]} in {TENSORS} and {like[0]} {like[1]} here")
    devices = ("cuda", "mps")  # their generators may be here, or on the machine where the run began
    for name in found.keys() - expected.keys():
        if not (name.startswith("rng/") and name.split("/")[-1].startswith(devices)):
            raise ValueError(f"{TENSORS} holds {name}, which this run does not know")


_STEP = {"step", "epoch", "loss", "grad_norm", "learning_rate", "tokens", "seconds"}
_EVALUATION = {"step", "loss", "tokens"}


def _is_history(values: Any) -> bool:
    if not isinstance(values, dict) or values.keys() != History().to_dict().keys():
        return False
    steps, evaluations, best = values["steps"], values["evaluations"], values["best"]
    if not isinstance(steps, list) or not isinstance(evaluations, list) or not isinstance(values["stopped"], str):
        return False
    measured = evaluations if best is None else [*evaluations, best]
    return all(isinstance(record, dict) and record.keys() >= _STEP for record in steps) and all(
        isinstance(record, dict) and record.keys() >= _EVALUATION for record in measured
    )


# --- on disk ----------------------------------------------------------------------------------------------------------


def write_checkpoint(folder: Path, state: State) -> None:
    """Writes a whole checkpoint or none, then removes older ones but the newest of them, and what a kill left behind.

    Raises DiskError when it cannot be written (DiskFullError when there is no room); the checkpoints that were there are then whole,
    and what was begun is gone. The folder must be this run's alone (`folder.held`).
    """
    output_dir = folder.parent
    temporary = output_dir / unfinished_name(folder.name)
    values = state.values | {"tensors": tensors_hash(state.tensors)}
    text = json.dumps({"sha256": _values_hash(values)} | values, indent=1)
    size = sum(tensor.nbytes for tensor in state.tensors.values()) + len(text)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise DiskError(f"{folder} is in the way and is no checkpoint: move it elsewhere.")
    try:
        with room_for(f"The checkpoint {folder.name}", size, output_dir, temporary):
            output_dir.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            save_file({name: t.detach().contiguous() for name, t in state.tensors.items()}, temporary / TENSORS)
            (temporary / VALUES).write_text(text, encoding="utf-8")
            for path in (temporary / TENSORS, temporary / VALUES, temporary):
                _flush(path)
            if folder.exists():
                shutil.rmtree(folder)  # a damaged one, or the same step saved twice
            os.replace(temporary, folder)
            _flush(output_dir)
    except DiskFullError:
        raise
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise DiskError(
            f"{folder.name} could not be written into {output_dir} ({error}). What was there is whole. Is the disk still there, "
            "and may this process write to it?"
        ) from error
    # Newer ones than this are damaged, or the run would not have gone back behind them; it will write over them.
    older = [other for other in checkpoints(output_dir) if step_of(other) < step_of(folder)]
    for old in [*older[KEEP - 1 :], *unfinished(output_dir)]:
        shutil.rmtree(old, ignore_errors=True)


def save_checkpoint(run: Run) -> Path:
    """`Trainer.save`: all processes take part, the first one writes, and all know whether it could."""
    if run.output_dir is None:
        raise TrainingError("The config has no output_dir to save to.")
    folder = run.output_dir / checkpoint_name(run.step)
    with run.in_its_folder():
        state = snapshot(run)
        fault: tuple[type[DiskError], str] | None = None
        if run.is_main_process:
            try:
                write_checkpoint(folder, state)
            except DiskError as error:
                fault = type(error), str(error)
    if fault := of_the_first(fault):
        kind, words = fault
        raise kind(words)
    return folder


def save_or_warn(run: Run) -> None:
    """A checkpoint on the way: a disk that fails is no reason to lose the run, and there may be room for the next one."""
    try:
        save_checkpoint(run)
    except DiskError as error:
        warnings.warn(f"Nothing was saved after step {run.step}; the run goes on. {error}", stacklevel=3)


def save_for_later(run: Run) -> str:
    """Saves an interrupted run, if it can be saved; says how to go on with it."""
    stopped, here = f"Stopped after step {run.step}", "train() of the same trainer goes on"
    if run.output_dir is None:
        return f"{stopped}. {here}; there is no output_dir to save to."
    try:
        return f"{stopped} and saved {save_checkpoint(run)}. To go on: {run.resume_hint}"
    except DiskError as error:
        return f"{stopped}, but could not save. {error} Then save() saves, or {here}."


def newest_state(run: Run) -> State:
    """The newest checkpoint that is whole and fits; damaged ones are passed over with a warning. The run is not touched.

    Raises TrainingError if there is none, or if it is of another run, naming what differs.
    """
    output_dir = run.output_dir
    if output_dir is None:
        raise TrainingError("There is nothing to resume from: the config has no output_dir.")
    for folder in checkpoints(output_dir):
        try:
            state = read_checkpoint(folder)
            if other := differences(state.values["identity"], run.identity):
                more = f"; and {len(other) - 6} more" if len(other) > 6 else ""
                raise TrainingError(
                    f"The checkpoint in {output_dir} is of another run. What differs: {'; '.join(other[:6])}{more}."
                )
            check_state(run, state)
            return state
        except (OSError, ValueError, SafetensorError, RecursionError) as error:
            warnings.warn(f"Passing over the damaged checkpoint {folder}: {str(error)[:300]}", stacklevel=3)
    raise TrainingError(f"There is no whole checkpoint in {output_dir} to resume from: start the run with train().")


def read_checkpoint(folder: Path) -> State:
    """A checkpoint's content. Raises OSError, ValueError or SafetensorError where it is not what was written."""
    for name in (TENSORS, VALUES):
        if not (folder / name).is_file():  # a pipe under this name would be read for ever
            raise ValueError(f"{name} is missing")
    values = json.loads((folder / VALUES).read_text(encoding="utf-8"))
    if not isinstance(values, dict) or values.pop("sha256", None) != _values_hash(values):
        raise ValueError(f"{VALUES} has changed since it was written (its hash is another)")
    tensors = load_file(folder / TENSORS)
    if values.get("tensors") != tensors_hash(tensors):
        raise ValueError(f"{TENSORS} is not what was written with this {VALUES} (its hash is another)")
    return State(tensors, values)


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and every bit."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor_bytes(tensor).data)
    return digest.hexdigest()


def _values_hash(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _flush(path: Path) -> None:
    """Makes the disk hold what was written (a folder's entries too, where the system can)."""
    folder = path.is_dir()
    if os.name == "nt" and folder:
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        with contextlib.suppress(OSError) if folder else contextlib.nullcontext():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
