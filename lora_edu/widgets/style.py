"""What ipywidgets' own style leaves unreadable, mended once for widgets and for the course's forms.

A container that has the class `CLASS` and holds an `ipywidgets.HTML` with `STYLE` gets: slider handles that show on white
(by default white on white), and a label beside its buttons, not above them.
"""

CLASS = "lora-edu"
STYLE = """<style>
.lora-edu .noUi-target .noUi-handle { border: 2px solid var(--jp-brand-color1, #1976d2); box-sizing: border-box; }
.lora-edu .noUi-target .noUi-handle:focus-visible { outline: 2px solid var(--jp-brand-color1, #1976d2); outline-offset: 2px; }
.lora-edu .widget-toggle-buttons { display: flex; flex-flow: row wrap; align-items: center; column-gap: 10px; }
</style>"""
