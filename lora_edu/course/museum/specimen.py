"""What an exhibit is: one thing built twice, broken and sound, and the assertion that tells which is which. Chapter 16.

A room's file in `exhibits/` holds classes under `@exhibit(...)` with three functions and no state:

    broken()      makes the thing as the mistake has it; it may raise what the mistake raises
    sound()       makes it with the one repair
    holds(made)   the assertion: it fails on what broken() makes and passes on what sound() makes

Random numbers are drawn from torch's own generator, which is seeded before each of the three.
"""

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lora_edu.errors import LoRAEduError, told

ROOMS = {
    "shapes": "Shapes",
    "starts": "Starts",
    "freezing": "Freezing",
    "scaling": "Scaling",
    "merging": "Merging",
    "saving": "Saving and exports",
    "loops": "Training loops",
    "names": "Names and definitions",
    "counts": "Counts and costs",
    "comparisons": "Comparisons",
    "numbers": "Numbers without a source",
}


class ExhibitError(LoRAEduError, ValueError):
    """An exhibit that does not exist, or does not do what it says."""


@dataclass(frozen=True)
class Exhibit:
    """One mistake. `breaks`: the law ("law 2") or the chapter's rule that it breaks; `fails`: what the broken one ends in."""

    id: str
    room: str
    title: str
    breaks: str
    repair: str
    fails: type[Exception]
    broken: Callable[[], Any]
    sound: Callable[[], Any]
    holds: Callable[[Any], None]
    code: str

    def symptom(self, which: str = "broken", seed: int = 0) -> str:
        """What the assertion says of the broken or the sound one, drawn with `seed`; "" where it passes.

        Raises what the making or the assertion raises, where that is neither an AssertionError nor what the exhibit expects.
        """
        if which not in ("broken", "sound"):
            raise ExhibitError(f"{which!r}: an exhibit is seen broken or sound")
        try:
            with torch.random.fork_rng(devices=[]), torch.enable_grad():
                torch.manual_seed(seed)
                self.holds(getattr(self, which)())
        except AssertionError as error:
            return str(error) or "the assertion fails"
        except self.fails as error:
            return told(error)
        return ""


_registry: dict[str, Exhibit] = {}


def exhibit(
    id: str, *, room: str, title: str, breaks: str, repair: str, fails: type[Exception] = AssertionError
) -> Callable[[type], type]:
    """Decorator that makes a class of `broken`, `sound` and `holds` the exhibit `id`."""

    def keep(made: Any) -> type:
        if room not in ROOMS or id in _registry:
            raise ExhibitError(f"exhibit {id}: the room {room!r} is not known, or the name is taken")
        _registry[id] = Exhibit(
            id, room, title, breaks, repair, fails, made.broken, made.sound, made.holds, _source(made)
        )
        return made

    return keep


def registered() -> dict[str, Exhibit]:
    """Those whose files were imported so far: `catalogue()` imports all."""
    return _registry


def _source(made: type) -> str:
    """The three functions as written, without the decorators."""
    body = inspect.getsource(made).split("\n")
    start = next(i for i, line in enumerate(body) if line.startswith("class ")) + 1
    lines = textwrap.dedent("\n".join(body[start:])).strip().split("\n")
    return "\n".join(line.split("  # type: ignore")[0] for line in lines if line.strip() != "@staticmethod")
