"""Any variant becomes plain LoRA: exactly where it has a low rank, and the nearest of its rank otherwise."""

import json

import peft
import pytest
import torch
from conftest import make_tiny_llama
from helpers import tokens
from variant_pairs import LAYERS, batch, fill, net, outputs

from lora_edu.adapters import (
    LoRAConfig,
    audit,
    combine,
    convert,
    inject,
    load,
    lora_layers,
    merge,
    overlap,
    resize,
    save,
)
from lora_edu.adapters.finding import state_of
from lora_edu.adapters.variants.pissa import PiSSA
from lora_edu.errors import AdapterError, ConfigError, MergeError

THIN = {"pissa": 6, "olora": 6}  # of r = 3


def made(variant, **more):
    model = inject(net(), LoRAConfig(**{"r": 3, "lora_alpha": 8, "target_modules": LAYERS, "variant": variant} | more))
    fill(model)
    return model


def deltas(model):
    return {path: layer.oriented(layer.delta_weight("default")).detach() for path, layer in lora_layers(model).items()}


@pytest.mark.parametrize("variant", THIN)
def test_a_thin_update_stays_what_it_was_without_being_built(variant, tmp_path, monkeypatch):
    model = made(variant)
    before, [said] = deltas(model), outputs(model)
    kind = type(state_of(model).configs["default"].variant)
    monkeypatch.setattr(kind, "delta", lambda *_: pytest.fail("ΔW was built"))
    report = convert(model)
    assert report.energy == 1 and set(report.ranks.values()) == {THIN[variant]}
    assert state_of(model).configs["default"].variant is None and not lora_layers(model)["first"].variants
    torch.testing.assert_close(outputs(model)[0], said, rtol=0, atol=1e-12)
    for path, delta in deltas(model).items():
        torch.testing.assert_close(delta, before[path], rtol=0, atol=1e-12)
    assert all(name.split(".lora_")[1] in ("A.default", "B.default") for name in audit(model).names)
    cut = convert(model, 2)
    assert set(cut.ranks.values()) == {2} and cut.energy < 1
    theirs = peft.PeftModel.from_pretrained(net(), save(model, tmp_path)).double().eval()
    torch.testing.assert_close(*outputs(theirs, model), rtol=0, atol=1e-9)


@pytest.mark.parametrize("variant", ["dora", *THIN])
@pytest.mark.parametrize("how", [{"rank": 2}, {"rank": 6}, {"energy": 0.9}, {"energy": 1.0}])
def test_the_cut_is_the_nearest_of_its_rank(variant, how):
    model = made(variant, use_rslora=True, rank_pattern={"middle": 2})
    before, s = deltas(model), {path: layer.scalings["default"] for path, layer in lora_layers(model).items()}
    report = convert(model, **how)
    for path, delta in deltas(model).items():
        S = torch.linalg.svdvals(before[path])
        k = report.ranks[path]
        assert len(lora_layers(model)[path].A) == k
        torch.testing.assert_close((before[path] - delta).norm(), S[k:].square().sum().sqrt(), rtol=1e-6, atol=1e-10)
        assert report.layers[path].energy == pytest.approx(float(S[:k].square().sum() / S.square().sum()), abs=1e-9)
        assert lora_layers(model)[path].scalings["default"] == pytest.approx(s[path])
    if "rank" in how:
        assert set(report.ranks.values()) == {how["rank"]}
    else:
        assert report.energy >= how["energy"] - 1e-12


def test_more_than_there_is_gives_silent_directions_that_learn():
    model = inject(net(), LoRAConfig(r=2, target_modules=LAYERS, variant="pissa"))
    fill(model)
    [said] = outputs(model)
    convert(model, 6)
    torch.testing.assert_close(outputs(model)[0], said, rtol=0, atol=1e-12)
    x, wanted = batch(0)
    (model(x) - wanted).square().mean().backward()
    assert all(bool(layer.B.grad[:, -1].any()) for layer in lora_layers(model).values())


def test_what_cannot_be_is_refused_and_nothing_has_changed():
    model = made("dora")
    [said] = outputs(model)
    with pytest.raises(AdapterError, match=r"DoRA has full rank.*give a rank or an energy"):
        convert(model)
    with pytest.raises(ConfigError, match="above 7"):
        convert(model, 8)
    with pytest.raises(ConfigError, match="share"):
        convert(model, energy=2.0)
    with pytest.raises(AdapterError, match="no adapter"):
        convert(model, 2, adapter="other")
    merge(model)
    with pytest.raises(MergeError):
        convert(model, 2)
    from lora_edu.adapters import unmerge

    unmerge(model)
    assert torch.equal(outputs(model)[0], said)


def test_plain_lora_is_resized_or_left_alone():
    model = made(None)
    [said] = outputs(model)
    report = convert(model)
    assert report.energy == 1 and set(report.ranks.values()) == {3} and torch.equal(outputs(model)[0], said)
    other = made(None)
    assert str(convert(model, 2)) == str(resize(other, 2)) and torch.equal(*outputs(model, other))


def test_combine_overlap_and_resize_take_a_variant_only_when_it_is_converted(tmp_path):
    """And a loaded PiSSA is plain already."""
    model = made("dora")
    inject(model, LoRAConfig(r=3, lora_alpha=8, target_modules=LAYERS), "plain")
    fill(model, 2)
    for what in (
        lambda: combine(model, {"default": 1.0, "plain": 1.0}),
        lambda: overlap(model, "default", "plain"),
        lambda: resize(model, 2, adapter="default"),
    ):
        with pytest.raises(AdapterError, match=r"default \(DoRA\): more than factors B A.*convert"):
            what()
    convert(model, energy=1.0, adapter="default")
    assert combine(model, {"default": 1.0, "plain": 1.0}) and overlap(model, "default", "plain")
    loaded = load(net(), save(made(PiSSA()), tmp_path))
    assert state_of(loaded).configs["default"].variant is None
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 6
    resize(loaded, 2)


def test_it_goes_on_training_in_a_language_model():
    model = inject(make_tiny_llama(), LoRAConfig(r=2, lora_dropout=0.1, variant="dora"))
    fill(model)
    convert(model, 4)
    layer = next(iter(lora_layers(model).values()))
    assert layer.dropouts["default"] == 0.1 and layer.A.requires_grad and layer.fused_part() is not None
    model(input_ids=tokens(), labels=tokens()).loss.backward()
    assert bool(layer.A.grad.any())
