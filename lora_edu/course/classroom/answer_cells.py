"""Where a notebook holds the answer to an exercise: the cell that ends in `check("03.2", …)`, and what of the page it leans on."""

import ast
import builtins
from collections.abc import Iterator
from typing import NamedTuple

from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

# What asks and tells a reader, and decides nothing: left out where an answer is run to be graded.
_TALK = {"exercise", "hint", "predict", "reveal", "quiz", "progress", "laws", "seat"}
_MAGIC = {"run_line_magic", "run_cell_magic", "system", "getoutput"}  # what IPython makes of %, %% and !


class Answer(NamedTuple):
    """An answer cell: its place in the page, its code up to the check, and the check."""

    exercise: str
    place: int  # the cell's, in the page
    written: str  # what a learner fills in
    check: str  # `check("03.2", factor_gradients)`


def answers(notebook: NotebookNode) -> dict[str, Answer]:
    """The answer cells of a page by exercise; the last one where an exercise is checked twice. Cells that are no Python are passed over."""
    found = {}
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code" or "check" not in cell.source:
            continue
        tree = parse(cell.source)
        for statement in tree.body if tree else ():
            if exercise := checked(statement):
                lines = cell.source.splitlines()
                before = lines[: statement.lineno - 1]
                check = lines[statement.lineno - 1 : statement.end_lineno]
                found[exercise] = Answer(exercise, index, "\n".join(before).rstrip(), "\n".join(check))
    return found


def checked(statement: ast.AST) -> str:
    """The exercise of a statement `check("03.2", …)`, alone or the last of a line's; "" for any other."""
    match statement:
        case ast.Expr(value=ast.Call(func=function, args=[ast.Constant(value=str(exercise)), *_])):
            return exercise if _name(function) == "check" else ""
    return ""


def parse(source: str) -> ast.Module | None:
    """A cell's tree, magics turned into calls; None for what is no Python."""
    try:
        return ast.parse(TransformerManager().transform_cell(source))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def program(notebook: NotebookNode, exercise: str) -> str | None:
    """What has to run for one answer: its cell, and of the cells above it those that bind a name it needs, and what those need.

    Calls that only ask or tell (`predict(…)`, `hint(…)`), and magics, are left out; `check("03.2", f)` has become `hand_in("03.2", f)`.
    None where the page has no such answer. An answer that is no Python raises SyntaxError.
    """
    answer = answers(notebook).get(exercise)
    if answer is None:
        broken = [
            c.source
            for c in notebook.cells
            if c.cell_type == "code" and f'"{exercise}"' in c.source and "check" in c.source
        ]
        if broken and parse(broken[-1]) is None:
            ast.parse(broken[-1])
        return None
    needed: set[str] = set()
    parts: list[str] = []
    for index in range(answer.place, -1, -1):
        cell = notebook.cells[index]
        tree = parse(cell.source) if cell.cell_type == "code" else None
        if tree is None:
            continue
        tree.body = [kept for statement in tree.body if (kept := _kept(statement, exercise))]
        if index == answer.place or bound(tree) & needed:
            needed = (needed - bound(tree)) | used(tree)
            parts.append(ast.unparse(tree))
    return "\n\n".join(reversed(parts))


def _kept(statement: ast.stmt, exercise: str) -> ast.stmt | None:
    if other := checked(statement):
        if other != exercise:
            return None
        assert isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
        statement.value.func = ast.copy_location(ast.Name("hand_in", ast.Load()), statement.value.func)
        return statement
    match statement:
        case ast.Expr(value=ast.Call(func=function)) if _name(function) in _TALK | _MAGIC:
            return None
    return statement


def bound(tree: ast.AST) -> set[str]:
    """The names that a cell gives a meaning to, at its own level."""
    return set(_bound(tree))


def _bound(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
                continue
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from ((each.asname or each.name).split(".")[0] for each in names)
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case (
                ast.Attribute(value=ast.Name(id=name), ctx=ast.Store())
                | ast.Subscript(value=ast.Name(id=name), ctx=ast.Store())
            ):
                yield name  # `layer.B = …` is part of what `layer` is
        yield from _bound(child)


def used(tree: ast.AST) -> set[str]:
    """The names that a cell reads, in its functions too."""
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return read - vars(builtins).keys()


def _name(function: ast.AST) -> str:
    return getattr(function, "attr", "") or getattr(function, "id", "")
