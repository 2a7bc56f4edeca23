"""`lora-edu combine`: one adapter out of several."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from lora_edu.cli.common import Model, base_of, must_be_new, opened
from lora_edu.cli.run_folder import keep_of
from lora_edu.files import replacing


def combine(
    adapters: Annotated[
        list[str],
        typer.Argument(metavar="ADAPTER[=WEIGHT] …", help="Folders, each with its weight; 1 without one."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the adapter to; it must not exist.")],
    method: Annotated[
        str,
        typer.Option(
            help="cat and compact: the exact sum of the updates. svd: the nearest of a rank. PEFT's linear, ties, dare_linear, dare_ties "
            "and magnitude_prune: other updates than the sum; with _svd behind the last four, on ΔW instead of the factors."
        ),
    ] = "cat",
    rank: Annotated[
        int | None, typer.Option("--rank", "-r", min=1, help="For svd and the …_svd; the largest without it.")
    ] = None,
    density: Annotated[
        float | None, typer.Option(help="For ties, dare_* and magnitude_prune: the share of entries that stays.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses the entries that dare drops.")] = 0,
    model: Model = None,
) -> None:
    """Make one adapter of several: the weighted sum of their updates, or what goes by PEFT's names; and say how far it is from the sum.

    Examples:

    `lora-edu combine runs/kjv=0.5 runs/names=0.5 --out runs/both`

    `lora-edu combine runs/kjv runs/names --method ties_svd --density 0.5 --rank 8 --out runs/ties`
    """
    folders = [_folder_and_weight(each) for each in adapters]
    if len({folder.resolve() for folder, _ in folders}) < len(folders):
        raise typer.BadParameter("one adapter is named twice: name it once, with the sum of the weights.")
    must_be_new(out)

    from lora_edu.adapters.combining import check_method
    from lora_edu.adapters.combining import combine as add_up
    from lora_edu.adapters.interference import mean_cosine, overlap
    from lora_edu.adapters.save_load import load, save
    from lora_edu.errors import AdapterError

    check_method(method, rank, density)
    base, _ = opened(model or base_of(folders[0][0]), None)
    weights = {}
    for number, (folder, weight) in enumerate(folders, 1):
        load(base, folder, f"{number}")
        weights[f"{number}"] = weight
    report = add_up(base, weights, "default", method, rank, density, seed)
    with replacing(out) as part:
        save(base, part)
        keep_of([folder for folder, _ in folders], part)
    if len(folders) == 2:
        try:
            cosine = mean_cosine(overlap(base, "1", "2"))
            typer.echo(
                f"The two updates have a cosine of {cosine:.3f} (0: they push apart from one another, 1: they are the same)."
            )
        except AdapterError:
            typer.echo("The two adapters have no matrix in common.")
    typer.echo(f"{report}\nWritten to {out}. Measure it on the tasks of each: lora-edu eval {out} --task NAME")


def _folder_and_weight(text: str) -> tuple[Path, float]:
    """ "runs/kjv=0.5" → (runs/kjv, 0.5); a folder whose name has an = in it is a folder."""
    folder, mark, number = text.rpartition("=")
    if not mark or Path(text).is_dir():
        return Path(text), 1.0
    try:
        weight = float(number)
    except ValueError:
        raise typer.BadParameter(f"{text!r}: write a folder and its weight as FOLDER=0.5") from None
    if not math.isfinite(weight):
        raise typer.BadParameter(f"{text!r}: a weight is a finite number.")
    return Path(folder), weight
