"""A page for each room of the module, with every name that the room offers, from its docstrings."""

import ast
import importlib
import inspect
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULE = ROOT / "lora_edu"


def rooms() -> list[str]:
    """Importable names: the module itself, its single files, every package that offers names in a stub or in `__all__`."""
    stubs = {path.parent for path in MODULE.rglob("__init__.pyi")}
    packages = {path.parent for path in MODULE.rglob("__init__.py") if "__all__" in path.read_text("utf-8")}
    files = {path.with_suffix("") for path in MODULE.glob("*.py") if not path.name.startswith("_")}
    return sorted(".".join(path.relative_to(ROOT).parts) for path in stubs | packages | files)


def offered(room: str) -> list[str]:
    """The public names of `room`: of its stub, of `__all__`, or the functions and classes that it defines."""
    stub = ROOT.joinpath(*room.split(".")) / "__init__.pyi"
    if stub.exists():
        body = ast.parse(stub.read_text("utf-8")).body
        return sorted(
            {alias.name for node in body if isinstance(node, ast.ImportFrom) and node.module for alias in node.names}
        )
    module = importlib.import_module(room)
    names = getattr(module, "__all__", None) or [
        name for name, thing in vars(module).items()
        if not name.startswith("_") and inspect.isroutine(thing) | inspect.isclass(thing) and thing.__module__ == room
    ]  # fmt: skip
    return sorted(names)


def _home(thing: object) -> str | None:
    """The room that offers `thing`, of those below the top: the deepest that names it."""
    name = getattr(thing, "__name__", "")
    homes = [
        room
        for room in rooms()
        if room != "lora_edu" and name in offered(room) and getattr(importlib.import_module(room), name) is thing
    ]
    return max(homes, key=len, default=None)


def page(room: str) -> str:
    """The page of `room` as reStructuredText. Constants are named with their values, where these are short."""
    module, lines, constants = importlib.import_module(room), [], []
    if room == "lora_edu":  # what it offers is described in its rooms
        homes = {name: _home(getattr(module, name)) for name in offered(room)}
        return "\n".join([room, "=" * len(room), "", f".. automodule:: {room}", "   :no-members:", "",
                          *(f"- :py:obj:`{name} <{home}.{name}>`" for name, home in homes.items() if home), ""])  # fmt: skip
    for name in offered(room):
        thing = getattr(module, name)
        if inspect.ismodule(thing):
            continue
        if inspect.isclass(thing):
            lines += [f".. autoclass:: {room}.{name}", "   :members:", ""]
        elif inspect.isroutine(thing):
            lines += [f".. autofunction:: {room}.{name}", ""]
        else:
            shown = repr(thing)
            constants.append(f"- ``{name}``" + (f" = ``{shown}``" if len(shown) < 100 and "`" not in shown else ""))
    rule = "=" * len(room)
    head = [rule, room, rule, "", f".. automodule:: {room}", "   :no-members:", ""]
    return "\n".join([*head, *lines, *(["Constants", "---------", "", *constants, ""] if constants else [])])
