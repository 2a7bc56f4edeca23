"""Execute a notebook, clean it for the repository, tell JupyterLab to keep widgets."""

import base64
import json
import os
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from lora_edu.errors import NotebookError
from lora_edu.files import write_whole
from lora_edu.plots.picture import Picture

FOLDER = Path("notebooks")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
STAND_INS = {
    "image/png",
    "text/html",
}  # what a widget leaves behind for a reader without a kernel: its picture, or its text
_KEPT_CELL_METADATA = ("tags", "jupyter", "lora_edu")
# One thread: the same digits on every machine with the same processor, and no fight with other runs. No progress bars:
# they print timings. Nobody's progress file is touched.
_QUIET = {"OMP_NUM_THREADS": "1", "LORA_EDU_PROGRESS": "off", "TQDM_DISABLE": "1"}
_OVERRIDES = {
    "@jupyter-widgets/jupyterlab-manager:plugin": {"saveState": True},
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}


def chapters(wanted: list[str] | None = None, folder: Path = FOLDER) -> list[Path]:
    """The notebooks of the course in order, solutions last; or those whose names start with one of `wanted` ("03").

    Raises:
        NotebookError: one of `wanted` matches nothing.
    """
    found = [*sorted(folder.glob("*.ipynb")), *sorted((folder / "solutions").glob("*.ipynb"))]
    if not wanted:
        return found
    chosen = [path for path in found if path.name.startswith(tuple(wanted))]
    for start in wanted:
        if not any(path.name.startswith(start) for path in chosen):
            there = ", ".join(path.stem for path in found) or "none"
            raise NotebookError(f"no notebook in {folder} starts with {start!r}; there are: {there}")
    return chosen


def execute(path: Path, timeout: int = 600) -> NotebookNode:
    """Run every cell of the notebook at `path` in a new kernel, clean it and write it back; `timeout` in seconds a cell.

    Raises:
        NotebookError: a cell failed or ran out of time. The file is then as it was.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError

    notebook = read(path)
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        store_widget_state=False,
        coalesce_streams=True,
    )
    try:
        client.execute(env=os.environ | _QUIET)
    except CellTimeoutError as error:
        raise NotebookError(f"{path}: a cell ran longer than {timeout} s; shorten it, or pass --timeout") from error
    except CellExecutionError as error:
        raise NotebookError(f"{path}: a cell failed; nothing was written.\n{error}") from error
    clean(notebook)
    write(notebook, path)
    return notebook


def clean(notebook: NotebookNode) -> None:
    """Take out, in place, what changes from run to run or breaks without a kernel.

    A widget's view goes where a picture stands in for it: a notebook opened with a fresh kernel would otherwise show
    "Error displaying widget" over that picture. A view without a picture stays, for the guard to find.
    """
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
        | {key: notebook.metadata[key] for key in ("lora_edu",) if key in notebook.metadata}
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in _KEPT_CELL_METADATA})
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            _into_html(output)
            if WIDGET_VIEW in data and STAND_INS & data.keys():
                del data[WIDGET_VIEW]


def _into_html(output: NotebookNode) -> None:
    """A PNG whose alt text lies in the output's metadata becomes an `<img>` that has it: nothing that shows a notebook reads the metadata."""
    described = output.get("metadata", {}).get("image/png", {})
    if not described.get("alt") or "image/png" not in output.data or "text/html" in output.data:
        return
    png = base64.b64decode(output.data.pop("image/png"))
    picture = Picture(png, described["alt"], described.get("width", 0), output.data.get("text/plain", ""))
    output.data["text/html"] = picture.html()
    del output.metadata["image/png"]


def install_overrides(prefix: Path | None = None) -> Path:
    """Let JupyterLab save widgets in a learner's own notebooks and leave news and updates alone; other settings stay.

    Args:
        prefix: the environment that JupyterLab lives in; the running Python's by default.

    Returns:
        The settings file.

    Raises:
        NotebookError: a settings file is there that is not valid JSON.
    """
    path = (prefix or Path(sys.prefix)) / "share" / "jupyter" / "lab" / "settings" / "overrides.json"
    try:
        settings = json.loads(path.read_text("utf-8")) if path.exists() else {}
    except json.JSONDecodeError as error:
        raise NotebookError(f"{path} is not valid JSON ({error}): mend or remove it") from None
    for plugin, values in _OVERRIDES.items():
        settings[plugin] = settings.get(plugin, {}) | values
    write_whole(path, json.dumps(settings, indent=2) + "\n")
    return path


def read(path: Path) -> NotebookNode:
    """The notebook at `path`. Raises NotebookError where there is none."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError) as error:
        raise NotebookError(f"cannot read {path} as a notebook: {error}") from error


def write(notebook: NotebookNode, path: Path) -> None:
    """Whole or not at all: an interrupted write leaves the old file."""
    write_whole(path, nbformat.writes(notebook) + "\n")
