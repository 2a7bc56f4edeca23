"""The chapters as nbgrader's source: `nbgrader generate_assignment ch03` in the folder makes the students' version of it.

Metadata is nbgrader's schema, version 3 (nbgrader.readthedocs.io, “The nbgrader cell metadata”): an answer is a solution cell, its check
is a cell of points that raises unless solved, and what only a grading run sees stands between nbgrader's marks for hidden tests.
"""

from hashlib import sha256
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from lora_edu.course.classroom.answer_cells import answers
from lora_edu.course.classroom.handout import blank, pages_of
from lora_edu.course.classroom.roster import KEY, ClassroomError
from lora_edu.course.exercises import find
from lora_edu.course.notebooks.files import FOLDER, write
from lora_edu.files import write_whole

HELD_BACK = 3  # seats whose cases only a grading run draws
# The pages hold no solutions, so nothing is to be cleared: nbgrader would put its own stub in the place of ours.
CONFIG = """\
c = get_config()
c.CourseDirectory.course_id = "lora-edu"
c.ClearSolutions.enabled = False
c.ExecutePreprocessor.timeout = 600
"""


def write_source(target: Path, wanted: list[str] | None = None, key: str = KEY, folder: Path = FOLDER) -> list[str]:
    """Write `target` as a course folder of nbgrader's, an assignment a chapter with exercises; returns their names (`ch03`).

    Args:
        key: what the held-back cases are drawn from; keep your own to yourself.

    Raises:
        ClassroomError: `target` has a `source` or an `nbgrader_config.py` already.
    """
    for name in ("source", "nbgrader_config.py"):
        if (target / name).exists():
            raise ClassroomError(f"{target} has a {name} already, and nothing is written over: name a new folder")
    made = []
    for page in pages_of(wanted, folder):
        notebook = blank(page)
        if mark(notebook, key):
            made.append(f"ch{page.name[:2]}")
            write(notebook, target / "source" / made[-1] / page.name)
    write_whole(target / "nbgrader_config.py", CONFIG)
    return made


def mark(notebook: NotebookNode, key: str = KEY) -> list[str]:
    """Split each answer cell, in place, into the answer and its check, and give both nbgrader's metadata. Returns the exercises."""
    found = answers(notebook)
    for answer in sorted(found.values(), key=lambda each: -each.place):
        old, name = notebook.cells[answer.place], answer.exercise.replace(".", "-")
        tags = list(old.metadata.get("tags", ()))
        call = answer.check.strip()
        written = nbformat.v4.new_code_cell(answer.written, id=old.id)
        shown = nbformat.v4.new_code_cell(call, id=f"check-{name}")
        tested = nbformat.v4.new_code_cell(_tests(answer.exercise, call, key), id=f"points-{name}")
        for cell, grade_id, rules in (
            (written, f"answer-{name}", {"solution": True}),
            (shown, f"check-{name}", {"locked": True}),
            (tested, f"points-{name}", {"grade": True, "locked": True, "points": find(answer.exercise).stars}),
        ):
            # An open exercise raises in its cell of points, and “Restart and run all” goes on.
            own = [*tags, "raises-exception"] if "points" in rules else tags
            cell.metadata = nbformat.from_dict({"tags": own, "nbgrader": _metadata(grade_id, **rules)})
        notebook.cells[answer.place : answer.place + 1] = [written, shown, tested]
    return sorted(found)


def _metadata(grade_id: str, **rules: Any) -> dict[str, Any]:
    plain = {"grade": False, "solution": False, "locked": False, "task": False}
    return {"schema_version": 3, "cell_type": "code", "grade_id": grade_id} | plain | rules


def _tests(exercise: str, call: str, key: str) -> str:
    seats = [sha256(f"{key}\0held back\0{exercise}\0{n}".encode()).hexdigest()[:8] for n in range(HELD_BACK)]
    return (
        f"assert {call}.passed\n### BEGIN HIDDEN TESTS\nfrom lora_edu.course.cases import seated\n\n"
        f"for number in {seats}:\n    with seated(number):\n        assert {call}.passed\n### END HIDDEN TESTS"
    )
