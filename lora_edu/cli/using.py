"""What is done with an adapter: eval, merge, chat."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from lora_edu.cli.settings import from_config
from lora_edu.errors import DataError, LoRAEduError

Adapter = Annotated[Path | None, typer.Option(help="Folder of an adapter, written here or by PEFT.")]
Scale = Annotated[float, typer.Option(help="The dial: 1 as trained, 0 the base, above 1 more than trained.")]
Model = Annotated[str | None, typer.Option(help="Base model; the one that the adapter names without it.")]
Config = Annotated[
    Path | None,
    typer.Option(help="YAML file with any of these settings; flags win.", callback=from_config, is_eager=True),
]


def evaluate(
    task: Annotated[str | None, typer.Option(help="A task of the course, as in `train`.")] = None,
    data: Annotated[Path | None, typer.Option(help="Or your own rows: their loss and perplexity.")] = None,
    adapter: Adapter = None,
    scale: Scale = 1.0,
    model: Model = None,
    split: Annotated[str, typer.Option(help="test, valid or train.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="So many rows at most.")] = None,
    against_base: Annotated[
        bool, typer.Option("--against-base", help="Measure the base too, and the gain row by row.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the figures to this JSON file as well.")] = None,
    config: Config = None,
) -> None:
    """Measure a model, with its baselines and 95 % intervals.

    Examples:

    `lora-edu eval --task kjv --adapter runs/kjv --against-base --limit 50`

    `lora-edu eval --data my_rows.jsonl --adapter runs/mine`
    """
    if (task is None) == (data is None):
        raise typer.BadParameter("give --task NAME or --data FILE, one of the two.")
    if against_base and adapter is None:
        raise typer.BadParameter("--against-base compares an adapter with its base: give --adapter too.")
    figures = (
        _eval_task(task, adapter, scale, model, split, limit, against_base)
        if task
        else _eval_rows(data, adapter, scale, model, limit, against_base)
    )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _eval_task(
    task_name: str,
    adapter: Path | None,
    scale: float,
    model_name: str | None,
    split: str,
    limit: int | None,
    against_base: bool,
) -> dict[str, Any]:
    from lora_edu.adapters import disabled
    from lora_edu.evaluation import evaluate

    task = chosen_task(task_name)
    model, tokenizer = opened(model_name, adapter, scale)
    report = evaluate(model, tokenizer, task, split, limit)
    typer.echo(str(report))
    figures = {"model": report.to_dict()}
    if against_base:
        with disabled(model):
            base = evaluate(model, tokenizer, task, split, limit)
        gain, without = report.gain_over(base)
        typer.echo(
            f"\nThe base alone: {base}\nGain in {report.metric}, row by row: {gain} (in {without:.1%} of the redraws there is none)"
        )
        figures |= {"base": base.to_dict(), "gain": {**gain._asdict(), "no_gain": without}}
    return figures


def _eval_rows(
    data: Path | None, adapter: Path | None, scale: float, model_name: str | None, limit: int | None, against_base: bool
) -> dict[str, Any]:
    from lora_edu.adapters import disabled
    from lora_edu.data import encode_rows, read_rows
    from lora_edu.evaluation import mean_nll
    from lora_edu.metrics import paired_bootstrap

    rows = read_rows(str(data))[:limit]
    model, tokenizer = opened(model_name, adapter, scale)
    examples = encode_rows(rows, tokenizer)
    nll = mean_nll(model, examples)
    typer.echo(f"{len(rows)} rows of {data}: loss {nll.interval()} nats per answer token (95 % interval)")
    figures: dict[str, Any] = {"rows": len(rows), "loss": nll.interval()._asdict()}
    if against_base:
        with disabled(model):
            base = mean_nll(model, examples)
        gain, _ = paired_bootstrap(nll, base)
        typer.echo(f"The base alone: loss {base.interval()}; the adapter lowers it by {gain}, row by row.")
        figures |= {"base": base.interval()._asdict(), "lowered_by": gain._asdict()}
    return figures


def merge(
    adapter: Annotated[Path, typer.Argument(help="Folder of the adapter.")],
    out: Annotated[Path, typer.Option(help="Folder to write the merged model to; it must not exist.")],
    model: Model = None,
    scale: Scale = 1.0,
) -> None:
    """Fold an adapter into its base and write a plain model that transformers loads by itself; then reload it and compare.

    Example: `lora-edu merge runs/kjv --out merged/kjv`
    """
    import torch

    from lora_edu.adapters import unload
    from lora_edu.data import prompt_ids
    from lora_edu.merging import merge as fold
    from lora_edu.models import load_base

    if out.exists():
        raise LoRAEduError(f"{out} is there already, and nothing is overwritten: choose another --out")
    base, tokenizer = opened(model, adapter, scale)
    ids = torch.tensor(
        [prompt_ids([{"role": "user", "content": "Who are you?"}], tokenizer)], device=base.device
    )  # (1, T)
    with torch.no_grad():
        expected = base(ids).logits.float()
        typer.echo(str(fold(base, keep_base=False)))
        unload(base)
        part = out.with_name(out.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        base.save_pretrained(part)
        tokenizer.save_pretrained(part)
        difference = (load_base(part).model(ids).logits.float() - expected).abs().max()
    os.replace(part, out)
    typer.echo(
        f"Written to {out}. Reloaded, its logits differ from the adapter's by at most {difference:.1g} (they reach {expected.abs().max():.0f})."
    )


def chat(
    adapter: Adapter = None,
    scale: Scale = 1.0,
    model: Model = None,
    system: Annotated[
        str, typer.Option(help="System message; the course's adapters were trained with an empty one.")
    ] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 200,
) -> None:
    """Talk to a model in the terminal. `/scale 0.5` turns the adapter's dial, `/new` forgets the talk so far, `/quit` ends it.

    Example: `lora-edu chat --adapter runs/kjv --scale 1.2`
    """
    import torch
    from transformers import GenerationConfig, TextStreamer

    from lora_edu.adapters import set_scale
    from lora_edu.data import Message, prompt_ids

    base, tokenizer = opened(model, adapter, scale)
    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    opening: list[Message] = [{"role": "system", "content": system}]
    talk = list(opening)
    typer.echo("Ask something; /quit ends the talk.")
    while True:
        try:
            line = input("\nyou> ").strip()
        except EOFError:
            line = "/quit"
        if line == "/quit":
            return
        if line == "/new":
            talk = list(opening)
        elif line.startswith("/scale"):
            _turn(base, line, adapter, set_scale)
        elif line.startswith("/"):
            typer.echo("Known are /scale NUMBER, /new and /quit.")
        elif line:
            talk.append({"role": "user", "content": line})
            ids = torch.tensor([prompt_ids(talk, tokenizer)], device=base.device)  # (1, T)
            with torch.no_grad():
                answer = base.generate(
                    ids, attention_mask=torch.ones_like(ids), generation_config=greedy, streamer=streamer
                )
            talk.append(
                {"role": "assistant", "content": tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True)}
            )


def _turn(base: Any, line: str, adapter: Path | None, set_scale: Any) -> None:
    try:
        scale = float(line.removeprefix("/scale"))
    except ValueError:
        typer.echo("Give a number: /scale 0.5")
        return
    if adapter is None:
        typer.echo("There is no adapter to turn: start with --adapter FOLDER.")
    else:
        set_scale(base, scale)


def chosen_task(text: str) -> Any:
    """ "kjv", or with the task's own options "identity:name=Ada"."""
    from lora_edu.tasks import get_task

    name, _, rest = text.partition(":")
    options = dict(pair.partition("=")[::2] for pair in rest.split(",") if pair)
    if any(not key or not value for key, value in options.items()):
        raise DataError(f"{text!r}: write a task's options as NAME:key=value,key=value")
    return get_task(name, **options)


def opened(model_name: str | None, adapter: Path | None, scale: float = 1.0) -> Any:
    """The base model with its tokenizer, and the adapter in it, its dial set."""
    from lora_edu.adapters import set_scale
    from lora_edu.checkpoint import load
    from lora_edu.data import PLAIN_TEMPLATE
    from lora_edu.models import DEFAULT_MODEL, load_base

    base = load_base(model_name or (base_of(adapter) if adapter else DEFAULT_MODEL))
    base.tokenizer.chat_template = base.tokenizer.chat_template or PLAIN_TEMPLATE
    if adapter is not None:
        load(base.model, adapter)
        set_scale(base.model, scale)
    return base


def base_of(adapter: Path) -> str:
    """What an adapter's configuration calls its base; the course's model goes by its hub name there, so that other tools know it."""
    from lora_edu.checkpoint import read
    from lora_edu.models import DEFAULT_MODEL, PACKAGED

    name = read(adapter)[0].base_model_name_or_path or DEFAULT_MODEL
    return next((packaged for packaged, spec in PACKAGED.items() if spec.hub == name), name)
