"""`lora-edu eval`: several adapters on the same rows, what was trained and how it is asked, the report, and every mistake in words."""

import json
import os
import shutil

import pytest
from command_line import ROWS, TRAIN, run, said
from conftest import make_tiny_llama
from report_pages import Page

from lora_edu.cli import measuring
from lora_edu.evaluation import holm
from lora_edu.models import load_base


@pytest.fixture(scope="module")
def runs(model, data, tmp_path_factory):
    """Two runs on the same rows that held out the same ones: one of three steps and one of twenty."""
    folder = tmp_path_factory.mktemp("runs")
    for name, steps in (("short", 3), ("long", 20)):
        out = folder / name
        result = run(*TRAIN, "--model", model, "--data", data, "--system", "ping", "--steps", steps, "--out", out)
        assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def measured(runs, tmp_path_factory):
    """Both of them against their base, with everything that can be written."""
    folder = tmp_path_factory.mktemp("measured")
    more = ["--against-base", "--general", "--limit", 3, "--max-length", 2000]
    places = ["--report", folder / "new" / "report.html", "--out", folder / "figures.json"]
    result = run("eval", runs / "short", runs / "long", *more, *places)
    assert result.exit_code == 0, result.output
    return (
        result,
        json.loads((folder / "figures.json").read_text()),
        (folder / "new" / "report.html").read_text("utf-8"),
    )


def test_several_adapters_and_the_base_on_the_same_rows(measured, runs):
    result, figures, _ = measured
    assert list(figures["models"]) == ["base", "short", "long"]
    losses = {name: each["scores"]["loss"]["value"] for name, each in figures["models"].items()}
    assert losses["long"] < losses["short"] < losses["base"]
    assert {gain["model"] for gain in figures["gains"]} == {"short", "long"} and figures["against"] == "base"
    for gain in figures["gains"]:
        if gain["metric"] == "loss":
            assert gain["value"] == pytest.approx(losses[gain["model"]] - losses["base"])
    assert [gain["holm"] for gain in figures["gains"]] == pytest.approx(holm([gain["p"] for gain in figures["gains"]]))
    assert "Gains over base, row by row" in said(result) and "loss (lower is better)" in said(result)


def test_forgetting_is_measured_against_the_base(measured):
    result, figures, page = measured
    assert set(figures["forgetting"]) == {"short", "long"} and figures["forgetting"]["long"]["nats"]["value"] != 0
    assert "What long forgot" in said(result) and "What long forgot" in page


def test_the_report_says_what_was_trained_and_shows_answers(measured, runs, model):
    read = Page(measured[2])
    assert read.open == []
    for words in (
        str(runs / "long"),
        str(model),
        "run: max_steps",
        "20",
        "16 different inputs",
        "All",
        "exact match",
        "ROUGE-L",
        "no model: copying",
    ):
        assert words in read.text, words
    assert not [tag for tag, _ in read.tags if tag in ("script", "img")]


def test_rows_are_asked_with_the_runs_own_system_message(measured, runs):
    """Trained with "ping" as the system message: measured so, unless another is given."""

    def loss(*more):
        result = run(
            "eval", runs / "long", "--data", runs / "long" / "held_out.jsonl", *more, "--out", runs / "figures.json"
        )
        assert result.exit_code == 0, result.output
        return json.loads((runs / "figures.json").read_text())["models"]["long"]["scores"]["loss"]["value"]

    plain = runs / "plain.jsonl"
    plain.write_text("\n".join(json.dumps(row) for row in ROWS[:3]))
    asked = [
        run("eval", runs / "long", "--data", plain, *more, "--out", runs / "f.json")
        and json.loads((runs / "f.json").read_text())
        for more in ([], ["--system", "ping"], ["--system", ""])
    ]
    losses = [each["models"]["long"]["scores"]["loss"]["value"] for each in asked]
    assert losses[0] == losses[1] != losses[2]
    assert loss() == loss("--system", ""), "rows that bring their own keep it"


def test_a_template_that_lies_beside_an_adapter_is_used(runs, tmp_path):
    """As other tools leave it there: another template, another prompt, another loss."""
    copy = tmp_path / "other"
    shutil.copytree(runs / "long", copy)
    out = tmp_path / "figures.json"

    def loss():
        result = run("eval", copy, "--out", out)
        assert result.exit_code == 0, result.output
        return json.loads(out.read_text())["models"]["other"]["scores"]["loss"]["value"]

    before = loss()
    template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
    (copy / "chat_template.jinja").write_text(template)
    after = loss()
    (copy / "chat_template.jinja").unlink()
    (copy / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    assert before != after == loss()
    (copy / "tokenizer_config.json").write_text("{")
    assert "mend or remove" in said(run("eval", copy))


def test_names_tell_folders_apart(runs, tmp_path):
    from pathlib import Path

    assert list(measuring.named([Path("a/x"), Path("b/y")])) == ["x", "y"]
    assert list(measuring.named([Path("a/checkpoint-10"), Path("b/checkpoint-10")])) == [
        "a/checkpoint-10",
        "b/checkpoint-10",
    ]
    assert list(measuring.named([Path("runs/base")])) == ["runs/base"], "base is the base's own name"
    assert measuring.named([]) == {}


def another_base(folder, model):
    """The same architecture in a folder of its own."""
    base = load_base(model)
    make_tiny_llama(vocab_size=base.model.config.vocab_size, tied=True).save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


def test_every_mistake_names_thing_and_remedy(runs, model, data, tmp_path):
    other = another_base(tmp_path / "base2", model)
    made = run(*TRAIN, "--model", other, "--data", data, "--steps", 1, "--valid-rows", 5, "--out", tmp_path / "other")
    assert made.exit_code == 0, made.output
    shutil.copytree(runs / "short", tmp_path / "spoken")
    settings = (tmp_path / "spoken" / "run.yaml").read_text().replace("system: ping", "system: pong")
    (tmp_path / "spoken" / "run.yaml").write_text(settings)
    empty, file = tmp_path / "empty.jsonl", tmp_path / "a_file"
    empty.write_text("")
    file.write_text("x")
    short, long = runs / "short", runs / "long"
    cases = [
        ([short, tmp_path / "other", "--data", data], 1, f"{short} is an adapter of {model}, {tmp_path / 'other'} of {other}: gains over one base"),
        ([short, runs / "nowhere", "--data", data], 1, "nowhere does not exist"),
        ([short, short], 2, "is named twice"),
        ([short, tmp_path / "spoken", "--data", data], 1, "different settings of system (short: 'ping', spoken: 'pong')"),
        ([short, "--data", empty], 1, "empty.jsonl"),
        ([short, "--report", tmp_path], 1, f"--report {tmp_path} is a folder"),
        ([short, "--report", file / "in" / "report.html"], 1, "is a file. Choose another --report"),
        ([short, "--adapter", long], 2, "two adapters are named"),
        (["--general", "--task", "kjv"], 2, "--general compares an adapter with its base"),
        ([short, "--data", tmp_path / "nowhere.csv"], 1, "nowhere.csv"),
    ]  # fmt: skip
    for arguments, code, words in cases:
        result = run("eval", *arguments)
        assert result.exit_code == code and words in said(result) and "Traceback" not in result.output, result.output
    (long / "held_out.jsonl").rename(tmp_path / "kept")
    try:
        assert "no rows in common" in said(run("eval", short, long))
        (long / "held_out.jsonl").write_text((tmp_path / "kept").read_text().splitlines()[0] + "\n")
        assert "held out different rows" in said(run("eval", short, long))
    finally:
        (tmp_path / "kept").replace(long / "held_out.jsonl")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_into_is_said_before_the_model_loads(tmp_path):
    tmp_path.chmod(0o500)
    result = run("eval", "--model", "./nowhere", "--task", "kjv", "--report", tmp_path / "report.html")
    tmp_path.chmod(0o700)
    assert result.exit_code == 1 and "choose another --report" in said(result)


def test_rows_that_one_of_them_was_trained_on_are_told(runs, data):
    with pytest.warns(UserWarning, match="16 of these 20 rows were trained on by short"):
        assert run("eval", runs / "short", runs / "long", "--data", data).exit_code == 0
