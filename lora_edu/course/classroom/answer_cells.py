"""Where a notebook holds the answer to an exercise: the cell that ends in `check("03.2", …)`, and what of the page it leans on."""

import ast
import builtins
import symtable
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
    """What has to run for one answer: its cell, and of what stands above it the statements that bind a name it needs, and what those need.

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
    own = _body(notebook.cells[answer.place].source, exercise)
    above = [
        each
        for cell in notebook.cells[: answer.place]
        if cell.cell_type == "code"
        for each in _body(cell.source, exercise)
    ]
    late: set[str] = set()  # what functions read when they are called, and so as it is at the page's end
    while True:
        kept = _leant_on(own, above, late)
        read = set().union(*(used(each) for each in kept if isinstance(each, _FUNCTIONS)))
        if read <= late:
            break
        late |= read
    return ast.unparse(ast.Module(kept[::-1], []))


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _leant_on(own: list[ast.stmt], above: list[ast.stmt], late: set[str]) -> list[ast.stmt]:
    """Last first: the answer's own statements, and those above that bind what it needs or one of the names `late`."""
    needed = set(late)
    kept: list[ast.stmt] = []
    for statement in [*reversed(own), *reversed(above)]:
        gives = bound(statement)
        if len(kept) < len(own) or gives & needed:
            anew = gives if _binds_anew(statement) else set()
            needed = (needed - anew) | (used(statement) - (anew if isinstance(statement, _FUNCTIONS) else set()))
            kept.append(statement)
    return kept


def _body(source: str, exercise: str) -> list[ast.stmt]:
    tree = parse(source)
    return [kept for statement in tree.body if (kept := _kept(statement, exercise))] if tree else []


def _binds_anew(statement: ast.stmt) -> bool:
    """Whether what a name meant before does not matter any more: not after `rows.append(…)`, `x += 1`, or a branch."""
    match statement:
        case ast.Assign(targets=targets):
            return all(isinstance(node, ast.Name | ast.Tuple | ast.List) for node in targets)
        case ast.FunctionDef() | ast.ClassDef() | ast.Import() | ast.ImportFrom() | ast.AnnAssign():
            return True
    return False


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


def bound(statement: ast.stmt) -> set[str]:
    """The names that a statement gives a meaning to, or changes what they hold (`layer.B = …`, `rows.append(…)`)."""
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Attribute() as function)):
            root: ast.AST = function
            while isinstance(root, ast.Attribute | ast.Subscript | ast.Call):
                root = root.func if isinstance(root, ast.Call) else root.value
            return {root.id} if isinstance(root, ast.Name) and root.id not in _MODULES else set()
    return set(_bound(ast.Module([statement], [])))


_MODULES = {"torch", "nn", "plt", "np"}  # a call of theirs changes none of the page's values


def _bound(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
                continue
            case ast.Lambda() | ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                continue
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from ((each.asname or each.name).split(".")[0] for each in names)
            case ast.Name(id=name, ctx=ast.Store()) | ast.ExceptHandler(name=str(name)):
                yield name
            case (
                ast.Attribute(value=ast.Name(id=name), ctx=ast.Store())
                | ast.Subscript(value=ast.Name(id=name), ctx=ast.Store())
            ):
                yield name
        yield from _bound(child)


def used(statement: ast.stmt) -> set[str]:
    """The page's names that a statement reads, in its functions too; a function's own variables are none of the page's."""
    found: set[str] = set()

    def walk(table: symtable.SymbolTable) -> None:
        for symbol in table.get_symbols():
            outermost = table.get_type() == "module"
            if symbol.is_referenced() and (outermost or symbol.is_global()):
                found.add(symbol.get_name())
        for inner in table.get_children():
            walk(inner)

    walk(symtable.symtable(ast.unparse(statement), "<cell>", "exec"))
    return found - vars(builtins).keys()


def _name(function: ast.AST) -> str:
    return getattr(function, "attr", "") or getattr(function, "id", "")
