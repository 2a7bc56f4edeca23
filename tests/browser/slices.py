"""A chapter cut down to its widgets: the cells that make or use one, and those whose names these need.

Every cell of a chapter is run and compared by nbval. A browser is asked what only a browser can show, so it need not train every model again.
A cell that such a cut leaves out in error (one that only changes something in place) fails in the browser by name: nothing passes in silence.
"""

import ast
from pathlib import Path

import nbformat

QUIET = ("%", "!")  # the first letter of a line that is IPython's, not Python's


def cut_to_widgets(path: Path) -> nbformat.NotebookNode:
    """The notebook at `path` with only the code cells that its widgets need, in their order, without outputs."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    names = [_names(cell.source) for cell in cells]
    classes = {name for cell in cells for name in _widget_classes(cell.source)}
    wanted, watched = [], set()  # watched: names bound where a widget was made, perhaps a trainer that draws on it
    for cell, (loaded, stored) in zip(cells, names, strict=True):
        wanted.append(bool(loaded & classes) or any(f"{name}.train()" in cell.source for name in watched))
        watched = watched | stored if loaded & classes else watched - stored
    kept, open_names = [], set()
    for cell, (loaded, stored), want in zip(reversed(cells), reversed(names), reversed(wanted), strict=True):
        if want or stored & open_names:
            cell.outputs, cell.execution_count = [], None
            kept.append(cell)
            open_names = (open_names - stored) | (loaded - stored)
    notebook.cells = kept[::-1]
    return notebook


def _names(source: str) -> tuple[set[str], set[str]]:
    """What a cell reads and what it binds, at any depth: a name bound inside is taken for the cell's own."""
    lines = [line for line in source.splitlines() if not line.startswith(QUIET)]
    loaded, stored = set(), set()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.Name):
            (loaded if isinstance(node.ctx, ast.Load) else stored).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            stored.add(node.name)
        elif isinstance(node, ast.arg):
            stored.add(node.arg)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            stored |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return loaded, stored


def _widget_classes(source: str) -> set[str]:
    """Names that a cell imports from `lora_edu.widgets`; a name of small letters is a function, not a widget."""
    lines = [line for line in source.splitlines() if not line.startswith(QUIET)]
    return {
        alias.name
        for node in ast.walk(ast.parse("\n".join(lines)))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lora_edu.widgets")
        for alias in node.names
        if alias.name[0].isupper()
    }
