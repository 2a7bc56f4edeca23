"""What this machine has and what it lacks, each with the command that mends it; and what is fastest on it. Chapter 00."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import psutil

from lora_edu.home import in_clone

GIB = 2**30
MEMORY_WANTED = 4 * GIB  # the default model in fp32, its activations and a notebook
DISK_WANTED = 1 * GIB  # the wheel, the GGUF file and the fp32 copy, while all three are there


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. state: "ok", "note" (the course runs without it) or "missing" (it does not)."""

    name: str
    state: Literal["ok", "note", "missing"]
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        mark = {"ok": "✓", "note": "!", "missing": "✗"}[self.state]
        return f"{mark} {self.name:<12} {self.detail}" + (f"\n  {'':<12} → {self.remedy}" if self.remedy else "")


def examine() -> Iterator[Finding]:
    """Every finding in turn; the slow ones come last, so that a terminal shows something at once."""
    yield _python()
    yield Finding(
        "System", "ok", f"{platform.system()} {platform.release()} ({platform.machine()}), {os.cpu_count()} processors"
    )
    yield _memory()
    yield from _programs()
    packages = _packages()
    yield packages
    if packages.state == "missing":
        return  # the rest imports them
    yield _kernel()
    yield _torch()
    yield from _cache()


def _python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()} at {sys.executable}")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    detail = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    if memory.available < MEMORY_WANTED:
        return Finding("Memory", "note", detail, f"close other programs: training wants {MEMORY_WANTED // GIB} GiB")
    return Finding("Memory", "ok", detail)


def find_chromium() -> str | None:
    """A Chromium or Chrome that the browser tests can drive."""
    return next(
        filter(
            None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"))
        ),
        None,
    )


def _programs() -> Iterator[Finding]:
    make, chromium = shutil.which("make"), find_chromium()
    if make:
        yield Finding("make", "ok", make)
    else:
        yield Finding(
            "make", "note", "not found", "not needed: python -m lora_edu lab (also demo, doctor) does the same"
        )
    if chromium:
        yield Finding("Chromium", "ok", chromium)
    else:
        yield Finding(
            "Chromium",
            "note",
            "not found; only the browser tests want it",
            "apt-get install chromium (or your system's way)",
        )


def _packages() -> Finding:
    """What pyproject.toml asks for, against what is installed."""
    remedy = f"{sys.executable} -m pip install {'-e .' if in_clone() else '--upgrade lora-edu'}"
    try:
        from packaging.requirements import Requirement

        requirements = [Requirement(line) for line in importlib.metadata.requires("lora-edu") or []]
    except importlib.metadata.PackageNotFoundError:
        return Finding("Packages", "missing", "lora-edu itself is not installed", remedy)
    except ImportError:
        return Finding("Packages", "missing", "packaging is not installed", remedy)
    faults, wanting, count = [], [], 0
    for requirement in requirements:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            faults.append(f"{requirement.name} is missing")
            wanting.append(f"'{requirement.name}{requirement.specifier}'")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            faults.append(f"{requirement.name} is {version}, {requirement.specifier} is needed")
            wanting.append(f"'{requirement.name}{requirement.specifier}'")
    if faults:
        if not in_clone():  # the wheel that it came from may have no index behind it
            remedy = f"{sys.executable} -m pip install {' '.join(wanting)}"
        return Finding("Packages", "missing", "; ".join(faults), remedy)
    shown = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "jupyterlab", "ipywidgets")
    )
    return Finding("Packages", "ok", f"all {count} that are needed, among them {shown}")


def _kernel() -> Finding:
    version = importlib.metadata.version("ipykernel")
    if int(version.split(".")[0]) < 7:
        detail = f"{version}: a widget's button answers only when the running cell has ended"
        return Finding("ipykernel", "note", detail, f"{sys.executable} -m pip install 'ipykernel>=7'")
    return Finding("ipykernel", "ok", f"{version}, with subshells: a button can stop a cell that runs")


def _torch() -> Finding:
    import torch

    from lora_edu.models.device import default_device

    device = default_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else {"mps": "Apple GPU", "cpu": "CPU"}[device.type]
    return Finding("torch", "ok", f"{torch.__version__} on {name} ({device.type}), {torch.get_num_threads()} threads")


def _cache() -> Iterator[Finding]:
    from lora_edu.models.cache import DEFAULT_MODEL, cache_dir, is_complete

    folder = cache_dir() / "models" / DEFAULT_MODEL
    whole = is_complete(folder, every_byte=True)
    if whole:
        yield Finding("Model", "ok", f"{DEFAULT_MODEL} in {folder}")
    else:
        state = "damaged" if folder.exists() else "not fetched yet"
        yield Finding(
            "Model",
            "note",
            f"{DEFAULT_MODEL} is {state} (it belongs in {folder})",
            "lora-edu fetch (93 MB; or it is done at first use)",
        )
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < DISK_WANTED and not whole:
        remedy = "free some space, or set LORA_EDU_CACHE to a folder on another disk"
        yield Finding(
            "Disk", "missing", f"{free / GIB:.1f} GiB free at {existing}: {DISK_WANTED / GIB:.0f} GiB is needed", remedy
        )
    else:
        yield Finding("Disk", "ok", f"{free / GIB:.1f} GiB free at {existing}")


def speed() -> str:
    """Time fp32 against bf16 and one thread against all on a small step, and name what the trainer will use on this machine."""
    from lora_edu.models.device import fastest_settings

    settings = fastest_settings()
    lines = [f"{precision}, {threads} thread{'s' if threads > 1 else ''}" for precision, threads in settings.timings]
    rows = [
        f"  {line:<18}{milliseconds:8.1f} ms a step"
        for line, milliseconds in zip(lines, settings.timings.values(), strict=True)
    ]
    threads = f", {settings.threads} thread{'s' if settings.threads > 1 else ''}" if settings.device == "cpu" else ""
    return "\n".join([*rows, f"The trainer's choice here: {settings.precision}{threads} on {settings.device}."])
