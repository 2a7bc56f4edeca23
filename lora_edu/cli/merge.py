"""`lora-edu merge`: fold an adapter into its base and write a plain model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_edu.cli.common import Adapter, Folder, Model, Scale, must_be_new, opened, the_adapter


def merge(
    out: Annotated[Path, typer.Option(help="Folder to write the merged model to; it must not exist.")],
    folder: Folder = None,
    adapter: Adapter = None,
    model: Model = None,
    scale: Scale = 1.0,
    bits: Annotated[
        int,
        typer.Option(
            help="16: into the base as its file has it; 4: into the base rounded to four bits and made dense again, on which an adapter "
            "may have been trained."
        ),
    ] = 16,
    untie: Annotated[
        bool,
        typer.Option(
            "--untie", help="Give tied embeddings and head weights of their own first; the model grows by them."
        ),
    ] = False,
) -> None:
    """Fold an adapter into its base and write a plain model that transformers loads by itself; then reload it and compare.

    Example: `lora-edu merge runs/kjv --out merged/kjv`
    """
    from lora_edu.models.quantized.conversion import dequantize
    from lora_edu.serving.merged import write_merged

    must_be_new(out)
    source = the_adapter(folder, adapter, needed=True)
    base, tokenizer = opened(model, source, scale, bits)
    if bits == 4:
        dequantize(base)
    report = write_merged(base, tokenizer, out, separate=untie)
    typer.echo(f"{report.merge or 'trained in place'}\nWritten to {out}. {report}")
