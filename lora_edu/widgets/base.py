"""What every widget of the course shares: controls in, a drawing out, and a picture that stays when the kernel is gone.

There is no Output widget and no `interact` here: those stall when a notebook is executed in one go and redraw in
400 ms. A widget is a class with three questions to answer: what are the controls, what do they make us compute, and
how does the result look?
"""

from __future__ import annotations

import traceback
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import Any

import ipywidgets

from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import INK, MUTED
from lora_edu.plots.picture import Picture
from lora_edu.plots.raster import wrapped
from lora_edu.widgets.style import CLASS, STYLE

State = Mapping[str, Any]
WIDTH = 760  # of every widget's drawing, in pixels: fits a notebook's column beside JupyterLab's file browser
_REMEMBERED = 256  # results kept, so that moving a slider back and forth never computes twice


class Widget:
    """Base class. A subclass sets `title`, `question` and `computes_on`, and defines `compute` and `draw`.

    Attributes:
        title: the widget's name on the page.
        question: what the reader should find out with it; the text around the widget needs the answer.
        computes_on: names of the controls that `compute` looks at; the others only change the drawing.
        controls: the ipywidgets by name; set `.value` of one and the drawing follows.
        errors: exceptions that callbacks raised, oldest first. They are shown on the page and raised again: a broken
            slider never looks like a working one.
        view: the ipywidgets container, for a page that composes several widgets.
    """

    title = ""
    question = ""
    computes_on: tuple[str, ...] = ()

    def __init__(self, **controls: ipywidgets.ValueWidget) -> None:
        self.controls = controls
        self.errors: list[Exception] = []
        self._results: OrderedDict[tuple, Any] = OrderedDict()
        self._image = ipywidgets.HTML()
        self._message = ipywidgets.HTML()
        heading = ipywidgets.HTML(
            f'{STYLE}<div style="line-height:1.4;max-width:{WIDTH}px"><b>{escape(self.title)}</b><br>'
            f"{escape(self.question)}</div>"
        )
        for control in controls.values():
            control.style.description_width = "initial"
            control.observe(self._on_change, names="value")
        row = ipywidgets.HBox([*controls.values(), *self.extras()])
        row.layout = ipywidgets.Layout(flex_flow="row wrap", max_width=f"{WIDTH}px", grid_gap="2px 18px")
        self.view = ipywidgets.VBox([heading, row, self._image, self._message])
        self.view.add_class(CLASS)
        self._redraw()

    # What a subclass says ---------------------------------------------------------------------------------------------
    def compute(self, state: State) -> Any:
        """The mathematics behind one state of the controls; called once for each value of `computes_on`."""
        raise NotImplementedError

    def draw(self, state: State, result: Any) -> Canvas:
        """The drawing, `WIDTH` wide, with its alt text; quick, for it runs on every key press."""
        raise NotImplementedError

    def extras(self) -> list[ipywidgets.Widget]:
        """Controls without a state of their own (a button); none by default."""
        return []

    # What the page and the tests use ----------------------------------------------------------------------------------
    @property
    def state(self) -> State:
        return MappingProxyType({name: control.value for name, control in self.controls.items()})

    def canvas(self) -> Canvas:
        """The drawing for the present state."""
        return self.draw(self.state, self._result())

    def picture(self) -> Picture:
        """The present state as a still picture that makes sense without the controls: title, question and settings too."""
        body, settings = self.canvas(), self._settings()
        question = wrapped(self.question, 12, WIDTH)
        shown = wrapped(f"Shown at: {settings}. (Run the notebook to change it.)", 11, WIDTH)
        head = 36 + 19 * (len(question) + len(shown))
        sheet = Canvas(body.width + 24, head + body.height, f"{self.title}, at {settings}. {body.alt}")
        sheet.text(12, 22, self.title, 16, INK, bold=True)
        for row, line in enumerate(question + shown):
            sheet.text(
                12, 43 + 19 * row, line, 12 if row < len(question) else 11, INK if row < len(question) else MUTED
            )
        sheet.paste(12, head, body)
        return Picture.of(sheet, summary=f"{self.title} (a widget). {self.question} Shown at: {settings}.")

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict:
        return (self.view._repr_mimebundle_() or {}) | self.picture()._repr_mimebundle_()

    # The machinery ----------------------------------------------------------------------------------------------------
    def _settings(self) -> str:
        return ", ".join(f"{control.description} {_said(control)}" for control in self.controls.values())

    def _result(self) -> Any:
        state = self.state
        key = tuple(state[name] for name in self.computes_on)
        if key not in self._results:
            self._results[key] = self.compute(state)
            if len(self._results) > _REMEMBERED:
                self._results.popitem(last=False)
        self._results.move_to_end(key)
        return self._results[key]

    def _redraw(self) -> None:
        self._image.value = self.canvas().svg()

    def _on_change(self, change: Any = None) -> None:
        with self.reported():
            self._redraw()

    def reported(self) -> _Reported:
        """A context in which a callback runs: an exception is shown, recorded in `errors`, and goes on upwards."""
        return _Reported(self)


def choice(description: str, options: Sequence, value: Any = None) -> ipywidgets.ToggleButtons:
    """One of a few named options, as buttons: Tab reaches each and Space presses it.

    No drop-down list: in JupyterLab the arrow keys move between cells and letters edit the notebook (A and B insert
    cells), so a list inside an output cannot be used from the keyboard.
    """
    buttons = ipywidgets.ToggleButtons(options=options, description=description)
    buttons.style.button_width = "auto"
    if value is not None:
        buttons.value = value
    return buttons


class _Reported:
    def __init__(self, widget: Widget) -> None:
        self.widget = widget

    def __enter__(self) -> None:
        self.widget._message.value = ""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, Exception):
            return
        self.widget.errors.append(error)
        where = traceback.extract_tb(error.__traceback__)[-1]
        self.widget._message.value = (
            '<pre role="alert" class="lora-edu-error" style="white-space:pre-wrap">'
            f"This widget failed: {escape(type(error).__name__)}: {escape(str(error))}\n"
            f"(in {escape(where.name)}, line {where.lineno}; the picture above is the last good one)</pre>"
        )


def _said(control: ipywidgets.ValueWidget) -> str:
    """A control's value as its user sees it."""
    label = getattr(control, "label", None)
    if isinstance(label, str) and label:
        return label
    value = control.value
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}".replace("-", "−") if isinstance(value, float) else str(value)
