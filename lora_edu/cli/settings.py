"""Settings from a YAML file beside flags: the file gives the defaults, so a flag always wins."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import typer
import yaml

RUN_FILE = "run.yaml"  # what a run was started with; `--resume` reads it, and so may `--config`
_NOT_SETTINGS = {"config", "resume", "help"}


def from_config(context: typer.Context, path: Path | None) -> Path | None:
    """`--config FILE`: every key is the long name of a flag, with _ or - between its words."""
    if path is not None:
        _default(context, read_settings(path, _known(context)))
    return path


def from_run(context: typer.Context, folder: Path | None) -> Path | None:
    """`--resume FOLDER`: the settings of the run that was kept there, and the folder as its output."""
    if folder is not None:
        if not (folder / RUN_FILE).is_file():
            raise typer.BadParameter(f"{folder} holds no run: there is no {RUN_FILE} in it.")
        _default(context, read_settings(folder / RUN_FILE, _known(context)) | {"out": str(folder)})
    return folder


def read_settings(path: Path, known: list[str]) -> dict[str, Any]:
    """The file's settings. Raises typer.BadParameter (exit code 2) that names the key, and the nearest known one."""
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
            hint = f" Did you mean {near[0]}?" if near else f" Known are {', '.join(known)}."
            raise typer.BadParameter(f"{path} has the unknown key {key!r}.{hint}")
        if isinstance(value, dict) or (isinstance(value, list) and name != "target_modules"):
            raise typer.BadParameter(f"{path}: {key} must be a single value, not {value!r}.")
        if value is not None:
            settings[name] = ",".join(map(str, value)) if isinstance(value, list) else value
    return settings


def write_run(folder: Path, settings: dict[str, Any]) -> None:
    """Keep what a run was started with, as a file that `--config` reads."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RUN_FILE).write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _known(context: typer.Context) -> list[str]:
    return sorted(str(option.name) for option in context.command.params if option.name not in _NOT_SETTINGS)


def _default(context: typer.Context, settings: dict[str, Any]) -> None:
    context.default_map = {**(context.default_map or {}), **settings}
