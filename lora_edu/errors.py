"""Errors that name the thing and the remedy. Everything a user can cause is a `LoRAEduError`; the command line prints its message alone."""


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


class DiskFullError(LoRAEduError, OSError):
    """A file for which there is no room; nothing that was there before is lost."""


class DownloadError(LoRAEduError, RuntimeError):
    """A file that could not be fetched, or that is not the one that was asked for."""


class NotebookError(LoRAEduError, RuntimeError):
    """A notebook that cannot be run, found or copied without losing work."""
