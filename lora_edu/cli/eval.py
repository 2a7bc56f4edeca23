"""`lora-edu eval`: measure models with their baselines and intervals, as they were trained, on rows that they were not trained on."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lora_edu.cli.common import (
    Adapter,
    Bits,
    Config,
    Model,
    Scale,
    Split,
    System,
    chosen_task,
    counted,
    finite,
    the_adapter,
    writable,
)
from lora_edu.cli.measuring import BASE, Measured, check_one_base, common_setting, held_out_of, measure, named
from lora_edu.cli.run_folder import run_of, trained_on
from lora_edu.errors import LoRAEduError
from lora_edu.files import write_whole

if TYPE_CHECKING:
    from lora_edu.evaluation.comparing import Comparison
    from lora_edu.evaluation.forgetting import Forgotten

Folders = Annotated[
    list[Path] | None, typer.Argument(metavar="[ADAPTER]...", help="Folders of adapters, written here or by PEFT.")
]


def evaluate(
    folders: Folders = None,
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
        bool, typer.Option("--against-base", help="Measure the base too, and the gains over it row by row.")
    ] = False,
    general: Annotated[
        bool,
        typer.Option(
            "--general", help="Measure too what was forgotten: general passages and trivia, against the base."
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Write a report: one HTML file with tables, intervals, plots, the best and the worst answers."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the figures to this JSON file as well.")] = None,
    config: Config = None,
) -> None:
    """Measure one model or several on the same rows, with baselines and 95 % intervals.

    Without --task and --data an adapter that `lora-edu train` made is measured on what its run kept from it: the task's test rows, or
    the rows that were held out of your own. It is asked as its run asked: with that system message, length and template. Several
    adapters of one base are compared with the first (with --against-base: with the base); p-values are corrected for how many there are.

    Examples:

    `lora-edu eval runs/mine --against-base`

    `lora-edu eval runs/kjv --task kjv --against-base --limit 50`

    `lora-edu eval runs/mine --data other_rows.jsonl`

    `lora-edu eval runs/small runs/large --against-base --general --report report.html`
    """
    adapters = _adapters(folders or [], adapter)
    if task is not None and data is not None:
        raise typer.BadParameter("give --task NAME or --data FILE, one of the two.")
    if (against_base or general) and not adapters:
        which = "--against-base compares" if against_base else "--general compares"
        raise typer.BadParameter(f"{which} an adapter with its base: name an adapter too.")
    check_one_base(list(adapters.values()), model, bits)  # first: of what is no adapter nothing else is worth saying
    if task is None and data is None:
        task, data = _kept(adapters)
    if task is None and split is not None:
        raise typer.BadParameter("--split belongs to --task: a file of your own is measured whole.")
    finite(scale)
    _check_files(report, out)
    length = max_length or max((run_of(a).get("max_length", 512) for a in adapters.values()), default=512)
    rows_of = _task_rows(task, split or Split.TEST, limit, length, report) if task else None
    rows_of = rows_of or _own_rows(data, adapters, system, limit, length, report)
    general_task = _task_rows("general", Split.TEST, limit, max(length, 512), None) if general else None
    found = measure(adapters, model, scale, bits, against_base or general, rows_of, general_task)
    _warn_of_trained(adapters, next(iter(found.reports.values())).rows)
    comparison, forgetting = _say(found)
    if out is not None:
        write_whole(out, json.dumps(_figures(found, comparison, forgetting), indent=1) + "\n")
    if report is not None:
        from lora_edu.evaluation.page import write_report

        more = {"comparison": comparison, "forgetting": forgetting, "trained": found.trained}
        write_report(report, found.reports, **more, made_by=_command())
        typer.echo(f"\nThe report is in {report}: open it in a browser.")


# --- before anything slow begins --------------------------------------------------------------------------------------


def _adapters(folders: list[Path], adapter: Path | None) -> dict[str, Path]:
    if adapter is not None and folders:
        the_adapter(folders[0], adapter)  # refuses two
    return named(folders or ([adapter] if adapter is not None else []))


def _kept(adapters: Mapping[str, Path]) -> tuple[str | None, Path | None]:
    """The task or the rows that the adapters' runs kept for this."""
    tasks = {name: run_of(adapter).get("task") for name, adapter in adapters.items()}
    if len(set(tasks.values())) == 1 and (task := next(iter(tasks.values()))):
        return str(task), None
    held_out = held_out_of(adapters)
    if held_out is None:
        which = ", one of the two."
        if len(adapters) == 1:
            which = f": {next(iter(adapters.values()))} keeps no row that it was not trained on."
        elif adapters:
            which = ": the adapters' runs have no rows in common that none was trained on."
        raise typer.BadParameter(f"give --task NAME or --data FILE{which}")
    return None, held_out


def _check_files(report: Path | None, out: Path | None) -> None:
    for path, option in ((report, "--report"), (out, "--out")):
        if path is not None and path.is_dir():
            raise LoRAEduError(f"{option} {path} is a folder: name a file in it")
        if path is not None:
            writable(path.parent, option)


# --- what is measured ------------------------------------------------------------------------------------------------


def _task_rows(name: str, split: Split, limit: int | None, max_length: int, report: Path | None) -> Any:
    """Measures a model on a task; with a report the loss of the wanted answers too, which ranks its examples."""
    task = chosen_task(name)

    def measured(net: Any, tokenizer: Any) -> Any:
        from lora_edu.evaluation.report import evaluate

        return evaluate(net, tokenizer, task, split.value, limit, loss=report is not None, max_length=max_length)

    return measured


def _own_rows(
    data: Path | None,
    adapters: Mapping[str, Path],
    system: str | None,
    limit: int | None,
    max_length: int,
    report: Path | None,
) -> Any:
    """Measures a model on the rows of a file: their loss; with a report its answers too."""
    from lora_edu.data.reading import read_rows

    rows = read_rows(str(data), system=common_setting(adapters, "system", system, ""))[:limit]

    def measured(net: Any, tokenizer: Any) -> Any:
        from lora_edu.evaluation.own_rows import measure_rows

        return measure_rows(net, tokenizer, str(data), rows, report is not None, max_length)

    return measured


def _warn_of_trained(adapters: Mapping[str, Path], rows: Any) -> None:
    """Nobody measures on training rows unawares."""
    for name, adapter in adapters.items():
        if count := trained_on(adapter, rows):
            which = f" by {name}" if len(adapters) > 1 else ""
            warnings.warn(
                f"{count} of these {counted(len(rows), 'row')} were trained on{which}: the figures say what was learnt by heart, not what "
                "holds for new rows. Measure on others (without --data: on those that the run held out).",
                stacklevel=2,
            )


# --- what is said ----------------------------------------------------------------------------------------------------


def _say(found: Measured) -> tuple[Comparison | None, dict[str, Forgotten]]:
    from lora_edu.evaluation.comparing import compare
    from lora_edu.evaluation.forgetting import forgotten

    for name, each in found.reports.items():
        typer.echo(f"{name}: {each}\n")
    comparison = compare(found.reports) if len(found.reports) > 1 else None
    if comparison is not None:
        typer.echo(comparison)
    forgetting = {n: forgotten(found.general[BASE], r) for n, r in found.general.items() if n != BASE}
    for name, lost in forgetting.items():
        typer.echo(f"\nWhat {name} forgot:\n{lost}")
    return comparison, forgetting


def _figures(found: Measured, comparison: Comparison | None, forgetting: Mapping[str, Forgotten]) -> dict[str, Any]:
    figures: dict[str, Any] = {"models": {name: each.to_dict() for name, each in found.reports.items()}}
    if comparison is not None:
        figures |= comparison.to_dict()
    if forgetting:
        figures["forgetting"] = {name: each.to_dict() for name, each in forgetting.items()}
    return figures


def _command() -> str:
    import shlex

    return shlex.join(["lora-edu", *sys.argv[1:]])
