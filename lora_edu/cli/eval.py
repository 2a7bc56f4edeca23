"""`lora-edu eval`: measure a model with its baselines and intervals, as it was trained, on rows that it was not trained on."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lora_edu.cli.common import (
    Adapter,
    Bits,
    Config,
    Folder,
    Model,
    Scale,
    Split,
    System,
    base_alone,
    chosen_task,
    counted,
    opened,
    the_adapter,
    writable,
)
from lora_edu.cli.run_folder import HELD_OUT, run_of, trained_on
from lora_edu.files import write_whole


def evaluate(
    folder: Folder = None,
    adapter: Adapter = None,
    task: Annotated[str | None, typer.Option(help="A task of the course, as in `train`.")] = None,
    data: Annotated[Path | None, typer.Option(help="Or your own rows: their loss.")] = None,
    scale: Scale = 1.0,
    model: Model = None,
    bits: Bits = None,
    split: Annotated[Split | None, typer.Option(help="Which of a task's rows; test without it.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many rows at most.")] = None,
    system: System = None,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="Longest row in tokens; that of the adapter's run, or 512, without it.")
    ] = None,
    against_base: Annotated[
        bool, typer.Option("--against-base", help="Measure the base too, and the gain row by row.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the figures to this JSON file as well.")] = None,
    config: Config = None,
) -> None:
    """Measure a model, with its baselines and 95 % intervals.

    Without --task and --data an adapter that `lora-edu train` made is measured on what its run kept from it: the task's test rows, or
    the rows that were held out of your own.

    Examples:

    `lora-edu eval runs/mine --against-base`

    `lora-edu eval runs/kjv --task kjv --against-base --limit 50`

    `lora-edu eval runs/mine --data other_rows.jsonl`
    """
    adapter = the_adapter(folder, adapter)
    run = run_of(adapter)
    if task is not None and data is not None:
        raise typer.BadParameter("give --task NAME or --data FILE, one of the two.")
    if task is None and data is None:
        task, data = run.get("task"), adapter / HELD_OUT if adapter and (adapter / HELD_OUT).is_file() else None
        if task is None and (data is None or not data.stat().st_size):
            raise typer.BadParameter(
                "give --task NAME or --data FILE"
                + (f": {adapter} keeps no row that it was not trained on." if adapter else ", one of the two.")
            )
    if against_base and adapter is None:
        raise typer.BadParameter("--against-base compares an adapter with its base: name an adapter too.")
    if task is None and split is not None:
        raise typer.BadParameter("--split belongs to --task: a file of your own is measured whole.")
    if out is not None:
        writable(out.parent)
    opened_as = _Opened(adapter, model, scale, limit, against_base, bits)
    if task is not None:
        figures = _eval_task(task, opened_as, split or Split.TEST)
    else:
        system = run.get("system", "") if system is None else system
        figures = _eval_rows(data, opened_as, system, max_length or run.get("max_length", 512))
    if out is not None:
        write_whole(out, json.dumps(figures, indent=1) + "\n")


@dataclass(frozen=True)
class _Opened:
    adapter: Path | None
    model: str | None
    scale: float
    limit: int | None
    against_base: bool
    bits: int | None = None


def _eval_task(task_name: str, chosen: _Opened, split: Split) -> dict[str, Any]:
    from lora_edu.evaluation.report import evaluate

    task = chosen_task(task_name)
    model, tokenizer = opened(chosen.model, chosen.adapter, chosen.scale, chosen.bits)
    report = evaluate(model, tokenizer, task, split.value, chosen.limit)
    _warn_of_trained(chosen.adapter, report.rows)
    typer.echo(str(report))
    figures = {"model": report.to_dict()}
    if chosen.against_base:
        with base_alone(model, chosen.model, chosen.adapter) as plain:
            base = evaluate(plain, tokenizer, task, split.value, chosen.limit)
        gain = report.gain_over(base)
        typer.echo(f"\nThe base alone: {base}\nGain in {report.metric}, row by row: {gain}")
        figures |= {"base": base.to_dict(), "gain": {**gain.interval._asdict(), "p": gain.p}}
    return figures


def _eval_rows(data: Path | None, chosen: _Opened, system: str, max_length: int) -> dict[str, Any]:
    from lora_edu.data.examples import check_fits, encode_rows
    from lora_edu.data.reading import read_rows
    from lora_edu.evaluation.metrics import paired_bootstrap
    from lora_edu.evaluation.report import mean_nll

    rows = read_rows(str(data), system=system)[: chosen.limit]
    _warn_of_trained(chosen.adapter, rows)
    model, tokenizer = opened(chosen.model, chosen.adapter, chosen.scale, chosen.bits)
    examples = encode_rows(rows, tokenizer, max_length)
    check_fits(examples, model, [row.where for row in rows])  # named by file and row
    nll = mean_nll(model, examples)
    typer.echo(f"{counted(len(rows), 'row')} of {data}: loss {nll.interval()} nats per answer token (95 % interval)")
    figures: dict[str, Any] = {"rows": len(rows), "loss": nll.interval()._asdict()}
    if chosen.against_base:
        with base_alone(model, chosen.model, chosen.adapter) as plain:
            base = mean_nll(plain, examples)
        gain, _ = paired_bootstrap(nll, base)
        typer.echo(f"The base alone: loss {base.interval()}; the adapter lowers it by {gain}, row by row.")
        figures |= {"base": base.interval()._asdict(), "lowered_by": gain._asdict()}
    return figures


def _warn_of_trained(adapter: Path | None, rows: Any) -> None:
    """Nobody measures on training rows unawares."""
    if count := trained_on(adapter, rows):
        warnings.warn(
            f"{count} of these {counted(len(rows), 'row')} were trained on: the figures say what was learnt by heart, not what holds "
            f"for new rows. Measure on others (without --data: on those that the run held out).",
            stacklevel=2,
        )
