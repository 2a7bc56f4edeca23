"""`--bits 4`: the command line trains, measures, resumes and merges on a base in four bits, and says which base it was."""


import pytest
import torch
import yaml
from command_line import TRAIN, run, said
from safetensors import safe_open
from safetensors.torch import load_file

from lora_edu.adapters import load
from lora_edu.models import load_base
from lora_edu.models.quantized import Quantization, dequantize, quantization_of
from lora_edu.training.checkpoints import checkpoints

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def adapter(model, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    settings = ("--model", model, "--data", data, "--steps", 12, "--bits", 4, "--save-every", 4, "--r", 2)
    result = run(*TRAIN, *settings, "--out", out)
    assert result.exit_code == 0, result.output
    return out


def test_the_run_and_the_adapter_say_which_base_it_was(adapter):
    assert yaml.safe_load((adapter / "run.yaml").read_text())["bits"] == 4
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
        assert Quantization.from_json(file.metadata()["base_quantization"]) == Quantization()


def test_a_checkpoint_holds_the_adapter_and_not_the_base(adapter):
    kept = sorted((adapter / "checkpoints").glob("*/tensors.safetensors"))
    names = [name for file in kept for name in load_file(file)]
    assert names and not [name for name in names if "codes" in name or "absmax" in name]


def test_no_other_rounding_goes_on_with_a_run(adapter, tmp_path):
    import shutil

    folder = tmp_path / "dense"
    shutil.copytree(adapter, folder)
    settings = yaml.safe_load((folder / "run.yaml").read_text())
    (folder / "run.yaml").write_text(yaml.safe_dump(settings | {"bits": 16}))
    (folder / "adapter_config.json").unlink()
    result = run("train", "--resume", folder)
    assert result.exit_code != 0 and "frozen weights" in said(result)


def test_a_resumed_run_is_the_same_bit_for_bit(adapter, model, data, tmp_path):
    import shutil

    folder = tmp_path / "again"
    shutil.copytree(adapter, folder)
    (folder / "adapter_config.json").unlink()
    (folder / "adapter_model.safetensors").unlink()
    kept = sorted(checkpoints(folder / "checkpoints"), key=lambda each: each.name)
    assert len(kept) > 1, "or nothing would be trained again"
    shutil.rmtree(kept[-1])
    result = run("train", "--resume", folder)
    assert result.exit_code == 0, result.output
    ours, theirs = (load_file(each / "adapter_model.safetensors") for each in (folder, adapter))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_it_is_measured_on_the_base_it_was_trained_on_unless_told_otherwise(adapter, monkeypatch):
    seen = []
    from lora_edu.cli import measuring as command

    opened = command.opened
    monkeypatch.setattr(command, "opened", lambda *a: seen.append(opened(*a)) or seen[-1])
    for bits in ((), ("--bits", 16)):
        result = run("eval", adapter, *bits)
        assert result.exit_code == 0, result.output
    assert [quantization_of(each.model) for each in seen] == [Quantization(), None]
    assert "--bits is 4 or 16" in said(run("eval", adapter, "--bits", 3))


def test_a_merge_goes_into_the_dense_base_or_into_the_rounded_one(adapter, model, tmp_path):
    ids = torch.arange(1, 9)[None]
    for bits in (16, 4):
        out = tmp_path / str(bits)
        result = run("merge", adapter, "--out", out, "--bits", bits)
        assert result.exit_code == 0, result.output
        base = load_base(model, device="cpu", bits=4 if bits == 4 else None).model
        if bits == 4:
            dequantize(base)
        with torch.no_grad():
            want = load(base, adapter)(ids).logits
            assert torch.allclose(load_base(out, device="cpu").model(ids).logits, want, atol=1e-4)
