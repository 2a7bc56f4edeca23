"""How long a learner is busy with a page or a part of it: counted cell by cell, at rates that are written here.

Words at a reading rate, code at lines a minute, the exercises' own minutes, predictions, questions and widgets each at a flat price, what
the cells compute, and in a lesson the talk about each prediction. An estimate: no class has been timed.
"""

import ast
from collections.abc import Iterable, Iterator

from nbformat import NotebookNode

from lora_edu.course.classroom.answer_cells import parse
from lora_edu.course.exercises import exercises
from lora_edu.course.selftest import quiz

WORDS = 160.0  # of prose a minute: slower than a novel's 240, formulas and tables stand between
LINES = 20.0  # of code a minute, where the cell is not folded
OUTPUT = 0.15  # minutes for a result
PREDICTION = 1.0
QUESTION = 0.5
WIDGET = 3.0
RUN = 2.0  # minutes that a whole chapter computes at most (its rule), shared by its code cells
TRAINS = {"teach": 1.0}  # calls that train, each on top of that: half a minute on a free laptop, two on a busy one
TALK = 2.0  # where a class talks about its votes: so much a prediction


def minutes(cells: Iterable[NotebookNode], run: float = RUN) -> float:
    """Minutes for these cells; `run`, the part of them that is waiting for results."""
    return run + sum(map(cell_minutes, cells))


def cell_minutes(cell: NotebookNode) -> float:
    """Minutes for one cell, without waiting for it."""
    if cell.cell_type == "markdown":
        return len(cell.source.split()) / WORDS
    if cell.cell_type != "code" or not (tree := parse(cell.source)):
        return 0.0
    folded = cell.metadata.get("jupyter", {}).get("source_hidden")
    total = OUTPUT + (0.0 if folded else len(cell.source.splitlines()) / LINES)
    for name, first in _calls(tree):
        if name == "exercise" and first in exercises():
            total += exercises()[first].minutes
        elif name == "predict":
            total += PREDICTION
        elif name in TRAINS:
            total += TRAINS[name]
        elif name == "quiz" and first:
            total += QUESTION * len(quiz(first).items)
    if any(isinstance(node, ast.ImportFrom) and node.module == "lora_edu.widgets" for node in ast.walk(tree)):
        total += WIDGET
    return total


def predictions(cells: Iterable[NotebookNode]) -> int:
    """How many predictions these cells ask for."""
    trees = [parse(cell.source) for cell in cells if cell.cell_type == "code"]
    return sum(name == "predict" for tree in trees if tree for name, _ in _calls(tree))


def _calls(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
            yield getattr(node.func, "id", ""), first if isinstance(first, str) else ""
