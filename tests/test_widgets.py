"""Widgets without a browser: every control redraws, nothing is computed twice, no exception is lost, a picture stays."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import ipywidgets
import pytest
import torch
from PIL import Image

from lora_edu.plots import Canvas
from lora_edu.widgets import ShapesAndStarts, Widget
from lora_edu.widgets.shapes import STARTS, STEPS, start_and_train

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

MAKERS = {"ShapesAndStarts": ShapesAndStarts}


@pytest.fixture(params=MAKERS)
def widget(request) -> Widget:
    return MAKERS[request.param]()


def other_value(control: ipywidgets.ValueWidget):
    """A value that differs from the present one, as a user could choose it."""
    if isinstance(control, ipywidgets.Checkbox | ipywidgets.ToggleButton):
        return not control.value
    if hasattr(control, "options"):
        values = [o[1] if isinstance(o, tuple) else o for o in control.options]
        return next(v for v in values if v != control.value)
    return control.value + control.step if control.value + control.step <= control.max else control.value - control.step


def drawing(widget: Widget) -> str:
    """The SVG that the page shows now."""
    return widget._image.value


def test_every_control_changes_the_drawing(widget):
    for name, control in widget.controls.items():
        before = drawing(widget)
        control.value = other_value(control)
        assert drawing(widget) != before, name
    assert widget.errors == []


def test_a_move_in_the_browser_reaches_the_drawing(widget):
    """`set_state` is what a message from the page calls."""
    control = next(c for c in widget.controls.values() if hasattr(c, "step"))
    before = drawing(widget)
    control.set_state({"value": other_value(control)})
    assert drawing(widget) != before


def test_every_control_has_a_label_and_no_output_widget_is_used(widget):
    assert all(control.description.strip() for control in widget.controls.values())

    def family(parent):
        yield parent
        for child in getattr(parent, "children", ()):
            yield from family(child)

    assert not any(isinstance(each, ipywidgets.Output) for each in family(widget.view))


def test_drawing_is_well_formed_and_says_what_it_shows(widget):
    root = ElementTree.fromstring(drawing(widget))
    assert root.get("role") == "img"
    assert len(root.get("aria-label")) > 80
    assert "black" not in drawing(widget) and 'fill="#000' not in drawing(widget)  # ink follows the theme


def test_the_picture_stays_when_the_kernel_goes(widget):
    data, metadata = widget._repr_mimebundle_()
    assert set(data) == {WIDGET_VIEW, "image/png", "text/plain"}
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert picture.width == 2 * metadata["image/png"]["width"]
    assert len(set(picture.convert("RGB").resize((64, 64)).tobytes())) > 20  # something is painted
    assert len(data["image/png"]) < 450_000
    assert len(metadata["image/png"]["alt"]) > 80
    assert widget.title in data["text/plain"] and widget.question in data["text/plain"]
    assert not re.search(r"0x[0-9a-f]{6}", data["text/plain"])


def test_the_same_state_gives_the_same_bytes(widget):
    name, control = next((n, c) for n, c in widget.controls.items() if hasattr(c, "step"))
    first, start = widget.picture(), control.value
    control.value = other_value(control)
    assert widget.picture().png != first.png, name
    control.value = start
    assert widget.picture() == first


class Broken(Widget):
    title, question, computes_on = "Broken", "What happens at 2?", ("n",)

    def __init__(self):
        self.computed = 0
        super().__init__(
            n=ipywidgets.IntSlider(0, 0, 5, description="n"), colour=ipywidgets.Checkbox(description="colour")
        )

    def compute(self, state):
        self.computed += 1
        return 1 / (state["n"] - 2)

    def draw(self, state, result):
        canvas = Canvas(100, 50, f"the number {result}, a drawing for this test")
        canvas.text(5, 20, f"{result} {state['colour']}")
        return canvas


def test_an_exception_is_raised_recorded_and_shown():
    widget = Broken()
    good = drawing(widget)
    with pytest.raises(ZeroDivisionError):
        widget.controls["n"].value = 2
    assert [type(e) for e in widget.errors] == [ZeroDivisionError]
    assert "ZeroDivisionError: division by zero" in widget._message.value
    assert drawing(widget) == good
    widget.controls["n"].value = 3
    assert widget._message.value == "" and len(widget.errors) == 1


def test_an_exception_while_a_widget_is_made_is_raised():
    with pytest.raises(ZeroDivisionError):
        type("BrokenAtOnce", (Broken,), {"compute": lambda self, state: 1 / 0})()


def test_a_result_is_computed_once_and_only_when_it_matters():
    widget = Broken()
    widget.controls["colour"].value = True
    widget.controls["n"].value = 1
    widget.controls["n"].value = 0
    assert widget.computed == 2


# ShapesAndStarts ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "start, silent, grad_A, grad_B",
    [("B", True, False, True), ("A", True, True, False), ("both", True, False, False), ("neither", False, True, True)],
)
def test_starts_behave_as_chapter_03_says(start, silent, grad_A, grad_B):
    run = start_and_train(24, 16, 4, 8, start)
    assert (run.output_change[0] == 0) == silent
    assert (run.grad_A[0] != 0) == grad_A
    assert (run.grad_B[0] != 0) == grad_B
    learns = grad_A or grad_B
    assert (run.loss[-1] < 0.9 * run.loss[0]) == learns
    if start == "B":  # law 4: after one step only B has moved
        assert torch.equal(run.As[1], run.As[0]) and not torch.equal(run.Bs[1], run.Bs[0])
        assert run.grad_A[1] > 0
    if start == "both":
        assert run.loss[-1] == run.loss[0] == pytest.approx(1.0)


def test_doubling_alpha_quadruples_the_first_step():
    """Law 4: with B = 0 the first SGD step is ΔW = −η s² G AᵀA, so s enters twice."""
    one, two = start_and_train(12, 8, 3, 6, "B", steps=1), start_and_train(12, 8, 3, 12, "B", steps=1)
    assert one.delta(0).abs().max() == 0 and one.delta(1).abs().max() > 0
    torch.testing.assert_close(two.delta(1), 4 * one.delta(1))


def test_rank_slider_follows_the_sides():
    widget = ShapesAndStarts()
    widget.controls["r"].value = 32
    widget.controls["d_in"].value = 8
    assert widget.controls["r"].max == widget.controls["r"].value == 8
    assert widget.errors == []
    widget.controls["d_in"].value = 64
    assert widget.controls["r"].max == 48


def test_a_run_that_blows_up_is_drawn_and_said():
    widget = ShapesAndStarts()
    widget.controls["alpha"].value = 32
    widget.controls["r"].value = 1
    widget.controls["step"].value = STEPS
    assert "blew up" in drawing(widget)
    assert widget.errors == []


def test_every_start_has_its_own_verdict():
    widget = ShapesAndStarts()
    said = set()
    for start in STARTS:
        widget.controls["start"].value = start
        said.add(widget.canvas().alt)
    assert len(said) == 4
