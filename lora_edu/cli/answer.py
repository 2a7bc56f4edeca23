"""`lora-edu answer`: a file of questions in, a file of answers out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lora_edu.cli.common import Adapter, Bits, Folder, Model, Scale, System, counted, opened, the_adapter, writable
from lora_edu.cli.run_folder import run_of
from lora_edu.errors import DataError, LoRAEduError
from lora_edu.files import write_whole


def answer(
    questions: Annotated[Path, typer.Option(help="Text file, a question a line.")],
    out: Annotated[
        Path, typer.Option(help="File to write: a line of JSON a question, with the answer. It must not exist.")
    ],
    folder: Folder = None,
    adapter: Adapter = None,
    scale: Scale = 1.0,
    model: Model = None,
    bits: Bits = None,
    system: System = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 200,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions at once.")] = 16,
) -> None:
    """Answer a file of questions, greedily, many at once.

    Example: `lora-edu answer runs/kjv --questions questions.txt --out answers.jsonl`
    """
    from lora_edu.evaluation.generation import generate

    adapter = the_adapter(folder, adapter)
    try:
        asked = [line.strip() for line in questions.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{questions} cannot be read as text: {error}") from error
    if not asked:
        raise DataError(f"{questions} holds no question: write one a line")
    if out.exists():
        raise LoRAEduError(f"{out} is there already, and nothing is overwritten: choose another --out")
    writable(out.parent)
    base, tokenizer = opened(model, adapter, scale, bits)
    system = run_of(adapter).get("system", "") if system is None else system
    answers = generate(base, tokenizer, asked, max_new_tokens, batch_size, system)
    rows = [json.dumps({"prompt": q, "completion": a}, ensure_ascii=False) for q, a in zip(asked, answers, strict=True)]
    write_whole(out, "\n".join(rows) + "\n")
    typer.echo(f"{counted(len(rows), 'answer')} in {out}.")
