"""`lora-edu course …`: what a teacher needs around the chapters."""

from __future__ import annotations

import os
import secrets
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lora_edu.cli.common import counted

course = typer.Typer(
    name="course",
    help="For a classroom: hand out, gather, grade.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
Chapters = Annotated[
    str | None,
    typer.Option(metavar="03,05", help="Only these chapters, by number."),
]
Key = Annotated[
    str | None,
    typer.Option(
        envvar="LORA_EDU_CLASS_KEY", help="What seats and held-back cases are drawn from; keep it to yourself."
    ),
]


def listed(chapters: str | None) -> list[str] | None:
    """ "3, 05" → ["03", "05"]."""
    return [part.strip().zfill(2) for part in chapters.split(",") if part.strip()] if chapters else None


class PathName(StrEnum):
    """The paths through the course."""

    CLASS90 = "class90"
    ONEDAY = "oneday"
    FOURWEEKS = "fourweeks"


def _pages() -> Path:
    """The course's notebooks. Raises LoRAEduError where the module came without them."""
    from lora_edu.course.notebooks.learner import course_folder
    from lora_edu.errors import LoRAEduError

    pages = course_folder()
    if pages is None:
        raise LoRAEduError("The notebooks are not here: install the course's wheel, or clone its repository.")
    return pages


@course.command()
def release(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; nothing that is there is written over.")],
    roster: Annotated[
        Path | None,
        typer.Option(
            help="A text file with a student's name on each line, or a CSV whose first column is the name: a folder and cases of their own for each."
        ),
    ] = None,
    chapters: Annotated[
        str | None,
        typer.Option(
            metavar="03,05",
            help="Only these chapters, by number; the pages without a number (card, refresher, choosing, inventory) go along.",
        ),
    ] = None,
    key: Key = None,
    nbgrader: Annotated[bool, typer.Option("--nbgrader", help="Write a course folder for nbgrader instead.")] = False,
) -> None:
    """Write student copies of the chapters: no outputs, no solutions notebooks.

    With a roster each student gets a folder, and exercises that draw random cases draw other ones for each, the same each time.

    Examples: `lora-edu course release handout --roster class.txt --chapters 03,05,13 --key "a phrase of your own"`, `lora-edu course release nb --nbgrader`
    """
    from lora_edu.course.classroom import roster as seats
    from lora_edu.course.classroom.for_nbgrader import write_source
    from lora_edu.course.classroom.handout import SEATS
    from lora_edu.course.classroom.handout import release as hand_out

    source, key = _pages(), key or seats.KEY
    if nbgrader:
        if roster:
            raise typer.BadParameter("nbgrader keeps its own list of students: leave --roster out.")
        made = write_source(folder, listed(chapters), key, source)
        typer.echo(f"{counted(len(made), 'assignment')} in {folder / 'source'}: {', '.join(made)}.")
        typer.echo(f"In {folder}: nbgrader generate_assignment {made[0] if made else 'ch03'} --create")
        return
    class_ = seats.read_roster(roster, key) if roster else None
    homes = hand_out(folder, class_, listed(chapters), source)
    pages = counted(len(list(homes[0].glob("*.ipynb"))), "page")
    each = f"for each of {counted(len(homes), 'student')} " if class_ else ""
    typer.echo(f"Wrote {pages} {each}to {folder}, no solutions notebooks.")
    if class_:
        if key == seats.KEY:
            typer.echo("Without --key seats are drawn from names alone: whoever knows a name can compute its seat.")
        typer.echo(f"{folder / SEATS} says who has which number: it is yours, not theirs.")


@course.command()
def grade(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder that holds a folder for each student, with their notebooks.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where grades.csv and common_bugs.html go; beside DIR without it.")
    ] = None,
    chapters: Chapters = None,
    key: Key = None,
    seconds: Annotated[float, typer.Option(min=1, help="Most seconds for one answer.")] = 60.0,
    memory: Annotated[float, typer.Option(min=0.2, help="Most GB for one answer.")] = 3.0,
) -> None:
    """Check every answer of a folder of submissions: each in a process of its own, on the student's cases and on cases held back.

    Writes a CSV with a row for each student and exercise, and a page of the commonest bugs without names. Nothing of a submission is run
    by the grader itself; which walls held, and which this system does not allow, is said at the end. One answer after another: some seconds each.

    Examples: `lora-edu course grade submitted --out results --key "a phrase of your own"`, `lora-edu course grade submitted --chapters 03`
    """
    from lora_edu.course.classroom.confine import Limits
    from lora_edu.course.classroom.grading import BUGS, GRADES, write_grades
    from lora_edu.course.classroom.grading import grade as grade_all

    source = _pages()
    hidden = (source, source.parent / "tests")
    target = out or folder.absolute().parent
    limits = Limits(seconds=seconds, memory=int(memory * 1e9))
    if not key:
        key = secrets.token_hex(16)
        typer.echo(f"Held-back cases are drawn from a new key. To grade with the same ones again: --key {key}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        typer.echo(
            "You are root: a fault in the walls would open all of this machine to an answer. Better grade as an ordinary user."
        )
    graded = grade_all(folder, listed(chapters), limits, key, hidden, say=typer.echo)
    write_grades(graded, target)
    for sentence in (graded.walls, *graded.open_to, *(f"Not read: {name}" for name in graded.unreadable)):
        typer.echo(sentence)
    typer.echo(f"{target / GRADES}: {counted(len(graded.rows), 'row')}. For the class, without names: {target / BUGS}.")


@course.command()
def collect(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]…", help="Handed-in progress.json files, or folders of them; none: open a room."),
    ] = None,
    question: Annotated[
        str | None,
        typer.Option(help="The prediction to show, as in 03-silent-start; all that were answered without it."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address of the room; 0.0.0.0 lets the class in, 127.0.0.1 only this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the room; 0 takes a free one.")] = 8700,
    list_: Annotated[
        bool, typer.Option("--list", help="Say which predictions there are, and do nothing else.")
    ] = False,
) -> None:
    """Gather a class's locked predictions and show them as a histogram, before the reveal. No names.

    With files: from what students handed in. Without: a room on this machine, at an address that ends in the room's code; students open it in a browser,
    or a cell of theirs joins (`from lora_edu.course.classroom.room import join`, then `join("http://…/CODE")`) and each prediction they lock is counted.

    Examples: `lora-edu course collect handed_in --question 03-silent-start`, `lora-edu course collect --host 0.0.0.0`
    """
    from lora_edu.course.classroom.ballots import Box, as_text, gathered, questions
    from lora_edu.course.classroom.roster import ClassroomError

    known = questions(_pages())
    if list_:
        typer.echo("\n".join(f"{each.id:<22} {each.text}" for each in known.values()))
        return
    if question is not None and question not in known:
        raise ClassroomError(f"there is no prediction {question!r}; there are {', '.join(known)}")
    if files:
        box, unread = gathered(files, known)
        for each in [question] if question else sorted(box.votes):
            typer.echo(as_text(known[each], box.bars(each)) + "\n")
        for line in unread:
            typer.echo(f"Not read: {line}")
        return
    from lora_edu.course.classroom.room import create_room, new_code
    from lora_edu.serving.running import bind, require_extra

    require_extra()
    import uvicorn

    code, key, place = new_code(), secrets.token_urlsafe(12), bind(host, port)
    address = f"http://{_named_host(host)}:{place.getsockname()[1]}/{code}"
    typer.echo(
        f"For the class:  {address}\nFor you alone:  {address}/show?key={key}\nCtrl-C closes the room, and nothing is kept."
    )
    app = create_room(Box(known), code, key, question or next(iter(known)))
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[place])


def _named_host(host: str) -> str:
    """What a student's browser calls this machine."""
    import socket

    if host not in ("0.0.0.0", "::"):
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; asks the system which of its addresses it would use
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


@course.command()
def build(
    path: Annotated[
        PathName, typer.Argument(metavar="PATH", help="class90 (a lesson), oneday (six hours) or fourweeks.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to: a new folder.")],
) -> None:
    """Write the notebooks of a path: what of each chapter fits into its time, without optional parts, outputs and solutions notebooks.

    Example: `lora-edu course build class90 lesson`
    """
    from lora_edu.course.classroom.paths import PATHS
    from lora_edu.course.classroom.paths import build as make

    for number, sitting in enumerate(make(path.value, folder, _pages()), 1):
        for page in sitting:
            typer.echo(f"  {page.minutes:4.0f} minutes  {page.name}")
        of = f" of week {number}" if path is PathName.FOURWEEKS else ""
        talk = "talk about predictions included" if PATHS[path.value].talk else "talk and pauses not included"
        total = sum(page.minutes for page in sitting)
        typer.echo(
            f"{total:.0f} of {PATHS[path.value].most} minutes{of}, {talk}, counted at the rates of lora_edu/course/classroom/minutes.py."
        )


@course.command()
def graph(
    chapters: Annotated[
        str | None, typer.Argument(metavar="[03,05]", help="The chapters you want; all without it.")
    ] = None,
    svg: Annotated[
        Path | None, typer.Option(help="Draw the whole graph into this file, with the chapters you want marked.")
    ] = None,
) -> None:
    """Say which chapters a chapter leans on, and what comes along if you teach only some.

    Examples: `lora-edu course graph 03,05,13`, `lora-edu course graph 03,05,13 --svg graph.svg`
    """
    from lora_edu.course.chapters import NEEDS
    from lora_edu.course.classroom.graph import as_svg, as_text
    from lora_edu.course.classroom.roster import ClassroomError
    from lora_edu.files import write_whole

    wanted = listed(chapters) or []
    if unknown := [chapter for chapter in wanted if chapter not in NEEDS]:
        raise ClassroomError(f"there is no chapter {unknown[0]!r}; there are {', '.join(NEEDS)}")
    typer.echo(as_text(wanted))
    if svg:
        write_whole(svg, as_svg(wanted))
        typer.echo(f"Drawn: {svg}.")
