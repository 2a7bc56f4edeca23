"""`lora-edu eval`: measure a model with its baselines and intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lora_edu.cli.common import Adapter, Config, Model, Scale, chosen_task, opened


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
        gain = report.gain_over(base)
        typer.echo(f"\nThe base alone: {base}\nGain in {report.metric}, row by row: {gain}")
        figures |= {"base": base.to_dict(), "gain": {**gain.interval._asdict(), "p": gain.p}}
    return figures


def _eval_rows(
    data: Path | None, adapter: Path | None, scale: float, model_name: str | None, limit: int | None, against_base: bool
) -> dict[str, Any]:
    from lora_edu.adapters import disabled
    from lora_edu.data import encode_rows, read_rows
    from lora_edu.evaluation import mean_nll
    from lora_edu.evaluation.metrics import paired_bootstrap

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
