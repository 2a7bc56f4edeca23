"""Chapter 17's blank page: the six parts that a learner writes, tied in by their names, and how many lines they are."""

import ast
import inspect
import linecache
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from math import ceil
from pathlib import Path
from typing import Any

from lora_edu.course.lawbook.runner import LayerFileError, load_module

WIDTH = 96  # characters of a line of code; a longer one counts as several


@dataclass(frozen=True)
class Page:
    """The glue between somebody's LoRA and the judge. Each part is called as its comment says, in whatever style it is written."""

    layer: Callable[..., Any] = ...  # type: ignore[assignment]  # (base, r, alpha) → a layer on an nn.Linear
    inject: Callable[..., Any] = ...  # type: ignore[assignment]  # (model, names, r, alpha) → None, or the model
    loss: Callable[..., Any] = ...  # type: ignore[assignment]  # (model, ids, labels), both (B, T) → a number with a gradient
    train: Callable[..., Any] = ...  # type: ignore[assignment]  # (model, batches, lr): a step for each (ids, labels)
    save: Callable[..., Any] = ...  # type: ignore[assignment]  # (model, folder, names, r, alpha): PEFT's two files
    merge: Callable[..., Any] = ...  # type: ignore[assignment]  # (model) → None, or the model


PARTS = tuple(each.name for each in fields(Page))


def load_page(path: str | Path) -> Page:
    """The page of a Python file: its `page = Page(…)`, or else its functions of these names and its one class of a layer.

    The file is run, as `python FILE` would. Raises LayerFileError where there is no such file, it fails, or neither is in it.
    """
    module = load_module(Path(path))
    made = [value for value in vars(module).values() if isinstance(value, Page)]
    if len(made) == 1:
        return made[0]
    found = {name: vars(module)[name] for name in PARTS[1:] if callable(vars(module).get(name))}
    own = [each for each in vars(module).values() if inspect.isclass(each) and each.__module__ == module.__name__]
    layers = [each for each in own if "lora" in each.__name__.lower()]
    if len(layers) == 1:
        found["layer"] = layers[0]
    if missing := [name for name in PARTS if name not in found]:
        raise LayerFileError(
            f"{path} has no {', '.join(missing)}: end it with `page = Page(layer=…, inject=…, …)`, from lora_edu.course.blank_page"
        )
    return Page(**found)


def lines_of(source: str | Page) -> int:
    """Lines of code of a text, or of the cells and files in which a `Page`'s parts are written, helpers and all.

    Blank lines, comments, docstrings, imports and the glue (`page = Page(…)`) are free. A line of more than 96 characters counts as
    so many as it would fill, and each statement after a semicolon as a line of its own.
    Raises: LayerFileError where the source is not to be had.
    """
    if isinstance(source, Page):
        return sum(map(lines_of, {_written_in(part) for part in vars(source).values() if part is not ...}))
    text = textwrap.dedent(source)
    tree = ast.parse(text)
    free: set[int] = set()
    begun: Counter[int] = Counter()  # simple statements by the line they begin at
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) or _is_text(node) or _is_glue(node):
            free |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))  # type: ignore[attr-defined]
        elif isinstance(node, ast.stmt) and not hasattr(node, "body"):
            begun[node.lineno] += 1
    lines = [line.rstrip() for number, line in enumerate(text.splitlines(), 1) if number not in free]
    code = [line for line in lines if line.strip() and not line.strip().startswith("#")]
    return sum(ceil(len(line) / WIDTH) for line in code) + sum(count - 1 for count in begun.values())


def _written_in(part: Any) -> str:
    """The text of the cell or file in which a function or class is written."""
    functions = [part, *(vars(part).values() if inspect.isclass(part) else ())]
    code = next((found for each in functions if (found := getattr(inspect.unwrap(each), "__code__", None))), None)
    lines = linecache.getlines(code.co_filename) if code else []
    if code is None or not lines or code.co_filename.endswith(".ipynb"):
        raise LayerFileError(
            f"where {getattr(part, '__name__', part)} is written is not known: count the lines of its file"
        )
    return "".join(lines)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_glue(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "Page"
