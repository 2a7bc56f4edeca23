"""The house: imports run one way through the rooms, and a package's names are where its stub says."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
from helpers import ROOT

MODULE = ROOT / "lora_edu"
# From the ground up: a room may import from itself and from those before it.
ROOMS = [
    "errors", "files", "home", "linalg", "tables", "plots", "models", "data", "adapters", "training", "evaluation", "experiments", "tasks", "serving",
    "widgets", "course", "cli",
]  # fmt: skip
STUBS = sorted(MODULE.rglob("__init__.pyi"))


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path):
    """(module, whether it is imported with the file and not only when a function runs) of every import from lora_edu."""

    def found(node: ast.AST, top: bool):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ImportFrom) and (child.module or "").split(".")[0] == "lora_edu":
                for name in child.names:
                    yield f"{child.module}.{name.name}", top
            yield from found(child, top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    yield from found(ast.parse(path.read_text("utf-8")), True)


@pytest.mark.parametrize("name", [name for name in ROOMS if (MODULE / name).is_dir()])
def test_a_room_imports_only_from_those_below_it(name):
    for path in (MODULE / name).rglob("*.py"):
        for module, _ in imports(path):
            if room(module) in ROOMS:
                assert ROOMS.index(room(module)) <= ROOMS.index(name), f"{path.relative_to(ROOT)} imports {module}"


def test_no_file_needs_itself():
    """Imports that are there for the type checker alone count: a circle that only it sees is one for the reader, too."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in MODULE.rglob("*.py")
    }
    needs = {
        name: {whole if whole in files else whole.rpartition(".")[0] for whole, top in imports(path) if top}
        & files.keys()
        for name, path in files.items()
    }
    while free := [name for name, wanted in needs.items() if not wanted - {name}]:
        for name in free:
            del needs[name]
        needs = {name: wanted - set(free) for name, wanted in needs.items()}
    assert not needs, f"in a circle, or above one: {sorted(needs)}"


def test_every_room_has_its_place_and_its_line_in_the_readme():
    there = {path.stem for path in MODULE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there - {"__init__", "__main__"} == set(ROOMS)
    table = re.findall(r"^\| ((?:`\w+` ?)+)\|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert [name for cell in table for name in re.findall(r"\w+", cell)] == ROOMS


@pytest.mark.parametrize("stub", STUBS, ids=lambda path: path.parent.name)
def test_what_a_stub_names_is_there_documented_and_hides_no_module(stub):
    package = import_module(".".join(stub.parent.relative_to(ROOT).parts))
    listed = [
        alias.name for node in ast.parse(stub.read_text("utf-8")).body if isinstance(node, ast.ImportFrom)
        for alias in node.names if node.module
    ]  # fmt: skip
    assert listed and set(listed) <= set(dir(package))
    for name in listed:
        thing = getattr(package, name)
        assert not (stub.parent / f"{name}.py").exists(), f"{name} is both a module and a name of {package.__name__}"
        if inspect.isfunction(thing) or (
            inspect.isclass(thing) and not hasattr(thing, "__total__")
        ):  # a typed dict has none
            assert thing.__doc__, f"{package.__name__}.{name} says nothing of itself"


def test_no_two_public_things_bear_one_name():
    homes: dict[str, set[str]] = {}
    for stub in STUBS:
        package = ".".join(stub.parent.relative_to(ROOT).parts)
        for node in ast.parse(stub.read_text("utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    homes.setdefault(alias.name, set()).add(import_module(f"{package}.{node.module}").__name__)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}
