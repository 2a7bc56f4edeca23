"""A folder of submissions, graded: a row for each student and exercise, and a page of what went wrong most, without names."""

import csv
import html
import io
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

import lora_edu
from lora_edu.course.classroom.answer_cells import answers
from lora_edu.course.classroom.confine import SHIELDS, Limits
from lora_edu.course.classroom.judge import HELD_BACK, ITSELF, Verdict, judge
from lora_edu.course.classroom.pupils import Nursery
from lora_edu.course.classroom.roster import ClassroomError
from lora_edu.course.exercises import exercises
from lora_edu.errors import shown
from lora_edu.files import write_whole
from lora_edu.tables import html_table

GRADES, BUGS = "grades.csv", "common_bugs.html"
_MOST_BYTES = 20_000_000  # of a notebook that is handed in
_COLUMNS = ("student", "exercise", "solved", "status", "bug", "held_back", "judged_by", "look_at", "message")


class Row(NamedTuple):
    """A student and what became of one exercise."""

    student: str
    verdict: Verdict


class Graded(NamedTuple):
    """All rows; what no process of this run could be kept from (sentences); notebooks that could not be read; the walls that all had."""

    rows: list[Row]
    open_to: list[str]
    unreadable: list[str]
    walls: str


def grade(
    folder: Path, wanted: list[str] | None = None, limits: Limits | None = None, secret: str = "", hidden: tuple[Path, ...] = (),
    say: Callable[[str], Any] = lambda text: None,
) -> Graded:  # fmt: skip
    """Check every answer in a folder that holds a folder for each student, each answer in a process of its own.

    Args:
        wanted: chapters ("03"), or every one that somebody has handed in.
        secret: what held-back cases are drawn from; a new one without it.
        hidden: more folders that no answer may read; the submissions are always hidden.

    Raises:
        ClassroomError: nothing to grade; or the course's own files were changed while answers ran.
    """
    pages, unreadable = _submissions(folder)
    chosen = wanted or sorted({exercise[:2] for page in pages.values() for exercise in page})
    tasks = [exercise for exercise in exercises() if exercise[:2] in chosen]
    if not pages or not tasks:
        raise ClassroomError(
            f"{folder} holds no notebook with an exercise: hand me a folder that has a folder for each student"
        )
    nursery = Nursery(limits or Limits(), (folder, *hidden))
    secret = secret or secrets.token_hex(16)
    before, rows = _own_files(), list[Row]()
    try:
        for student, page in pages.items():
            start = time.monotonic()
            for exercise in tasks:
                verdict = (
                    judge(page[exercise], exercise, nursery, secret)
                    if exercise in page
                    else Verdict(exercise, "missing")
                )
                rows.append(Row(student, verdict))
                if _own_files() != before:
                    raise ClassroomError(
                        f"the course's own files in {Path(lora_edu.__file__).parent} were changed while {student}'s {exercise} ran: "
                        "no grade of this run counts. Restore them (git status, or install again), and read that answer"
                    )
            solved = sum(row.verdict.solved for row in rows if row.student == student)
            say(f"{student}: {solved} of {len(tasks)} solved ({time.monotonic() - start:.0f} s)")
    finally:
        nursery.close()
    walls, open_to = _walls(rows)
    return Graded(rows, open_to, unreadable, walls)


def _walls(rows: list[Row]) -> tuple[str, list[str]]:
    """What held around every answer, in one line that is always said; and a sentence for each wall that one of them had not."""
    ran = [set(row.verdict.shields) for row in rows if row.verdict.shields is not None]
    if not ran:
        return "Walls: no answer was run.", []
    given = set(SHIELDS).intersection(*ran)
    held = "; ".join(SHIELDS[name] for name in SHIELDS if name in given)
    missing = [f"On this system it does not hold that {SHIELDS[name]}." for name in SHIELDS if name not in given]
    return f"Walls around every answer that ran: {held or 'none'}.", missing


def _submissions(folder: Path) -> tuple[dict[str, dict[str, nbformat.NotebookNode]], list[str]]:
    """Of each student, by exercise, the page that has it; and the files that are no notebooks. Links are not followed."""
    if not folder.is_dir():
        raise ClassroomError(f"{folder} is no folder")
    found: dict[str, dict[str, nbformat.NotebookNode]] = {}
    unreadable = []
    for home in sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.is_symlink() and path.name[0] != "."
    ):
        found[home.name] = {}
        for path in sorted(home.rglob("*.ipynb")):
            name = path.relative_to(folder).as_posix()
            if ".ipynb_checkpoints" in name:
                continue
            try:
                if any(part.is_symlink() for part in (path, *path.parents[: len(path.relative_to(home).parts)])):
                    raise ValueError("it is a link")
                if path.stat().st_size > _MOST_BYTES:
                    raise ValueError(f"more than {_MOST_BYTES:,} bytes")
                notebook = nbformat.reads(path.read_text("utf-8"), 4)
                found[home.name] |= dict.fromkeys(answers(notebook), notebook)
            except Exception as error:  # whatever somebody called .ipynb
                unreadable.append(f"{name}: {shown(str(error))}")
    return found, unreadable


def _own_files() -> str:
    """A mark of the course's own code on the disk."""
    root = Path(lora_edu.__file__).parent
    marks = sorted((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob("*.py"))
    return sha256(repr(marks).encode()).hexdigest()


def write_grades(graded: Graded, target: Path) -> None:
    """`grades.csv` and `common_bugs.html` in `target`, in the place of older ones."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for student, v in graded.rows:
        held_back = f"{v.held_back} of {HELD_BACK}" if v.status in ("passed", "wrong") else ""
        cells = (
            student,
            v.exercise,
            int(v.solved),
            v.status,
            v.bug,
            held_back,
            v.judged_by,
            " ".join(v.look_at),
            v.message,
        )
        writer.writerow([_no_formula(str(cell)) for cell in cells])
    write_whole(target / GRADES, table.getvalue())
    write_whole(target / BUGS, "\n".join(_page(graded)))


def _no_formula(cell: str) -> str:
    """A spreadsheet takes a cell that begins with = for something to compute; a student can write an error's text."""
    cell = " ".join(cell.split())
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@")) else cell


def _page(graded: Graded) -> Iterator[str]:
    """What went wrong, the most frequent first, to show to a class: no names."""
    students = len({row.student for row in graded.rows})
    yield "<!doctype html><html lang='en'><meta charset='utf-8'><title>Common bugs</title>"
    yield "<meta name='viewport' content='width=device-width'>"
    yield "<style>body{font:16px/1.5 sans-serif;max-width:50em;margin:2em auto;padding:0 1em;color-scheme:light dark}"
    yield "td,th{text-align:left;vertical-align:top;padding:.2em .8em .2em 0}td:first-child{text-align:right}</style>"
    yield f"<h1>Common bugs</h1><p>{students} student{'s' * (students != 1)}. One line for each bug that the checks named, the most frequent first.</p>"
    known = exercises()
    for exercise in sorted({row.verdict.exercise for row in graded.rows}):
        verdicts = [row.verdict for row in graded.rows if row.verdict.exercise == exercise]
        counts = Counter(
            "solved" if v.solved else "passed, but not on the cases held back" if v.status == "passed" else v.status
            for v in verdicts
        )
        yield f"<h2>{exercise} · {html.escape(known[exercise].title)}</h2>"
        yield f"<p>{' · '.join(f'{name}: {count}' for name, count in counts.most_common())}</p>"
        bugs = Counter(v.bug for v in verdicts if v.bug and v.status != "not attempted")
        if bugs:
            said = {v.bug: v.message for v in reversed(verdicts) if v.status != "not attempted"}  # the first of each
            rows = [(bug, str(count), said[bug] or "") for bug, count in bugs.most_common()]
            yield html_table(("What the check calls it", "Times", "One such answer"), rows, align="lrl")
    if inside := sorted({row.verdict.exercise for row in graded.rows if row.verdict.judged_by == ITSELF}):
        yield f"<h2>How far to trust this</h2><p>Judged by the answer's own process, not by the grader: {', '.join(inside)}.</p>"
    yield "".join(f"<p>{html.escape(sentence)}</p>" for sentence in graded.open_to)
    yield "</html>"
