"""`lora-edu extract`: an adapter out of two full models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_edu.cli.common import must_be_new
from lora_edu.cli.resize import Energy, Rank, one_size
from lora_edu.files import replacing


def extract(
    tuned: Annotated[
        str, typer.Argument(metavar="TUNED", help="The model that was trained in full: a folder or a name.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the adapter to; it must not exist.")],
    base: Annotated[str, typer.Option(help="The model that it was trained from: a folder or a name.")] = "smollm2-135m",
    rank: Rank = None,
    energy: Energy = None,
    targets: Annotated[
        str,
        typer.Option("--targets", "--target-modules", help="As in train: all-linear, or name suffixes with commas."),
    ] = "all-linear",
) -> None:
    """Make an adapter of what distinguishes two models: the nearest of its rank to W′ − W₀ in every target.

    What else differs (norms, biases, embeddings) is named, because the adapter does not have it.

    Examples:

    `lora-edu extract models/tuned --rank 16 --out runs/extracted`

    `lora-edu extract models/tuned --base models/base --energy 0.9 --targets q_proj,v_proj --out runs/extracted`
    """
    one_size(rank, energy)
    must_be_new(out)

    import torch

    from lora_edu.adapters.config import LoRAConfig
    from lora_edu.adapters.extraction import extract as take
    from lora_edu.adapters.save_load import save
    from lora_edu.cli.options import read
    from lora_edu.models.base import load_base

    chosen = read(LoRAConfig, {"target_modules": targets})["target_modules"]
    # In float32: a difference of two rounded weights is largely rounding.
    before = load_base(base, dtype=torch.float32).model
    after = load_base(tuned, dtype=torch.float32).model
    report = take(before, after, rank, energy=energy, targets=chosen)
    with replacing(out) as part:
        save(before, part)
    typer.echo(f"{report}\nWritten to {out}. Measure it beside the tuned model before you keep it: lora-edu eval {out}")
