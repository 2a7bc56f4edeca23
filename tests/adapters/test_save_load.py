"""Laws 6 and 7: what is saved loads bit for bit, and what does not fit is refused whole. PEFT itself is in test_parity.py."""

import json
import warnings

import pytest
import torch
from conftest import make_tiny_llama
from helpers import randomise, tokens
from safetensors.torch import load_file, save_file

from lora_edu.adapters import (
    LoRAConfig,
    adapter_names,
    adapter_parameters,
    audit,
    fingerprint,
    inject,
    load,
    merge,
    save,
    set_adapter,
)
from lora_edu.adapters.save_load import CONFIG, WEIGHTS, read
from lora_edu.errors import CheckpointError

EVERYTHING = LoRAConfig(
    r=3, target_modules=["q_proj", "down_proj", "embed_tokens"], modules_to_save=["lm_head"], rank_pattern={"q_proj": 2}
)


@pytest.mark.parametrize(
    "config", [LoRAConfig(r=2), EVERYTHING, LoRAConfig(r=2, use_rslora=True, layers_to_transform=[1])]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_law_6_save_then_load_gives_the_same_output_bit_for_bit(tmp_path, config, dtype):
    model = randomise(inject(make_tiny_llama(dtype=dtype), config))
    expected = model(tokens()).logits
    folder = save(model, tmp_path / "adapter")
    fresh = make_tiny_llama(dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the same base: no fingerprint warning
        load(fresh, folder)
    assert torch.equal(fresh(tokens()).logits, expected)
    assert not audit(fresh).names  # loaded to be used; trainable=True to go on


def test_a_loaded_adapter_goes_on_training_when_asked(tmp_path):
    save(randomise(inject(make_tiny_llama(), LoRAConfig(r=2))), tmp_path)
    assert audit(load(make_tiny_llama(), tmp_path, trainable=True)).trainable == 1392 * 2 // 3


def test_named_adapters_go_to_folders_of_their_own_and_switch_without_the_disk(tmp_path):
    model = make_tiny_llama()
    outputs = {}
    for i, name in enumerate(("a", "b")):
        randomise(inject(model, LoRAConfig(r=2 + i), name), name, seed=i)
        outputs[name] = model(tokens()).logits
        assert save(model, tmp_path, name) == tmp_path / name
    fresh = make_tiny_llama()
    for name in outputs:
        load(fresh, tmp_path / name, name)
    for file in tmp_path.rglob("*.*"):
        file.unlink()
    for name, output in outputs.items():
        set_adapter(fresh, name)
        assert torch.equal(fresh(tokens()).logits, output)


def test_all_linear_is_written_out_as_suffixes_and_layer_choices_as_paths(tmp_path):
    save(inject(make_tiny_llama(), LoRAConfig(r=2)), tmp_path)
    written = json.loads((tmp_path / CONFIG).read_text())
    assert written["target_modules"] == sorted(f"{m}_proj" for m in ("q", "k", "v", "o", "gate", "up", "down"))
    save(inject(make_tiny_llama(), LoRAConfig(r=2, layers_to_transform=[1])), tmp_path)
    written = json.loads((tmp_path / CONFIG).read_text())
    assert len(written["target_modules"]) == 7 and all(".1." in n for n in written["target_modules"])


def test_saving_while_merged_writes_the_same_factors_and_the_same_base(tmp_path):
    model = randomise(inject(make_tiny_llama(), LoRAConfig(r=2)))
    save(model, tmp_path / "one")
    merge(model)
    save(model, tmp_path / "two")
    (_, one, metadata), (_, two, metadata_merged) = read(tmp_path / "one"), read(tmp_path / "two")
    assert metadata == metadata_merged and one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_fingerprint_tells_bases_apart_and_ignores_adapters():
    plain, other = make_tiny_llama(), make_tiny_llama(seed=1)
    before = fingerprint(plain)
    assert before == fingerprint(make_tiny_llama()) != fingerprint(other)
    assert fingerprint(randomise(inject(plain, EVERYTHING))) == before


def test_another_base_of_the_same_shape_is_noticed(tmp_path):
    save(randomise(inject(make_tiny_llama(), LoRAConfig(r=2))), tmp_path)
    with pytest.warns(UserWarning, match="trained on a base with other weights"):
        load(make_tiny_llama(seed=1), tmp_path)


KEY = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"


def damage(folder, fault):
    tensors = load_file(folder / WEIGHTS)
    if fault == "missing":
        del tensors[KEY]
    elif fault == "unexpected":
        tensors["base_model.model.stranger.lora_A.weight"] = torch.zeros(1)
    elif fault == "shape":
        tensors[KEY] = torch.zeros(16, 9)
    elif fault == "nan":
        tensors[KEY][0, 0] = float("nan")
    elif fault == "prefix":  # PEFT only warns here, and does nothing
        tensors = {k.removeprefix("base_model.model."): v for k, v in tensors.items()}
    elif fault == "base weight":
        tensors["base_model.model.model.embed_tokens.weight"] = torch.zeros(32, 16)
    save_file(tensors, folder / WEIGHTS)
    if fault == "truncated":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    elif fault == "no weights":
        (folder / WEIGHTS).unlink()
    elif fault == "pickle":
        (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    elif fault == "json":
        (folder / CONFIG).write_text("{")
    elif fault == "other arithmetic":
        (folder / CONFIG).write_text(json.dumps({"use_bdlora": True}))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing", "missing: .*layers.1.mlp.down_proj.lora_B"),
        ("unexpected", "unexpected: .*stranger"),
        ("shape", r"down_proj.lora_B.weight has shape \(16, 9\), this model needs \(16, 2\)"),
        ("nan", "down_proj.lora_B.weight holds values that are not finite"),
        ("prefix", "missing: base_model.model"),
        ("base weight", "embed_tokens.weight is a weight of the base, and differs"),
        ("truncated", "damaged"),
        ("no weights", "no adapter_model.safetensors"),
        ("pickle", "pickle"),
        ("json", "adapter_config.json"),
        ("other arithmetic", "use_bdlora"),
    ],
)
def test_law_7_a_file_that_does_not_fit_is_refused_and_nothing_is_half_loaded(tmp_path, fault, words):
    save(randomise(inject(make_tiny_llama(), LoRAConfig(r=2))), tmp_path)
    damage(tmp_path, fault)
    model = randomise(inject(make_tiny_llama(), LoRAConfig(r=2, target_modules=["q_proj"]), "mine"), "mine")
    before, names, trains = model(tokens()).logits, list(model.state_dict()), audit(model).names
    with pytest.raises(CheckpointError, match=words):
        load(model, tmp_path)
    assert list(model.state_dict()) == names and audit(model).names == trains and adapter_names(model) == ["mine"]
    assert torch.equal(model(tokens()).logits, before)


def test_numbers_whose_squares_overflow_are_finite_all_the_same(tmp_path):
    model = randomise(inject(make_tiny_llama(), LoRAConfig(r=2)))
    next(iter(adapter_parameters(model).values())).data.fill_(1e30)
    loaded = load(make_tiny_llama(), save(model, tmp_path))
    for name, parameter in adapter_parameters(model).items():
        assert torch.equal(adapter_parameters(loaded)[name], parameter)


def test_an_adapter_for_another_model_is_refused(tmp_path):
    save(randomise(inject(make_tiny_llama(hidden_size=32), LoRAConfig(r=2))), tmp_path)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        load(make_tiny_llama(), tmp_path)


def test_saving_what_is_not_there_or_onto_a_file_is_refused(tmp_path, tiny_llama):
    inject(tiny_llama, LoRAConfig(r=2))
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        save(tiny_llama, tmp_path / "file")
    with pytest.raises(CheckpointError, match="no adapter 'b'"):
        save(tiny_llama, tmp_path, "b")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    model = randomise(inject(make_tiny_llama(), LoRAConfig(r=2)))
    save(model, tmp_path)
    before = (tmp_path / WEIGHTS).read_bytes()

    def disk_full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("lora_edu.adapters.folder.save_file", disk_full)
    with pytest.raises(OSError, match="no space"):
        save(model, tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == before and {p.name for p in tmp_path.iterdir()} == {WEIGHTS, CONFIG}
