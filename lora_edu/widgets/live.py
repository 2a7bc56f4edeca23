"""Can a page's controls reach code while a cell runs? Chapter 06.

A kernel reads its messages one after the other, so a button pressed during a long cell is heard after it. ipykernel 7 can
read some in a thread of their own (a subshell, JEP 91), and JupyterLab from 4.4 sends what widgets say there; other pages
and nbconvert do not. Whether this page does shows in whether it has opened one.

ipykernel 7.4 sends what a widget says back to the shell that last wrote to it. For one that is made or redrawn in the running
cell that is the main one, which is busy: `let_through` leaves the messages of our controls where the page sends them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import ipywidgets

PATIENCE = 1.0  # seconds that a page has to open its subshell: it does so when the first widget appears
STOP = "Ctrl-C (in a notebook: Interrupt) stops the run so that it can go on later."


def kernel() -> Any:
    """The Jupyter kernel that this process is, or None in a terminal."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    return getattr(get_ipython(), "kernel", None)


def why_no_controls(patience: float = PATIENCE) -> str:
    """Why nobody can steer a running cell from the page, in a sentence; "" when somebody can."""
    here = kernel()
    if here is None:
        return f"No live controls: this is not a notebook. {STOP}"
    channel = getattr(here, "shell_channel_thread", None)
    if channel is None:
        return f"No live controls: this kernel hears nothing while a cell runs (ipykernel 7 or later does). {STOP}"
    deadline = time.monotonic() + patience
    while not channel.manager.list_subshell():
        if time.monotonic() > deadline:
            return f"No live controls in this run: nothing could speak to its running cell (JupyterLab 4.4 or later can). {STOP}"
        time.sleep(0.02)
    return ""


def let_through(controls: Iterable[ipywidgets.Widget]) -> None:
    """The controls' messages go to the shell that the page names, whoever wrote to the controls before."""
    for control in controls:
        if hasattr(control.comm, "_reply_subshell_for"):  # ipykernel 7.4 and later
            control.comm._reply_subshell_for = lambda data, named: named
