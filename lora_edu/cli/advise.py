"""`lora-edu advise`: a configuration with the reason and the evidence of every choice."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from lora_edu.cli.common import chosen_task


def advise(
    task: Annotated[str | None, typer.Option(help="A task of the course; rows of your own without it.")] = None,
    model: Annotated[
        str, typer.Option(help="smollm2-135m, llama-3.2-1b, llama-2-7b, llama-2-70b or llama-65b: the shapes count.")
    ] = "smollm2-135m",
    memory: Annotated[
        str | None, typer.Option(help='What there is to use, as "24 GB"; what this machine has, without it.')
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Training rows; the task's, or 400, without it.")] = None,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of the longest row, its answer included.")] = 128,
    answer_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of an answer; the task's limit, or half of the row.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Recommend an adapter and a run, and say of every choice why, what speaks for it, how sure that is, and what a 7B model would change.

    Examples: `lora-edu advise --task kjv`, `lora-edu advise --model llama-2-7b --memory "24 GB" --rows 5000 --tokens 512`
    """
    from lora_edu.experiments.advisor import advise as recommend

    chosen: Any = chosen_task(task) if task else None
    count = rows or (len(chosen.splits().train) if chosen else 400)
    advice = recommend(model, chosen, memory, count, tokens=tokens, answer_tokens=answer_tokens)
    if as_json:
        typer.echo(json.dumps(advice.to_dict(), ensure_ascii=False, indent=1))
        return
    typer.echo(advice)
    if model == "smollm2-135m":
        typer.echo(f"\nTo train so: lora-edu train {f'--task {task}' if task else '--data my_rows.jsonl'} --advise")
