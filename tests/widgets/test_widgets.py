"""Widgets without a browser: every control redraws, nothing is computed twice, no exception is lost, a picture stays."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import ipywidgets
import pytest
from every_widget import MAKERS
from PIL import Image

from lora_edu.plots.canvas import Canvas
from lora_edu.plots.primitives import Text
from lora_edu.plots.raster import font
from lora_edu.widgets import Widget

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


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
    return control.value + (control.step if control.value + control.step <= control.max else -control.step)


def slider_of(widget: Widget) -> tuple[str, ipywidgets.ValueWidget]:
    return next(
        (name, c)
        for name, c in widget.controls.items()
        if isinstance(c, ipywidgets.IntSlider | ipywidgets.SelectionSlider)
    )


def drawing(widget: Widget) -> str:
    """The SVG that the page shows now."""
    return widget._image.value


def test_every_control_changes_the_drawing(widget):
    for name, control in widget.controls.items():
        before, at = drawing(widget), control.value
        control.value = other_value(control)
        assert drawing(widget) != before, name
        control.value = at  # one may leave another nothing to do
    assert widget.errors == []


@pytest.mark.parametrize("end", [0, -1])
def test_controls_at_their_ends_together_are_no_error(widget, end):
    """What each allows alone, all allow at once: sliders at one end, then one list entry and one tick after another on top."""
    held = [c for c in widget.controls.values() if not isinstance(c, ipywidgets.Checkbox | ipywidgets.ToggleButton)]
    for control in held:
        if not hasattr(control, "options"):
            control.value = (control.min, control.max)[end]
    for control in sorted(widget.controls.values(), key=lambda c: c not in held):
        if isinstance(control, ipywidgets.Checkbox | ipywidgets.ToggleButton):
            control.value = not control.value
        elif hasattr(control, "options"):
            control.index = (0, len(control.options) - 1)[end]
    assert widget.errors == []


def test_a_move_in_the_browser_reaches_the_drawing(widget):
    """`set_state` is what a message from the page calls."""
    _, control = slider_of(widget)
    before = drawing(widget)
    if isinstance(control, ipywidgets.SelectionSlider):
        control.set_state({"index": control.index - 1 if control.index else 1})
    else:
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
    assert "black" not in drawing(widget).lower() and 'fill="#000' not in drawing(widget)  # ink follows the theme


def test_no_text_runs_off_the_drawing(widget):
    canvas = widget.canvas()
    for text in (item for item in canvas.items if isinstance(item, Text)):
        length = font(text.size, text.bold).getlength(text.text)
        left = text.at[0] - length * {"start": 0, "middle": 0.5, "end": 1}[text.anchor]
        assert left >= -1 and left + length <= canvas.width + 1 and text.at[1] <= canvas.height, text.text


def test_the_page_gets_the_style_that_makes_handles_visible(widget):
    """The rules are for `.lora-edu`: the container must be one, and must bring them."""
    assert "lora-edu" in widget.view._dom_classes
    assert ".lora-edu .noUi-target .noUi-handle { border" in widget.view.children[0].value


def test_the_picture_stays_when_the_kernel_goes(widget):
    data = widget._repr_mimebundle_()
    assert set(data) == {WIDGET_VIEW, "text/html", "text/plain"}
    image = re.fullmatch(
        r'<img alt="([^"]+)" width="(\d+)" style="[^"]*" src="data:image/png;base64,([^"]+)">', data["text/html"]
    )
    assert image, data["text/html"][:300]
    alt, width, code = image.groups()
    picture = Image.open(io.BytesIO(base64.b64decode(code)))
    assert picture.width == 2 * int(width)
    assert len(set(picture.convert("RGBA").resize((64, 64)).tobytes())) > 20  # something is painted
    assert len(code) < 450_000
    assert len(alt) > 80
    assert widget.title in data["text/plain"] and widget.question in data["text/plain"]
    assert not re.search(r"0x[0-9a-f]{6}", data["text/plain"])


def test_the_same_state_gives_the_same_bytes(widget):
    name, control = slider_of(widget)
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
