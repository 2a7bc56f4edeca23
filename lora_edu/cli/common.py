"""What the commands that use an adapter share: their options, and opening a base with an adapter in it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lora_edu.cli.run_folder import template_of
from lora_edu.cli.settings import from_config
from lora_edu.errors import DataError, LoRAEduError

Folder = Annotated[
    Path | None, typer.Argument(metavar="[ADAPTER]", help="Folder of an adapter, written here or by PEFT.")
]
Adapter = Annotated[Path | None, typer.Option(help="The same, as an option.")]
Scale = Annotated[float, typer.Option(help="The dial: 1 as trained, 0 the base, above 1 more than trained.")]
Model = Annotated[str | None, typer.Option(help="Base model; the one that the adapter names without it.")]
System = Annotated[
    str | None,
    typer.Option(help="System message; the one that the adapter was trained with without it, else an empty one."),
]
Bits = Annotated[
    int | None,
    typer.Option(help="4: hold the base in four bits; 16: as its file has it. Without it, as the adapter was trained."),
]
Config = Annotated[
    Path | None,
    typer.Option(help="YAML file with any of these settings; flags win.", callback=from_config, is_eager=True),
]


class Split(StrEnum):
    """The parts of a task's rows."""

    TEST = "test"
    VALID = "valid"
    TRAIN = "train"


def the_adapter(folder: Path | None, adapter: Path | None, needed: bool = False) -> Path | None:
    """The one adapter that was named, as an argument or as an option. Raises typer.BadParameter for two, or where one is needed."""
    if folder is not None and adapter is not None and folder != adapter:
        raise typer.BadParameter(f"two adapters are named, {folder} and {adapter}: give one.")
    if needed and folder is None and adapter is None:
        raise typer.BadParameter("name an adapter's folder.")
    return folder if folder is not None else adapter


def counted(count: int, thing: str) -> str:
    """ "1 row", "2 rows"."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def writable(folder: Path, option: str = "--out") -> None:
    """Raises LoRAEduError, before anything slow begins, where nothing could be written into `folder` in the end; it names the option."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise LoRAEduError(f"{folder} cannot be a folder: {there} is a file. Choose another {option}.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise LoRAEduError(f"nothing can be written into {there}: choose another {option}, or change its permissions.")


def must_be_new(out: Path) -> None:
    """Raises LoRAEduError, before anything slow begins, where `out` is there already or could not be written."""
    if out.exists():
        raise LoRAEduError(f"{out} is there already, and nothing is overwritten: choose another --out")
    writable(out)


def chosen_task(text: str) -> Any:
    """ "kjv", or with the task's own options "identity:name=Ada"."""
    from lora_edu.tasks import get_task

    name, _, rest = text.partition(":")
    options = dict(pair.partition("=")[::2] for pair in rest.split(",") if pair)
    if any(not key or not value for key, value in options.items()):
        raise DataError(f"{text!r}: write a task's options as NAME:key=value,key=value")
    return get_task(name, **options)


def opened(model_name: str | None, adapter: Path | None, scale: float = 1.0, bits: int | None = None) -> Any:
    """The base model with its tokenizer, and the adapter in it, its dial set. `bits`: 4, 16, or None for what the adapter's file says."""
    from lora_edu.adapters.save_load import load
    from lora_edu.adapters.switching import set_scale
    from lora_edu.data.templates import PLAIN_TEMPLATE
    from lora_edu.models.base import DEFAULT_MODEL, load_base
    from lora_edu.models.quantized.conversion import quantize
    from lora_edu.models.quantized.linear import Quantization

    finite(scale)
    if bits not in (None, 4, 16):
        raise typer.BadParameter(f"--bits is 4 or 16, not {bits}.")
    how = {None: rounded_as(adapter), 4: Quantization(), 16: None}[bits]
    name = model_name or (base_of(adapter) if adapter else DEFAULT_MODEL)
    base = load_base(name, bits=4) if how == Quantization() else load_base(name)
    if how not in (None, Quantization()):
        quantize(base.model, how)
    own = template_of(adapter) if adapter is not None else None
    base.tokenizer.chat_template = own or base.tokenizer.chat_template or PLAIN_TEMPLATE
    if adapter is not None:
        load(base.model, adapter)
        set_scale(base.model, scale)
    return base


@contextmanager
def base_alone(model: Any, model_name: str | None, adapter: Path | None) -> Iterator[Any]:
    """The base without the adapter: the model switched off, or, where the base itself was trained, a second one."""
    from lora_edu.adapters.finding import state_of
    from lora_edu.adapters.switching import disabled

    if any(config.changes_base for config in state_of(model).configs.values()):
        yield opened(model_name or (base_of(adapter) if adapter else None), None).model
        return
    with disabled(model):
        yield model


def finite(scale: float) -> float:
    """The scale. Raises typer.BadParameter for one that is no finite number."""
    if not math.isfinite(scale):
        raise typer.BadParameter(f"the dial takes a finite number, not {scale}.")
    return scale


def rounded_as(adapter: Path | None) -> Any:
    """How the base was rounded that an adapter was trained on, by the adapter's own file; None where it was not, or nobody knows."""
    from lora_edu.adapters.folder import opened as opened_folder
    from lora_edu.adapters.save_load import BASE_IN_BITS
    from lora_edu.models.quantized.linear import Quantization

    if adapter is None or not (adapter / "adapter_model.safetensors").is_file():
        return None  # what is missing is said where the adapter is read
    with opened_folder(adapter) as file:
        return Quantization.from_json(file.metadata.get(BASE_IN_BITS))


def base_of(adapter: Path) -> str:
    """What an adapter's configuration calls its base; the course's model goes by its hub name there, so that other tools know it."""
    from lora_edu.adapters.folder import read_config
    from lora_edu.models.cache import DEFAULT_MODEL, PACKAGED

    name = read_config(adapter).base_model_name_or_path or DEFAULT_MODEL
    return next((packaged for packaged, spec in PACKAGED.items() if spec.hub == name), name)
