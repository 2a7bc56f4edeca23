"""The controls that predictions and self-tests share. Imported only where a form is really shown."""

from typing import Any

import ipywidgets as widgets

from lora_edu.widgets.style import CLASS, STYLE

WIDTH = "46em"
# ipywidgets gives every option one line of fixed height; a sentence needs as many as it takes.
_STYLE = """<style>
.lora-edu-choice .widget-radio-box { height: auto; max-width: 46em; }
.lora-edu-choice .widget-radio-box label {
  height: auto; line-height: 1.4; white-space: normal; margin: 0 0 .3em 0;
  display: flex; flex-direction: row-reverse; justify-content: flex-end; align-items: flex-start; }
.lora-edu-choice .widget-radio-box input { flex: none; position: static; height: 1.4em; margin: 0 .5em 0 1px; }
</style>"""


def choices(options: list[tuple[str, Any]], value: Any = None) -> widgets.RadioButtons:
    """Radio buttons, one option a line, none chosen unless `value` is given; long options wrap."""
    layout = widgets.Layout(width="auto", max_width=WIDTH)
    radio = widgets.RadioButtons(options=options, value=value, layout=layout)
    radio.add_class("lora-edu-choice")
    return radio


def form(*children: widgets.Widget) -> widgets.VBox:
    """The parts one under the other, with the styles that radio buttons and sliders need."""
    box = widgets.VBox([*children, widgets.HTML(_STYLE + STYLE)])
    box.add_class(CLASS)
    return box
