"""The command `lora-edu`. Each command imports what it needs when it runs, so that `--help` answers at once.

Exit codes: 0 done, 1 failure (or a law broken), 2 wrong usage, 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lora_edu import __version__
from lora_edu.cli import (
    advise,
    answer,
    bundle,
    capstone,
    chat,
    combine,
    course,
    eval,
    export,
    extract,
    merge,
    report,
    resize,
    serve,
    setup,
    sweep,
    train,
)
from lora_edu.errors import LoRAEduError


class Commands(TyperGroup):
    """A user's mistake ends in one message, never in a traceback; `--debug`, anywhere on the line, shows the traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.obj = {"debug": "--debug" in args}
        return super().parse_args(ctx, [arg for arg in args if arg != "--debug"])

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (LoRAEduError, OSError) as error:  # a full disk is nobody's bug either
            if ctx.obj["debug"]:
                raise
            typer.secho(f"Error: {error}", fg="red", err=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as interrupt:
            typer.echo(f"\nInterrupted. {interrupt}".rstrip(), err=True)
            raise typer.Exit(130) from interrupt


app = typer.Typer(
    cls=Commands,
    name="lora-edu",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with **lora-edu doctor**, then **lora-edu lab**. `--debug` on any command shows the traceback behind an error.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lora-edu {__version__}")
        raise typer.Exit


@app.callback()
def lora_edu(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """A course on LoRA in which nothing is taken on trust, and the tools under it."""


COMMANDS: dict[str, Callable[..., None]] = {
    "lab": setup.lab,
    "fresh": setup.fresh,
    "demo": setup.demo,
    "doctor": setup.doctor,
    "laws": setup.laws,
    "advise": advise.advise,
    "train": train.train,
    "eval": eval.evaluate,
    "report": report.report,
    "merge": merge.merge,
    "combine": combine.combine,
    "resize": resize.resize,
    "extract": extract.extract,
    "export": export.export,
    "chat": chat.chat,
    "answer": answer.answer,
    "serve": serve.serve,
    "sweep": sweep.sweep,
    "fetch": setup.fetch,
    "bundle": bundle.bundle,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(course.course)
app.add_typer(capstone.capstone)


def _plain_warning(message: Warning | str, *_: Any) -> str:
    return f"Warning: {message}\n"


def main() -> None:
    """Entry point of `lora-edu` and `python -m lora_edu`."""
    warnings.formatwarning = _plain_warning  # type: ignore[assignment]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without ✓ prints ? and goes on
    app()
