"""Flags made from the fields of a configuration, so that no option of LoRAConfig or TrainConfig is without one."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Annotated, Any

import typer

from lora_edu.errors import ConfigError

SHORT = {
    "r": ["--r", "-r"],
    "lora_alpha": ["--lora-alpha", "--alpha"],
    "target_modules": ["--target-modules", "--targets"],
    "learning_rate": ["--learning-rate", "--lr"],
    "max_steps": ["--max-steps", "--steps"],
}


def flags(kind: type, panel: str, leave_out: tuple[str, ...] = ()) -> Iterator[inspect.Parameter]:
    """One option a field, None without it, with the words that stand beside the field (`Annotated[type, "words"]`).

    What is neither a number nor a switch is taken as text; `read` turns it into the field's value.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        if field.name in leave_out:
            continue
        plain, words = typing.get_args(hints[field.name])
        number = next((t for t in (bool, int, float) if plain in (t, t | None)), str)
        names = SHORT.get(field.name, [])
        option = typer.Option(*names, help=words, rich_help_panel=panel)
        hint = Annotated[number | None, option]  # type: ignore[valid-type]
        yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)


def with_flags(*more: inspect.Parameter) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: the command takes these options too, in its `**given`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        command.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in [*own, *more]} | {"return": None}
        return command

    return decorate


def read(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `kind` among what was given, as the values that it takes. Raises ConfigError for a text that is none."""
    hints = typing.get_type_hints(kind)
    return {f.name: _value(f.name, hints[f.name], given[f.name]) for f in fields(kind) if given.get(f.name) is not None}


def _value(name: str, hint: Any, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    words = tuple(word.strip() for word in value.split(",") if word.strip())
    if name in ("target_modules", "exclude_modules"):  # one word may be all-linear, a name or a regular expression
        return value if value == "all-linear" or (len(words) == 1 and not words[0].isidentifier()) else words
    if typing.get_origin(hint) is Mapping:
        return dict(_pair(name, word) for word in words)
    if name == "layers_to_transform":
        return tuple(_whole(name, word) for word in words)
    if name == "modules_to_save":
        return words
    if name == "init_lora_weights" and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return value


def _pair(name: str, word: str) -> tuple[str, float]:
    pattern, _, number = word.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        pattern = ""
    if not pattern:
        raise ConfigError(f"--{name.replace('_', '-')}: write pattern=number,…, as in q_proj=4; {word!r} is not that")
    return pattern, int(value) if name == "rank_pattern" and value.is_integer() else value


def _whole(name: str, word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise ConfigError(f"--{name.replace('_', '-')}: write whole numbers with commas, as in 0,1,2") from None
