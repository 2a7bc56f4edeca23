"""`lora-edu report`: what can be graded of a project, as text and as one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_edu.errors import LoRAEduError

if TYPE_CHECKING:
    from lora_edu.cli.project import Graded


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of your project.")],
    out: Annotated[Path | None, typer.Option(help="The page; DIR/report.html without it.")] = None,
) -> None:
    """Grade what can be graded of a project (data and its leaks, baselines, figures, forgetting, size, whether another can repeat it).

    Writes one HTML page that a teacher can read. Nothing is trained or generated here: measure first. Exit code 1 where something is
    missing or fails. Example: `lora-edu report my_project`
    """
    from lora_edu.cli.project import graded
    from lora_edu.files import write_whole

    if not folder.is_dir():
        raise LoRAEduError(f"there is no folder {folder}: `lora-edu capstone start KIT {folder}` writes one")
    found = graded(folder)
    typer.echo(str(found))
    path = out or folder / "report.html"
    write_whole(path, project_html(found))
    typer.echo(f"The page is {path}.")
    if not found.passed:
        raise typer.Exit(1)


def project_html(found: Graded) -> str:
    """The page: the items, the figures drawn, the sheets as they were written, and the files' hashes. All of it is escaped."""
    from html import escape

    from lora_edu.cli.project import SIGNS
    from lora_edu.evaluation.page import intervals, whole_page
    from lora_edu.tables import html_table

    title = f"Project: {found.folder.resolve().name}"
    words = {"look": "a reader has to look"}
    lines = [
        [item.name, f"{SIGNS[item.status]} {words.get(item.status, item.status)}", item.said] for item in found.items
    ]
    parts = [
        f"<h1>{escape(title)}</h1>",
        '<p class="note">What a program can see. Whether the question is a good one, the labels are right and the conclusion follows, it cannot.</p>',
        f'<div class="scroll">{html_table(("", "", "found"), lines)}</div>',
        "<h2>Figures</h2>",
        *(f"<figure>{intervals(figures, name).svg()}</figure>" for name, figures in found.intervals.items()),
    ]
    for name, text in found.texts.items():
        parts += [f"<h2>{escape(name)}</h2>", f'<pre style="white-space:pre-wrap">{escape(text)}</pre>']
    parts += [
        "<h2>Files</h2>",
        html_table(("file", "SHA-256, its first 16 figures"), list(map(list, found.hashes.items()))),
    ]
    return whole_page(title, parts)
