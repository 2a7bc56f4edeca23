"""The files for services that run notebooks: they name what is there, and the badges can be given an address."""

import ast
import json
import os
import re
import sys
from pathlib import Path

import pytest
import yaml
from helpers import ROOT
from IPython.core.inputtransformer2 import TransformerManager

sys.path.insert(0, str(ROOT / "hosted"))
import badges

README = (ROOT / "README.md").read_text("utf-8")
OPTIONS = re.compile(r"--[a-z][\w-]*")


def test_each_badge_is_shown_once_and_leads_to_a_file_or_to_a_service():
    for picture, (file, address) in badges.BADGES.items():
        [target] = re.findall(rf"\({re.escape(picture)}\)\]\(([^)]+)\)", README)
        assert (ROOT / picture).is_file() and (ROOT / file).is_file()
        assert target == file or re.fullmatch(re.escape(address).replace(r"\{\}", r"[\w.-]+/[\w.-]+"), target)


def test_an_address_turns_the_badges_into_links_and_may_change():
    once = badges.addressed(README, "some-one/some.thing")
    assert "](https://codespaces.new/some-one/some.thing)" in once and once.count("some-one/some.thing") == 3
    twice = badges.addressed(once, "a/b")
    assert (
        "some-one" not in twice
        and "mybinder.org/v2/gh/a/b/HEAD?urlpath=lab/tree/my_notebooks/00_start_here.ipynb" in twice
    )
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    for repository in ("some-one/some.thing", "a/b"):
        citation = badges.cited(citation, repository)
        assert yaml.safe_load(citation)["repository-code"] == f"https://github.com/{repository}"
    with pytest.raises(ValueError, match="OWNER/NAME"):
        badges.addressed(README, "https://github.com/a/b")
    with pytest.raises(ValueError, match="0 times"):
        badges.addressed("# no badges", "a/b")


def test_the_commands_of_codespaces_are_there():
    settings = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    makefile = (ROOT / "Makefile").read_text()
    [target] = re.findall(r"make (\w+) (?=TORCH_INDEX=)", settings["postCreateCommand"])
    assert re.search(rf"^{target}:", makefile, re.MULTILINE) and "TORCH_INDEX ?=" in makefile
    opened = settings["customizations"]["codespaces"]["openFiles"]
    assert [(ROOT / "notebooks" / Path(page).name).is_file() for page in opened] == [True]


def test_the_files_of_binder_are_there():
    lines = (ROOT / "binder" / "requirements.txt").read_text().splitlines()
    [constraints] = [line.removeprefix("-c ") for line in lines if line.startswith("-c ")]
    assert (
        ROOT / "binder" / constraints
    ).is_file() and "-e .[course]" in lines  # pip takes the first from this file, the second from the clone
    assert os.access(ROOT / "binder" / "postBuild", os.X_OK)


def test_every_option_that_these_files_use_is_one():
    from command_line import run, said

    text = (
        (ROOT / "binder" / "postBuild").read_text()
        + (ROOT / ".devcontainer" / "devcontainer.json").read_text()
        + (ROOT / "hosted" / "colab.ipynb").read_text()
    )
    calls = re.findall(r"lora-edu (lab|fetch)([^&\n]*)", text)
    assert len(calls) >= 3
    for command, rest in calls:
        assert set(OPTIONS.findall(rest)) <= set(OPTIONS.findall(said(run(command, "--help")))), (command, rest)


def test_the_page_for_colab_is_python():
    notebook = json.loads((ROOT / "hosted" / "colab.ipynb").read_text("utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            ast.parse(TransformerManager().transform_cell("".join(cell["source"])))
            assert not cell["outputs"]
