"""A wheel holds the whole course, and what a page imports comes with it. Built here without a network and without a new environment."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata

import pytest
import yaml
from helpers import NOTEBOOKS, ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lora_edu import __version__, home
from lora_edu.course.notebooks.files import chapters


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """(the wheel's files, and where the source archive that it was built from lies): by way of the archive, as `python -m build` does."""
    folder = tmp_path_factory.mktemp("build")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.split("\0"):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "clone" / name)

    def build(source, what):
        command = f"import setuptools.build_meta as b; print(b.build_{what}({str(folder)!r}))"
        done = subprocess.run([sys.executable, "-c", command], cwd=source, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return folder / done.stdout.splitlines()[-1]

    archive = build(folder / "clone", "sdist")
    shutil.unpack_archive(archive, folder / "unpacked")
    return zipfile.ZipFile(build(folder / "unpacked" / archive.name.removesuffix(".tar.gz"), "wheel"))


@pytest.mark.slow
def test_a_wheel_holds_the_module_the_pages_and_what_they_show(wheel):
    names = set(wheel.namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "lora_edu"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert set(tracked.split()) - names == set()
    for page in [
        *chapters(folder=NOTEBOOKS),
        *(NOTEBOOKS / "images").iterdir(),
        *(ROOT / "benchmarks/results").glob("*.json"),
    ]:
        shipped = f"lora_edu/shipped/{page.relative_to(ROOT).as_posix()}"
        assert wheel.read(shipped) == page.read_bytes(), shipped
    assert not [
        name for name in names if "__pycache__" in name or ".ipynb_checkpoints" in name or "my_notebooks" in name
    ]
    assert {name.split("/")[0] for name in names} == {"lora_edu", f"lora_edu-{__version__}.dist-info"}
    assert {f"lora_edu-{__version__}.dist-info/licenses/{name}" for name in ("LICENSE", "LICENSE-TEXT.md")} <= names


@pytest.mark.slow
def test_an_installed_wheel_finds_its_pages(wheel, tmp_path):
    """Unpacked beside the other packages, as an installation does; the clone is out of sight."""
    wheel.extractall(tmp_path / "site")
    (tmp_path / "learner").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "lora_edu", "lab", "--copy-only"], cwd=tmp_path / "learner", text=True, capture_output=True,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "", "JUPYTER_DATA_DIR": str(tmp_path / "jupyter"), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"Your copies are in {tmp_path / 'learner'} (" in done.stdout
    copied = {path.relative_to(tmp_path / "learner") for path in (tmp_path / "learner").rglob("*.ipynb")}
    assert copied == {page.relative_to(NOTEBOOKS) for page in chapters(folder=NOTEBOOKS)}


def test_a_clone_is_known_as_one():
    assert home.in_clone() and home.course_root() == ROOT and not home.SHIPPED.exists()


def test_the_version_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "lora_edu.__version__"}
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    assert re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == __version__
    assert re.findall(r"lora_edu-(\S+?)-py3", (ROOT / "README.md").read_text()) == [__version__]


def brought() -> set[str]:
    """Top-level modules that an installation with the extra `course` brings, followed through what is installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    waiting, seen = (
        [Requirement(line) for line in [*project["dependencies"], *extras["course"], *extras["serve"]]],
        {"lora-edu"},
    )
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        waiting += map(Requirement, metadata.requires(name) or [])
    return {
        module
        for module, homes in metadata.packages_distributions().items()
        if {canonicalize_name(home) for home in homes} & seen
    }


def imported(source: str) -> set[str]:
    """What a cell imports and cannot do without: an import in a `try` has its own way on."""
    tree = ast.parse("".join(line for line in source.splitlines(True) if not line.lstrip().startswith(("%", "!"))))
    guarded = {id(node) for each in ast.walk(tree) if isinstance(each, ast.Try) for node in ast.walk(each)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in guarded:
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and id(node) not in guarded:
            found.add((node.module or "").split(".")[0])
    return found


def test_what_a_page_imports_comes_with_the_course():
    """A learner has no other extras: a page that wanted one would stop in the middle."""
    there = brought() | sys.stdlib_module_names
    for page in chapters(folder=NOTEBOOKS):
        for cell in json.loads(page.read_text("utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                missing = imported("".join(cell["source"])) - there
                assert not missing, (
                    f"{page.name} imports {missing}, which `pip install 'lora-edu[course]'` does not bring"
                )
