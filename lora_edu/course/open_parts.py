"""What of an answer is still open: `...` in a dictionary or a pair, in the body of a function, in the methods of a class.

A learner who has filled one of two gaps is told which one is left, and not that nothing was attempted.
"""

import ast
import dis
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

from torch import nn


class Wrong(Exception):
    """What is wrong with an answer: `bug`, its short name, and `detail`, a sentence with what was measured."""

    def __init__(self, bug: str, detail: str) -> None:
        super().__init__(bug, detail)
        self.bug, self.detail = bug, detail


class NotAttempted(Exception):
    """The answer is still the stub, or (with arguments) these parts of it are open."""


def is_stub(function: Any) -> bool:
    """True for a body of `...`, `pass` or a docstring alone."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return False
    idle = ("RESUME", "LOAD_CONST", "RETURN", "NOP", "POP_TOP", "CACHE", "COPY_FREE_VARS")
    steps = list(dis.get_instructions(code))
    constants = [step.argval for step in steps if step.opname in ("LOAD_CONST", "RETURN_CONST")]
    return all(step.opname.startswith(idle) for step in steps) and all(c is None or c is ... for c in constants)


def lacks_forward(layer_class: type[nn.Module]) -> bool:
    return layer_class.forward is nn.Module.forward or is_stub(layer_class.forward)


def is_blank(value: Any) -> bool:
    """True where an answer, or any part of it, was left open: None, `...`, a stub; a class where `__init__` does nothing either."""
    return bool(open_in(value, "it"))


MOST_NAMED = 6  # open places in one message
_DEEP = 6  # levels of lists in lists that are looked into


def open_in(value: Any, what: str, deep: int = _DEEP) -> list[str]:
    """The places in an answer that were left open, as a message names them: `what`, or its key or index. Empty for a full answer."""
    if value is None or value is ... or value is NotImplemented:
        return [what]
    if deep and isinstance(value, dict):
        return [place for key, part in value.items() for place in open_in(part, f"{what}[{key!r}]", deep - 1)]
    if deep and isinstance(value, list | tuple):
        return [place for i, part in enumerate(value) for place in open_in(part, f"{what}[{i}]", deep - 1)]
    if isinstance(value, set | frozenset):
        return [what] if value & {None, ..., NotImplemented} else []
    if inspect.isclass(value) and issubclass(value, nn.Module):
        written = getattr(value.__init__, "__code__", None)
        idle = value.__init__ is nn.Module.__init__ or (written and set(written.co_names) <= {"super", "__init__"})
        return [what] if idle and lacks_forward(value) else []
    return [what] if inspect.isfunction(value) and is_stub(value) else []


def parts_of(value: Any) -> int:
    """How many places an answer has that can be open."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(parts_of, inner)) or 1


def gaps(answer: Any) -> tuple[list[str], bool]:
    """The lines of a function or class that still hold `...`, as a message names them, and whether anything else was written.

    Without its source (written by `exec`), nothing is known: no line, and True.
    """
    lines, filled = [], False
    for function in _functions(answer):
        try:
            source, first = inspect.getsourcelines(function)
            tree = ast.parse(textwrap.dedent("".join(source)))
        except (OSError, TypeError, SyntaxError, ValueError):
            return [], True
        for statement in _statements(tree.body[0]):
            if _is_dots(statement):
                line = statement.lineno + max(first, 1) - 1
                lines.append(f"`{_brief(statement)}` (line {line})")
            elif not _is_given(statement):
                filled = True
    return lines, filled


def _functions(answer: Any) -> list[Any]:
    if inspect.isclass(answer):
        return [each for each in vars(answer).values() if inspect.isfunction(each)]
    return [inspect.unwrap(answer)] if inspect.isfunction(answer) else []


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """The simple statements, however deep in loops and branches."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            if not hasattr(child, "body"):
                yield child
            yield from _statements(child)


def _is_dots(statement: ast.stmt) -> bool:
    """Whether `...` stands in it as a value: not as in `x[..., 0]`, and not as in `tuple[int, ...]`."""
    indices = {
        id(node) for each in ast.walk(statement) if isinstance(each, ast.Subscript) for node in ast.walk(each.slice)
    }
    dots = (node for node in ast.walk(statement) if isinstance(node, ast.Constant) and node.value is ...)
    return any(id(node) not in indices for node in dots)


def _is_given(statement: ast.stmt) -> bool:
    """Whether it says nothing of an attempt: `return` of names, a docstring, `super().__init__()`."""
    text = ast.unparse(statement)
    return isinstance(statement, ast.Return | ast.Pass) or text.startswith(("super()", "'", '"'))


def _brief(statement: ast.stmt) -> str:
    text = ast.unparse(statement).replace("\n", " ")
    return text if len(text) <= 60 else f"{text[:57]} …"
