"""A real JupyterLab in a real Chromium, on a free port, with settings of its own and a copy of the notebooks."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lora_edu.cli.doctor import find_chromium as chromium  # noqa: F401  (the tests beside this take it from here)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
DRAWING = "svg[role=img]"
# How each kind of control is moved from the keyboard: the key, and the one to try when a slider is at its end.
MOVES = {
    ".noUi-handle": ("ArrowRight", "ArrowLeft"),
    ".widget-toggle-buttons button:not(.mod-active)": ("Space",),
    "input[type=checkbox], .widget-toggle-button:not(.widget-toggle-buttons button)": ("Space",),
}


@contextmanager
def jupyterlab(root: Path, scratch: Path) -> Iterator[str]:
    """JupyterLab over the folder `root`; yields its address. Nothing of the user's own settings is read or written."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    # Off-screen cells must be attached too, or their widgets could not be found; and nothing may ask the network.
    _setting(scratch, "notebook-extension", "tracker", {"windowingMode": "none"})
    _setting(scratch, "apputils-extension", "notification", {"fetchNews": "false", "checkForUpdates": False})
    log = scratch / "jupyterlab.log"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True"]
    command += [f"--ServerApp.root_dir={root}", "--expose-app-in-browser"]
    environment = os.environ | {name: str(scratch / folder) for name, folder in places.items()}
    environment |= {"OMP_NUM_THREADS": "1", "LORA_EDU_PROGRESS": "off"}
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(address, server, log)
            yield address
        finally:
            server.terminate()
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _setting(scratch: Path, extension: str, plugin: str, values: dict) -> None:
    path = scratch / "settings" / "@jupyterlab" / extension / f"{plugin}.jupyterlab-settings"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), "utf-8")


def _wait_for(address: str, server: subprocess.Popen, log: Path, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab stopped at once:\n{log.read_text()[-3000:]}")
        try:
            urllib.request.urlopen(f"{address}/api/status", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"JupyterLab did not answer within {seconds:.0f} s:\n{log.read_text()[-3000:]}")


class Lab:
    """One notebook open in one tab."""

    def __init__(self, browser: Browser, address: str, notebook: str) -> None:
        self.page: Page = browser.new_page(viewport={"width": 1280, "height": 1600})
        self.errors: list[str] = []
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(f"{address}/lab/workspaces/{Path(notebook).stem}/tree/{notebook}?reset")
        self.page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.sessionContext", timeout=90_000)
        self.page.evaluate(
            "() => window.jupyterapp.commands.execute('application:set-mode', {mode: 'single-document'})"
        )
        self.page.wait_for_function(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'",
            timeout=90_000,
        )

    def run_all(self) -> None:
        """Run every cell; returns when the last has finished."""
        self.page.set_default_timeout(240_000)
        self.page.evaluate("async () => { await window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        self.page.set_default_timeout(30_000)

    def set_theme(self, theme: str) -> None:
        """Switch JupyterLab to its "light" or "dark" theme."""
        name = f"JupyterLab {theme.capitalize()}"
        self.page.evaluate(f"() => window.jupyterapp.commands.execute('apputils:change-theme', {{theme: '{name}'}})")
        self.page.wait_for_function(f"() => document.body.dataset.jpThemeLight === '{str(theme == 'light').lower()}'")

    def brightness_of_ink(self, widget: Locator) -> int:
        """How bright (0-255) the drawing's neutral text is."""
        colour = widget.locator(f"{DRAWING} text").first.evaluate("e => getComputedStyle(e).fill")
        return max(int(float(part)) for part in colour[colour.index("(") + 1 : -1].split(",")[:3])

    def widgets(self, at_least: int) -> list[Locator]:
        """Each widget of the course on the page: a container that holds a drawing and its controls. Waits for as many as `at_least`."""
        views = self.page.locator(f".jp-OutputArea-output .widget-vbox:has({DRAWING})")
        self.until(lambda: views.count() >= at_least, f"fewer than {at_least} widgets appeared")
        return [views.nth(n) for n in range(views.count())]

    def until(self, condition: Callable[[], object], otherwise: str, seconds: float = 30) -> None:
        """Wait until the condition holds. Raises AssertionError that says `otherwise` when it does not within some seconds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, otherwise
            self.page.wait_for_timeout(50)

    def busy_cell(self, cell: Locator) -> None:
        """Wait until the cell is running."""
        self.until(
            lambda: cell.locator(".jp-InputPrompt").inner_text().strip() == "[*]:", "the cell never began to run"
        )

    def press_tab_until(self, selector: str, most: int = 40) -> None:
        """Press Tab as a reader without a mouse does, until what has the focus matches `selector`."""
        for _ in range(most):
            self.page.keyboard.press("Tab")
            if self.page.evaluate("selector => document.activeElement?.matches(selector)", selector):
                return
        raise AssertionError(f"Tab never reached {selector}")

    def cells(self) -> int:
        return self.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.widgets.length")

    def move_every_control(self, widget: Locator) -> int:
        """Move each slider, list and switch of a widget by keys alone; returns how many moved the drawing.

        Raises AssertionError when the drawing does not follow one of them.
        """
        moved = 0
        for selector, keys in MOVES.items():
            controls = widget.locator(selector)
            for n in range(controls.count()):
                before = fingerprint(widget)
                controls.nth(n).focus()
                for key in keys:
                    self.page.keyboard.press(key)
                    if self.changed(widget, before):
                        break
                else:
                    raise AssertionError(
                        f"the drawing did not follow control {n} of {selector} in: {widget.inner_text()[:200]}"
                    )
                moved += 1
        return moved

    def changed(self, widget: Locator, before: str, seconds: float = 4) -> bool:
        """Whether the drawing's hash differs from `before` within some seconds."""
        deadline = time.monotonic() + seconds
        while fingerprint(widget) == before:
            if time.monotonic() > deadline:
                return False
            self.page.wait_for_timeout(50)
        return True

    def shown_errors(self) -> list[str]:
        """What went wrong for the reader's eye: failed cells, failed widgets, widgets that did not load."""
        places = ".lora-edu-error, .jp-RenderedText[data-mime-type*=stderr], .jupyter-widgets-error-widget"
        return self.page.locator(places).all_inner_texts()

    def close(self) -> None:
        self.page.evaluate("async () => { await window.jupyterapp.shell.currentWidget.sessionContext.shutdown() }")
        self.page.close()


def fingerprint(widget: Locator) -> str:
    """A hash of the drawing that the page shows now."""
    return hashlib.sha256(widget.locator(DRAWING).first.evaluate("e => e.outerHTML").encode()).hexdigest()
