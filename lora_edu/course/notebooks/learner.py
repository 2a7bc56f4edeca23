"""A learner's own copies of the course: clean, linked with one another, never written over.

The pages in `notebooks/` are executed and tracked by git. Who worked in those would see every answer, and change the clone by opening a
page. So a learner works in a folder of copies, as the course is laid out itself: links from page to page lead to copies too.
"""

import shutil
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode
from nbformat.sign import NotebookNotary

from lora_edu.course.notebooks.files import FOLDER, chapters, clean, read, write
from lora_edu.errors import NotebookError

LEARNERS_FOLDER = Path("my_notebooks")
COPY_OF = "copy_of"  # in a copy's own metadata: a hash of the page that it was made from


class Copies(NamedTuple):
    """What `copy_course` did: pages that were copied, and own copies whose page has changed since (both by name)."""

    made: list[str]
    outdated: list[str]


def copy_course(folder: Path = FOLDER, target: Path = LEARNERS_FOLDER) -> Copies:
    """Copy every page that is not in `target` yet: chapters without outputs, solutions and pictures as they are.

    A copy that is there is never touched. Pages with outputs are trusted, so that JupyterLab shows them as they were made.
    """
    made, outdated = [], []
    for page in chapters(folder=folder):
        copy = target / page.relative_to(folder)
        if not copy.exists():
            _make(page, copy, cleared=page.parent == folder)
            made.append(page.name)
        elif _made_from(copy) not in ("", _identity(page)):
            outdated.append(page.name)
    for picture in (folder / "images").glob("*"):
        if not (target / "images" / picture.name).exists():
            (target / "images").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, target / "images" / picture.name)
    return Copies(made, outdated)


def fresh(chapter: str, folder: Path = FOLDER, target: Path = LEARNERS_FOLDER) -> tuple[Path, Path | None]:
    """A new copy of the chapter "03" (or "3"); an older copy of it is kept under another name.

    Returns the new copy, and where the older one is now (None if there was none). Raises NotebookError for a chapter that is not there.
    """
    number = chapter.zfill(2) if chapter.isdigit() else chapter
    sources = [path for path in chapters([number], folder) if path.parent == folder]
    if len(sources) != 1:
        raise NotebookError(f"{chapter!r} does not name one chapter in {folder}: give its number, as in CH=03")
    copy, kept = target / sources[0].name, None
    if copy.exists():
        numbers = (n for n in range(1, 1000) if not _aside(copy, n).exists())
        kept = copy.rename(_aside(copy, next(numbers)))
    _make(sources[0], copy, cleared=True)
    return copy, kept


def _aside(copy: Path, number: int) -> Path:
    return copy.with_name(f"{copy.stem} (mine, {number}){copy.suffix}")


def _make(page: Path, copy: Path, cleared: bool) -> None:
    notebook = read(page)
    identity = _identity(page)
    if cleared:
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
    clean(notebook)
    notebook.metadata.setdefault("lora_edu", NotebookNode())[COPY_OF] = identity
    copy.parent.mkdir(parents=True, exist_ok=True)
    write(notebook, copy)
    if not cleared:
        NotebookNotary().sign(notebook)


def _identity(page: Path) -> str:
    """Of what a learner reads and runs; outputs do not count."""
    cells = nbformat.read(page, as_version=4).cells
    return sha256("\0".join(cell.source for cell in cells).encode()).hexdigest()[:16]


def _made_from(copy: Path) -> str:
    try:
        return str(nbformat.read(copy, as_version=4).metadata.get("lora_edu", {}).get(COPY_OF, ""))
    except (OSError, ValueError):
        return ""  # whatever a learner did to it, it is theirs
