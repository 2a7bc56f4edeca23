"""The command line as a user meets it: what it writes, what it says, and its exit codes. A tiny model in a folder stands in."""

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from command_line import ROWS, TRAIN, run, said, write_tiny_model
from safetensors.torch import load_file

from lora_edu import cli
from lora_edu.cli import COMMANDS, doctor
from lora_edu.cli.setup import lab_command
from lora_edu.errors import LoRAEduError
from lora_edu.models import load_base
from lora_edu.tasks import TASKS
from lora_edu.training import Trainer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return path


@pytest.fixture(scope="module")
def adapter(model, data, tmp_path_factory):
    """Trained from the command line, on settings from a file, one of which a flag overrules."""
    folder = tmp_path_factory.mktemp("run")
    settings = {
        "model": str(model),
        "data": str(data),
        "r": 2,
        "lora-alpha": "1e1",
        "target_modules": ["q_proj", "v_proj"],
        "max_steps": 40,
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    result = run(*TRAIN, "--config", folder / "settings.yaml", "--r", "3", "--out", folder / "out")
    assert result.exit_code == 0, result.output
    (folder / "said").write_text(said(result))
    return folder / "out"


def test_every_command_explains_itself_with_an_example():
    listed = said(run("--help"))
    for name in COMMANDS:
        assert name in listed
        shown = run(name, "--help")
        assert shown.exit_code == 0
        assert name in ("doctor",) or f"lora-edu {name}" in said(shown).split("Usage")[1]
    assert all(task in said(run("train", "--help")) for task in TASKS)


def test_a_flag_wins_over_the_file_and_the_run_keeps_both(adapter, model, data):
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (3, 10, ["q_proj", "v_proj"])
    kept = yaml.safe_load((adapter / "run.yaml").read_text())
    assert (adapter.parent / "said").read_text().count("16 rows to train on, 4 held out") == 1
    assert kept["r"] == 3 and kept["max_steps"] == 40 and kept["data"] == str(data)


def test_eval_measures_the_adapter_against_its_base(adapter, data, tmp_path):
    result = run("eval", "--data", data, "--adapter", adapter, "--against-base", "--out", tmp_path / "figures.json")
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["rows"] == 20
    assert figures["lowered_by"]["low"] > 0
    assert figures["base"]["value"] - figures["loss"]["value"] == pytest.approx(figures["lowered_by"]["value"])


def test_merge_writes_a_plain_model_that_answers_alike(adapter, model, tmp_path):
    from transformers import AutoModelForCausalLM

    from lora_edu.adapters import load

    result = run("merge", adapter, "--out", tmp_path / "merged")
    assert result.exit_code == 0, result.output
    ids = torch.arange(12)[None]
    merged, base = AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), load_base(model, device="cpu").model
    with torch.no_grad():
        plain = base(ids).logits
        adapted = load(base, adapter)(ids).logits
        assert not torch.allclose(adapted, plain, atol=1e-2)
        assert torch.allclose(merged(ids).logits, adapted, atol=1e-5)
    again = run("merge", adapter, "--out", tmp_path / "merged")
    assert again.exit_code == 1 and "nothing is overwritten" in said(again)


def test_chat_answers_and_its_dial_turns(adapter):
    question = "ping 3\n/new\n"
    script = f"{question}/scale 0\n{question}/scale x\n/what\n/scale 1\n{question}/quit\n"
    result = run("chat", "--adapter", adapter, "--max-new-tokens", 8, input=script)
    assert result.exit_code == 0, result.output
    prompts = result.output.split("you> ")
    answers = [prompts[1], prompts[4], prompts[9]]  # at scale 1, 0 and 1 again
    assert answers[0] == answers[2] != answers[1]
    assert "Give a number" in result.output and "Known are /scale" in result.output
    silent = run("chat", "--adapter", adapter, "--scale", 0, "--max-new-tokens", 8, input=question)  # ends by Ctrl-D
    assert silent.exit_code == 0 and silent.output.split("you> ")[1] == answers[1]


def test_ctrl_c_ends_with_130_and_resume_ends_where_the_whole_run_does(model, data, tmp_path, monkeypatch):
    settings = [*TRAIN, "--model", model, "--data", data, "--steps", "6"]
    assert run(*settings, "--out", tmp_path / "whole").exit_code == 0

    step = Trainer._train_step

    def interrupted(trainer):
        if trainer.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", interrupted)
        result = run(*settings, "--out", tmp_path / "two")
    assert result.exit_code == 130
    assert f"lora-edu train --resume {tmp_path / 'two'}" in said(result)
    assert not (tmp_path / "two" / "adapter_model.safetensors").exists()

    refused = run(*settings, "--out", tmp_path / "two")
    assert refused.exit_code == 1 and "holds a run already" in said(refused)
    assert run("train", "--resume", tmp_path / "two").exit_code == 0
    whole, resumed = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "two"))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("learning_rat: 1", "Did you mean learning_rate?"),
        ("- 1", "must hold settings"),
        ("r: [1", "not valid YAML"),
        ("r: {a: 1}", "single value"),
        ("r: many", "--r"),
    ],
)
def test_a_mistake_in_the_file_is_wrong_usage(content, words, tmp_path):
    (tmp_path / "settings.yaml").write_text(content)
    result = run("train", "--task", "kjv", "--config", tmp_path / "settings.yaml")
    assert result.exit_code == 2
    assert words in said(result) and "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train"], 2, "--task NAME or --data FILE"),
        (["train", "--task", "kjv", "--data", "x.csv"], 2, "one of the two"),
        (["train", "--resume", "nowhere"], 2, "holds no run"),
        (["train", "--task", "kyv"], 1, "kjv"),
        (["train", "--task", "identity:Ada"], 1, "key=value"),
        (["train", "--data", "nowhere.csv"], 1, "nowhere.csv"),
        (["train", "--task", "kjv", "--scheduler", "zigzag"], 1, "cosine, linear, constant"),
        (["eval", "--task", "kjv", "--against-base"], 2, "give --adapter too"),
        (["eval", "--task", "kjv", "--adapter", "nowhere"], 1, "nowhere does not exist"),
        (["merge", "nowhere", "--out", "x"], 1, "nowhere does not exist"),
        (["chat", "--model", "./nowhere"], 1, "There is no folder nowhere"),
        (["laws", "nowhere.py"], 1, "no file nowhere.py"),
        (["fetch", "everything"], 2, "everything"),
        (["sing"], 2, "sing"),
    ],
)
def test_a_mistake_gets_a_sentence_and_an_exit_code(arguments, code, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert words in said(result) and "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_tenth_is_held_out_where_nothing_is_said(model, data, tmp_path):
    result = run(
        "train", "--model", model, "--data", data, "--steps", 1, "--precision", "fp32", "--out", tmp_path / "out"
    )
    assert result.exit_code == 0, result.output
    assert "18 rows to train on, 2 held out" in said(result)


def test_too_few_rows_to_hold_some_out_is_said_before_the_model_loads(tmp_path):
    (tmp_path / "two.jsonl").write_text("\n".join(map(json.dumps, ROWS[:2])))
    result = run("train", "--data", tmp_path / "two.jsonl", "--valid-rows", 2, "--model", "./nowhere")
    assert result.exit_code == 1 and "2 rows, too few to hold out 2 of them (--valid-rows)" in said(result)


def test_debug_shows_where_it_came_from():
    with pytest.raises(LoRAEduError, match="There is no folder"):
        run("chat", "--model", "./nowhere", "--debug", catch_exceptions=False)


def test_laws_pass_the_modules_own_layer_and_fail_a_wrong_one(tmp_path):
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text("from lora_edu.adapters import LoRALinear\nclass Mine(LoRALinear): pass\n")
    wrong.write_text(
        "from lora_edu.adapters import LoRALinear\n"
        "class Mine(LoRALinear):\n    def forward(self, x): return super().forward(x) + 0.01\n"
    )
    assert run("laws", right).exit_code == 0
    result = run("laws", wrong)
    assert result.exit_code == 1 and "broken" in result.output


def test_doctor_says_what_is_missing_and_how_to_mend_it(monkeypatch):
    required = [*(importlib.metadata.requires("lora-edu") or []), "no-such-package>=1", "torch>=999"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: required)
    result = run("doctor")
    assert result.exit_code == 1
    assert (
        "✗ Packages" in result.output
        and "no-such-package is missing" in said(result)
        and ">=999 is needed" in said(result)
    )
    assert "-m pip install -e ." in said(result)


def test_doctor_tells_a_damaged_model_from_a_missing_one(monkeypatch, tmp_path):
    monkeypatch.setenv("LORA_EDU_CACHE", str(tmp_path))
    assert any(
        "not fetched yet" in finding.detail and "lora-edu fetch" in finding.remedy for finding in doctor.examine()
    )
    (tmp_path / "models" / "smollm2-135m").mkdir(parents=True)
    assert any("damaged" in finding.detail for finding in doctor.examine())


def test_doctor_names_the_choice_that_the_trainer_makes():
    from lora_edu.models import fastest_settings

    result = run("doctor")
    assert result.exit_code == 0, result.output
    assert f"choice here: {fastest_settings().precision}" in result.output


def test_lab_opens_the_first_page(monkeypatch):
    asked = []
    monkeypatch.setattr("lora_edu.course.notebooks.files.install_overrides", lambda: asked.append(True))
    command = lab_command(browser=False, port=8123)
    assert asked == [True]
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert {"--no-browser", "--port=8123"} <= set(command)
    root, page = (argument.split("=")[1] for argument in command[3:5])
    assert (Path(root) / page.removeprefix("/lab/tree/")).samefile(doctor.course_folder() / "00_start_here.ipynb")
    monkeypatch.setattr(doctor, "course_folder", lambda: None)
    with pytest.raises(LoRAEduError, match="clone"):
        lab_command(browser=False, port=None)


def test_the_demo_shows_that_all_three_answer_alike(model, tmp_path):
    result = run(
        "demo", "--model", model, "--task", "identity", "--limit", 2, "--steps", 4, "--out", tmp_path / "adapter"
    )
    assert result.exit_code == 0, result.output
    assert result.output.count("3 of 3") == 2
    reloaded, merged = re.findall(r"3 of 3\s+│\s+(\S+)\s+│", result.output)
    assert reloaded == "0" and float(merged) < 1e-4  # an adapter that was not put on differs by some 1e-3 here
    assert "baseline: copying" in result.output
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_the_module_is_the_command():
    shown = subprocess.run([sys.executable, "-m", "lora_edu", "--help"], capture_output=True, text=True, check=True)
    assert "doctor" in shown.stdout
    imported = "import sys, lora_edu.cli; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", imported], check=True)
    assert cli.main.__module__ == "lora_edu.cli"
