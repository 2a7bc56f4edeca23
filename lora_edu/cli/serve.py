"""`lora-edu serve`: a model and its adapters behind an OpenAI-style HTTP API, and a page to talk to them."""

from __future__ import annotations

import logging
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lora_edu.cli.common import Bits, Config, Model, System, base_of, counted, opened, rounded_as
from lora_edu.cli.run_folder import run_of
from lora_edu.errors import LoRAEduError, ServingError


class EngineName(StrEnum):
    """What answers."""

    AUTO = "auto"
    LLAMA = "llama"
    TORCH = "torch"


class GGUFType(StrEnum):
    """How the weights stand in the file for llama.cpp."""

    F32 = "f32"
    F16 = "f16"
    Q8 = "q8_0"
    Q4 = "q4_0"


def serve(
    adapters: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ADAPTER]…", help="Folders of adapters, each under its folder's name or as NAME=FOLDER."
        ),
    ] = None,
    model: Model = None,
    bits: Bits = None,
    engine: Annotated[
        EngineName,
        typer.Option(help="llama.cpp is faster for one, torch serves every model; auto takes llama.cpp where it can."),
    ] = EngineName.AUTO,
    gguf: Annotated[
        GGUFType, typer.Option(help="llama.cpp's weights: f32 is closest to torch, q8_0 is smaller.")
    ] = GGUFType.F32,
    host: Annotated[
        str, typer.Option(help="Address; any but this machine's own needs LORA_EDU_API_KEY.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    folder: Annotated[
        Path | None,
        typer.Option(help="Adapters inside this folder may be loaded while the server runs (POST /v1/adapters)."),
    ] = None,
    system: System = None,
    any_base: Annotated[
        bool, typer.Option("--any-base", help="Also serve adapters that were trained on a base with other weights.")
    ] = False,
    context: Annotated[int, typer.Option(min=16, help="Most tokens of prompt and answer together.")] = 2048,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 512,
    seconds: Annotated[float, typer.Option(min=0.1, help="Most seconds for an answer, waiting included.")] = 120.0,
    queue: Annotated[int, typer.Option(min=1, help="Most questions that wait.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Most rows in one batch of the torch engine.")] = 16,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads that compute; as many as there are cores without it.")
    ] = None,
    config: Config = None,
) -> None:
    """Serve a model and any number of adapters to OpenAI's clients, to curl and to a page in the browser.

    `/v1/models` lists the base and its adapters; NAME@0.5 is the adapter NAME with its dial at a half. SIGTERM or Ctrl-C ends it after the
    answers that are under way. An API key is read from LORA_EDU_API_KEY, never from the command line, which others can see.

    Examples:

    `lora-edu serve runs/kjv`

    `lora-edu serve verse=runs/kjv runs/intents --folder runs --port 8080`
    """
    from lora_edu.serving.running import bind, check_host, require_extra, run

    require_extra()
    api_key = os.environ.get("LORA_EDU_API_KEY") or None
    check_host(host, api_key)
    named = [_named(text) for text in adapters or []]
    if folder is not None and not folder.is_dir():
        raise ServingError(f"--folder {folder} is no folder")
    from lora_edu.serving.limits import Limits

    limits = Limits(context=context, answer_tokens=answer_tokens, seconds=seconds, queue=queue, batch=batch)
    place = bind(host, port)
    try:
        catalogue = _catalogue(named, model, bits, engine, gguf, folder, system, any_base, limits, threads)
        from lora_edu.serving.server import create_app

        app = create_app(catalogue, api_key)
        for served in catalogue.all():
            typer.echo(f"  {served.name}: {served.engine}" + (f", {served.why}" if served.why else ""))
        shown = f"[{host}]" if ":" in host else host
        typer.echo(f"Serving {counted(len(catalogue.all()), 'model')} on http://{shown}:{place.getsockname()[1]}")
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
        logging.getLogger("lora_edu.serving").setLevel(logging.INFO)
        run(app, place, catalogue.close, limits.drain_seconds)
    finally:
        place.close()


def _named(text: str) -> tuple[str, Path]:
    """ "runs/kjv" → ("kjv", runs/kjv); "verse=runs/kjv" → ("verse", runs/kjv)."""
    name, given, folder = text.partition("=")
    path = Path(folder if given else text)
    return (name if given else path.resolve().name.replace(".", "-")), path


def _catalogue(
    named: list[tuple[str, Path]], model: str | None, bits: int | None, wanted: EngineName, gguf: GGUFType, folder: Path | None,
    system: str | None, any_base: bool, limits: Any, threads: int | None,
) -> Any:  # fmt: skip
    """The base and the adapters, read and ready to answer."""
    import torch

    from lora_edu.models.cache import DEFAULT_MODEL
    from lora_edu.serving.catalogue import Catalogue
    from lora_edu.serving.torch_engine import TorchEngine

    if threads:
        torch.set_num_threads(threads)
    name = model or (base_of(named[0][1]) if named else DEFAULT_MODEL)
    if bits is None and named and rounded_as(named[0][1]) is not None:
        bits = 4
    base = opened(name, None, bits=bits)
    llama, why = None, ""
    if wanted != EngineName.TORCH:
        try:
            llama = _llama(base, gguf, limits, threads or torch.get_num_threads())
        except (LoRAEduError, ImportError) as error:
            if wanted == EngineName.LLAMA:
                raise ServingError(f"llama.cpp cannot serve this model: {error}") from error
            why = f"llama.cpp cannot serve this model: {error}"
    engine = TorchEngine(base.model, base.tokenizer, limits, any_base)
    catalogue = Catalogue(
        Path(name).name or name, engine, llama, why, folder, system, lambda path: run_of(path).get("system")
    )
    for adapter, path in named:
        catalogue.add(adapter, path)
    return catalogue


def _llama(base: Any, gguf: GGUFType, limits: Any, threads: int) -> Any:
    """llama.cpp with the base, written as GGUF into the cache once for each base and type."""
    import xllamacpp  # noqa: F401  (said before a file of the model's size is written)

    from lora_edu.adapters.identity import fingerprint
    from lora_edu.models.cache import cache_dir
    from lora_edu.serving.gguf_model import write_gguf
    from lora_edu.serving.llama_engine import LlamaEngine

    path = cache_dir() / "gguf" / f"{fingerprint(base.model)}-{gguf.value}.gguf"
    if not path.is_file():
        write_gguf(base.model, base.tokenizer, path, gguf.value, base_only=True)
    return LlamaEngine(path, limits=limits, threads=threads)
