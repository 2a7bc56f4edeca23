"""`lora-edu advise` and `lora-edu train --advise`: what is advised is trained, kept, and overruled by a flag."""

import json

import pytest
import yaml
from command_line import run, said

ASK = ("advise", "--task", "iso_dates", "--memory", "8 GB")


def test_it_says_why_and_how_to_train_so():
    result = run(*ASK)
    assert result.exit_code == 0, result.output
    for word in (
        "rank: 8",
        "why:",
        "evidence:",
        "how sure: Measured here",
        "for a 7B:",
        "lora-edu train --task iso_dates --advise",
    ):
        assert word in said(result), word


def test_as_json_it_is_what_the_module_says():
    from lora_edu.experiments import advise
    from lora_edu.tasks import get_task

    task = get_task("iso_dates")
    found = json.loads(run(*ASK, "--rows", 50, "--json").output)
    assert found == json.loads(json.dumps(advise("smollm2-135m", task, "8 GB", 50).to_dict()))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--model", "llama-2-7b", "--memory", "8 GB"), "too little"),
        (("--memory", "much"), "write bytes"),
        (("--model", "nobody", "--memory", "8 GB"), "No shape is called"),
    ],
)
def test_what_cannot_be_ends_in_one_sentence(arguments, message):
    result = run("advise", *arguments)
    assert result.exit_code == 1 and message in said(result) and "Traceback" not in result.output


def test_a_run_takes_the_advice_keeps_it_and_a_flag_wins(model, data, tmp_path):
    start = ("train", "--data", data, "--model", model, "--precision", "fp32", "--advise")
    result = run(*start, "--steps", 2, "--lr", 0.5, "--batch-size", 3, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "how sure:" in said(result) and "learning rate 0.5" in said(result) and "2 steps" in said(result)
    kept = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())
    assert (
        kept["warmup_ratio"] == 0.05
        and kept["learning_rate"] == 0.5
        and not {"advise", "epochs", "gradient_accumulation_steps"} & set(kept)
    )
    again = run("train", "--config", tmp_path / "out" / "run.yaml", "--out", tmp_path / "again")
    assert again.exit_code == 0 and "how sure" not in said(again)  # what was advised is in the file


def test_passes_are_advised_where_no_length_is_given(model, data, tmp_path):
    start = ("train", "--data", data, "--model", model, "--precision", "fp32", "--advise", "--valid-rows", 4)
    result = run(*start, "--warmup-steps", 2, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    kept = yaml.safe_load((tmp_path / "run.yaml").read_text())
    assert kept["epochs"] == 20 and "warmup_ratio" not in kept  # 20 passes are the most that is advised
