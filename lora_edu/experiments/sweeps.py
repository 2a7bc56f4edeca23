"""Sweeps: grids of runs, stored one by one, so that a stop costs only the run under way. `lora-edu sweep`. Chapters 04, 08 and 09.

A `Sweep` says what is run: cells (one choice of settings each), seeds, and a function that makes one run and returns its metrics. What it
leaves behind is a `Table`: of each metric a number for every cell and seed, in lora_edu/experiments/stored, with the settings, the fingerprint of
the base model, and what each run cost. Runs that are stored are not made again, unless settings or base have changed.
"""

import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.adapters.identity import fingerprint
from lora_edu.errors import CheckpointError, SweepError
from lora_edu.experiments.stored_results import FOLDER, environment, store, stored

Cell = dict[str, Any]  # one choice of settings, as JSON can say it: {"r": 8, "learning_rate": 1e-3}
_COST = "cpu_seconds"  # stored beside the metrics; a run is stored where it is a number
_UNREADABLE = "what is stored is damaged, or no sweep's"


@dataclass(frozen=True)
class Sweep:
    """A grid of runs.

    name: of the file that it fills and of the command. title: what is compared, in a line. chapter: that uses it ("04").
    cells: what is varied; `grid` makes every combination of some axes. seeds: each cell is run with each.
    metrics: names of what `run` returns.
    settings: all that is held equal and that the numbers depend on, as JSON can say it. Other settings start the sweep anew.
    base: opens the base model (a module, or something with a module as `.model`), once and only when something has to be run.
    run: run(base, cell, seed) → metrics by name. It leaves the base as it found it. A run that diverges is a result: return NaN.
    """

    name: str
    title: str
    chapter: str
    cells: Sequence[Cell]
    seeds: Sequence[int]
    metrics: Sequence[str]
    settings: Mapping[str, Any]
    base: Callable[[], Any]
    run: Callable[[Any, Cell, int], Mapping[str, float]]

    @property
    def command(self) -> str:
        """What makes the sweep, or goes on with it."""
        return f"lora-edu sweep {self.name}"


@dataclass
class Table:
    """What runs of a sweep gave: `metrics[name]` and `cpu_seconds` are (cells, seeds). `about` says where they come from."""

    cells: list[Cell]
    seeds: list[int]
    metrics: dict[str, Tensor]
    cpu_seconds: Tensor
    about: dict[str, Any]

    @property
    def done(self) -> Tensor:
        """(cells, seeds), true where a run is stored."""
        return self.cpu_seconds.isfinite()

    def where(self, metric: str, **axes: Any) -> Tensor:
        """(cells that have these values, seeds): `where("loss", r=8)` holds a row for each learning rate. NaN: not run, or diverged."""
        wanted = _plain(axes)
        rows = [i for i, cell in enumerate(self.cells) if all(cell.get(key) == value for key, value in wanted.items())]
        if not rows:
            raise SweepError(f"no cell has {describe(axes)}; the cells vary {', '.join(self.cells[0])}")
        return self.metrics[metric][rows]


def grid(**axes: Sequence[Any]) -> list[Cell]:
    """Every combination of the axes' values: `grid(r=(1, 8), learning_rate=(1e-3, 1e-2))` is four cells. The last axis turns fastest."""
    return [dict(zip(axes, values)) for values in itertools.product(*axes.values())]


def describe(cell: Mapping[str, Any]) -> str:
    """A cell in words: `describe({"r": 42, "learning_rate": 1e-3})` is "r 42, learning_rate 0.001"."""

    def word(value: Any) -> str:
        if isinstance(value, list | tuple):
            return " ".join(map(word, value)) or "none"
        return f"{value:g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{key} {word(value)}" for key, value in cell.items())


def table(name: str, folder: Path = FOLDER) -> Table:
    """The stored table of a sweep. Raises CheckpointError when there is none, or the file is damaged or no sweep's."""
    tensors, about = stored(name, folder)
    try:
        cells, seeds = about["cells"], about["seeds"]
        metrics = {metric: tensors[metric] for metric in about["metrics"]}
        found = Table(cells, seeds, metrics, tensors[_COST], about)
    except KeyError as error:
        raise CheckpointError(f"the stored result {name} is no sweep's: {error} is missing") from error
    if {tuple(tensor.shape) for tensor in (*metrics.values(), found.cpu_seconds)} != {(len(cells), len(seeds))}:
        raise CheckpointError(
            f"the stored result {name} is damaged: {len(cells)} cells × {len(seeds)} seeds do not fit"
        )
    return found


def sweep(
    this: Sweep,
    *,
    seeds: Sequence[int] | None = None,
    limit: int | None = None,
    folder: Path = FOLDER,
    say: Callable[[str], Any] = print,
) -> Table:
    """Make the runs that are not stored yet, seed after seed, storing each as it ends; `say` gets a line a run. Returns the table.

    seeds: instead of the sweep's own; stored ones beside them are kept. limit: stop after so many runs.
    What is stored with other settings or another base is put aside (NAME.safetensors.old) when the first new run is stored.

    Raises KeyboardInterrupt, on Ctrl-C, with what is stored and how to go on: the run under way is lost, no other.
    Raises SweepError when a run returns other metrics than the sweep names.
    """
    base, asked = this.base(), list(this.seeds if seeds is None else seeds)
    model = fingerprint(base if isinstance(base, nn.Module) else base.model)
    found, changed = _begin(this, asked, model, folder)
    if changed:
        say(f"{changed}: starting anew")
    missing = [(found.seeds.index(seed), i) for seed in asked for i in range(len(found.cells))]
    missing = [(j, i) for j, i in missing if not found.done[i, j]]
    todo, cost = missing[:limit], _mean(found.cpu_seconds)
    say(
        f"{this.name}: {int(found.done.sum())} runs stored, {len(missing)} missing, {len(todo)} to make"
        + (f", about {duration(cost * len(todo))}" if todo and cost else "")
    )
    started = time.perf_counter()
    try:
        for number, (j, i) in enumerate(todo, 1):
            began, cell, seed = time.process_time(), found.cells[i], found.seeds[j]
            got = this.run(base, cell, seed)
            if set(got) != set(this.metrics):
                raise SweepError(f"a run of {this.name} returned {', '.join(got)}; it names {', '.join(this.metrics)}")
            for metric, value in got.items():
                found.metrics[metric][i, j] = value
            found.cpu_seconds[i, j] = cost = time.process_time() - began
            _keep(this, found, folder, aside=bool(changed) and number == 1)
            left = (time.perf_counter() - started) / number * (len(todo) - number)
            results = ", ".join(f"{metric} {value:.4g}" for metric, value in got.items())
            end = f"  {duration(left)} left" if number < len(todo) else ""
            say(f"{number}/{len(todo)}  {describe(cell)}, seed {seed}: {results}  ({duration(cost)} of CPU){end}")
    except KeyboardInterrupt:
        kept = f"{int(found.done.sum())} runs are stored, the one under way is lost."
        raise KeyboardInterrupt(f"{kept} Go on with: {this.command}") from None
    return found


def status(this: Sweep, folder: Path = FOLDER) -> str:
    """What a sweep is, how much of it is stored, and what it costs; without opening its model."""
    runs = len(this.cells) * len(this.seeds)
    said = f"{this.name} (chapter {this.chapter}): {this.title}\n  {len(this.cells)} cells × {len(this.seeds)} seeds"
    try:
        found = table(this.name, folder)
    except CheckpointError:
        return f"{said}; {_UNREADABLE if _path(this, folder).exists() else 'nothing stored'}, cost not measured"
    if differing := _differing(this, found):
        return f"{said}; stored with other settings ({differing}): the command starts anew"
    now = _arranged(this, this.seeds, found)
    done = int(now.done[:, [now.seeds.index(seed) for seed in this.seeds]].sum())
    cost = duration(_mean(found.cpu_seconds) * runs)
    return f"{said}; {done} of {runs} runs stored (base {found.about['fingerprint']}, {found.about['date']}); about {cost} of CPU in all"


def duration(seconds: float) -> str:
    """ "40 s", "7 min", "1 h 20 min"."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _plain(value: Any) -> Any:
    """As it comes back from a file: tuples are lists."""
    return json.loads(json.dumps(value))


def _mean(cpu_seconds: Tensor) -> float:
    """Of the runs that are stored; 0 where there is none."""
    known = cpu_seconds[cpu_seconds.isfinite()]
    return float(known.mean()) if len(known) else 0.0


def _differing(this: Sweep, found: Table) -> str:
    """Names of the settings that are not those of the stored runs, with both values; empty when all are the same."""
    now = {"metrics": list(this.metrics), **_plain(dict(this.settings))}
    then = {"metrics": found.about["metrics"], **found.about.get("settings", {})}
    return ", ".join(
        f"{key}: {then.get(key)} → {now.get(key)}" for key in sorted(now | then) if now.get(key) != then.get(key)
    )


def _begin(this: Sweep, seeds: Sequence[int], model: str, folder: Path) -> tuple[Table, str]:
    """The table to fill, and why it begins empty although something is stored ("" when it does not)."""
    empty = _arranged(this, seeds)
    empty.about = {
        "command": this.command,
        "fingerprint": model,
        "settings": _plain(dict(this.settings)),
        "metrics": list(this.metrics),
    }
    try:
        found = table(this.name, folder)
    except CheckpointError:
        return empty, _UNREADABLE if _path(this, folder).exists() else ""
    if differing := _differing(this, found):
        return empty, f"what is stored was made with other settings ({differing})"
    if found.about["fingerprint"] != model:
        return empty, f"what is stored was made with the base {found.about['fingerprint']}, and this is {model}"
    return _arranged(this, seeds, found), ""


def _arranged(this: Sweep, seeds: Sequence[int], found: Table | None = None) -> Table:
    """A table of the sweep's cells, and of these seeds beside the stored ones, that holds what is stored of them."""
    cells = [_plain(cell) for cell in this.cells]
    seeds = sorted({*seeds, *(found.seeds if found else ())})
    places = [
        (i, j, found.cells.index(cell), found.seeds.index(seed))
        for i, cell in enumerate(cells)
        for j, seed in enumerate(seeds)
        if found and cell in found.cells and seed in found.seeds
    ]

    def placed(values: Tensor) -> Tensor:
        new = torch.full((len(cells), len(seeds)), math.nan, dtype=torch.float64)
        for i, j, a, b in places:
            new[i, j] = values[a, b]
        return new

    nothing = torch.empty(0, 0)
    metrics = {metric: placed(found.metrics[metric] if found else nothing) for metric in this.metrics}
    return Table(
        cells, seeds, metrics, placed(found.cpu_seconds if found else nothing), dict(found.about) if found else {}
    )


def _path(this: Sweep, folder: Path) -> Path:
    return folder / f"{this.name}.safetensors"


def _keep(this: Sweep, found: Table, folder: Path, aside: bool) -> None:
    path = _path(this, folder)
    if aside:
        path.replace(path.with_name(f"{path.name}.old"))
    about = found.about | {"cells": found.cells, "seeds": found.seeds, **environment()}
    store(this.name, {**found.metrics, _COST: found.cpu_seconds}, about, folder)
