"""Rules for committed notebooks that strict nbval cannot see: a notebook without outputs passes nbval, but teaches nothing.

A notebook says what it is in `metadata.lora_edu.kind`: "chapter" (all rules), "page" (a short page or back matter) or
"solutions"; the last two need not have the standard parts of a chapter.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from lora_edu.course.notebooks.files import STAND_INS, WIDGET_VIEW

MAX_BYTES = 1_500_000
MAX_LINES = 30
MIN_COMPARED = {"chapter": 8, "page": 1, "solutions": 3}  # cells whose output nbval really compares
PREDICTIONS = range(3, 6)
MIN_EXERCISES = 3
# The paths through the chapters that a teacher takes, what a cell is for, and what nbval makes of it.
TAGS = frozenset(
    {"class90", "oneday", "optional", "exercise", "prediction", "remake"}
    | {"nbval-ignore-output", "nbval-check-output", "raises-exception"}
)
PARTS = {  # what a reader must find, and how it is recognised in the Markdown
    "what it makes you see": r"what it makes you see",
    "what you will be able to do": r"you will be able to",
    "the minutes": r"\bminutes?\b",
    "the prerequisites": r"\bprerequisites?\b",
    "“What can go wrong”": r"^#+ .*what can go wrong",
    "“Self-test”": r"^#+ .*self-test",
    "“Sources”": r"^#+ .*sources",
}
_COMPARED = ("text/plain", "text/html", "image/svg+xml", "application/json", "text/latex", "text/markdown")
_PICTURES = ("image/png", "image/jpeg", "image/svg+xml", "image/gif")
_OUTPUT_WIDGETS = {"Output", "interact", "interactive", "interactive_output", "interact_manual"}
_ABSOLUTE = re.compile(r"(?<![\w.~:/])/(?:home|Users|root|tmp|opt|var|mnt|workspaces?)/[\w.-]+|\b[A-Z]:\\+Users\\+\w+")
_EMPTY_ALT = re.compile(r"!\[\s*\]\(|<img(?![^>]*\balt=[\"'][^\"']+[\"'])[^>]*>")
_IMAGE = re.compile(r"<img [^>]*>")
_ALT = re.compile(r""".*?\balt="([^"]*)".*|.*""", re.DOTALL)

Rule = Callable[[NotebookNode, str], Iterator[str]]


def guard(path: Path) -> list[str]:
    """Every rule that the notebook at `path` breaks, one sentence each; an empty list for a sound one."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, ValueError) as error:
        return [f"{path.name}: cannot be read as a notebook: {error}"]
    faults = list(_faults(notebook))
    if path.stat().st_size > MAX_BYTES:
        faults.append(f"{path.stat().st_size:,} bytes, more than {MAX_BYTES:,}: fewer or smaller pictures")
    return [f"{path.name}: {fault}" for fault in faults]


def checked_exercises(notebook: NotebookNode) -> set[str]:
    """The ids ("03.2") of the exercises that a notebook calls `check` for."""
    trees = filter(None, (_parse(cell.source) for _, cell in _code(notebook)))
    return {exercise for tree in trees for exercise in _checked(tree)}


def _faults(notebook: NotebookNode) -> Iterator[str]:
    kind = notebook.metadata.get("lora_edu", {}).get("kind")
    if kind not in MIN_COMPARED:
        yield f"metadata.lora_edu.kind is {kind!r}: say chapter, page or solutions"
        kind = "page"
    for rule in (_order, _cells, _outputs, _pictures, _comparison, _tags):
        yield from rule(notebook, kind)
    if "widgets" in notebook.metadata:
        yield "metadata.widgets holds stale widget state: `make notebooks` takes it out"
    if kind == "chapter":
        yield from _parts(notebook)


def _code(notebook: NotebookNode) -> Iterator[tuple[str, NotebookNode]]:
    """(how to name it, cell) for each code cell that is not empty."""
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "code" and cell.source.strip():
            yield f"cell {number}", cell


def _order(notebook: NotebookNode, kind: str) -> Iterator[str]:
    cells = list(_code(notebook))
    if unrun := [name for name, cell in cells if cell.execution_count is None]:
        yield f"{', '.join(unrun)} {'was' if len(unrun) == 1 else 'were'} never run: `make notebooks`"
        return
    counts = [cell.execution_count for _, cell in cells]
    if counts != list(range(1, len(cells) + 1)):
        yield f"cells were run out of order ({counts}): `make notebooks`"


def _cells(notebook: NotebookNode, kind: str) -> Iterator[str]:
    for name, cell in _code(notebook):
        lines = cell.source.rstrip().splitlines()
        if len(lines) > MAX_LINES:
            yield f"{name} has {len(lines)} lines, more than {MAX_LINES}: split it, or move code into the module"
        if lines[-1].rstrip().endswith(";"):
            yield f"{name} ends with `;`, which nbval does not honour: end with `plt.show()` or assign the value"
        tree = _parse(cell.source)
        if tree is None:
            yield f"{name} is not valid Python"
            continue
        for call in _calls(tree):
            if call in _OUTPUT_WIDGETS:
                yield f"{name} uses {call}(), an Output widget, which stalls when a notebook is executed: use a Widget class"


def _outputs(notebook: NotebookNode, kind: str) -> Iterator[str]:
    for name, cell in _code(notebook):
        for output in cell.outputs:
            if output.output_type == "error" and "raises-exception" not in _tags_of(cell):
                yield f"{name} ends in {output.ename}: mend it, or tag it raises-exception if the error is the lesson"
            if WIDGET_VIEW in output.get("data", {}):
                picture = STAND_INS & output.data.keys()
                yield (
                    f"{name} keeps a widget view over its picture: `make notebooks` takes it out"
                    if picture
                    else f"{name} shows a widget that leaves no picture behind: make it a lora_edu.widgets.Widget"
                )
            if match := _ABSOLUTE.search(_text_of(output)):
                yield f"{name} prints a path of one machine, {match.group()!r}: print a relative one"


def _pictures(notebook: NotebookNode, kind: str) -> Iterator[str]:
    for name, cell in _code(notebook):
        for output in cell.outputs:
            for mime in _PICTURES:
                alt = output.get("metadata", {}).get(mime, {}).get("alt", "")
                if mime in output.get("data", {}) and len(alt.strip()) < 20:
                    yield f"{name} shows a figure without alt text: end it with plots.Picture.of(figure, alt='…')"
            for image in _IMAGE.findall(output.get("data", {}).get("text/html", "")):
                if len(_ALT.sub(r"\1", image).strip()) < 20:
                    yield f"{name} shows a figure without alt text: end it with plots.Picture.of(figure, alt='…')"
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "markdown" and _EMPTY_ALT.search(cell.source):
            yield f"cell {number} embeds an image without alt text"


def _comparison(notebook: NotebookNode, kind: str) -> Iterator[str]:
    compared = sum(
        any(_compares(output) for output in cell.outputs)
        for _, cell in _code(notebook)
        if "nbval-ignore-output" not in _tags_of(cell)
    )
    if compared < MIN_COMPARED[kind]:
        yield f"is bare: nbval compares the output of {compared} cells, at least {MIN_COMPARED[kind]} are wanted of a {kind}"


def _compares(output: NotebookNode) -> bool:
    if output.output_type == "stream":
        return bool(output.text.strip())
    return any(mime in output.get("data", {}) for mime in _COMPARED)


def _tags(notebook: NotebookNode, kind: str) -> Iterator[str]:
    for number, cell in enumerate(notebook.cells, 1):
        for tag in sorted(_tags_of(cell) - TAGS):
            yield f"cell {number} has the unknown tag {tag!r}: known are {', '.join(sorted(TAGS))}"


def _parts(notebook: NotebookNode) -> Iterator[str]:
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "does not start with its title (a Markdown cell that begins with '# ')"
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for part, pattern in PARTS.items():
        if not re.search(pattern, prose, re.IGNORECASE | re.MULTILINE):
            yield f"lacks a standard part: {part}"
    trees = [tree for _, cell in _code(notebook) if (tree := _parse(cell.source))]
    predictions = sum(call == "predict" for tree in trees for call in _calls(tree))
    if predictions not in PREDICTIONS:
        yield f"has {predictions} predictions; {PREDICTIONS.start} to {PREDICTIONS.stop - 1} are wanted"
    exercises = checked_exercises(notebook)
    if len(exercises) < MIN_EXERCISES:
        yield f"has {len(exercises)} exercises with a check; {MIN_EXERCISES} or more are wanted"


def _parse(source: str) -> ast.Module | None:
    try:
        return ast.parse(TransformerManager().transform_cell(source))
    except SyntaxError:
        return None


def _calls(tree: ast.AST) -> Iterator[str]:
    """The bare name of everything that is called: `course.predict(…)` and `predict(…)` are both "predict"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield _name_of(node)


def _checked(tree: ast.AST) -> Iterator[str]:
    """The exercises ("03.2") that `check("03.2", …)` is called for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and _name_of(node) == "check":
            match node.args[0]:
                case ast.Constant(value=str(exercise)):
                    yield exercise


def _name_of(call: ast.Call) -> str:
    return getattr(call.func, "attr", "") or getattr(call.func, "id", "")


def _tags_of(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", ()))


def _text_of(output: NotebookNode) -> str:
    if output.output_type == "stream":
        return output.text
    return "\n".join(_IMAGE.sub("", str(v)) for k, v in output.get("data", {}).items() if k.startswith("text/"))
