"""The command line as a user meets it: what it writes, what it says, and its exit codes. A tiny model in a folder stands in."""

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields

import pytest
import torch
import typer
import yaml
from command_line import ROWS, TRAIN, run, said
from safetensors.torch import load_file

from lora_edu import __version__, cli
from lora_edu.adapters import LoRAConfig
from lora_edu.adapters.variants.dora import DoRA
from lora_edu.cli import COMMANDS, app, doctor
from lora_edu.cli.options import read
from lora_edu.cli.train import NO_FLAG
from lora_edu.errors import ConfigError, LoRAEduError
from lora_edu.models import load_base
from lora_edu.tasks import TASKS
from lora_edu.training import Trainer


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


def test_a_run_keeps_the_rows_it_held_out_and_eval_measures_on_them(adapter, data, tmp_path):
    held_out = [json.loads(line) for line in (adapter / "held_out.jsonl").read_text().splitlines()]
    questions = [row["messages"][-2]["content"] for row in held_out]
    assert len(held_out) == 4 and set(questions) < {row["instruction"] for row in ROWS}
    result = run("eval", adapter, "--against-base", "--out", tmp_path / "new" / "figures.json")
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "new" / "figures.json").read_text())
    base, ours = (figures["models"][name] for name in ("base", adapter.name))
    assert base["rows"] == ours["rows"] == 4 and figures["against"] == "base"
    gain = ours["scores"]["loss"]["value"] - base["scores"]["loss"]["value"]
    assert figures["gains"][0]["value"] == pytest.approx(gain) and gain < 0
    trained_on = [row for row in ROWS if row["instruction"] not in questions]
    assert len((adapter / "trained_on.txt").read_text().split()) == len(trained_on) == 16
    with pytest.warns(UserWarning, match="16 of these 20 rows were trained on"):
        assert run("eval", adapter, "--data", data).exit_code == 0


def test_eval_asks_as_the_run_did(model, tmp_path):
    """The system message and the length of the run hold where nothing else is said; both change what is measured."""
    rows = [{"instruction": f"ping {n}", "output": "pong " * 20} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    start = ["--data", tmp_path / "rows.jsonl", "--model", model, "--steps", 1, "--precision", "fp32"]
    assert run("train", *start, "--system", "ping", "--max-length", 600, "--out", tmp_path / "out").exit_code == 0
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps({"instruction": f"pong {n}", "output": "ping"}) for n in range(5)))

    def loss(*more):
        run("eval", tmp_path / "out", "--data", other, *more, "--out", tmp_path / "figures.json")
        return json.loads((tmp_path / "figures.json").read_text())["models"]["out"]["scores"]["loss"]["value"]

    as_trained, spoken, without = (loss(*more) for more in ([], ["--system", "ping"], ["--system", ""]))
    assert as_trained == spoken != without
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"instruction": "ping", "output": "pong" * 130}))
    assert run("eval", tmp_path / "out", "--data", long).exit_code == 0
    refused = run("eval", tmp_path / "out", "--data", long, "--max-length", 512)
    assert refused.exit_code == 1 and "512" in said(refused)


def test_eval_names_the_rows_that_the_model_cannot_read(model, tmp_path):
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(model)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=8, n_layer=1, n_head=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    rows = [{"instruction": "ping", "output": "pong " * times} for times in (1, 60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    refused = run("eval", "--model", tmp_path / "base", "--data", tmp_path / "rows.jsonl")
    assert refused.exit_code == 1, refused.output
    assert re.search(r"rows.jsonl, (row|line) 2: \d+ tokens, and the model knows 64 positions", said(refused))


def test_train_says_what_runs_and_what_to_do_next(adapter):
    words = (adapter.parent / "said").read_text()
    assert "Adapter: LoRA, r 3, α 10 (scale α/r), dropout 0, on q_proj,v_proj" in words
    assert "Run: 40 steps of 8 rows, learning rate 0.02 (cosine), weight decay 0, fp32, seed 0" in words
    assert f"Next: lora-edu eval {adapter} --against-base (the 4 rows held out" in words
    assert "So few steps" not in words


def test_rows_of_ones_own_are_repeated_until_something_can_be_learnt(model, data, tmp_path):
    result = run("train", "--model", model, "--data", data, "--precision", "fp32", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Run: 60 steps of 8 rows" in said(result)  # 18 rows are 3 steps an epoch
    few = run("train", "--model", model, "--data", data, "--steps", 1, "--precision", "fp32", "--out", tmp_path / "few")
    assert "So few steps teach little" in said(few) and "1 step in" in said(few)


def test_every_option_of_the_configurations_has_its_flag():
    """And each flag reaches its field."""
    options = {option.name: option for option in typer.main.get_command(app).commands["train"].params}
    for kind, left_out in NO_FLAG.items():
        for field in fields(kind):
            assert (field.name in options) == (field.name not in left_out), field.name
            if field.name in options:
                assert len(options[field.name].help) > 10
    given = {
        "exclude_modules": "lm_head,k_proj", "layers_to_transform": "0,2", "rank_pattern": "q_proj=4,v_proj=2", "use_rslora": True,
        "alpha_pattern": "q_proj=4.5", "modules_to_save": "lm_head", "init_lora_weights": "gaussian", "variant": "dora", "target_modules": "q_proj,v_proj",
        "lora_alpha": 3.0, "lora_dropout": 0.1, "r": 2, "task_type": "SEQ_CLS", "layers_pattern": "layers",
    }  # fmt: skip
    config = LoRAConfig(**read(LoRAConfig, given))
    assert config == LoRAConfig(
        r=2, lora_alpha=3.0, lora_dropout=0.1, target_modules=("q_proj", "v_proj"), exclude_modules=("lm_head", "k_proj"),
        layers_to_transform=(0, 2), rank_pattern={"q_proj": 4, "v_proj": 2}, alpha_pattern={"q_proj": 4.5}, use_rslora=True,
        modules_to_save=("lm_head",), init_lora_weights="gaussian", variant=DoRA(), task_type="SEQ_CLS", layers_pattern="layers",
    )  # fmt: skip
    assert set(given) == {field.name for field in fields(LoRAConfig)} - set(NO_FLAG[LoRAConfig])
    for name, text in (("rank_pattern", "q_proj"), ("rank_pattern", "q=x"), ("layers_to_transform", "one")):
        with pytest.raises(ConfigError, match=name.replace("_", "-")):
            read(LoRAConfig, {name: text})


def test_more_of_the_run_can_be_said_on_the_command_line(model, data, tmp_path):
    more = [
        "--keep-best",
        "--patience",
        3,
        "--eval-every",
        2,
        "--weight-decay",
        0.1,
        "--max-grad-norm",
        0.5,
        "--warmup-steps",
        2,
        "--variant",
        "dora",
    ]
    result = run(*TRAIN, "--model", model, "--data", data, "--steps", 4, *more, "--packing", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    kept = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())
    assert "Adapter: DoRA, r " in said(result) and kept["variant"] == "dora"
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["use_dora"] is True
    assert kept["keep_best"] is True and kept["patience"] == 3 and kept["packing"] is True and kept["warmup_steps"] == 2
    again = run("train", "--resume", tmp_path / "out")
    assert again.exit_code == 0 and "had ended already" in said(again) and "step in" not in said(again)


@pytest.mark.parametrize(
    "more",
    [("--variant", "eva"), ("--variant", "lora_ga", "-r", 2), ("--optimizer", "lorafa"), ("--variant", "adalora:target_r=2", "-r", 3)],
)  # fmt: skip
def test_starts_from_data_and_other_optimisers_have_their_flags(more, model, data, tmp_path):
    """The first rows are what a start looks at; a stopped and resumed run begins alike."""
    result = run(*TRAIN, "--model", model, "--data", data, "--steps", 3, *more, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    weighed = {key: t for key, t in tensors.items() if "lora_E" in key}  # of these a budget may leave a layer nothing
    assert all(bool(t.any()) for key, t in tensors.items() if key not in weighed)
    assert not weighed or any(bool(t.any()) for t in weighed.values())


def test_the_curves_go_to_tensorboard_where_it_is_asked_for(model, data, tmp_path, monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder, **_):
            written.append(folder)

        def add_scalar(self, name, value, step):
            written.append((name, step))

        def close(self):
            written.append("closed")

    monkeypatch.setattr("lora_edu.training.tensorboard._summary_writer", lambda: Writer)
    start = [*TRAIN, "--model", model, "--data", data, "--steps", 2, "--out", tmp_path / "out"]
    assert run(*start, "--tensorboard", tmp_path / "curves").exit_code == 0
    assert written[0] == str(tmp_path / "curves") and {("train/loss", 1), ("train/loss", 2)} <= set(written)
    assert written[-1] == "closed"


def test_a_file_may_say_lists_mappings_and_short_names(model, data, tmp_path):
    settings = {
        "lr": 0.01,
        "steps": 1,
        "layers_to_transform": [0],
        "target_modules": ["q_proj"],
        "rank_pattern": {"q_proj": 2},
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    start = ["train", "--model", model, "--data", data, "--precision", "fp32", "--out", tmp_path / "out"]
    result = run(*start, "--config", tmp_path / "settings.yaml")
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["layers_to_transform"] == [0] and config["rank_pattern"] == {"q_proj": 2}
    assert "learning rate 0.01" in said(result) and "1 step of" in said(result)


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
    answers = [prompts[n] for n in (1, 4, 9)]  # at scale 1, 0 and 1 again
    assert answers[0] == answers[2] != answers[1]
    assert answers[0].startswith("ping 3\n")  # what is piped in is shown
    assert "Give a number" in result.output and "Known are /scale" in result.output
    assert "The dial is at 0. A new talk begins." in result.output
    silent = run("chat", adapter, "--scale", 0, "--max-new-tokens", 8, input=question)  # ends by Ctrl-D
    assert silent.exit_code == 0 and silent.output.split("you> ")[1] == answers[1] and silent.output.endswith("\n")


def test_the_dial_acts_within_a_talk(adapter):
    """Without a new talk the model would go on from what it said at the other scale."""
    turned = run("chat", adapter, "--max-new-tokens", 8, input="ping 3\n/scale 0\nping 3\n").output.split("you> ")[3]
    alone = run("chat", adapter, "--scale", 0, "--max-new-tokens", 8, input="ping 3\n").output.split("you> ")[1]
    assert turned.strip() == alone.strip()


def test_temperature_draws_and_its_seed_repeats(adapter):
    def talk(*options):
        return run("chat", adapter, "--max-new-tokens", 12, *options, input="ping 3\n").output

    hot = ["--temperature", 5]
    assert talk(*hot) == talk(*hot) != talk()
    assert talk(*hot, "--seed", 1) != talk(*hot)


def test_a_file_of_questions_is_answered_as_chat_answers(adapter, tmp_path):
    (tmp_path / "questions.txt").write_text("ping 3\n\nping 4\n")
    start = ["answer", adapter, "--questions", tmp_path / "questions.txt", "--max-new-tokens", 8]
    result = run(*start, "--out", tmp_path / "answers.jsonl")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["ping 3", "ping 4"]
    spoken = run("chat", adapter, "--max-new-tokens", 8, input="ping 3\n").output.split("you> ")[1]
    assert rows[0]["completion"] in spoken and rows[0]["completion"]
    again = run(*start, "--out", tmp_path / "answers.jsonl")
    assert again.exit_code == 1 and "nothing is overwritten" in said(again)


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
    assert refused.exit_code == 1 and "holds an interrupted run" in said(refused)
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
        (["eval", "--task", "kjv", "--against-base"], 2, "name an adapter too"),
        (["eval"], 2, "give --task NAME or --data FILE"),
        (["eval", "one", "--adapter", "two", "--task", "kjv"], 2, "two adapters are named"),
        (["eval", "--data", "x.csv", "--split", "test"], 2, "--split belongs to --task"),
        (["eval", "--task", "kjv", "--split", "tst"], 2, "tst"),
        (["eval", "--task", "kjv", "--scale", "nan"], 2, "finite number"),
        (["merge", "--out", "x"], 2, "name an adapter"),
        (["train", "--task", "kjv", "--rank-pattern", "q_proj"], 1, "pattern=number"),
        (["answer", "--questions", "nowhere.txt", "--out", "x"], 1, "nowhere.txt cannot be read"),
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


def test_what_cannot_be_written_is_said_before_the_model_loads(data, tmp_path):
    (tmp_path / "file").write_text("")
    for arguments in (["train", "--data", data, "--out"], ["merge", "nowhere", "--out"]):
        result = run(
            *arguments, tmp_path / "file" / "out", *(["--model", "./nowhere"] if arguments[0] == "train" else [])
        )
        assert result.exit_code == 1 and "is a file" in said(result), result.output


def test_merge_gives_tied_weights_their_own_where_it_is_asked_to(model, data, tmp_path):
    start = ["train", "--model", model, "--data", data, "--steps", 2, "--lr", 0.02, "--precision", "fp32"]
    assert run(*start, "--targets", "embed_tokens,q_proj", "--out", tmp_path / "out").exit_code == 0
    refused = run("merge", tmp_path / "out", "--out", tmp_path / "merged")
    assert refused.exit_code == 1 and "untie" in said(refused) and not (tmp_path / "merged").exists()
    result = run("merge", tmp_path / "out", "--untie", "--out", tmp_path / "merged")
    assert result.exit_code == 0, result.output
    tied, own = (
        sum(p.numel() for p in load_base(folder).model.parameters()) for folder in (model, tmp_path / "merged")
    )
    assert own > tied


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
    assert f"lora-edu chat {tmp_path / 'adapter'}" in said(result)


def test_the_module_is_the_command():
    shown = subprocess.run([sys.executable, "-m", "lora_edu", "--help"], capture_output=True, text=True, check=True)
    assert "doctor" in shown.stdout
    assert said(run("--version")) == f"lora-edu {__version__}"
    imported = "import sys, lora_edu.cli; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", imported], check=True)
    assert cli.main.__module__ == "lora_edu.cli"
