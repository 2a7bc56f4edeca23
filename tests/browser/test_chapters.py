"""Every notebook that shows a widget, run in a real JupyterLab: each control is moved by keyboard and the picture follows."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from every_widget import MAKERS
from helpers import NOTEBOOKS, TESTS
from lab import CHROMIUM_FLAGS, Lab, chromium, jupyterlab
from nbformat.v4 import new_code_cell, new_notebook

pytestmark = pytest.mark.browser

BROKEN = """import ipywidgets
from lora_edu.plots import Canvas
from lora_edu.widgets import Widget

class Broken(Widget):
    computes_on = ("n",)
    def compute(self, state):
        return 1 / (1 - state["n"])
    def draw(self, state, result):
        return Canvas(100, 40, "an empty drawing for a test")

Broken(n=ipywidgets.IntSlider(0, 0, 3, description="n"))"""
CHAPTERS = [path.name for path in sorted(NOTEBOOKS.glob("*.ipynb")) if "lora_edu.widgets" in path.read_text("utf-8")]


@pytest.fixture(scope="module")
def browser():
    executable = chromium()
    if executable is None:
        pytest.skip("no Chromium is installed: `apt-get install chromium`, or install Google Chrome")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'"
    )
    with playwright.sync_playwright() as driver:
        chrome = driver.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield chrome
        chrome.close()


@pytest.fixture(scope="module")
def address(browser, tmp_path_factory):
    """A JupyterLab over a copy of the notebooks and a scratch notebook with every widget."""
    root, scratch = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("jupyter")
    if NOTEBOOKS.exists():
        shutil.copytree(NOTEBOOKS, root, dirs_exist_ok=True)
    found = f"import sys\nsys.path.insert(0, {str(TESTS)!r})\nfrom every_widget import MAKERS\n"
    one_each = [f"{found}MAKERS['{name}']()" for name in MAKERS]
    for name, cells in {"one_each": one_each, "broken": [BROKEN]}.items():
        kernel = {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        }  # or JupyterLab asks
        notebook = new_notebook(cells=[new_code_cell(source) for source in cells], metadata=kernel)
        nbformat.write(notebook, root / f"{name}.ipynb")
    with jupyterlab(root, scratch) as url:
        yield url


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory) -> Path:
    """Where screenshots go: the folder LORA_EDU_SCREENSHOTS, or a temporary one."""
    folder = Path(os.environ.get("LORA_EDU_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize("notebook", ["one_each.ipynb", *CHAPTERS])
def test_every_control_moves_its_picture_by_keyboard(notebook, browser, address, screenshots):
    with opened(browser, address, notebook) as lab:
        lab.run_all()
        widgets = lab.widgets()
        assert len(widgets) >= (len(MAKERS) if notebook == "one_each.ipynb" else 1)
        for theme in ("light", "dark"):
            lab.set_theme(theme)
            for number, widget in enumerate(widgets):
                widget.scroll_into_view_if_needed()
                if theme == "light":
                    assert lab.move_every_control(widget) > 0, "the widget has no control"
                assert (lab.brightness_of_ink(widget) > 180) == (theme == "dark"), (
                    "the drawing does not follow the theme"
                )
                widget.screenshot(path=screenshots / f"{Path(notebook).stem}-{number}-{theme}.png")
        assert lab.shown_errors() == []
        assert lab.errors == []


def test_a_failing_widget_says_so_on_the_page(browser, address):
    """What the test above looks for does appear when a callback fails."""
    with opened(browser, address, "broken.ipynb") as lab:
        lab.run_all()
        (widget,) = lab.widgets()
        widget.locator(".noUi-handle").focus()
        lab.page.keyboard.press("ArrowRight")  # to 1, where compute() divides by zero
        widget.locator(".lora-edu-error").wait_for()
        assert any("ZeroDivisionError" in text for text in lab.shown_errors())


@contextmanager
def opened(browser, address, notebook):
    lab = Lab(browser, address, notebook)
    try:
        yield lab
    finally:
        lab.close()
