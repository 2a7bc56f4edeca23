"""`lora-edu lab`: a learner's own copies of the pages, linked with one another, never written over, and a clone that stays clean."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from helpers import NOTEBOOKS, ROOT
from nbformat.sign import NotebookNotary

from lora_edu.cli import doctor
from lora_edu.cli.setup import lab_command
from lora_edu.course.notebooks import copy_course
from lora_edu.course.notebooks.files import chapters
from lora_edu.errors import LoRAEduError


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A learner's folder; what JupyterLab keeps of its own goes beside it."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setattr("lora_edu.course.notebooks.files.install_overrides", lambda: None)
    return tmp_path / "mine"


def test_lab_opens_the_first_page_among_the_learners_own(own, monkeypatch, capsys):
    command = lab_command(browser=False, port=8123, folder=own)
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert {"--no-browser", "--port=8123"} <= set(command)
    root, page = (argument.split("=")[1] for argument in command[3:5])
    assert (Path(root) / page.removeprefix("/lab/tree/")).samefile(own / "00_start_here.ipynb")
    assert f"{len(chapters(folder=NOTEBOOKS))} pages new" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "course_folder", lambda: None)
    with pytest.raises(LoRAEduError, match="clone"):
        lab_command(browser=False, port=None)


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


def test_work_is_never_written_over_and_what_changed_is_said(own, capsys):
    copy_course(NOTEBOOKS, own)
    mine = own / "03_the_lora_layer.ipynb"
    notebook = nbformat.read(mine, as_version=4)
    notebook.cells[3].source = "my work"
    nbformat.write(notebook, mine)
    before = mine.read_bytes()
    assert copy_course(NOTEBOOKS, own) == ([], [])
    notebook.metadata.lora_edu.copy_of = "of an older page"
    nbformat.write(notebook, mine)
    (own / "05_first_run.ipynb").write_text("whatever I did")
    before = mine.read_bytes()
    made, outdated = copy_course(NOTEBOOKS, own)
    assert made == [] and outdated == [mine.name]
    assert mine.read_bytes() == before and (own / "05_first_run.ipynb").read_text() == "whatever I did"
    lab_command(browser=False, port=None, folder=own)
    assert mine.name in capsys.readouterr().out


def test_pages_with_outputs_are_trusted(own):
    """Else JupyterLab takes the style out of what a checked answer shows."""
    copy_course(NOTEBOOKS, own)
    solution = next((own / "solutions").glob("*.ipynb"))
    assert NotebookNotary().check_signature(nbformat.read(solution, as_version=4))


def test_the_clone_stays_clean():
    """A learner's folder, and whatever is run and kept in the clone, is nothing to git."""
    for path in ("my_notebooks/00_start_here.ipynb", "runs/demo/adapter_config.json"):
        assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0, path
