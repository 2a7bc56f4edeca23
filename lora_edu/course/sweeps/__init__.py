"""The course's sweeps: a file each, whose name is the sweep's and which defines it as `SWEEP`. `lora-edu sweep` makes and lists them.

Module and sweep have one name, so a sweep is added by adding its file. What a sweep is: `lora_edu.experiments.sweeps`.
"""

import difflib
import importlib
import pkgutil

from lora_edu.errors import SweepError
from lora_edu.experiments.sweeps import Sweep

SWEEPS = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def get_sweep(name: str) -> Sweep:
    """The sweep of that name. Raises SweepError that names those there are."""
    if name not in SWEEPS:
        near = difflib.get_close_matches(name, SWEEPS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(SWEEPS)}"
        raise SweepError(f"there is no sweep {name!r}; {hint}")
    return importlib.import_module(f"{__name__}.{name}").SWEEP


__all__ = ["SWEEPS", "get_sweep"]
