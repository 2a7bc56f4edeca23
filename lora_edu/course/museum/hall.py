"""All exhibits by room, a visit to one, and how often their assertions are wrong. Chapter 16."""

import importlib
import pkgutil
from collections.abc import Iterable
from html import escape

from lora_edu.course.card import Card, inline, lettered, sentence
from lora_edu.course.museum.specimen import ROOMS, Exhibit, ExhibitError, registered


def catalogue(room: str | None = None) -> dict[str, Exhibit]:
    """Every exhibit by its id, room by room, or those of one room. Raises ExhibitError for a room that there is not."""
    if room is not None and room not in ROOMS:
        raise ExhibitError(f"there is no room {room!r}; there are {', '.join(ROOMS)}")
    from lora_edu.course.museum import exhibits

    for module in pkgutil.iter_modules(exhibits.__path__, f"{exhibits.__name__}."):
        importlib.import_module(module.name)
    order = {name: i for i, name in enumerate(ROOMS)}
    every = sorted(registered().values(), key=lambda each: order[each.room])
    return {each.id: each for each in every if room in (None, each.room)}


def visit(id: str, seed: int = 0) -> Card:
    """The exhibit, run: its code, what the assertion says of the broken and of the sound one, and which law was broken.

    Raises ExhibitError for an exhibit that there is not.
    """
    every = catalogue()
    if id not in every:
        raise ExhibitError(f"there is no exhibit {id!r}; there are {', '.join(every)}")
    this = every[id]
    broken, sound = (this.symptom(which, seed) for which in ("broken", "sound"))
    lines = [
        f"✗ broken: {broken or 'the assertion passes'}",
        f"✓ sound: {sound or 'the assertion passes'}",
        f"Repair: {this.repair}",
        f"Breaks: {this.breaks}",
    ]
    body = "".join(f"<div>{inline(line)}</div>" for line in lines)
    code = f'<pre style="font-size:90%;line-height:1.3;margin:.4em 0">{escape(this.code)}</pre>'
    return Card("\n".join([this.title, "", this.code, "", *lines]), f"<b>{inline(this.title)}</b>{code}{body}", "note")


def false_alarms_and_misses(seeds: Iterable[int], room: str | None = None) -> dict[str, tuple[int, int]]:
    """{exhibit: (sound ones that its assertion accuses, broken ones that it lets pass)} over the seeds."""
    seeds = list(seeds)
    return {
        id: (
            sum(bool(each.symptom("sound", seed)) for seed in seeds),
            sum(not each.symptom("broken", seed) for seed in seeds),
        )
        for id, each in catalogue(room).items()
    }


# Exercise 16.2: (exhibit, the law that it breaks, what is known besides its symptom).
STRANGERS = {
    "a": ("loud-bottleneck", 1, "Nothing has been trained yet."),
    "b": ("scale-lost-in-export", 6, "A file is read; no key is missing, and the factors are the trained ones, bit for bit."),
    "c": ("nothing-frozen", 3, "A run, a few steps old."),
    "d": ("names-of-another-graph", 7, "A file is read by a program that serves models."),
    "e": ("A-of-size-one", 4, "With B = 0 the layer answers as its base. Then the first step of SGD goes hundreds of times as far as usual."),
    "f": ("unmerged-by-subtraction", 5, "An adapter went into the weight, and out again."),
}  # fmt: skip


def strangers(seed: int = 0) -> Card:
    """Six symptoms, measured now, without the names of the exhibits that show them."""
    every = catalogue()
    lines = {
        letter: f"{known} {sentence(every[id].symptom(seed=seed))}" for letter, (id, _, known) in STRANGERS.items()
    }
    return Card(
        "\n".join(f"{letter}) {line}" for letter, line in lines.items()),
        lettered((letter, inline(line)) for letter, line in lines.items()),
    )
