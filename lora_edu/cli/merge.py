"""`lora-edu merge`: fold an adapter into its base and write a plain model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_edu.cli.common import Adapter, Folder, Model, Scale, must_be_new, opened, the_adapter
from lora_edu.files import replacing


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
    import torch

    from lora_edu.adapters.injection import unload
    from lora_edu.adapters.merging import merge as fold
    from lora_edu.adapters.merging import untie as separate
    from lora_edu.data.templates import prompt_ids
    from lora_edu.models.base import load_base
    from lora_edu.models.quantized.conversion import dequantize

    must_be_new(out)
    source = the_adapter(folder, adapter, needed=True)
    base, tokenizer = opened(model, source, scale, bits)
    if bits == 4:
        dequantize(base)
    if untie:
        separate(base)
    ids = torch.tensor(
        [prompt_ids([{"role": "user", "content": "Who are you?"}], tokenizer)], device=base.device
    )  # (1, T)
    with torch.no_grad():
        expected = base(ids).logits.float()
        typer.echo(str(fold(base, keep_base=False)))
        unload(base)
        with replacing(out) as part:
            base.save_pretrained(part)
            tokenizer.save_pretrained(part)
            difference = (load_base(part).model(ids).logits.float() - expected).abs().max()
    typer.echo(
        f"Written to {out}. Reloaded, its logits differ from the adapter's by at most {difference:.1g} (they reach {expected.abs().max():.0f})."
    )
