"""`lora-edu course …`: what a teacher needs around the chapters."""

from __future__ import annotations

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
    typer.Option(metavar="03,05", help="Only these chapters, by number; the card and the refresher go along."),
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


@course.command()
def release(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; nothing that is there is written over.")],
    roster: Annotated[
        Path | None,
        typer.Option(help="A file with a student's name on each line: a folder and cases of their own for each."),
    ] = None,
    chapters: Chapters = None,
    key: Key = None,
    nbgrader: Annotated[bool, typer.Option("--nbgrader", help="Write a course folder for nbgrader instead.")] = False,
) -> None:
    """Write student copies of the chapters: no outputs, no solutions.

    With a roster each student gets a folder, and exercises that draw random cases draw other ones for each, the same each time.

    Examples: `lora-edu course release handout --roster class.txt --chapters 03,05,13`, `lora-edu course release nb --nbgrader`
    """
    from lora_edu.cli.doctor import course_folder
    from lora_edu.course.classroom import roster as seats
    from lora_edu.course.classroom.for_nbgrader import write_source
    from lora_edu.course.classroom.handout import SEATS
    from lora_edu.course.classroom.handout import release as hand_out
    from lora_edu.errors import LoRAEduError

    source, key = course_folder(), key or seats.KEY
    if source is None:
        raise LoRAEduError(
            "The notebooks are not here: clone the course's repository and run `pip install -e .` in it."
        )
    if nbgrader:
        if roster:
            raise typer.BadParameter("nbgrader keeps its own list of students: leave --roster out.")
        made = write_source(folder, listed(chapters), key, source)
        typer.echo(f"{counted(len(made), 'assignment')} in {folder / 'source'}: {', '.join(made)}.")
        typer.echo(f"In {folder}: nbgrader generate_assignment {made[0] if made else 'ch03'} --create")
        return
    class_ = seats.read_roster(roster, key) if roster else None
    homes = hand_out(folder, class_, listed(chapters), source)
    pages = len(list(homes[0].glob("*.ipynb")))
    typer.echo(
        f"{counted(pages, 'page')} without solutions in {f'each of {len(homes)} folders of {folder}' if class_ else folder}."
    )
    if class_:
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
    by the grader itself; what the system does not let it take away from an answer is said at the end.

    Examples: `lora-edu course grade submitted --out results`, `lora-edu course grade submitted --chapters 03 --seconds 30`
    """
    from lora_edu.cli.doctor import course_folder
    from lora_edu.course.classroom.confine import Limits
    from lora_edu.course.classroom.grading import BUGS, GRADES, write_grades
    from lora_edu.course.classroom.grading import grade as grade_all

    source = course_folder()
    hidden = (source, source.parent / "tests") if source else ()
    target = out or folder.absolute().parent
    limits = Limits(seconds=seconds, memory=int(memory * 1e9))
    graded = grade_all(folder, listed(chapters), limits, key or "", hidden, say=typer.echo)
    write_grades(graded, target)
    for sentence in (*graded.open_to, *(f"Not read: {name}" for name in graded.unreadable)):
        typer.echo(sentence)
    typer.echo(f"{target / GRADES}: {counted(len(graded.rows), 'row')}. For the class, without names: {target / BUGS}.")
