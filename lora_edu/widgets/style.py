"""What ipywidgets' own style and markup leave unreadable, mended once for widgets and for the course's forms.

A container that has the class `CLASS` and holds an `ipywidgets.HTML` with `STYLE` gets: slider handles that show on white (by default
white on white) and have a name, toggle buttons that say which is pressed, keys that stay in the form, and, once its kernel is gone, a
sentence in place of a broken chain on every part.

The last three need a script, for ipywidgets sets no attributes: it runs when the style is loaded. JupyterLab reads the letters a, b, c, x,
d, and the arrow keys as commands (insert a cell, leave the cell) even while a radio button has the focus, unless that
has `data-lm-suppress-shortcuts` itself (not only an element around it). Keys with Ctrl, Alt or Meta and Shift-Enter still reach JupyterLab.
"""

from html import escape

CLASS = "lora-edu"
GONE = "These controls have lost their kernel: run this cell again."
_SCRIPT = """
const box = this.closest('.lora-edu');
if (box && !box.mended) {
  box.mended = true;
  const mend = () => {
    for (const handle of box.querySelectorAll('.noUi-handle')) {
      const label = handle.closest('.widget-slider')?.querySelector('.widget-label')?.textContent;
      if (label && handle.getAttribute('aria-label') !== label) handle.setAttribute('aria-label', label);
    }
    for (const button of box.querySelectorAll('button.widget-toggle-button')) {
      const pressed = String(button.classList.contains('mod-active'));
      if (button.getAttribute('aria-pressed') !== pressed) button.setAttribute('aria-pressed', pressed);
    }
  };
  new MutationObserver(mend).observe(box, {subtree: true, childList: true, attributeFilter: ['class']});
  mend();
}
if (!window.loraEduKeys) {
  window.loraEduKeys = true;
  window.addEventListener('keydown', event => {
    const command = event.ctrlKey || event.altKey || event.metaKey || (event.shiftKey && event.key === 'Enter');
    if (event.target.closest?.('.lora-edu')) event.target.toggleAttribute('data-lm-suppress-shortcuts', !command);
  }, true);
}
"""
STYLE = f"""<style onload="{escape(" ".join(_SCRIPT.split()))}">
.lora-edu .noUi-target .noUi-handle {{ border: 2px solid var(--jp-brand-color1, #1976d2); box-sizing: border-box; }}
.lora-edu .noUi-target .noUi-handle:focus-visible {{ outline: 2px solid var(--jp-brand-color1, #1976d2); outline-offset: 2px; }}
.lora-edu .widget-toggle-buttons {{ display: flex; flex-flow: row wrap; align-items: center; column-gap: 10px; }}
.lora-edu .widget-toggle-button.mod-active {{
  background: var(--jp-brand-color1, #1976d2); color: var(--jp-ui-inverse-font-color1, #fff); box-shadow: none; }}
.lora-edu.jupyter-widgets-disconnected::before {{
  content: "{GONE}"; font: var(--jp-ui-font-size1, 13px) var(--jp-ui-font-family, sans-serif); color: var(--jp-content-font-color1, inherit);
  position: static; height: auto; width: auto; padding: 4px 10px; border-left: 4px solid var(--jp-warn-color1, #b26a00); }}
.lora-edu .jupyter-widgets-disconnected::before {{ content: none; }}
.lora-edu.jupyter-widgets-disconnected > * {{ opacity: .55; pointer-events: none; }}
</style>"""
