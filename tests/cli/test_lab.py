"""`lora-edu lab`: a learner's own copies of the pages, linked with one another, kept up to date, never written over; a clone that stays clean."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from helpers import NOTEBOOKS, ROOT
from IPython.core.inputtransformer2 import TransformerManager
from nbformat.sign import NotebookNotary
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lora_edu.cli.setup import fresh, lab_command, up_to_date_copies
from lora_edu.course.notebooks import Copies, copy_course, learner
from lora_edu.course.notebooks.files import chapters
from lora_edu.course.notebooks.learner import RECORD, learners_folder
from lora_edu.errors import LoRAEduError


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A learner's folder; what JupyterLab keeps of its own goes beside it."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setattr("lora_edu.course.notebooks.files.install_overrides", lambda: None)
    return tmp_path / "mine"


def test_lab_opens_the_first_page_among_the_learners_own(own, monkeypatch, capsys):
    assert up_to_date_copies(own) == own
    command = lab_command(own, browser=False, port=8123)
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert {"--no-browser", "--port=8123"} <= set(command)
    root, page = (argument.split("=")[1] for argument in command[3:5])
    assert (Path(root) / page.removeprefix("/lab/tree/")).samefile(own / "00_start_here.ipynb")
    said = capsys.readouterr().out
    pictures = len(list((NOTEBOOKS / "images").iterdir()))
    assert f"{len(chapters(folder=NOTEBOOKS)) + pictures} files new" in said and "To update" in said
    monkeypatch.setattr(learner, "course_folder", lambda: None)
    with pytest.raises(LoRAEduError, match="wheel"):
        up_to_date_copies(own)


def test_no_answer_and_no_output_is_in_a_learners_chapter(own):
    copy_course(NOTEBOOKS, own)
    for page in own.glob("*.ipynb"):
        cells = [cell for cell in nbformat.read(page, as_version=4).cells if cell.cell_type == "code"]
        assert cells and all(cell.outputs == [] and cell.execution_count is None for cell in cells)


def test_links_lead_to_the_learners_own_pages(own):
    copy_course(NOTEBOOKS, own)
    for page in own.rglob("*.ipynb"):
        text = "\n".join(
            cell.source for cell in nbformat.read(page, as_version=4).cells if cell.cell_type == "markdown"
        )
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if not target.startswith(("http:", "https:")):
                assert (page.parent / target).resolve().is_relative_to(own.resolve()), (
                    f"{page.name} leads out: {target}"
                )
                assert (page.parent / target).exists(), f"{page.name}: {target} is not there"


@pytest.fixture
def course(tmp_path):
    """(a course of three files, how its next version changes one of them)."""
    folder = tmp_path / "course"
    for name in ("03_layer.ipynb", "05_run.ipynb", "solutions/03_solutions.ipynb"):
        page = folder / name
        page.parent.mkdir(parents=True, exist_ok=True)
        cells = [new_markdown_cell("# A page"), new_code_cell("1 + 1", outputs=[printed("2")], execution_count=1)]
        nbformat.write(new_notebook(cells=cells), page)
    (folder / "images").mkdir()
    (folder / "images" / "dial.png").write_bytes(b"picture")

    def release(name: str, text: str) -> None:
        edit(folder / name, lambda notebook: notebook.cells[0].update(source=text))

    return folder, release


def printed(text: str):
    return new_output("stream", text=text)


def edit(path: Path, change) -> None:
    notebook = nbformat.read(path, as_version=4)
    change(notebook)
    nbformat.write(notebook, path)


def title(path: Path) -> str:
    return nbformat.read(path, as_version=4).cells[0].source


def test_a_new_version_renews_what_nobody_touched(course, own):
    folder, release = course
    copy_course(folder, own)
    assert copy_course(folder, own) == Copies()
    for name in ("03_layer.ipynb", "solutions/03_solutions.ipynb"):
        release(name, "# Better")
    (folder / "images" / "dial.png").write_bytes(b"a better picture")
    # JupyterLab writes a page that is opened again, in its own form: that is not work.
    edit(
        own / "03_layer.ipynb",
        lambda notebook: notebook.metadata.update(kernelspec={"name": "python3", "display_name": "mine"}),
    )
    assert copy_course(folder, own) == Copies(renewed=["03_layer.ipynb", "03_solutions.ipynb", "dial.png"])
    assert title(own / "03_layer.ipynb") == title(own / "solutions" / "03_solutions.ipynb") == "# Better"
    assert (own / "images" / "dial.png").read_bytes() == b"a better picture"
    assert copy_course(folder, own) == Copies()


WORK = {
    "an edited cell": lambda path: edit(path, lambda notebook: notebook.cells[1].update(source="my work")),
    "a cell that was run": lambda path: edit(path, lambda notebook: notebook.cells[1].update(outputs=[printed("2")])),
    "a cell more": lambda path: edit(path, lambda notebook: notebook.cells.append(new_markdown_cell("my notes"))),
    "no notebook any more": lambda path: path.write_text("whatever I did"),
    "not even text": lambda path: path.write_bytes(b"\xff\x00"),
    "a list": lambda path: path.write_text("[1]"),
}


@pytest.mark.parametrize("work", WORK)
def test_work_is_never_written_over_and_the_new_page_arrives_beside_it_once(work, course, own):
    folder, release = course
    copy_course(folder, own)
    mine, beside = own / "03_layer.ipynb", own / "03_layer (updated, 1).ipynb"
    WORK[work](mine)
    before = mine.read_bytes()
    assert copy_course(folder, own) == Copies()  # the course has not changed
    release("03_layer.ipynb", "# Second")
    assert copy_course(folder, own) == Copies(beside={mine.name: beside.name})
    assert mine.read_bytes() == before and title(beside) == "# Second"
    beside.unlink()
    assert copy_course(folder, own) == Copies()  # seen and thrown away
    release("03_layer.ipynb", "# Third")
    copy_course(folder, own)
    release("03_layer.ipynb", "# Fourth")
    assert copy_course(folder, own) == Copies(
        beside={mine.name: beside.name}
    )  # an update that nobody touched is renewed
    assert mine.read_bytes() == before and title(beside) == "# Fourth"
    WORK["a cell more"](beside)
    kept = beside.read_bytes()
    release("03_layer.ipynb", "# Fifth")
    assert copy_course(folder, own) == Copies(beside={mine.name: "03_layer (updated, 2).ipynb"})
    assert mine.read_bytes() == before and beside.read_bytes() == kept


def test_a_page_for_a_machine_of_its_own_begins_by_installing_the_course(course, own):
    folder, release = course
    copy_course(folder, own, install="/content/drive/MyDrive/lora_edu-1.whl")
    first, title_cell, *_ = nbformat.read(own / "03_layer.ipynb", as_version=4).cells
    assert "drive.mount" in first.source and '%pip install -q "/content/drive/MyDrive/lora_edu-1.whl"' in first.source
    assert title_cell.source == "# A page"
    assert copy_course(folder, own) == Copies()  # that cell is nobody's work
    release("03_layer.ipynb", "# Second")
    assert copy_course(folder, own, install="git+https://else.where/x") == Copies(renewed=["03_layer.ipynb"])
    first = nbformat.read(own / "03_layer.ipynb", as_version=4).cells[0]
    code = TransformerManager().transform_cell(first.source)  # IPython's magic becomes Python
    compile(code, "the installing cell", "exec")
    assert "git+https" in first.source and "drive" not in first.source


@pytest.mark.parametrize("damage", ["", "{", "[]", None])
def test_without_its_record_every_page_that_differs_is_the_learners(damage, course, own):
    folder, release = course
    copy_course(folder, own)
    (own / RECORD).unlink() if damage is None else (own / RECORD).write_text(damage)
    assert copy_course(folder, own) == Copies()
    (own / RECORD).unlink()
    release("03_layer.ipynb", "# Second")
    assert copy_course(folder, own).beside == {"03_layer.ipynb": "03_layer (updated, 1).ipynb"}
    assert title(own / "03_layer.ipynb") == "# A page"


def test_a_chapter_taken_anew_is_renewed_like_any_other(course, own, monkeypatch, capsys):
    folder, release = course
    copy_course(folder, own)
    WORK["an edited cell"](own / "03_layer.ipynb")
    monkeypatch.setattr(learner, "course_folder", lambda: folder)
    fresh("3", own)
    assert "03_layer (mine, 1).ipynb" in capsys.readouterr().out
    release("03_layer.ipynb", "# Second")
    assert copy_course(folder, own) == Copies(renewed=["03_layer.ipynb"])
    assert "my work" in (own / "03_layer (mine, 1).ipynb").read_text()


def test_what_happened_is_said(course, own, monkeypatch, capsys):
    folder, release = course
    monkeypatch.setattr(learner, "course_folder", lambda: folder)
    up_to_date_copies(own)
    WORK["a cell more"](own / "03_layer.ipynb")
    for name in ("03_layer.ipynb", "05_run.ipynb"):
        release(name, "# Better")
    capsys.readouterr()
    up_to_date_copies(own)
    said = capsys.readouterr().out
    assert "renewed: 05_run.ipynb." in said and "beside it: 03_layer (updated, 1).ipynb" in said


def test_an_installed_package_copies_into_an_empty_folder_and_never_among_other_things(course, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert learners_folder() == ROOT / "my_notebooks"  # a clone
    monkeypatch.setattr(learner, "in_clone", lambda: False)
    (here / ".venv").mkdir()
    assert learners_folder() == here
    copy_course(course[0], here)
    assert learners_folder() == here
    (here / RECORD).unlink()
    assert learners_folder() == here / "my_notebooks"


def test_pages_with_outputs_are_trusted(own):
    """Else JupyterLab takes the style out of what a checked answer shows."""
    copy_course(NOTEBOOKS, own)
    solution = next((own / "solutions").glob("*.ipynb"))
    assert NotebookNotary().check_signature(nbformat.read(solution, as_version=4))


def test_the_clone_stays_clean():
    """A learner's folder, and whatever is run and kept in the clone, is nothing to git."""
    for path in ("my_notebooks/00_start_here.ipynb", "runs/demo/adapter_config.json"):
        assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0, path
