"""The folder of a run: which of its entries are checkpoints, whether it can be written to, and who writes into it. Chapter 05."""

import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lora_edu.errors import TrainingError
from lora_edu.files import is_full

LOCK, HOLDER = ".lock", ".held-by"
_CHECKPOINT = re.compile(r"step-(\d{8,})")
_UNFINISHED = re.compile(r"\.writing-step-\d{8,}-[0-9a-f-]+")  # what a kill left behind


def checkpoint_name(step: int) -> str:
    """The folder's name, so padded that names sort as steps do."""
    return f"step-{step:08d}"


def unfinished_name(step_name: str) -> str:
    """A name for a checkpoint while it is written; no two processes take the same one."""
    return f".writing-{step_name}-{os.getpid():x}-{os.urandom(4).hex()}"


def checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoint folders, newest first: `step-` and at least eight digits, folders only. Whatever else lies there is not ours."""
    return sorted(_folders(output_dir, _CHECKPOINT), key=step_of, reverse=True)


def step_of(folder: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(folder.name.removeprefix("step-"))


def unfinished(output_dir: Path) -> list[Path]:
    """Checkpoints whose writing was broken off."""
    return _folders(output_dir, _UNFINISHED)


def _folders(output_dir: Path, name: re.Pattern[str]) -> list[Path]:
    try:
        with os.scandir(output_dir) as entries:
            return [output_dir / e.name for e in entries if name.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def check_writable(output_dir: Path) -> None:
    """Makes the folder and writes a byte into it, for a run to know before its first step. Raises TrainingError if that cannot be.

    A full disk passes: there may be room when the first checkpoint is due, and it ends no run.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir) as file:
            file.write(b"1")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if not is_full(error):
            raise TrainingError(
                f"Nothing can be written into {output_dir} ({_reason(error)}): choose another output_dir, or mend its rights. "
                "Nothing was trained yet."
            ) from error


@contextmanager
def held(output_dir: Path) -> Iterator[None]:
    """For the length of the block this process alone trains into the folder: two runs would resume from each other's checkpoints.

    The lock is the system's, so that it goes with the process that holds it, however that ends. Raises TrainingError that says who
    holds the folder, or that nothing can be written there.
    """
    check_writable(output_dir)
    lock = FileLock(output_dir / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise TrainingError(
            f"{output_dir} is in use by {_holder(output_dir)}. Wait for that run to end, or choose another output_dir."
        ) from error
    except (OSError, NotImplementedError):  # a full disk, or a file system without locks: no reason to lose the run
        yield
        return
    holder = output_dir / HOLDER
    try:
        _try_to(lambda: holder.write_text(_me(), encoding="utf-8"))
        yield
    finally:
        _try_to(lambda: holder.unlink(missing_ok=True))
        lock.release()


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}, which began at {time.strftime('%Y-%m-%d %H:%M:%S')}"


def _holder(output_dir: Path) -> str:
    try:
        return (output_dir / HOLDER).read_text(encoding="utf-8")[:200] or "another run"
    except (OSError, UnicodeDecodeError):
        return "another run"


def _try_to(act: Callable[[], object]) -> None:
    with suppress(OSError):
        act()


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
