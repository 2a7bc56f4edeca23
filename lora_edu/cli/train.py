"""`lora-edu train`: an adapter from a task's recipe or from your own rows."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from lora_edu.cli.common import chosen_task, opened
from lora_edu.cli.settings import from_config, from_run, write_run
from lora_edu.errors import DataError, LoRAEduError

_ADAPTER, _RUN, _DATA = "The adapter", "The run", "The data"


def train(
    task: Annotated[
        str | None,
        typer.Option(
            help="A task of the course: identity, iso_dates, kjv, sentiment or general. Options after a colon: identity:name=Ada.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Or your own rows: a .jsonl, .json or .csv file (chapter 05 shows the forms).", rich_help_panel=_DATA
        ),
    ] = None,
    system: Annotated[
        str,
        typer.Option(
            help="System message of rows of your own that bring none; empty is an empty turn.", rich_help_panel=_DATA
        ),
    ] = "",
    valid_rows: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Rows held out to measure the loss on after each epoch; a tenth of them, 50 at most, without it.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    max_length: Annotated[
        int, typer.Option(min=2, help="Longest row in tokens; a longer one is an error.", rich_help_panel=_DATA)
    ] = 512,
    model: Annotated[
        str,
        typer.Option(help="The course's own model, a folder, or a name on the model hub.", rich_help_panel=_ADAPTER),
    ] = "smollm2-135m",
    r: Annotated[int | None, typer.Option("--r", "-r", help="Rank.", rich_help_panel=_ADAPTER)] = None,
    lora_alpha: Annotated[
        float | None,
        typer.Option("--lora-alpha", "--alpha", help="α; the update is scaled by α/r.", rich_help_panel=_ADAPTER),
    ] = None,
    lora_dropout: Annotated[
        float | None, typer.Option(help="Dropout on the adapter's input.", rich_help_panel=_ADAPTER)
    ] = None,
    target_modules: Annotated[
        str | None,
        typer.Option(
            "--target-modules",
            "--targets",
            help="all-linear, or names with commas: q_proj,v_proj.",
            rich_help_panel=_ADAPTER,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", help="Peak of the schedule.", rich_help_panel=_RUN)
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", "--steps", help="Optimiser steps.", rich_help_panel=_RUN)
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Or passes over the rows.", rich_help_panel=_RUN)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows a step.", rich_help_panel=_RUN)] = None,
    gradient_accumulation_steps: Annotated[
        int | None, typer.Option(help="Batches a step.", rich_help_panel=_RUN)
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(
            help="Recompute activations instead of keeping them: less memory, more time.", rich_help_panel=_RUN
        ),
    ] = None,
    warmup_ratio: Annotated[
        float | None, typer.Option(help="Share of the run in which the rate rises.", rich_help_panel=_RUN)
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="cosine, linear or constant.", rich_help_panel=_RUN)] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto (what was faster here), fp32 or bf16.", rich_help_panel=_RUN)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of order, dropout and A.", rich_help_panel=_RUN)] = None,
    save_every: Annotated[
        int | None, typer.Option(help="Steps between checkpoints; Ctrl-C always saves one.", rich_help_panel=_RUN)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the result; runs/NAME without it.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file with any of these settings; flags win.", callback=from_config, is_eager=True),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with the interrupted run in this folder.", callback=from_run, is_eager=True),
    ] = None,
) -> None:
    """Train an adapter and keep it in PEFT's format. What is not given comes from the task's recipe.

    Examples:

    `lora-edu train --task kjv`

    `lora-edu train --task identity:name=Ada --out runs/ada`

    `lora-edu train --data my_rows.jsonl -r 4 --alpha 8 --lr 1e-3 --epochs 3`

    `lora-edu train --config my_run.yaml --seed 1`

    `lora-edu train --resume runs/kjv`

    `torchrun --nproc-per-node 4 -m lora_edu train --task kjv` (four GPUs share each batch)
    """
    given = {key: value for key, value in locals().items() if value is not None and key not in ("config", "resume")}
    if (task is None) == (data is None):
        raise typer.BadParameter("give --task NAME or --data FILE, one of the two.")
    if data is not None:
        given["data"] = data.absolute()  # so that the run can be resumed from another folder
    out = out or Path("runs") / (task.split(":")[0] if task else data.stem if data else "")
    _run(given | {"out": out}, resume is not None)


def _run(given: dict[str, Any], resume: bool) -> None:
    import torch

    from lora_edu.adapters.injection import audit, inject
    from lora_edu.adapters.save_load import CONFIG, save
    from lora_edu.data.examples import collate, encode_rows
    from lora_edu.training.checkpoints import checkpoints
    from lora_edu.training.losses import causal_lm_loss
    from lora_edu.training.processes import new_accelerator
    from lora_edu.training.trainer import Trainer

    out: Path = given["out"]
    if not resume and ((out / CONFIG).exists() or checkpoints(out / "checkpoints")):
        raise LoRAEduError(
            f"{out} holds a run already: choose another --out, or go on with it: lora-edu train --resume {out}"
        )
    first = new_accelerator().is_main_process  # of several processes one speaks and writes

    def say(text: str) -> None:
        if first:
            typer.echo(text)

    task = chosen_task(given["task"]) if "task" in given else None
    lora, plan = _settings(task, given)
    train_rows, valid_rows = _rows(task, given)

    model, tokenizer = opened(given["model"], None)
    examples = encode_rows(train_rows, tokenizer, given["max_length"])
    held_out = encode_rows(valid_rows, tokenizer, given["max_length"])
    torch.manual_seed(plan.seed)  # A is drawn here, before the trainer seeds its own run
    inject(model, lora)
    say(f"{audit(model)}\n{len(examples)} rows to train on, {len(held_out)} held out.")
    if first:
        write_run(out, {key: value for key, value in given.items() if key != "out"})
    pad = partial(collate, pad_token_id=tokenizer.pad_token_id)
    trainer = Trainer(model, examples, causal_lm_loss, plan, collate=pad, eval_examples=held_out or None)
    trainer.resume_hint = f"lora-edu train --resume {out}"
    history = trainer.resume() if resume else trainer.train()
    save(model, out)
    for step, loss in history.eval_losses[-1:]:
        say(f"Loss on the held-out rows after step {step}: {loss:.3f} nats per answer token.")
    measure = f"lora-edu eval --task {given['task']}" if task else f"lora-edu eval --data {given['data']}"
    say(f"{len(history.steps)} steps in {trainer.seconds:.0f} s. The adapter is in {out}.")
    say(f"Next: {measure} --adapter {out}    lora-edu chat --adapter {out}")


def _rows(task: Any, given: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Rows to train on and rows to hold out. Your own are split by a hash of the input, so the same question is never on both sides."""
    from lora_edu.data.rows import read_rows
    from lora_edu.data.splits import split

    rows = task.splits().train if task else read_rows(given["data"], system=given["system"])
    held_out = given.get("valid_rows", min(50, len(rows) // 10))
    if task:
        return rows, task.splits().valid[:held_out]
    if held_out == 0:
        return rows, []
    if len(rows) < 2 * held_out:
        raise DataError(f"{given['data']} has {len(rows)} rows, too few to hold out {held_out} of them (--valid-rows)")
    parts = split(rows, held_out, 0)
    return parts.train, parts.valid


def _settings(task: Any, given: dict[str, Any]) -> tuple[Any, Any]:
    """The task's recipe (or the defaults, for your own rows) with what was given in its place."""
    from lora_edu.adapters.config import LoRAConfig
    from lora_edu.tasks.base import Recipe
    from lora_edu.training.config import TrainConfig

    recipe = task.recipe if task else Recipe(LoRAConfig(), TrainConfig())
    chosen = given | {"output_dir": str(given["out"] / "checkpoints")}
    if "target_modules" in given:
        chosen["target_modules"] = _modules(given["target_modules"])
    if "epochs" in given:
        chosen.setdefault("max_steps", None)  # the recipe's number of steps would win over the epochs asked for
    lora, plan = (
        replace(config, **{f.name: chosen[f.name] for f in fields(config) if f.name in chosen}) for config in recipe
    )
    return lora, plan


def _modules(text: str) -> str | tuple[str, ...]:
    """ "q_proj,v_proj" is a list of names; one word may be all-linear, a name or a regular expression."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    return text if text == "all-linear" or (len(names) == 1 and not names[0].isidentifier()) else names
