"""Writing a file whole or not at all, on a disk that may be full."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from lora_edu.errors import DiskFullError

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # no space, or no more of it for this user
UNFINISHED = ".part"  # how the name of what is being written ends


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file (or a folder) to: when the block has ended well it takes the place of `path`, in one step.

    Whoever reads meanwhile, or after a kill, finds what was there before, whole; a block that fails leaves that as well, and nothing
    else. What a kill left is written over. A link stays a link. Whoever may have company writes under a lock.
    """
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(target.name + UNFINISHED)
    _remove(unfinished)
    try:
        yield unfinished
        os.replace(unfinished, target)
    except BaseException:
        _remove(unfinished)
        raise


def write_whole(path: Path, text: str) -> None:
    """`text` as UTF-8 in the place of what `path` held: all of it, or nothing has changed."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


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
        _remove(unfinished)
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        raise DiskFullError(
            f"The disk is full. {what} needs {size / 1e6:,.1f} MB, and {shutil.disk_usage(there).free / 1e6:,.1f} MB are free on the disk "
            f"of {folder.absolute()} (or your quota there is used up). What was in that folder is whole. Free some room there: old runs, "
            "caches, checkpoints of ended runs."
        ) from error


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_full(error: Exception) -> bool:
    """Whether the error says that a disk, or a quota on it, is full."""
    # safetensors passes the system's error on as text alone.
    return getattr(error, "errno", None) in _FULL or any(f"(os error {code})" in str(error) for code in _FULL)
