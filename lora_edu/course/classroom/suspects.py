"""What in an answer a teacher may want to read for themselves: it proves nothing, and its absence proves nothing."""

import ast

_NAMES = {
    "sys", "os", "gc", "ctypes", "subprocess", "socket", "signal", "multiprocessing", "threading", "importlib", "builtins", "pickle",
    "eval", "exec", "compile", "open", "globals", "vars", "setattr", "__import__", "getattr", "inspect",
}  # fmt: skip
_ATTRIBUTES = {
    "_getframe", "__globals__", "__subclasses__", "__code__", "__builtins__", "_registry", "checker", "modules", "__class__", "__dict__",
    "checks", "classroom", "f_back", "f_locals",
}  # fmt: skip


def suspects(code: str) -> tuple[str, ...]:
    """Names that reach behind an exercise, as they stand in `code`: `sys`, `__globals__`, `lora_edu.course.checks` …"""
    found = set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import(names=names):
                found |= {each.name for each in names if each.name.split(".")[0] in _NAMES or _behind(each.name)}
            case ast.ImportFrom(module=str(module)):
                if module.split(".")[0] in _NAMES or _behind(module):
                    found.add(module)
            case ast.Name(id=name) if name in _NAMES:
                found.add(name)
            case ast.Attribute(attr=name) if name in _ATTRIBUTES:
                found.add(name)
            case ast.Constant(value=str(text)) if "__" in text or "lora_edu" in text:
                found.add("a text that names what is inside")
    return tuple(sorted(found))[:8]


def _behind(module: str) -> bool:
    return module.startswith(
        tuple(f"lora_edu.course.{name}" for name in ("exercises", "checks", "store", "cases", "values", "classroom"))
    )
