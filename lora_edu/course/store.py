"""Where a learner's progress is kept: one JSON file in the user's data folder.

`LORA_EDU_HOME` names another folder. `LORA_EDU_PROGRESS=off` keeps everything in memory, and so does any run under pytest
or CI that names no folder of its own: a test never touches what a learner has done.
"""

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_data_dir

from lora_edu.files import write_whole

SECTIONS = ("predictions", "exercises", "quizzes", "forms")
_VERSION = 1
State = dict[str, dict[str, Any]]
Action = Callable[["State"], Any]
_memory: State = {name: {} for name in SECTIONS}  # where the disk is off
_known: State = {name: {} for name in SECTIONS}  # as the disk was last read
_late: list[Action] = []  # changes that the disk has not taken yet; tried again with each new one
_refused: set[Path] = set()  # where that was said already


def is_off() -> bool:
    """True where nothing is read from or written to the disk."""
    switch = os.environ.get("LORA_EDU_PROGRESS", "").strip().lower()
    if switch in {"off", "0", "no", "false"}:
        return True
    return not os.environ.get("LORA_EDU_HOME") and any(os.environ.get(name) for name in ("PYTEST_CURRENT_TEST", "CI"))


def path() -> Path:
    """The progress file."""
    home = os.environ.get("LORA_EDU_HOME") or user_data_dir("lora-edu", appauthor=False)
    return Path(home).expanduser() / "progress.json"


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
    if is_off():
        return _memory
    try:
        state = _read()
    except OSError as error:
        _say(error)
        state = copy.deepcopy(_known)
    for action in _late:
        action(state)
    return state


def _change(action: Action) -> Any:
    """Read, change and write as one step under a lock. What the disk refuses lasts in memory, and is tried again next time."""
    global _known
    if is_off():
        return action(_memory)
    try:
        path().parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path()}.lock", timeout=1 if path() in _refused else 10):
            state = _read()
            for late in _late:
                late(state)
            result = action(state)
            _write(state)
            _known = copy.deepcopy(state)
    except OSError as error:
        _say(error)
        result = action(load())
        _late.append(action)
        return result
    if _late:
        print(f"Progress is kept again, in {path().parent}, what was done meanwhile included.")
        _late.clear()
        _refused.clear()
    return result


def _read() -> State:
    global _known
    try:
        state = json.loads(path().read_text(encoding="utf-8"))
        if not isinstance(state, dict) or state.pop("version", None) != _VERSION:
            raise ValueError("it is not a progress file of this version")
        if not all(isinstance(state.setdefault(name, {}), dict) for name in SECTIONS):
            raise ValueError("its sections are not tables")
        bad = [(name, key) for name in SECTIONS for key, entry in state[name].items() if not _is_sound(name, entry)]
        if bad:
            aside = _aside()
            shutil.copyfile(path(), aside)
            for name, key in bad:
                del state[name][key]
            _write(state)
            keys = ", ".join(repr(key) for _, key in bad[:6]) + (" …" if len(bad) > 6 else "")
            print(
                f"The progress file has entries that no lesson wrote ({keys}). They are left out; {aside} is the file as it was."
            )
        _known = copy.deepcopy(state)
        return state
    except FileNotFoundError:
        pass
    except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors are ValueErrors too
        aside = _aside()
        path().replace(aside)
        print(f"The progress file could not be read ({error}). It was set aside as {aside}; a new one is begun.")
    return {name: {} for name in SECTIONS}


def _aside() -> Path:
    number = 1
    while (aside := path().with_name(f"progress.unreadable-{number}.json")).exists():
        number += 1
    return aside


def _is_sound(section: str, entry: Any) -> bool:
    """Whether an entry has what the code that reads it relies on."""
    if not isinstance(entry, dict):
        return False
    if section == "predictions":
        kept = {"answer", "right", "options", "unit", "tolerance", "within"} <= set(entry)
        return kept and isinstance(entry["options"], list) and isinstance(entry["answer"], str | int | float)
    if section == "exercises":
        return isinstance(entry.get("solved"), bool) and isinstance(entry.get("tries"), int)
    if section == "quizzes":
        return all(isinstance(right, bool) for right in entry.values())
    return True  # a form's reader judges what was typed


def _write(state: State) -> None:
    """A reader sees the old file or the new one, never half of one."""
    write_whole(path(), json.dumps({"version": _VERSION} | state, indent=1))


def _say(error: OSError) -> None:
    if path() not in _refused:
        print(
            f"Progress cannot be kept in {path().parent} ({error}), so what you do now lasts until the kernel stops, unless that "
            "changes: it is tried again each time. Name a folder you may write to in LORA_EDU_HOME."
        )
    _refused.add(path())
