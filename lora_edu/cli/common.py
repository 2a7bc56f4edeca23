"""What the commands that use an adapter share: their options, and opening a base with an adapter in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lora_edu.cli.settings import from_config
from lora_edu.errors import DataError

Adapter = Annotated[Path | None, typer.Option(help="Folder of an adapter, written here or by PEFT.")]
Scale = Annotated[float, typer.Option(help="The dial: 1 as trained, 0 the base, above 1 more than trained.")]
Model = Annotated[str | None, typer.Option(help="Base model; the one that the adapter names without it.")]
Config = Annotated[
    Path | None,
    typer.Option(help="YAML file with any of these settings; flags win.", callback=from_config, is_eager=True),
]


def chosen_task(text: str) -> Any:
    """ "kjv", or with the task's own options "identity:name=Ada"."""
    from lora_edu.tasks import get_task

    name, _, rest = text.partition(":")
    options = dict(pair.partition("=")[::2] for pair in rest.split(",") if pair)
    if any(not key or not value for key, value in options.items()):
        raise DataError(f"{text!r}: write a task's options as NAME:key=value,key=value")
    return get_task(name, **options)


def opened(model_name: str | None, adapter: Path | None, scale: float = 1.0) -> Any:
    """The base model with its tokenizer, and the adapter in it, its dial set."""
    from lora_edu.adapters.injection import set_scale
    from lora_edu.adapters.save_load import load
    from lora_edu.data.examples import PLAIN_TEMPLATE
    from lora_edu.models.base import DEFAULT_MODEL, load_base

    base = load_base(model_name or (base_of(adapter) if adapter else DEFAULT_MODEL))
    base.tokenizer.chat_template = base.tokenizer.chat_template or PLAIN_TEMPLATE
    if adapter is not None:
        load(base.model, adapter)
        set_scale(base.model, scale)
    return base


def base_of(adapter: Path) -> str:
    """What an adapter's configuration calls its base; the course's model goes by its hub name there, so that other tools know it."""
    from lora_edu.adapters.save_load import read
    from lora_edu.models.base import DEFAULT_MODEL, PACKAGED

    name = read(adapter)[0].base_model_name_or_path or DEFAULT_MODEL
    return next((packaged for packaged, spec in PACKAGED.items() if spec.hub == name), name)
