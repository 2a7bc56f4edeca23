"""Copies to hand out: the chapters without outputs and without answers, one folder a student where there is a roster.

Each student's copy bears the number of a seat, from which its exercises draw their random cases: other numbers than the neighbour's, and
the same each time, so that a teacher can make them again.
"""

import csv
import io
import shutil
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from lora_edu.course.classroom.roster import ClassroomError, Seat
from lora_edu.course.notebooks.files import FOLDER, chapters, clean, read, write
from lora_edu.course.notebooks.learner import HANDED_OUT
from lora_edu.files import write_whole

SEATS = "seats.csv"  # which student has which number: the teacher's own


def release(
    target: Path, seats: list[Seat] | None = None, wanted: list[str] | None = None, folder: Path = FOLDER
) -> list[Path]:
    """Write student copies of the course into `target`; one folder a student, and `seats.csv` for the teacher, where `seats` are given.

    Args:
        target: a folder that is new, or in which no file of these names is.
        wanted: how names of chapters start, as in "03"; all without it. Pages to look things up (card, refresher, …) always go along.
        folder: the course's notebooks.

    Returns:
        The folders that were written, one for each student (or `target` alone).

    Raises:
        ClassroomError: something is there already. Nothing is ever written over.
        NotebookError: one of `wanted` matches no chapter.
    """
    pages = pages_of(wanted, folder)
    homes = [target / seat.student for seat in seats] if seats else [target]
    for home in homes:
        if there := [name for name in (*(page.name for page in pages), "images") if (home / name).exists()]:
            raise ClassroomError(
                f"{home} has a {there[0]} already, and a hand-out writes over nothing: name a new folder"
            )
    whose: list[Seat | None] = [*seats] if seats else [None]
    for home, seat in zip(homes, whose):
        home.mkdir(parents=True, exist_ok=True)
        for page in pages:
            notebook = blank(page)
            notebook.metadata.lora_edu[HANDED_OUT] = True
            if seat and notebook.metadata.lora_edu.kind == "chapter":
                take_seat(notebook, seat.number)
            write(notebook, home / page.name)
        if (folder / "images").is_dir():
            shutil.copytree(folder / "images", home / "images")
    if seats:
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([("student", "seat"), *seats])
        write_whole(target / SEATS, table.getvalue())
    return homes


def pages_of(wanted: list[str] | None, folder: Path = FOLDER) -> list[Path]:
    """The pages to hand out, without the solutions: those `wanted`, and the pages that are no chapters."""
    every = [page for page in chapters(folder=folder) if page.parent == folder]
    chosen = set(chapters(wanted, folder)) if wanted else set(every)
    return [page for page in every if page in chosen or not page.name[:2].isdigit()]


def blank(page: Path) -> NotebookNode:
    """The page as a learner gets it: clean, nothing run."""
    notebook = read(page)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    clean(notebook)
    return notebook


def take_seat(notebook: NotebookNode, number: str) -> None:
    """Put the cell that makes this the copy of seat `number` in front of the first code cell."""
    first = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    source = f'from lora_edu.course.cases import seat\n\nseat("{number}")'
    tags = list(notebook.cells[first].metadata.get("tags", ()))
    cell = nbformat.v4.new_code_cell(source, id=f"seat-{number}", metadata={"tags": tags})
    notebook.cells.insert(first, cell)
    notebook.metadata.lora_edu["seat"] = number
