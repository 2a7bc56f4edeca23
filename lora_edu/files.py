"""Writing to a disk that may be full."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from lora_edu.errors import DiskFullError

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # no space, or no more of it for this user


@contextmanager
def room_for(what: str, size: int, folder: Path, unfinished: Path) -> Iterator[None]:
    """For writing `size` bytes to `unfinished` (a file or a folder) in `folder`, under another name until it is whole.

    Raises DiskFullError, with `unfinished` removed, when the disk is full. Other errors pass as they are.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not is_full(error):
            raise
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        raise DiskFullError(
            f"The disk is full. {what} needs {size / 1e6:,.1f} MB, and {shutil.disk_usage(there).free / 1e6:,.1f} MB are free on the disk "
            f"of {folder.absolute()} (or your quota there is used up). What was in that folder is whole. Free some room there: old runs, "
            "caches, checkpoints of ended runs."
        ) from error


def is_full(error: Exception) -> bool:
    """Whether the error says that a disk, or a quota on it, is full."""
    # safetensors passes the system's error on as text alone.
    return getattr(error, "errno", None) in _FULL or any(f"(os error {code})" in str(error) for code in _FULL)
