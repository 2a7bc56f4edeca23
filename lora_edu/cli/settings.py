"""Settings from a YAML file beside flags: the file gives the defaults, so a flag always wins."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
import yaml

_NOT_SETTINGS = {"config", "resume", "help"}
# What a flag writes with commas, a file may write as a list or as a mapping.
LISTS = ("target_modules", "exclude_modules", "layers_to_transform", "modules_to_save")
PATTERNS = ("rank_pattern", "alpha_pattern")


def from_config(context: typer.Context, path: Path | None) -> Path | None:
    """`--config FILE`: every key is the long name of a flag, with _ or - between its words."""
    if path is not None:
        default(context, read_settings(path, known(context)))
    return path


def read_settings(path: Path, known: Mapping[str, str]) -> dict[str, Any]:
    """The file's settings; `known` says what each word stands for. Raises typer.BadParameter (exit code 2) that names the key, and
    the nearest known one."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise typer.BadParameter(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise typer.BadParameter(f"{path} must hold settings, a line each: `learning_rate: 0.001`.")
    settings = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]}?" if near else f" Known are {', '.join(sorted(set(known.values())))}."
            raise typer.BadParameter(f"{path} has the unknown key {key!r}.{hint}")
        name = known[name]
        if isinstance(value, list) and name in LISTS:
            value = ",".join(map(str, value))
        elif isinstance(value, dict) and name in PATTERNS:
            value = ",".join(f"{pattern}={number}" for pattern, number in value.items())
        elif isinstance(value, dict | list):
            raise typer.BadParameter(f"{path}: {key} must be a single value, not {value!r}.")
        if value is not None:
            settings[name] = value
    return settings


def known(context: typer.Context) -> dict[str, str]:
    """The words of a command's settings, and the setting that each stands for: `lr` is learning_rate, as `--lr` is."""
    options = [option for option in context.command.params if option.name not in _NOT_SETTINGS]
    short = {flag.lstrip("-").replace("-", "_"): str(option.name) for option in options for flag in option.opts}
    return short | {str(option.name): str(option.name) for option in options}


def default(context: typer.Context, settings: dict[str, Any]) -> None:
    """Take these where no flag says otherwise."""
    context.default_map = {**(context.default_map or {}), **settings}
