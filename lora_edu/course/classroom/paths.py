"""The three paths through the course as folders of notebooks: a lesson of 90 minutes, a day of six hours, four weeks; each counted.

A path is chapters, or sections of them, in order. Optional parts are never in one. A cell that a kept one leans on comes along, so that
each page runs from its first cell.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode

from lora_edu.course.classroom.answer_cells import bound, parse, used
from lora_edu.course.classroom.handout import blank
from lora_edu.course.classroom.leftovers import tidy, with_minutes
from lora_edu.course.classroom.minutes import RUN, TALK, minutes, predictions
from lora_edu.course.classroom.roster import ClassroomError
from lora_edu.course.notebooks.files import FOLDER, chapters, write
from lora_edu.course.notebooks.learner import HANDED_OUT


class Part(NamedTuple):
    """A chapter of a path: its numbered `sections` (none: all, with what can go wrong and the self-test), `without` some exercises."""

    chapter: str
    sections: tuple[int, ...] = ()
    without: tuple[str, ...] = ()


class Path_(NamedTuple):
    """A path: what it is for, the most minutes of each of its sittings, its sittings, and minutes of talk that each prediction gets."""

    title: str
    most: int
    sittings: tuple[tuple[Part, ...], ...]
    talk: float = 0.0


PATHS = {
    "class90": Path_(
        "a lesson of 90 minutes", 90,
        ((Part("00", (1, 2, 3)), Part("01", (1, 2)), Part("03", (1, 2, 3, 4, 5, 6, 7), ("03.1", "03.2", "03.3"))),),
        talk=TALK,
    ),
    "oneday": Path_(
        "a day of six hours",
        360,
        (
            (
                Part("00"), Part("01", without=("01.2", "01.4")), Part("02", without=("02.1",)), Part("03", without=("03.1", "03.2")),
                Part("04", without=("04.3",)), Part("05", without=("05.2",)), Part("07", without=("07.1", "07.2")),
            ),
        ),
    ),
    "fourweeks": Path_(
        "four weeks, at most five hours and a half each", 330,
        tuple(
            tuple(map(Part, week))
            for week in (("00", "01", "02", "03", "04"), ("05", "06", "07", "choosing", "08"), ("09", "10", "11", "12"), ("13", "14", "15", "16", "17"))
        ),
    ),
}  # fmt: skip


class Built(NamedTuple):
    """A page of a path: its file's name, its cells, and their minutes."""

    name: str
    notebook: NotebookNode
    minutes: float


def sittings(path: str, folder: Path = FOLDER) -> list[list[Built]]:
    """The pages of a path, a list for each sitting. Raises ClassroomError for a path that is none."""
    if path not in PATHS:
        raise ClassroomError(f"there is no path {path!r}; there are {', '.join(PATHS)}")
    talk = PATHS[path].talk
    return [[built for part in sitting if (built := _page(part, folder, talk))] for sitting in PATHS[path].sittings]


def build(path: str, target: Path, folder: Path = FOLDER) -> list[list[Built]]:
    """Write a path into `target`, a folder a sitting where there are several, with the card and the refresher. Nothing is written over."""
    if target.exists() and any(target.iterdir()):
        raise ClassroomError(f"{target} is not empty, and nothing is written over: name a new folder")
    made = sittings(path, folder)
    for number, sitting in enumerate(made, 1):
        home = target / f"week{number}" if len(made) > 1 else target
        extra = [blank(folder / name) for name in ("card.ipynb", "refresher.ipynb")]
        there = {page.name for page in sitting} | {"card.ipynb", "refresher.ipynb"}
        for name, notebook in [
            *((page.name, page.notebook) for page in sitting),
            *zip(("card.ipynb", "refresher.ipynb"), extra),
        ]:
            _only_links_to(notebook, there)
            notebook.metadata.lora_edu[HANDED_OUT] = True
            write(notebook, home / name)
        if (folder / "images").is_dir():
            shutil.copytree(folder / "images", home / "images")
    return made


def _page(part: Part, folder: Path, talk: float = 0.0) -> Built | None:
    source = next(
        (page for page in chapters(folder=folder) if page.parent == folder and page.name.startswith(part.chapter)), None
    )
    if source is None:
        return None  # a chapter that this edition of the course does not have
    notebook = blank(source)
    every = notebook.cells
    dropped = _of_dropped(every, part.without)
    kept = {i for i, section in enumerate(_sections(every)) if i not in dropped and _chosen(every[i], section, part)}
    for i in sorted(kept, reverse=True):
        if i in kept:
            kept |= _leant_on(every, i, kept)
    notebook.cells = [every[i] for i in sorted(kept)]
    tidy(notebook.cells, part.chapter, part.without, part.sections)
    code = sum(cell.cell_type == "code" for cell in every)
    run = RUN * sum(cell.cell_type == "code" for cell in notebook.cells) / max(code, 1)
    asked = predictions(notebook.cells)
    total = minutes(notebook.cells, run) + talk * asked
    what = (
        f"sections {', '.join(map(str, part.sections))} of this chapter"
        if part.sections
        else "this chapter without its optional parts"
    )
    left = f", without exercise{'s' * (len(part.without) > 1)} {', '.join(part.without)}" if part.without else ""
    spoken = f", {talk * asked:.0f} of them to talk about {asked} predictions" if talk and asked else ""
    note = (
        f"> On this path: {what}{left}. About {total:.0f} minutes{spoken}. Where the page speaks of optional sections, of later ones or of "
        "other pages that are not here: they are in the whole course."
    )
    notebook.cells[0].source = with_minutes(notebook.cells[0].source, total)
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(note, id=f"path-{part.chapter}"))
    return Built(source.name, notebook, total)


def _sections(cells: list[NotebookNode]) -> Iterator[int | None]:
    """Of each cell the number of its section: 0 before the first, None under a heading without a number."""
    now: int | None = 0
    for cell in cells:
        if cell.cell_type == "markdown" and (heading := re.search(r"^## +(?:(\d+) ·)?", cell.source, re.MULTILINE)):
            now = int(heading[1]) if heading[1] else None
        yield now


def _of_dropped(cells: list[NotebookNode], without: tuple[str, ...]) -> set[int]:
    """The cells of the exercises in `without`, with the words before them that are tagged as theirs."""
    found: set[int] = set()
    for exercise in without:
        call = re.compile(rf"\b(exercise|check|hint)\(\"{re.escape(exercise)}\"")
        own = [i for i, cell in enumerate(cells) if cell.cell_type == "code" and call.search(cell.source)]
        before = min(own, default=0) - 1
        while (
            before >= 0
            and cells[before].cell_type == "markdown"
            and "exercise" in cells[before].metadata.get("tags", ())
        ):
            own.append(before)
            before -= 1
        found.update(own)
    return found


def _chosen(cell: NotebookNode, section: int | None, part: Part) -> bool:
    if "optional" in cell.metadata.get("tags", ()):
        return False
    return not part.sections or section == 0 or section in part.sections


def _leant_on(cells: list[NotebookNode], place: int, kept: set[int]) -> set[int]:
    """The cells that bind what the cell at `place` reads and no kept cell before it binds, and what those lean on."""
    if cells[place].cell_type != "code" or not (tree := parse(cells[place].source)):
        return set()
    own: set[str] = set()
    wanted: set[str] = set()
    for statement in tree.body:
        gives = bound(statement)
        wanted |= (
            used(statement) - own - (gives if hasattr(statement, "body") else set())
        )  # a loop binds its own variable
        own |= gives
    found: set[int] = set()
    for name in wanted - {name for i in kept if i < place for name in _binds(cells[i])}:
        giver = next((i for i in range(place - 1, -1, -1) if name in _binds(cells[i])), None)
        if giver is not None and giver not in kept:
            found |= {giver} | _leant_on(cells, giver, kept | found)
    return found


def _binds(cell: NotebookNode) -> set[str]:
    tree = parse(cell.source) if cell.cell_type == "code" else None
    return set().union(*map(bound, tree.body)) if tree else set()


def _only_links_to(notebook: NotebookNode, there: set[str]) -> None:
    """A link to a page that is not in the folder becomes its words."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(
                r"\[([^\]]*)\]\((?!\w+:)([^)#]*\.ipynb)(#[^)]*)?\)",
                lambda m: m[0] if m[2] in there else m[1],
                cell.source,
            )
