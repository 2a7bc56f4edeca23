"""The widgets of every chapter in a real JupyterLab: each control is moved by keyboard and the picture follows."""

import os
from pathlib import Path

import nbformat
import pytest
from every_widget import MAKERS
from helpers import NOTEBOOKS, TESTS
from slices import cut_to_widgets

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


ONE_EACH = [
    f"import sys\nsys.path.insert(0, {str(TESTS)!r})\nfrom every_widget import MAKERS\nMAKERS['{name}']()"
    for name in MAKERS
]


@pytest.fixture(scope="module")
def course(root):
    """The chapters where JupyterLab sees them, each cut down to its widgets and what they need."""
    for name in CHAPTERS:
        nbformat.write(cut_to_widgets(NOTEBOOKS / name), root / name)


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory) -> Path:
    """Where screenshots go: the folder LORA_EDU_SCREENSHOTS, or a temporary one."""
    folder = Path(os.environ.get("LORA_EDU_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize("notebook", ["one_each.ipynb", *CHAPTERS])
def test_every_control_moves_its_picture_by_keyboard(notebook, open_lab, course, screenshots):
    expected = len(MAKERS) if notebook == "one_each.ipynb" else 1
    lab = open_lab(notebook, ONE_EACH if notebook == "one_each.ipynb" else ())
    lab.run_all()
    widgets = lab.widgets(at_least=expected)
    for theme in ("light", "dark"):
        lab.set_theme(theme)
        for number, widget in enumerate(widgets):
            widget.scroll_into_view_if_needed()
            if theme == "light":
                assert lab.move_every_control(widget) > 0, "the widget has no control"
            lab.until(
                lambda widget=widget, theme=theme: (lab.brightness_of_ink(widget) > 180) == (theme == "dark"),
                "the drawing does not follow the theme",
            )
            widget.screenshot(path=screenshots / f"{Path(notebook).stem}-{number}-{theme}.png")
    assert lab.shown_errors() == []
    assert lab.errors == []


def test_a_failing_widget_says_so_on_the_page(open_lab):
    """What the test above looks for does appear when a callback fails."""
    lab = open_lab("broken.ipynb", [BROKEN])
    lab.run_all()
    (widget,) = lab.widgets(at_least=1)
    widget.locator(".noUi-handle").focus()
    lab.page.keyboard.press("ArrowRight")  # to 1, where compute() divides by zero
    widget.locator(".lora-edu-error").wait_for()
    assert any("ZeroDivisionError" in text for text in lab.shown_errors())
