"""Where a learner's progress is kept: one JSON file in the user's data folder.

`LORA_EDU_HOME` names another folder. `LORA_EDU_PROGRESS=off` keeps everything in memory, and so does any run under pytest
or CI that names no folder of its own: a test never touches what a learner has done.
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_data_dir

SECTIONS = ("predictions", "exercises", "quizzes", "forms")
_VERSION = 1
State = dict[str, dict[str, Any]]
_memory: State = {name: {} for name in SECTIONS}
_unwritable: set[Path] = set()


def is_off() -> bool:
    """True where nothing is read from or written to the disk."""
    switch = os.environ.get("LORA_EDU_PROGRESS", "").strip().lower()
    if switch in {"off", "0", "no", "false"}:
        return True
    return not os.environ.get("LORA_EDU_HOME") and any(os.environ.get(name) for name in ("PYTEST_CURRENT_TEST", "CI"))


def path() -> Path:
    """The progress file."""
    return Path(os.environ.get("LORA_EDU_HOME") or user_data_dir("lora-edu", appauthor=False)) / "progress.json"


def get(section: str, key: str) -> Any:
    """The entry, or None."""
    return load()[section].get(key)


def put(section: str, key: str, entry: Any) -> None:
    """Store an entry; safe against another notebook that stores at the same moment."""
    _change(lambda state: state[section].update({key: entry}))


def forget(prefix: str) -> str:
    """Remove the predictions, exercises, quiz answers and typed rows whose id starts with `prefix`; "" removes them all."""

    def remove(state: State) -> int:
        gone = [(section, key) for section in SECTIONS for key in state[section] if key.startswith(prefix)]
        for section, key in gone:
            del state[section][key]
        return len(gone)

    count = _change(remove)
    return f"Forgotten: {count} {'entry' if count == 1 else 'entries'}."


def load() -> State:
    """Everything stored. A file that cannot be understood is set aside, never deleted."""
    if not _in_memory():
        try:
            return _read()
        except OSError as error:
            _give_up(error)
    return _memory


def _in_memory() -> bool:
    return is_off() or path() in _unwritable


def _change(action: Callable[[State], Any]) -> Any:
    """Read, change and write as one step under a lock; in memory where the disk is off or refuses."""
    if not _in_memory():
        try:
            path().parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path()}.lock", timeout=10):
                state = _read()
                result = action(state)
                _write(state)
                return result
        except OSError as error:
            _give_up(error)
    return action(_memory)


def _read() -> State:
    try:
        state = json.loads(path().read_text(encoding="utf-8"))
        if not isinstance(state, dict) or state.pop("version", None) != _VERSION:
            raise ValueError("it is not a progress file of this version")
        if not all(isinstance(state.setdefault(name, {}), dict) for name in SECTIONS):
            raise ValueError("its sections are not tables")
        return state
    except FileNotFoundError:
        pass
    except ValueError as error:  # JSON and UTF-8 errors are ValueErrors too
        number = 1
        while (aside := path().with_name(f"progress.unreadable-{number}.json")).exists():
            number += 1
        path().replace(aside)
        print(f"The progress file could not be read ({error}). It was set aside as {aside}; a new one is begun.")
    return {name: {} for name in SECTIONS}


def _write(state: State) -> None:
    """Write beside, then rename: a reader sees the old file or the new one, never half of one."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path().parent, prefix=".progress-", suffix=".json", delete=False, encoding="utf-8"
    ) as file:
        json.dump({"version": _VERSION} | state, file, indent=1, ensure_ascii=False)
    os.replace(file.name, path())


def _give_up(error: OSError) -> None:
    _unwritable.add(path())
    print(
        f"Progress cannot be kept in {path().parent} ({error}), so it lasts until the kernel stops. "
        "Name a folder you may write to in LORA_EDU_HOME."
    )
