"""A learner's own copies of the course: clean, linked with one another, never written over.

The pages of the course are executed and belong to the clone, or to the installed package. Who worked in those would see every answer, and
lose the work with the next version. So a learner works in a folder of copies, laid out as the course is: links lead to copies too.

A file beside them keeps a hash of each file as it was copied. By it a later version of the course knows what a learner has not touched,
which it renews, and what is theirs, which it leaves alone.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.sign import NotebookNotary
from nbformat.v4 import new_code_cell

from lora_edu.course.notebooks.files import FOLDER, chapters, clean, read, write
from lora_edu.errors import NotebookError
from lora_edu.files import write_whole
from lora_edu.home import course_root, in_clone

LEARNERS_FOLDER = Path("my_notebooks")
RECORD = ".lora_edu_copies.json"
HANDED_OUT = (
    "handed_out"  # in a page's `metadata.lora_edu`: a teacher's copy for a class, which the course never adds to
)
_INSTALLS = "lora_edu_installs"  # in the metadata of a cell that is not the page's own


@dataclass
class Copies:
    """What `copy_course` did, by name: files that are new, that were renewed because nobody had touched them, and that arrived beside
    a learner's changed one (its name → the name of the updated page)."""

    made: list[str] = field(default_factory=list)
    renewed: list[str] = field(default_factory=list)
    beside: dict[str, str] = field(default_factory=dict)


def course_folder() -> Path | None:
    """The pages of the course as it is installed here; None where the module has come without them."""
    root = course_root()
    return root / FOLDER if root else None


def learners_folder() -> Path:
    """Where a learner's copies lie: `my_notebooks` in the clone. Of an installed package: the folder that one stands in where it is empty,
    holds the copies already or was handed out by a teacher, else `my_notebooks` in it."""
    root = course_root()
    if root and in_clone():
        return root / LEARNERS_FOLDER
    here = Path.cwd()
    if (
        (here / RECORD).exists()
        or is_handed_out(here)
        or not any(not path.name.startswith(".") for path in here.iterdir())
    ):
        return here
    return here / LEARNERS_FOLDER


def is_handed_out(target: Path) -> bool:
    """Whether `target` was written for a class (`lora-edu course release` or `build`): its pages are what the teacher chose, and bear seats."""
    return not (target / RECORD).exists() and any(map(_for_a_class, sorted(target.glob("*.ipynb"))))


def _for_a_class(page: Path) -> bool:
    with suppress(OSError, ValueError, AttributeError, KeyError, TypeError):  # whatever a learner made of it
        about = json.loads(page.read_text("utf-8"))["metadata"]["lora_edu"]
        return bool(about.get(HANDED_OUT) or about.get("seat"))
    return False


def copy_course(folder: Path = FOLDER, target: Path = LEARNERS_FOLDER, install: str | None = None) -> Copies:
    """Bring the copies in `target` up to date with the pages in `folder`: chapters without outputs, solutions and pictures as they are.

    A page that is not there is copied. One that has changed in the course is renewed if the copy is as it was made: its source the same,
    and for a chapter no output in it. Else the new page arrives beside it, once, under a name of its own. A learner's file is never
    written over. Pages with outputs are trusted, so that JupyterLab shows them as they were made.

    install: what pip can install the course from. Each page that is copied then begins with a cell that does so where the course is not
    there: for a service that gives every page a machine of its own.
    """
    done, record = Copies(), _read_record(target)
    for page in _files(folder):
        name = page.relative_to(folder).as_posix()
        copy, now = target / name, _identity(page)
        if not copy.exists():
            done.made.append(page.name)
        elif record.get(name) == now or _identity(copy) == now:
            record[name] = now
            continue
        elif _untouched(copy, record.get(name), cleared=_is_chapter(page, folder)):
            done.renewed.append(page.name)
        else:
            record[name], copy = now, _place_beside(copy, target, record)
            done.beside[page.name] = copy.name
        _make(page, copy, folder, install)
        record[copy.relative_to(target).as_posix()] = now
    write_whole(target / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return done


def fresh(chapter: str, folder: Path = FOLDER, target: Path = LEARNERS_FOLDER) -> tuple[Path, Path | None]:
    """A new copy of the chapter "03" (or "3"); an older copy of it is kept under another name.

    Returns the new copy, and where the older one is now (None if there was none). Raises NotebookError for a chapter that is not there, and
    in a folder that a teacher handed out: the course's own page has not the student's cases.
    """
    if is_handed_out(target):
        raise NotebookError(
            f"{target} was handed out for a class: ask your teacher for the page again; a copy from the course would have other cases"
        )
    number = chapter.zfill(2) if chapter.isdigit() else chapter
    sources = [path for path in chapters([number], folder) if path.parent == folder]
    if len(sources) != 1:
        raise NotebookError(f"{chapter!r} does not name one chapter in {folder}: give its number, as in CH=03")
    copy, kept = target / sources[0].name, None
    if copy.exists():
        kept = copy.rename(next(place for place in _places(copy, "mine") if not place.exists()))
    _make(sources[0], copy, folder)
    record = _read_record(target) | {copy.name: _identity(copy)}
    write_whole(target / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return copy, kept


def _files(folder: Path) -> list[Path]:
    return [*chapters(folder=folder), *sorted(path for path in (folder / "images").glob("*") if path.is_file())]


def _is_chapter(page: Path, folder: Path) -> bool:
    return page.parent == folder


def _places(copy: Path, whose: str) -> Iterator[Path]:
    """Names beside `copy`: "03_the_lora_layer (mine, 1).ipynb" and so on."""
    return (copy.with_name(f"{copy.stem} ({whose}, {number}){copy.suffix}") for number in range(1, 1000))


def _place_beside(copy: Path, target: Path, record: dict[str, str]) -> Path:
    """A name that is free, or that holds an earlier update which nobody has touched."""
    for place in _places(copy, "updated"):
        made = record.get(place.relative_to(target).as_posix())
        if not place.exists() or _untouched(place, made, cleared=copy.parent == target):
            return place
    raise NotebookError(f"a thousand updates lie beside {copy}: remove those that you do not want")


def _untouched(copy: Path, made: str | None, cleared: bool) -> bool:
    """Whether `copy` is as it was made. What a learner has run counts as work: its outputs are theirs."""
    if made is None or _identity(copy) != made:
        return False
    if not cleared or copy.suffix != ".ipynb":
        return True
    return not any(cell.get("outputs") for cell in nbformat.read(copy, as_version=4).cells)


def _make(page: Path, copy: Path, folder: Path, install: str | None = None) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    if page.suffix != ".ipynb":
        shutil.copyfile(page, copy)
        return
    notebook = read(page)
    if _is_chapter(page, folder):
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
    clean(notebook)
    if install:
        notebook.cells.insert(0, _installing(install))
    write(notebook, copy)
    if not _is_chapter(page, folder):
        NotebookNotary().sign(notebook)


def _installing(source: str) -> NotebookNode:
    """A cell that installs the course from `source`, an address or a wheel, on a machine that has it not."""
    lines = ["try:", "    import lora_edu  # is the course there?", "except ImportError:"]
    if source.startswith("/content/drive/"):  # Colab's own way to the files of its user
        lines += ["    from google.colab import drive", '    drive.mount("/content/drive")']
    metadata = {_INSTALLS: True, "jupyter": {"source_hidden": True}}
    return new_code_cell("\n".join([*lines, f'    %pip install -q "{source}"']), metadata=metadata)


def _identity(file: Path) -> str:
    """A hash of what a learner reads and runs; a page's outputs do not count. Of any other file, and of a page that is none any more, its bytes."""
    if file.suffix == ".ipynb":
        with suppress(ValueError, AttributeError, KeyError, TypeError):  # whatever a learner made of it, it is theirs
            cells = nbformat.read(file, as_version=4).cells
            return sha256(
                "\0".join(cell.source for cell in cells if not cell.metadata.get(_INSTALLS)).encode()
            ).hexdigest()[:16]
    return sha256(file.read_bytes()).hexdigest()[:16]


def _read_record(target: Path) -> dict[str, str]:
    """{file: hash of what was copied}. Without a record that can be read every file that differs is a learner's."""
    with suppress(OSError, ValueError):
        record = json.loads((target / RECORD).read_text(encoding="utf-8"))
        if isinstance(record, dict):
            return {str(name): str(made) for name, made in record.items()}
    return {}
