"""`lora-edu train --method …`: every neighbour of LoRA from training to an answer, on the command line."""

import json

import pytest
from command_line import TRAIN, run, said

from lora_edu.adapters import Bottleneck, PromptTuning
from lora_edu.adapters.neighbours.known import METHODS, named
from lora_edu.errors import ConfigError

METHOD = {
    "ia3": "ia3",
    "prefix": "prefix:num_virtual_tokens=3",
    "prompt": "prompt:num_virtual_tokens=3,start_from=normal",
    "bottleneck": "bottleneck:m=2,place=pfeiffer",
    "bitfit": "bitfit:norms=true",
    "full": "full",
}


@pytest.mark.parametrize("method", METHOD)
def test_train_eval_and_chat(method, model, data, tmp_path):
    out = tmp_path / "out"
    result = run(*TRAIN, "--model", model, "--data", data, "--method", METHOD[method], "--steps", "6", "--out", out)
    assert result.exit_code == 0, result.output
    assert f"Method: {METHODS[method].__name__}(" in said(result)
    result = run("eval", out, "--against-base", "--out", tmp_path / "figures.json")
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["gains"][0]["model"] == "out" and figures["gains"][0]["value"] != 0
    result = run("chat", out, "--max-new-tokens", "2", input="ping 1\n/scale 0.5\n/quit\n")
    assert result.exit_code == 0, result.output
    dial = method in ("ia3", "bottleneck")
    assert ("The dial is at 0.5" in said(result)) == dial and (
        "no dial" in said(result) or "no base left" in said(result)
    ) != dial


def test_a_method_in_words():
    assert named("prompt:num_virtual_tokens=2") == PromptTuning(2)
    assert named(" bottleneck:m=4, place=pfeiffer ") == Bottleneck(4, "pfeiffer")
    for wrong in (
        "adapter",
        "prefix:tokens=3",
        "prefix:num_virtual_tokens",
        "prefix:num_virtual_tokens=three",
        "full:norms=true",
    ):
        with pytest.raises(ConfigError):
            named(wrong)


def test_what_belongs_to_lora_is_refused_beside_another_method(model, data, tmp_path):
    train = (*TRAIN, "--model", model, "--data", data, "--out", tmp_path / "out")
    for more, words in [
        (("--method", "ia3", "-r", "4"), "--r: of LoRA"),
        (("--method", "prefix", "--packing"), "--packing"),
        (("--method", "prefix", "--advise"), "--advise"),
        (("--method", "bitfit"), "norms=True"),
        (("--method", "lorra"), "there are lora, ia3"),
    ]:
        result = run(*train, *more)
        assert result.exit_code == 1 and words in said(result)
