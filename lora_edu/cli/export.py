"""`lora-edu export`: an adapter in the form that another tool reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from lora_edu.cli.common import Adapter, Folder, Model, Scale, opened, the_adapter, writable
from lora_edu.errors import ExportError
from lora_edu.files import replacing

_HOLDS = {"portable": "adapter_config.json", "merged": "config.json"}  # what a folder of that kind has in it


def export(
    folder: Folder = None,
    adapter: Adapter = None,
    portable: Annotated[
        Path | None, typer.Option(help="A PEFT folder that needs no setting: scales in B, α = r, one rank (vLLM, …).")
    ] = None,
    merged: Annotated[
        Path | None, typer.Option(help="A folder with the merged model, as transformers writes it.")
    ] = None,
    gguf: Annotated[
        Path | None,
        typer.Option(help="A GGUF file of the merged model, for llama.cpp; without an adapter, of the base."),
    ] = None,
    gguf_adapter: Annotated[Path | None, typer.Option(help="A GGUF file of the adapter alone, for llama.cpp.")] = None,
    dtype: Annotated[str, typer.Option(help="Of --gguf: f32, f16, q8_0 or q4_0.")] = "f32",
    model: Model = None,
    scale: Scale = 1.0,
    bits: Annotated[
        int,
        typer.Option(help="16: the base as its file has it; 4: the base rounded to four bits and made dense again."),
    ] = 16,
    untie: Annotated[
        bool, typer.Option("--untie", help="Give tied embeddings and head weights of their own before a merge.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Write over what is there, if it is of the same kind.")
    ] = False,
) -> None:
    """Write an adapter in the form that another tool reads, whole or not at all, and read it back.

    What a form cannot hold (DoRA in a portable folder, say) is refused with the way round it, never dropped.

    Examples:

    `lora-edu export runs/kjv --portable out/kjv`

    `lora-edu export runs/kjv --gguf kjv.gguf --dtype q8_0`

    `lora-edu export --gguf base.gguf`, then `lora-edu export runs/kjv --gguf-adapter kjv-adapter.gguf`
    """
    ways = {"portable": portable, "merged": merged, "gguf": gguf, "gguf_adapter": gguf_adapter}
    chosen = {way: path for way, path in ways.items() if path is not None}
    if len(chosen) != 1:
        raise typer.BadParameter("name one of --portable, --merged, --gguf and --gguf-adapter.")
    ((way, out),) = chosen.items()
    if dtype != "f32" and way != "gguf":
        raise typer.BadParameter("--dtype is of --gguf alone.")
    if scale != 1 and way in ("portable", "gguf_adapter"):
        raise typer.BadParameter("--scale is of a merge (--merged, --gguf): other tools have a dial of their own.")
    source = the_adapter(folder, adapter, needed=way != "gguf")
    _check_target(out, way, force)

    from lora_edu.adapters.injection import unload
    from lora_edu.adapters.merging import merge
    from lora_edu.adapters.merging import untie as separate
    from lora_edu.models.quantized.conversion import dequantize
    from lora_edu.serving.gguf_adapter import write_adapter_gguf
    from lora_edu.serving.gguf_model import write_gguf
    from lora_edu.serving.merged import write_merged
    from lora_edu.serving.portable import write_portable
    from lora_edu.serving.rules import refuse

    base, tokenizer = opened(model, source, scale, bits)
    if bits == 4 and way in ("merged", "gguf"):
        dequantize(base)
    said = ""
    with _in_place_of(out) as part:
        if way == "portable":
            write_portable(base, part)
            said = "Its numbers need no setting: PEFT, vLLM (with --max-lora-rank of at least its r) and others multiply them alike."
        elif way == "gguf_adapter":
            write_adapter_gguf(base, part)
            said = "It belongs on a GGUF file of the same base: lora-edu export --gguf BASE.gguf writes one."
        elif way == "merged":
            report = write_merged(base, tokenizer, part, separate=untie)
            said = f"{report.merge or 'trained in place'}. {report}"
        else:
            if source is not None:
                refuse(base, "default", "gguf")
                if untie:
                    separate(base)
                if not base_was_trained(base):
                    merge(base, keep_base=False)
                unload(base)
            write_gguf(base, tokenizer, part, dtype)
            said = checked(base, part, tokenizer, dtype)
        size = sum(file.stat().st_size for file in (part.iterdir() if part.is_dir() else [part]))
    typer.echo(f"Written to {out}: {size / 1e6:,.1f} MB. {said}")


def base_was_trained(model: Any) -> bool:
    """Whether an adapter in `model` is the base's own weights, trained in place: then there is nothing to merge."""
    from lora_edu.adapters.finding import state_of

    return any(config.changes_base for config in state_of(model).configs.values())


def checked(model: Any, path: Path, tokenizer: Any, dtype: str) -> str:
    """What llama.cpp makes of the file, against the model. Raises ExportError where that is not what was stated beforehand."""
    from lora_edu.serving.compare import TOLERANCES, Passage, compared
    from lora_edu.serving.gguf_tokenizer import probes
    from lora_edu.serving.llama_cpp import LlamaCpp, available

    if not available():
        return "Not checked: llama.cpp is not installed here (pip install 'lora-edu[serve]')."
    passages = [Passage(ids) for text in probes(tokenizer)[5:20] if len(ids := tokenizer(text).input_ids[:24]) > 1]
    with LlamaCpp(path) as engine:
        found = compared(model, engine, passages)
    if not found.within(TOLERANCES[dtype]):
        raise ExportError(
            f"llama.cpp reads another model out of the {dtype} file: {found}; allowed were {TOLERANCES[dtype]}"
        )
    return f"llama.cpp makes the same tokens; {found}."


def _check_target(out: Path, way: str, force: bool) -> None:
    """Before anything slow begins: what is there is left alone without --force, and with it unless it is of the same kind."""
    writable(out.parent)
    if not out.exists():
        return
    if not force:
        raise ExportError(f"{out} is there already, and nothing is overwritten without --force")
    same = (out / _HOLDS[way]).is_file() if way in _HOLDS else out.is_file() and out.open("rb").read(4) == b"GGUF"
    if not same:
        raise ExportError(f"{out} is no such export, and --force writes over its like alone: choose another name")


@contextmanager
def _in_place_of(out: Path) -> Iterator[Path]:
    """A path to write to; afterwards that is what lies at `out`, a file or a folder, and what was there is gone."""
    with replacing(out.with_name(f"{out.name}.new")) as part:
        yield part
    new, old = out.with_name(f"{out.name}.new"), out.with_name(f"{out.name}.old")
    if out.is_dir():
        out.rename(old)
        new.rename(out)
        shutil.rmtree(old)
    else:
        new.replace(out)
