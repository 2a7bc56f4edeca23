"""The files that set a machine up agree with one another, and the README tells the truth."""

import json
import os
import re
import subprocess
import tomllib
from importlib import metadata

import pytest
import torch
import yaml
from conftest import make_tiny_llama
from helpers import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tiny_package import vocabulary, write_gguf

from lora_edu.adapters import load, merge
from lora_edu.course.chapters import CHAPTERS
from lora_edu.errors import MergeError
from lora_edu.models import Base

CONDA = {"pytorch": "torch", "matplotlib-base": "matplotlib"}  # conda-forge's name: the package index's
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()


def requirements(lines) -> dict[str, Requirement]:
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def asked_for() -> list[str]:
    """What the project and its extras ask for. An extra may name the project itself, with another extra: that brings nothing new."""
    listed = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [line for lines in listed for line in lines if not line.startswith("lora-edu[")]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().split()
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_conda_and_pip_ask_for_the_same():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    names = [line for line in listed if isinstance(line, str)]
    renamed = [re.sub(r"^[\w.-]+", lambda m: CONDA.get(m.group(), m.group()), line) for line in names]
    conda = {name: str(r.specifier) for name, r in requirements(renamed).items()}
    assert conda.pop("python") == PROJECT["requires-python"]
    assert conda.pop("pip") == ""
    assert conda == {name: str(r.specifier) for name, r in requirements(PROJECT["dependencies"]).items()}
    assert [line for line in listed if isinstance(line, dict)] == [{"pip": ["-e .[course]"]}]


def test_every_dependency_is_a_range_with_a_pin_inside_it():
    pinned = pins()
    everything = requirements(asked_for())
    for name, requirement in everything.items():
        assert not any(s.operator in ("==", "~=", "<", "<=") for s in requirement.specifier), f"{name} is not a range"
        assert name in pinned, f"{name} has no exact version in constraints.txt"
        assert requirement.specifier.contains(pinned[name]), (
            f"{name}: {pinned[name]} is outside {requirement.specifier}"
        )


def test_what_the_dependencies_bring_is_pinned_too():
    """Followed through what is installed here: a package without a pin would be another one next month."""
    pinned, seen = pins(), set()
    waiting = [Requirement(line) for line in asked_for()]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # an optional extra of something, or for another system
            continue
        seen.add(name)
        waiting += map(Requirement, distribution.requires or [])
    assert len(seen) > 100
    assert not seen - pinned.keys() - {"setuptools", "pip", "wheel"}


def test_make_names_what_the_readme_promises():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    promised = set(re.findall(r"\bmake ([a-z]+)\b", README)) - {"and"}
    assert {"lab", "test", "demo", "check", "fresh"} <= promised <= targets
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_users_ci_runs_what_the_readme_says():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    everything, elsewhere = workflow["jobs"]["everything"], workflow["jobs"]["elsewhere"]
    assert any(step.get("run", "").startswith("make test") for step in everything["steps"])
    machines = {(entry["os"], entry["python"]) for entry in elsewhere["strategy"]["matrix"]["include"]}
    assert {(system, "3.11") for system in ("macos-latest", "windows-latest")} < machines
    commands = "\n".join(step.get("run", "") for step in elsewhere["steps"])
    pages = re.findall(r"notebooks/\S+\.ipynb", commands)
    assert len(pages) == 2 and all((ROOT / page).is_file() for page in pages)
    assert "not browser and not slow" in commands and "--nbval-sanitize-with nbval_sanitize.cfg" in commands
    assert "python -m lora_edu fetch" in commands and "*not tested*" in README


@pytest.mark.parametrize("target", ["check", "test"])
def test_a_failing_step_fails_the_target(target, tmp_path):
    """`make` with tools that all fail: the exit code must not get lost on the way."""
    binaries = tmp_path / "venv" / "bin"
    binaries.mkdir(parents=True)
    for name in ("python", "ruff", "mypy", "lora-edu"):
        (binaries / name).write_text("#!/bin/sh\nexit 1\n")
        (binaries / name).chmod(0o755)
    for stamp in ("installed", "fetched"):
        (tmp_path / "venv" / stamp).touch()
    result = subprocess.run(["make", target, f"VENV={tmp_path / 'venv'}"], cwd=ROOT, capture_output=True)
    assert result.returncode != 0


def test_an_old_python_is_refused_with_a_remedy(tmp_path):
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    result = subprocess.run(
        ["make", "check", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode != 0
    assert "Python 3.11 or newer is needed" in result.stdout and "make PYTHON=python3.12 check" in result.stdout
    assert not (tmp_path / "venv").exists()


# --- the README


def test_the_table_of_chapters_is_that_of_the_course():
    rows = re.findall(
        r"^\|[^|]*\| (?:\[)?(\d\d) ([^|\]]+?)(?:\]\((\S+)\))? \|[^|]+\| ([^|]+) \|$", README, re.MULTILINE
    )
    assert {number: title for number, title, _, _ in rows} == CHAPTERS
    for number, _, link, minutes in rows:
        notebooks = list((ROOT / "notebooks").glob(f"{number}_*.ipynb"))
        assert (minutes == "*to come*") == (not notebooks), f"chapter {number}: the README says {minutes!r}"
        if notebooks:
            assert ROOT / link == notebooks[0]
            stated = re.search(r"\*\*Minutes:\*\* (\d+)", notebooks[0].read_text())
            assert stated is None or minutes.startswith(stated[1]), f"chapter {number} says {stated[1]} minutes"


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "AGENTS.md", "LICENSE-TEXT.md"])
def test_links_lead_somewhere(page):
    text = re.sub(r"<!--.*?-->", "", (ROOT / page).read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), (
            f"{page} links to {target}, which is not there"
        )


def test_the_readmes_snippet_runs(tmp_path, monkeypatch):
    """As it stands, but for the model, which is tiny here. What it saved, put on a fresh base, must equal what it merged."""
    from transformers import AutoTokenizer

    [snippet] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    llama = dict(vocab_size=len(vocabulary()), tied=True, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    write_gguf(make_tiny_llama(**llama), tmp_path / "tiny.gguf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, gguf_file="tiny.gguf")
    rows = [{"instruction": f"ping {n}", "output": f"pong {n}"} for n in range(16)]
    (tmp_path / "my_rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = []
    monkeypatch.setattr(
        "lora_edu.load_base", lambda name: asked.append(name) or Base(make_tiny_llama(**llama), tokenizer)
    )
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(snippet, "README.md", "exec"), names)
    assert asked == ["smollm2-135m"]
    assert names["history"].losses[-1] < names["history"].losses[0]
    ids, fresh = torch.arange(12)[None], make_tiny_llama(**llama)
    with torch.no_grad():
        plain = fresh(ids).logits
        adapted = load(fresh, tmp_path / "my_adapter")(ids).logits
        assert not torch.allclose(adapted, plain, atol=1e-4)
        assert torch.allclose(names["model"](ids).logits, adapted, atol=1e-5)
    with pytest.raises(MergeError, match="merged already"):
        merge(names["model"])
