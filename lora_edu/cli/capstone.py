"""`lora-edu capstone`: judge a file that was written from a blank page; write the starting kit of a project. Chapter 17."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

capstone = typer.Typer(
    name="capstone",
    help="The last chapter: the blank page, and a project of your own.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@capstone.command()
def judge(file: Annotated[Path, typer.Argument(help="Python file with your LoRA.")]) -> None:
    """Judge LoRA as you wrote it from a blank page, by the laws and by PEFT. The file is run.

    It ends with `page = Page(layer=…, inject=…, …)`, or bears the names of chapter 17's table. Exit code 1 when a part is wrong or open.
    Example: `lora-edu capstone judge my_lora.py`
    """
    from lora_edu.course.blank_page import lines_of, load_page
    from lora_edu.course.exercises import check

    page = load_page(file)
    results = [check(id, page) for id in ("17.1", "17.2", "17.3")]
    for result in results:
        typer.echo(str(result))
    typer.echo(f"{lines_of(file.read_text('utf-8'))} lines of code (30 is par).")
    if not all(result.passed for result in results):
        raise typer.Exit(1)


@capstone.command()
def start(
    kit: Annotated[str, typer.Argument(help="style, extractor or languages.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
) -> None:
    """Write a starting kit: raw text, protocol, rubric, and the sheets that are to be filled in. Nothing is ever written over.

    Example: `lora-edu capstone start extractor my_project`
    """
    from lora_edu.course.kits import start_kit

    for name in start_kit(kit, folder):
        typer.echo(f"{folder / name}")
    typer.echo(f"Begin with {folder / 'README.md'}.")
