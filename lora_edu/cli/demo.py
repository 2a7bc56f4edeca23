"""The main job from end to end, in a terminal: fine-tune the real model, measure it, save, reload and merge it. Chapter 14 takes it apart.

Every figure that is printed was computed in this run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lora_edu.adapters.injection import audit, inject, unload
from lora_edu.adapters.merging import merge
from lora_edu.adapters.save_load import load, save
from lora_edu.cli.common import writable
from lora_edu.data.examples import collate, encode_rows
from lora_edu.data.templates import prompt_ids
from lora_edu.evaluation.generation import generate
from lora_edu.evaluation.paired import paired_gain
from lora_edu.evaluation.report import Report, evaluate
from lora_edu.models.base import DEFAULT_MODEL, load_base
from lora_edu.tasks import get_task
from lora_edu.tasks.base import Task
from lora_edu.training.losses import causal_lm_loss
from lora_edu.training.trainer import Trainer


def demo(
    model_name: str = DEFAULT_MODEL,
    task_name: str = "kjv",
    out: Path = Path("runs/demo"),
    limit: int = 40,
    steps: int | None = None,
) -> None:
    """Run it all and print it.

    out: where the adapter is kept. limit: test rows that are scored. steps: instead of the recipe's.
    """
    console, started = Console(), time.monotonic()
    writable(out)
    task = get_task(task_name)
    model, tokenizer = load_base(model_name)
    console.rule(f"{task.title}: {model_name}, {sum(p.numel() for p in model.parameters()) / 1e6:.0f}M parameters")

    console.print(f"\n[bold]1. Before.[/] {limit} test rows that training never sees.")
    before = evaluate(model, tokenizer, task, limit=limit)
    samples_before = generate(
        model, tokenizer, [task.ask(s) for s in task.samples], task.max_new_tokens, system=task.system
    )
    console.print(f"{before.metric} {before.interval} (95 % interval)")

    console.print("\n[bold]2. LoRA.[/] The weights stay frozen; only this trains:")
    settings = task.recipe.train if steps is None else replace(task.recipe.train, max_steps=steps)
    inject(model, task.recipe.lora)
    console.print(str(audit(model)), highlight=False)
    examples = encode_rows(task.splits().train, tokenizer)
    pad = partial(collate, pad_token_id=tokenizer.pad_token_id)
    trainer = Trainer(model, examples, causal_lm_loss, settings, collate=pad)
    losses = trainer.train().losses
    tail = max(1, len(losses) // 10)
    console.print(
        f"{len(losses)} steps in {trainer.seconds:.0f} s ({trainer.precision}): loss {sum(losses[:tail]) / tail:.2f} → "
        f"{sum(losses[-tail:]) / tail:.2f} nats per answer token"
    )

    console.print("\n[bold]3. After.[/]")
    after = evaluate(model, tokenizer, task, limit=limit)
    samples_after = generate(
        model, tokenizer, [task.ask(s) for s in task.samples], task.max_new_tokens, system=task.system
    )
    few = range(min(3, len(after.rows)))
    console.print(_side_by_side("Test rows", [
        (after.rows[i].meta.get("input", after.rows[i].prompt), before.outputs[i], after.outputs[i], after.rows[i].answer) for i in few
    ]))  # fmt: skip
    if task.samples:
        console.print(
            _side_by_side("Sentences of its own", list(zip(task.samples, samples_before, samples_after, strict=True)))
        )
    console.print(_scores(before, after))
    for name, scores in {"the base": before.scores, **after.baselines}.items():
        gain = paired_gain(scores[after.metric], after.scores[after.metric])
        console.print(
            f"Gain in {after.metric} over {name}, row by row: {gain}.",
            markup=False,
        )

    console.print("\n[bold]4. Keep it.[/]")
    folder = save(model, out)
    size = sum(file.stat().st_size for file in folder.iterdir())
    _three_alike(console, model, tokenizer, task, load_base(model_name).model, folder)
    console.print(f"The adapter takes {size / 1e6:.1f} MB in PEFT's format, in {folder}.")
    console.print(
        f"\n{time.monotonic() - started:.0f} s in all. The same step by step, and why it works: [bold]lora-edu lab[/]."
    )
    console.print(f"Talk to it: [bold]lora-edu chat {folder}[/]")


def _three_alike(console: Console, trained: Any, tokenizer: Any, task: Task, fresh: Any, folder: Path) -> None:
    """The model in memory, the adapter loaded into a fresh base, and that one merged: same answers, and how far the logits differ."""
    row = task.splits().test[0]
    questions = [*(task.ask(s) for s in task.samples[:2]), row.prompt]
    ids = torch.tensor([prompt_ids(row.messages[:-1], tokenizer)], device=trained.device)  # (1, T)
    answers = partial(
        generate, tokenizer=tokenizer, prompts=questions, max_new_tokens=task.max_new_tokens, system=task.system
    )
    expected, logits = answers(trained), _logits(trained, ids)

    load(fresh, folder)
    table = Table(
        "",
        "same answers",
        "largest difference of a logit",
        title=f"Do all three answer alike? ({len(questions)} questions)",
    )
    table.add_row("in memory", "–", "–")
    for name in ("reloaded into a fresh base", "merged: no adapter left, plain weights"):
        if name.startswith("merged"):
            merge(fresh, keep_base=False)
            unload(fresh)
        same = sum(a == b for a, b in zip(answers(fresh), expected, strict=True))
        table.add_row(name, f"{same} of {len(questions)}", f"{(_logits(fresh, ids) - logits).abs().max():.1g}")
    console.print(table)
    console.print(
        f"(Logits here reach {logits.abs().max():.0f}; merging rounds each weight once more, in its 7th digit.)"
    )


@torch.no_grad()
def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return model(ids).logits.float()  # (1, T, V)


def _side_by_side(title: str, rows: Sequence[tuple[str, ...]]) -> Table:
    """input, before, after and, where there is one, the reference."""
    table = Table(*("input", "before", "after", "reference")[: len(rows[0])], title=title, show_lines=True)
    for row in rows:
        table.add_row(*(_shorten(cell) for cell in row))
    return table


def _shorten(text: str, length: int = 160) -> str:
    flat = " ".join(text.split()).replace("[", "\\[")  # rich would read [ as markup
    return flat if len(flat) <= length else flat[: length - 1] + "…"


def _scores(before: Report, after: Report) -> Table:
    table = Table(
        "metric",
        "before",
        *(f"baseline: {name}" for name in after.baselines),
        "after",
        title=f"{len(after.rows)} test rows, 95 % intervals",
    )
    for name, score in after.scores.items():
        baselines = (str(scores[name].interval()) if name in scores else "–" for scores in after.baselines.values())
        table.add_row(
            name, str(before.scores[name].interval()), *baselines, f"[bold]{score.interval()}[/]".replace(" [", " \\[")
        )
    return table
