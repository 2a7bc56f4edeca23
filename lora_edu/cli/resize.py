"""`lora-edu resize`: an adapter of another rank."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_edu.cli.common import Adapter, Folder, Model, must_be_new, opened, the_adapter
from lora_edu.cli.run_folder import keep_of
from lora_edu.files import replacing

Rank = Annotated[int | None, typer.Option("--rank", "-r", min=1, help="The rank of every matrix's adapter.")]
Energy = Annotated[
    float | None, typer.Option(help="Or the least rank that keeps this share of each update's ‖ΔW‖²: 0.9.")
]


def resize(
    out: Annotated[Path, typer.Option(help="Folder to write the adapter to; it must not exist.")],
    folder: Folder = None,
    adapter: Adapter = None,
    rank: Rank = None,
    energy: Energy = None,
    model: Model = None,
) -> None:
    """Cut an adapter to a smaller rank (the nearest one there is), or give it a larger one to go on training with.

    Another kind of LoRA (DoRA, …) becomes plain LoRA on the way, which every tool reads.

    Examples:

    `lora-edu resize runs/kjv --rank 4 --out runs/kjv-r4`

    `lora-edu resize runs/kjv --energy 0.95 --out runs/kjv-cut`
    """
    one_size(rank, energy)
    source = the_adapter(folder, adapter, needed=True)
    assert source is not None
    must_be_new(out)

    from lora_edu.adapters.converting import convert
    from lora_edu.adapters.save_load import save

    base, _ = opened(model, source)
    report = convert(base, rank, energy=energy)
    with replacing(out) as part:
        save(base, part)
        keep_of([source], part)
    typer.echo(f"{report}\nWritten to {out}. Measure both before you keep the smaller: lora-edu eval {out}")


def one_size(rank: int | None, energy: float | None) -> None:
    """Raises typer.BadParameter unless one of the two is given, and can be."""
    if (rank is None) == (energy is None):
        raise typer.BadParameter("give --rank or --energy, one of the two.")
    if energy is not None and not 0 < energy <= 1:
        raise typer.BadParameter(f"--energy is a share in (0, 1], such as 0.9, not {energy}.")
