"""The rules for committed notebooks, each proven on a notebook that breaks it, and the tools that keep them."""

import copy
import json
from pathlib import Path

import nbformat
import pytest
from helpers import ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lora_edu.course.notebooks import fresh, guard
from lora_edu.course.notebooks.__main__ import main
from lora_edu.course.notebooks.files import WIDGET_VIEW, chapters, clean, execute, install_overrides
from lora_edu.course.notebooks.guard import MAX_BYTES, MAX_LINES, PARTS
from lora_edu.errors import NotebookError

ALT = "A curve that falls from one to zero over forty steps."
PROSE = """# 99 · A chapter for this test
**What it makes you see:** a rule. Afterwards you will be able to break it. **Minutes:** 5. **Prerequisites:** none.
## What can go wrong
## Self-test
## Sources
"""


@pytest.mark.parametrize("path", chapters(folder=ROOT / "notebooks"), ids=lambda path: path.stem)
def test_committed_notebooks_keep_the_rules(path):
    assert guard(path) == []


# Each rule, and a notebook that breaks it alone -----------------------------------------------------------------------
def cell(source: str, *outputs, tags=()):
    return new_code_cell(source, outputs=list(outputs), metadata={"tags": list(tags)} if tags else {})


def shown(text: str, **data):
    metadata = {"image/png": {"alt": ALT}} if "png" in data else {}
    mimes = {"text/plain": text} | {{"png": "image/png", "view": WIDGET_VIEW}[k]: v for k, v in data.items()}
    return new_output("display_data", data=mimes, metadata=metadata)


def sound_chapter() -> nbformat.NotebookNode:
    cells = [new_markdown_cell(PROSE)]
    cells += [cell(f"predict('99.p{n}', options)", new_output("stream", text="locked\n")) for n in range(3)]
    cells += [cell(f"course.check('99.{n}', fn)", new_output("stream", text="passed\n")) for n in range(3)]
    cells += [
        cell("1 + 1", new_output("execute_result", data={"text/plain": "2"})),
        cell("draw()", shown("a figure", png="iVBO")),
    ]
    notebook = new_notebook(cells=cells, metadata={"lora_edu": {"kind": "chapter", "chapter": "99"}})
    count(notebook)
    return notebook


def count(notebook) -> None:
    for number, each in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        each.execution_count = number
        for output in each.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number


def written(folder: Path, notebook) -> Path:
    path = folder / "99_planted.ipynb"
    path.write_text(nbformat.writes(notebook), "utf-8")
    return path


def test_a_sound_chapter_breaks_no_rule(tmp_path):
    assert guard(written(tmp_path, sound_chapter())) == []


def last(nb):
    return nb.cells[-1]


def add(nb, source, *outputs, tags=()):
    nb.cells.append(cell(source, *outputs, tags=tags))
    count(nb)


PLANTED = {
    "never run": lambda nb: setattr(last(nb), "execution_count", None),
    "out of order": lambda nb: setattr(last(nb), "execution_count", 99),
    "ends with `;`": lambda nb: setattr(last(nb), "source", "plt.plot(x);\n"),
    "uses Output(), an Output widget": lambda nb: setattr(last(nb), "source", "out = ipywidgets.Output()"),
    "uses interact(), an Output widget": lambda nb: setattr(last(nb), "source", "@interact(x=3)\ndef f(x): ..."),
    "ends in ZeroDivisionError": lambda nb: add(nb, "1 / 0", new_output("error", ename="ZeroDivisionError", evalue="", traceback=[])),
    "is bare: nbval compares": lambda nb: [c.update(outputs=[]) for c in nb.cells[1:3]],
    "more than 30": lambda nb: setattr(last(nb), "source", "x = 1\n" * (MAX_LINES + 1)),
    f"more than {MAX_BYTES:,}": lambda nb: add(nb, "big()", new_output("stream", text="x" * MAX_BYTES)),
    "leaves no picture behind": lambda nb: last(nb).outputs[0].update(shown("w", view={"model_id": "1"})),
    "keeps a widget view over its picture": lambda nb: last(nb).outputs[0].data.update({WIDGET_VIEW: {"model_id": "1"}}),
    "figure without alt text": lambda nb: last(nb).outputs[0].metadata.clear(),
    "shows a figure without alt text": lambda nb: last(nb).outputs[0].update(html_picture('<img alt="" src="data:x">')),
    "embeds an image without alt text": lambda nb: nb.cells.append(new_markdown_cell("![](rank.png)")),
    "unknown tag 'class-90'": lambda nb: last(nb).metadata.update(tags=["class-90"]),
    "prints a path of one machine, '/home/ada'": lambda nb: add(nb, "p", new_output("stream", text="saved in /home/ada/x")),
    "stale widget state": lambda nb: nb.metadata.update(widgets={"state": {}}),
    "metadata.lora_edu.kind is None": lambda nb: nb.metadata.lora_edu.pop("kind"),
    "not valid Python": lambda nb: setattr(last(nb), "source", "def f(:"),
    "does not start with its title": lambda nb: nb.cells.insert(0, new_markdown_cell("Before the title.")),
    "has 2 predictions": lambda nb: nb.cells[1].update(source="print()"),
    "has 6 predictions": lambda nb: [c.update(source="predict('more', ())") for c in nb.cells[7:]] + [add(nb, "predict('6', ())")],
    "has 2 exercises": lambda nb: nb.cells[4].update(source="course.check('99.1', fn)"),
} | {
    f"lacks a standard part: {part}": lambda nb, part=part: nb.cells[0].update(source=without(part)) for part in PARTS
}  # fmt: skip


def html_picture(html: str):
    return new_output("display_data", data={"text/plain": "a figure", "text/html": html})


def without(part: str) -> str:
    words = {
        "what it makes you see": "What it makes you see",
        "what you will be able to do": "you will be able to",
        "the minutes": "Minutes",
        "the prerequisites": "Prerequisites",
        "“What can go wrong”": "What can go wrong",
        "“Self-test”": "Self-test",
        "“Sources”": "Sources",
    }[part]
    assert words in PROSE
    return PROSE.replace(words, "…")


@pytest.mark.parametrize("fault", PLANTED)
def test_each_rule_catches_its_planted_fault_and_no_other(fault, tmp_path):
    notebook = sound_chapter()
    PLANTED[fault](notebook)
    faults = guard(written(tmp_path, notebook))
    assert any(fault in each for each in faults), faults
    if fault != "metadata.lora_edu.kind is None":
        assert len(faults) == 1, faults
    assert all(each.startswith("99_planted.ipynb: ") for each in faults)


def test_an_error_that_is_the_lesson_is_allowed(tmp_path):
    notebook = sound_chapter()
    add(
        notebook,
        "1 / 0",
        new_output("error", ename="ZeroDivisionError", evalue="", traceback=[]),
        tags=["raises-exception"],
    )
    assert guard(written(tmp_path, notebook)) == []


def test_an_uncompared_cell_does_not_count(tmp_path):
    notebook = sound_chapter()
    for each in notebook.cells[1:]:
        each.metadata["tags"] = ["nbval-ignore-output"]
    assert any("compares the output of 0 cells" in each for each in guard(written(tmp_path, notebook)))


def test_solutions_need_no_standard_parts(tmp_path):
    notebook = sound_chapter()
    notebook.metadata.lora_edu.kind = "solutions"
    notebook.cells[0].source = "# Solutions"
    assert guard(written(tmp_path, notebook)) == []


def test_a_file_that_is_no_notebook_is_a_fault(tmp_path):
    path = tmp_path / "broken.ipynb"
    path.write_text("{", "utf-8")
    assert "cannot be read as a notebook" in guard(path)[0]


# The tools ------------------------------------------------------------------------------------------------------------
WIDGET_CELL = """import ipywidgets
from lora_edu.plots import Canvas
from lora_edu.widgets import Widget

class Tiny(Widget):
    title, question = "Tiny", "How wide?"
    def compute(self, state):
        return 2 * state["n"]
    def draw(self, state, result):
        canvas = Canvas(100, 40, f"a bar that is {result} wide, for a test")
        canvas.rect(5, 5, 10 + result, 10)
        return canvas

Tiny(n=ipywidgets.IntSlider(3, 0, 9, description="n"))"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """(path, its text after one execution, its text after two)."""
    path = tmp_path_factory.mktemp("notebooks") / "99_tiny.ipynb"
    cells = [
        cell(WIDGET_CELL, tags=["class90"]),
        cell("import os\nprint(os.environ['OMP_NUM_THREADS'], os.environ['LORA_EDU_PROGRESS'])"),
    ]
    cells[0].metadata["ExecuteTime"] = {"start_time": "now"}
    notebook = new_notebook(cells=cells, metadata={"lora_edu": {"kind": "page"}, "widgets": {"state": {}}})
    path.write_text(nbformat.writes(notebook), "utf-8")
    texts = []
    for _ in range(2):
        execute(path, timeout=120)
        texts.append(path.read_text("utf-8"))
    return path, *texts


@pytest.mark.slow
def test_execution_is_stable_and_clean(executed):
    path, first, second = executed
    assert first == second
    assert guard(path) == []
    notebook = nbformat.reads(first, as_version=4)
    assert set(notebook.metadata) == {"kernelspec", "language_info", "lora_edu"}
    assert notebook.cells[0].metadata == {"tags": ["class90"]}
    (output,) = notebook.cells[0].outputs
    assert set(output.data) == {"text/html", "text/plain"}
    assert output.data["text/html"].startswith('<img alt="Tiny, at n 3. a bar that is 6 wide')
    assert notebook.cells[1].outputs[0].text == "1 off\n"


def test_a_failing_notebook_is_left_as_it_was(tmp_path):
    path = tmp_path / "99_fails.ipynb"
    path.write_text(nbformat.writes(new_notebook(cells=[cell("x = 1"), cell("1 / 0")])), "utf-8")
    before = path.read_text("utf-8")
    with pytest.raises(
        NotebookError, match=r"99_fails\.ipynb: a cell failed; nothing was written(.|\n)*ZeroDivisionError"
    ):
        execute(path, timeout=60)
    assert path.read_text("utf-8") == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_widget_view_without_a_picture_is_left_for_the_guard():
    notebook = sound_chapter()
    last(notebook).outputs[0].update(shown("a slider", view={"model_id": "1"}))
    clean(notebook)
    assert WIDGET_VIEW in last(notebook).outputs[0].data


def test_an_older_picture_gets_its_alt_text_into_the_page():
    notebook = sound_chapter()
    clean(notebook)
    (output,) = last(notebook).outputs
    assert (
        output.data["text/html"].startswith(f'<img alt="{ALT}"')
        and 'src="data:image/png;base64,iVBO"' in output.data["text/html"]
    )
    assert "image/png" not in output.data and output.metadata == {}


def test_text_that_stands_in_for_a_form_is_enough():
    """A prediction's form leaves its question and answer behind as HTML."""
    notebook = sound_chapter()
    data = last(notebook).outputs[0].data
    data.clear()
    data.update({"text/plain": "locked", WIDGET_VIEW: {"model_id": "1"}, "text/html": "<b>locked</b>"})
    clean(notebook)
    assert set(data) == {"text/plain", "text/html"}


@pytest.mark.slow
def test_fresh_copies_and_keeps_an_older_copy(executed, tmp_path):
    path = executed[0]
    copied, kept = fresh("99", folder=path.parent, target=tmp_path / "mine")
    assert kept is None
    notebook = nbformat.read(copied, as_version=4)
    assert [c.source for c in notebook.cells] == [c.source for c in nbformat.read(path, as_version=4).cells]
    assert all(c.outputs == [] and c.execution_count is None for c in notebook.cells)
    assert notebook.cells[0].metadata.tags == ["class90"]
    for work in ("my work", "more of it"):
        copied.write_text(work, "utf-8")
        again, kept = fresh("99", folder=path.parent, target=tmp_path / "mine")
        assert again == copied and kept.read_text("utf-8") == work and kept.parent == copied.parent
    assert len(list(copied.parent.glob("*.ipynb"))) == 3


def test_an_unknown_chapter_is_named_with_those_there_are(executed, tmp_path):
    with pytest.raises(NotebookError, match="starts with '42'; there are: 99_tiny"):
        fresh("42", folder=executed[0].parent, target=tmp_path)


def test_overrides_keep_the_users_own_settings(tmp_path):
    path = install_overrides(tmp_path)
    mine = {"my:plugin": {"a": 1}, "@jupyter-widgets/jupyterlab-manager:plugin": {"mine": 2}}
    path.write_text(json.dumps(mine), "utf-8")
    assert install_overrides(tmp_path) == path
    settings = json.loads(path.read_text("utf-8"))
    assert settings["my:plugin"] == {"a": 1}
    assert settings["@jupyter-widgets/jupyterlab-manager:plugin"] == {"mine": 2, "saveState": True}
    assert settings["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"
    path.write_text("{", "utf-8")
    with pytest.raises(NotebookError, match=r"overrides\.json is not valid JSON"):
        install_overrides(tmp_path)


def test_the_command_line_answers_without_a_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").mkdir()
    assert main(["fresh", "03"]) == 1
    assert "there are: none" in capsys.readouterr().err
    planted = copy.deepcopy(sound_chapter())
    last(planted).source = "x = 1;"
    written(tmp_path / "notebooks", planted)
    assert main(["guard"]) == 1
    assert "99_planted.ipynb: cell 9 ends with `;`" in capsys.readouterr().out
    assert main(["fresh", "99"]) == 0
    assert (tmp_path / "my_notebooks" / "99_planted.ipynb").exists()
