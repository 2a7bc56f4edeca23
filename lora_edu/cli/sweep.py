"""`lora-edu sweep`: the stored grids of the course, made or listed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sweep(
    name: Annotated[str | None, typer.Argument(help="The sweep to make; without it, all are listed.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many runs; the next call goes on.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds 0 to N−1 instead of the sweep's own; stored ones are kept.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results, instead of the course's own.")] = None,
) -> None:
    """Make a stored grid of the course again, or go on with it: each run is kept as it ends, and Ctrl-C loses only the one under way.

    Runs that are stored are not made twice. Other settings or another base model start a sweep anew, and it says so.

    Examples: `lora-edu sweep`, `lora-edu sweep targets_grid --limit 3`
    """
    from lora_edu.course.sweeps import SWEEPS, get_sweep
    from lora_edu.experiments import sweeps
    from lora_edu.experiments.stored_results import FOLDER

    folder = out or FOLDER
    if name is None:
        for each in SWEEPS:
            typer.echo(f"{sweeps.status(get_sweep(each), folder)}\n  lora-edu sweep {each}")
        return
    sweeps.sweep(get_sweep(name), seeds=range(seeds) if seeds else None, limit=limit, folder=folder, say=typer.echo)
