"""Errors that name the thing and the remedy. Everything a user can cause is a `LoRAEduError`; the command line prints its message alone.

A message quotes what it complains of by `shown` and `cut`, so that a row of 50 MB does not become a message of 50 MB.
"""

import re
import reprlib


class LoRAEduError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(LoRAEduError, ValueError):
    """A setting that cannot be (a rank of 0, a dropout of 1.5, an unknown key)."""


class TargetError(LoRAEduError, ValueError):
    """Target modules that match nothing, or that no adapter can be put on."""


class AdapterError(LoRAEduError, ValueError):
    """An adapter that is missing, already there, or in the wrong state for what was asked."""


class MergeError(LoRAEduError, RuntimeError):
    """A merge or unmerge that would lose or corrupt weights."""


class CheckpointError(LoRAEduError, ValueError):
    """A folder whose tensors or configuration do not fit the model."""


class DataError(LoRAEduError, ValueError):
    """Rows that cannot be used; the message lists file and row number."""


class ModelError(LoRAEduError, RuntimeError):
    """A base model that cannot be found, fetched or read."""


class TrainingError(LoRAEduError, RuntimeError):
    """A run that cannot go on (a loss that is not a number, nothing that trains)."""


class SweepError(LoRAEduError, ValueError):
    """A sweep or a cell that does not exist, or a run that returned other metrics than its sweep names."""


class DiskError(LoRAEduError, OSError):
    """A file that could not be written; nothing that was there before is lost."""


class DiskFullError(DiskError):
    """A file for which there is no room; nothing that was there before is lost."""


class DownloadError(LoRAEduError, RuntimeError):
    """A file that could not be fetched, or that is not the one that was asked for."""


class ExportError(LoRAEduError, RuntimeError):
    """A model or adapter that a file format, or the tool that reads it, cannot hold whole."""


class NotebookError(LoRAEduError, RuntimeError):
    """A notebook that cannot be run, found or copied without losing work."""


class ServingError(LoRAEduError, RuntimeError):
    """A server that cannot start, or cannot do what it is asked."""


class BusyError(ServingError):
    """More questions than may wait at once; asking again later helps."""


# --- what a message quotes ---------------------------------------------------------------------------------------------


def cut(text: str, limit: int = 200) -> str:
    """`text` itself, or, of one longer than `limit` characters, its beginning and end and how many are left out: `limit` in all."""
    if len(text) <= limit:
        return text
    between = f" … ({len(text) - limit:,} more characters) … "
    room = max(limit - len(between), 20)
    head, tail = room - room // 3, room // 3
    return f"{text[:head]} … ({len(text) - head - tail:,} more characters) … {text[len(text) - tail :]}"


def shown(value: object, limit: int = 200) -> str:
    """`repr(value)` for a message: at most `limit` characters, on one line, whatever the value is and however large.

    It does not fail where `repr` does: on an integer of 5,000 digits, on a list inside itself, on a class whose `__repr__` raises.
    """
    quoted = without_addresses(
        _Repr(limit).repr(value)
    )  # a text's own line breaks are escaped by now; a tensor's are not
    return cut(re.sub(r"\s*\n\s*", " ", quoted), limit)


def told(error: BaseException, limit: int = 200) -> str:
    """An error of somebody else's code as a message quotes it: its class and what it says, cut like any quoted value."""
    try:
        said = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:
        said = ""
    name = type(error).__name__
    return f"{name}: {cut(without_addresses(said[: 100 * limit]), limit)}" if said else name


def without_addresses(text: str) -> str:
    """An object's address says nothing to a reader, and differs in every run."""
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", text)


class _Repr(reprlib.Repr):
    """Python's own bounded repr, which looks at no more of a value than it shows, with what it leaves out of a text counted."""

    def __init__(self, limit: int):
        super().__init__()
        self.limit = self.maxother = limit
        for kind in ("list", "tuple", "dict", "set", "frozenset", "deque", "array"):
            setattr(self, f"max{kind}", 20)  # entries

    def repr_str(self, text: str, level: int) -> str:
        return repr(cut(text, self.limit - 2))

    def repr_int(self, number: int, level: int) -> str:
        digits = int(number.bit_length() * 0.30103) + 1  # Python refuses to write out more than 4,300
        return repr(number) if digits <= self.limit else f"an integer of about {digits:,} digits"

    def repr_instance(self, value: object, level: int) -> str:
        try:
            return cut(without_addresses(repr(value)), self.limit)
        except KeyboardInterrupt:
            raise
        except BaseException:  # a value's own code may do anything, `sys.exit()` too
            return f"<{type(value).__name__} that cannot be shown>"
