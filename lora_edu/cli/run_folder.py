"""What `lora-edu train` leaves beside an adapter: its settings, the rows it was not trained on, and which ones it was."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import typer
import yaml

from lora_edu.cli.settings import default, known, read_settings
from lora_edu.errors import DataError
from lora_edu.files import write_whole

RUN_FILE = "run.yaml"  # what a run was started with; `--resume` reads it, and so may `--config`
HELD_OUT = "held_out.jsonl"  # rows of one's own that were kept from training
TRAINED_ON = "trained_on.txt"  # a hash of each input that was trained on, so that nobody measures on them unawares

TEMPLATE, TOKENIZER = (
    "chat_template.jinja",
    "tokenizer_config.json",
)  # where other tools keep the template they trained with


def from_run(context: typer.Context, folder: Path | None) -> Path | None:
    """`--resume FOLDER`: the settings of the run that was kept there, and the folder as its output."""
    if folder is not None:
        if not (folder / RUN_FILE).is_file():
            raise typer.BadParameter(f"{folder} holds no run: there is no {RUN_FILE} in it.")
        default(context, read_settings(folder / RUN_FILE, known(context)) | {"out": str(folder)})
    return folder


def write_run(folder: Path, settings: dict[str, Any]) -> None:
    """Keep what a run was started with, as a file that `--config` reads."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    write_whole(folder / RUN_FILE, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


def run_of(adapter: Path | None) -> dict[str, Any]:
    """The settings of the run that made an adapter; {} where no run is kept beside it."""
    path = adapter / RUN_FILE if adapter else None
    if path is None or not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def template_of(adapter: Path) -> str | None:
    """The chat template that an adapter was trained with, where one lies beside it (other tools keep the tokenizer there); None otherwise.

    transformers runs templates in a sandbox. Raises DataError for a file that is no text.
    """
    try:
        if (adapter / TEMPLATE).is_file():
            return (adapter / TEMPLATE).read_text(encoding="utf-8")
        if not (adapter / TOKENIZER).is_file():
            return None
        content = json.loads((adapter / TOKENIZER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"the tokenizer's files in {adapter} cannot be read ({error}): mend or remove {TEMPLATE} and {TOKENIZER}"
        ) from error
    template = content.get("chat_template") if isinstance(content, dict) else None
    return template if isinstance(template, str) else None


def keep_rows(folder: Path, train_rows: Sequence[Any], held_out: Sequence[Any]) -> None:
    """Write the rows that were held out, and a hash of every input that was not."""
    lines = [json.dumps({"messages": list(row.messages)}, ensure_ascii=False) for row in held_out]
    write_whole(folder / HELD_OUT, "".join(line + "\n" for line in lines))
    write_whole(folder / TRAINED_ON, "\n".join(sorted(set(_hashes(train_rows)))) + "\n")


def trained_on(adapter: Path | None, rows: Sequence[Any]) -> int:
    """How many of the rows have an input that the adapter was trained on; 0 where nobody knows."""
    path = adapter / TRAINED_ON if adapter else None
    if path is None or not path.is_file():
        return 0
    seen = set(path.read_text(encoding="utf-8").split())
    return sum(key in seen for key in _hashes(rows))


def keep_of(runs: Sequence[Path], folder: Path) -> None:
    """Keep beside an adapter that was made of others what is known of their runs: every row that one of them was trained on, the settings
    that all had in common, and, of a single one, the rows that it held out."""
    known_rows = [run / TRAINED_ON for run in runs if (run / TRAINED_ON).is_file()]
    if known_rows:
        seen = {key for path in known_rows for key in path.read_text(encoding="utf-8").split()}
        write_whole(folder / TRAINED_ON, "\n".join(sorted(seen)) + "\n")
    first, *others = (run_of(run) for run in runs)
    alone = not others
    wanted = first if alone else {key: first[key] for key in ("model", "system", "max_length") if key in first}
    shared = {key: value for key, value in wanted.items() if all(other.get(key) == value for other in others)}
    if shared:
        write_run(folder, shared)
    if alone and (runs[0] / HELD_OUT).is_file():
        (folder / HELD_OUT).write_bytes((runs[0] / HELD_OUT).read_bytes())


def _hashes(rows: Iterable[Any]) -> list[str]:
    from lora_edu.data.splits import input_key

    return [sha256(input_key(row).encode("utf-8", "replace")).hexdigest()[:16] for row in rows]
