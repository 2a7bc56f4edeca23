"""`lora-edu export` as a user meets it: each way out, what is refused, and that nothing is half-written."""

import json

import pytest
import torch
from command_line import run, said, write_tiny_model
from helpers import randomise, tokens

from lora_edu.adapters import LoRAConfig, inject, load, merge, save
from lora_edu.errors import ExportError
from lora_edu.models import load_base
from lora_edu.serving import LlamaCpp, Passage, compared


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    write_tiny_model(folder / "model")
    for name, options in {"a": {"use_rslora": True}, "dora": {"variant": "dora"}}.items():
        model = load_base(folder / "model").model
        config = LoRAConfig(
            r=4, target_modules=("q_proj", "up_proj"), base_model_name_or_path=str(folder / "model"), **options
        )
        save(randomise(inject(model, config), std=0.1), folder / name)
    return folder


def adapted(place, name="a"):
    return load(load_base(place / "model").model, place / name)


PASSAGES = [Passage(list(range(3, 30))), Passage(list(range(100, 130)))]


def test_each_way_out_holds_the_same_model(place, tmp_path):
    model = adapted(place)
    for option, name in {"--portable": "p", "--merged": "m", "--gguf": "m.gguf", "--gguf-adapter": "a.gguf"}.items():
        result = run("export", place / "a", option, tmp_path / name)
        assert result.exit_code == 0, result.output
        assert f"Written to {tmp_path / name}" in said(result)
    assert json.loads((tmp_path / "p" / "adapter_config.json").read_text())["lora_alpha"] == 4
    assert torch.allclose(
        load(load_base(place / "model").model, tmp_path / "p")(tokens()).logits, model(tokens()).logits, atol=1e-5
    )
    assert torch.allclose(load_base(tmp_path / "m").model(tokens()).logits, model(tokens()).logits, atol=1e-5)
    assert run("export", "--model", place / "model", "--gguf", tmp_path / "base.gguf").exit_code == 0
    for path, adapters in ((tmp_path / "m.gguf", []), (tmp_path / "base.gguf", [(tmp_path / "a.gguf", 1.0)])):
        with LlamaCpp(path, adapters) as engine:
            assert compared(model, engine, PASSAGES).kl < 1e-6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "base.gguf", "m", "m.gguf", "p"]


def test_the_dial_is_merged_and_a_rounded_file_is_smaller_and_says_how_far_it_is(place, tmp_path):
    for dtype in ("f32", "f16"):
        result = run("export", place / "a", "--gguf", tmp_path / dtype, "--dtype", dtype, "--scale", 0.5)
        assert result.exit_code == 0 and "the same favourite" in said(result), result.output
    assert (tmp_path / "f16").stat().st_size < (tmp_path / "f32").stat().st_size
    from lora_edu.adapters import set_scale

    model = adapted(place)
    set_scale(model, 0.5)
    merge(model)
    with LlamaCpp(tmp_path / "f32") as engine:
        assert compared(model, engine, PASSAGES).kl < 1e-6


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["a"], 2, "name one of"),
        (["a", "--portable", "x", "--merged", "y"], 2, "name one of"),
        (["a", "--portable", "x", "--dtype", "f16"], 2, "of --gguf alone"),
        (["a", "--gguf-adapter", "x", "--scale", "0.5"], 2, "a dial of their own"),
        (["--portable", "x"], 2, "name an adapter"),
        (["a", "--gguf", "x", "--dtype", "q9"], 1, "q4_0"),
        (["dora", "--portable", "x"], 1, "--merged"),
        (["dora", "--gguf-adapter", "x"], 1, "magnitude"),
        (["nowhere", "--merged", "x"], 1, "nowhere does not exist"),
        (["a", "--portable", "dora"], 1, "--force"),
        (["a", "--gguf", "model", "--force"], 1, "no such export"),
        (["a", "--merged", "dora", "--force"], 1, "no such export"),
    ],
)
def test_what_cannot_be_ends_in_one_message_and_leaves_nothing(place, monkeypatch, arguments, code, words):
    monkeypatch.chdir(place)
    before = sorted(place.iterdir())
    result = run("export", *arguments)
    assert result.exit_code == code and words in said(result), result.output
    assert "Traceback" not in result.output and sorted(place.iterdir()) == before


@pytest.mark.parametrize("option", ["--portable", "--gguf-adapter", "--merged"])
def test_a_damaged_adapter_is_refused(place, tmp_path, option):
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in (place / "a").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / "adapter_model.safetensors"
    for content, words in ((weights.read_bytes()[:-40], "damaged"), (b"", "damaged")):
        weights.write_bytes(content)
        result = run("export", folder, option, tmp_path / "out")
        assert result.exit_code == 1 and words in said(result), result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged"]


def test_force_writes_over_its_like_and_a_failure_leaves_it(place, tmp_path, monkeypatch):
    for option, name in {"--portable": "p", "--gguf-adapter": "a.gguf"}.items():
        for force in ([], ["--force"]):
            assert run("export", place / "a", option, tmp_path / name, *force).exit_code == 0
        assert run("export", place / "a", option, tmp_path / name).exit_code == 1
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fails(*_, **__):
        raise ExportError("in the middle")

    monkeypatch.setattr("lora_edu.serving.gguf_adapter.write_tensors", fails)
    monkeypatch.setattr("lora_edu.serving.portable.write", fails)
    for option, name in {"--portable": "p", "--gguf-adapter": "a.gguf"}.items():
        assert "in the middle" in said(run("export", place / "a", option, tmp_path / name, "--force"))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_file_that_llama_cpp_reads_as_another_model_does_not_appear(place, tmp_path, monkeypatch):
    from lora_edu.serving import gguf_model

    right = gguf_model._stored
    wrong = {"token_embd.weight": 20.0}  # a scale that was lost, and no error from anyone
    monkeypatch.setattr(
        gguf_model, "_stored", lambda name, tensor, kind: right(name, tensor * wrong.get(name, 1.0), kind)
    )
    result = run("export", place / "a", "--gguf", tmp_path / "m.gguf")
    assert result.exit_code == 1 and "reads another model" in said(result), result.output
    assert not any(tmp_path.iterdir())
