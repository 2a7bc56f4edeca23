"""A cut is the nearest update of its rank, never builds ΔW, keeps every scale, and means the same in PEFT."""

import peft
import pytest
import torch
from conftest import make_tiny_llama
from helpers import randomise, tokens
from torch import nn
from torch.overrides import TorchFunctionMode

from lora_edu.adapters import (
    LoRAConfig,
    adapter_parameters,
    inject,
    load,
    lora_layers,
    merge,
    resize,
    save,
    set_adapter,
)
from lora_edu.errors import AdapterError, ConfigError, MergeError
from lora_edu.linalg import effective_rank, low_rank

CONFIGS = {
    "plain": LoRAConfig(r=5, lora_alpha=7),
    "rslora": LoRAConfig(r=5, lora_alpha=7, use_rslora=True),
    "patterns": LoRAConfig(
        r=5, lora_alpha=7, rank_pattern={"q_proj": 7, r"layers\.1\.mlp\.up_proj": 1}, alpha_pattern={"k_proj": 3}
    ),
    "embedding": LoRAConfig(r=5, lora_alpha=7, target_modules=["embed_tokens", "down_proj"]),
    "modules_to_save": LoRAConfig(r=5, target_modules=["q_proj"], modules_to_save=["lm_head"]),
}


def llama():
    return make_tiny_llama(dtype=torch.float64)


def model_of(config, name="default"):
    return randomise(inject(llama(), config, name), name)


def deltas(model, name="default"):
    return {p: m.oriented(m.delta_weight(name)).detach() for p, m in lora_layers(model).items() if name in m.scalings}


@pytest.mark.parametrize("size", [{"rank": 2}, {"rank": 4}, {"energy": 0.9}, {"energy": 1.0}])
@pytest.mark.parametrize("case", CONFIGS)
def test_a_cut_equals_the_dense_svd_and_says_what_it_kept(case, size, tmp_path):
    model = model_of(CONFIGS[case])
    before, scales = deltas(model), {p: m.scalings["default"] for p, m in lora_layers(model).items()}
    report = resize(model, **size)
    kept = total = 0.0
    for path, delta in deltas(model).items():
        S = torch.linalg.svdvals(before[path])
        had = report.layers[path].before
        k = min(size["rank"], *delta.shape) if "rank" in size else effective_rank(S, min(size["energy"], 1 - 1e-12))
        layer = lora_layers(model)[path]
        assert report.ranks[path] == layer.factors[0]["default"].shape[0] == k
        torch.testing.assert_close(delta, low_rank(before[path], min(k, had)), rtol=0, atol=1e-10)
        assert report.layers[path].energy == pytest.approx(float(S[:k].square().sum() / S.square().sum()))
        assert layer.scalings["default"] == pytest.approx(scales[path], rel=1e-14)
        if k < had:
            A, B = (held["default"] for held in layer.factors)
            torch.testing.assert_close(A.norm(dim=1), B.norm(dim=0))  # balanced
        kept, total = kept + float(S[:k].square().sum()), total + float(S.square().sum())
    assert report.energy == pytest.approx(kept / total)
    if "rank" in size and size["rank"] == 2:
        assert report.energy < 0.99  # something was cut
    # and the folder says the same, here and in PEFT
    expected = model(tokens()).logits
    folder = save(model, tmp_path)
    assert torch.equal(load(llama(), folder)(tokens()).logits, expected)
    theirs = peft.PeftModel.from_pretrained(llama(), folder).double().eval()
    torch.testing.assert_close(theirs(tokens()).logits, expected, rtol=0, atol=1e-5)


class Largest(TorchFunctionMode):
    """Sees every tensor that a torch function returns, and keeps the largest number of entries."""

    def __init__(self):
        super().__init__()
        self.entries = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple) else (out,):
            if isinstance(each, torch.Tensor):
                self.entries = max(self.entries, each.numel())
        return out


def test_delta_is_never_built():
    model = nn.Sequential(nn.Linear(300, 400, bias=False))
    layer = lora_layers(randomise(inject(model, LoRAConfig(r=6, target_modules=["0"]))))["0"]
    with Largest() as seen:
        resize(model, 2)
    assert 0 < seen.entries <= 6 * 400
    with Largest() as seen:
        layer.delta_weight("default")
    assert seen.entries >= 300 * 400  # the watch sees it where it is built


def test_growing_keeps_the_update_and_gives_it_directions_that_can_learn():
    for config in (CONFIGS["patterns"], CONFIGS["embedding"]):
        model = model_of(config)
        before, expected = deltas(model), model(tokens()).logits
        torch.manual_seed(0)
        report = resize(model, 8)
        assert set(report.ranks.values()) == {8} and report.energy == 1
        for path, delta in deltas(model).items():
            torch.testing.assert_close(delta, before[path], rtol=0, atol=1e-12)
        torch.testing.assert_close(model(tokens()).logits, expected)
        resize(model, 9)  # a second time, and it still trains in every direction
        model(input_ids=tokens(), labels=tokens()).loss.backward()
        for layer in lora_layers(model).values():
            A, B = (held["default"] for held in layer.factors)
            alive = (A.grad.abs().sum(dim=1) > 0) | (B.grad.abs().sum(dim=0) > 0)
            assert bool(alive.all())


def test_directions_of_rounding_are_replaced_by_ones_that_can_learn():
    """Factors of √0 on both sides would never get a gradient: rank 4 of an update of rank 1, and an adapter that was never trained."""
    model = nn.Sequential(nn.Linear(12, 10))
    layer = lora_layers(randomise(inject(model, LoRAConfig(r=6, target_modules=["0"]))))["0"]
    with torch.no_grad():
        layer.B[:, 1:] = layer.B[:, :1]  # ΔW has rank 1
    delta = layer.delta_weight("default").detach().clone()
    assert resize(model, 4).energy == pytest.approx(1)
    torch.testing.assert_close(layer.delta_weight("default"), delta)
    model(torch.randn(5, 12)).square().sum().backward()
    assert bool(((layer.A.grad.abs().sum(1) > 0) | (layer.B.grad.abs().sum(0) > 0)).all())
    assert resize(model, energy=1.0).ranks == {"0": 1}

    fresh = inject(nn.Sequential(nn.Linear(12, 10)), LoRAConfig(r=6, target_modules=["0"]))
    assert resize(fresh, 3).energy == 1
    layer = lora_layers(fresh)["0"]
    fresh(torch.randn(5, 12)).square().sum().backward()
    assert layer.B.grad.abs().sum() > 0 and torch.count_nonzero(layer.delta_weight("default")) == 0


def test_training_goes_on_with_a_new_optimizer_though_an_old_result_is_kept():
    model = model_of(CONFIGS["plain"])
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    old = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)

    def step(optimizer):
        loss = model(input_ids=tokens(), labels=tokens()).loss
        loss.backward()
        optimizer.step()
        return loss  # kept below, with its graph

    kept = step(old)
    for rank in (2, 1, 4):
        resize(model, rank)
        assert [n for n, p in model.named_parameters() if p.requires_grad] == trained
        before = deltas(model)
        kept = (kept, step(old))
        assert all(torch.equal(before[p], d) for p, d in deltas(model).items())  # it moves what is gone
        model.zero_grad()
        kept = (kept, step(torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)))
        assert all(not torch.equal(before[p], d) for p, d in deltas(model).items())


def test_one_of_several_is_resized_and_the_others_stay():
    model = model_of(CONFIGS["plain"], "a")
    randomise(inject(model, CONFIGS["rslora"], "b"), "b", 2)
    before = deltas(model, "b")
    assert resize(model, 1, adapter="a").adapter == "a"
    assert all(torch.equal(before[p], d) for p, d in deltas(model, "b").items())
    assert resize(model, 2).adapter == "b"  # the active one
    set_adapter(model, ["a", "b"])
    with pytest.raises(AdapterError, match=r"which adapter.*a, b"):
        resize(model, 2)
    assert not any(p.requires_grad for p in adapter_parameters(model, "a").values())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, ConfigError, "give one of them"),
        ({"rank": 2, "energy": 0.5}, ConfigError, "give one of them"),
        ({"rank": 0}, ConfigError, "at least 1"),
        ({"rank": 2.0}, ConfigError, "whole number"),
        ({"rank": 17}, ConfigError, "no update here has a rank above 16"),
        ({"energy": 0.0}, ConfigError, r"in \(0, 1\]"),
        ({"energy": 90}, ConfigError, "0.9 keeps 90 %"),
        ({"rank": 2, "adapter": "z"}, AdapterError, "no adapter 'z'"),
    ],
)
def test_impossible_sizes_are_refused(arguments, error, words):
    model = model_of(CONFIGS["plain"])
    before = model(tokens()).logits
    with pytest.raises(error, match=words):
        resize(model, **arguments)
    assert torch.equal(model(tokens()).logits, before)


def test_a_merged_adapter_is_not_resized():
    model = model_of(CONFIGS["plain"])
    merge(model)
    with pytest.raises(MergeError, match="unmerge"):
        resize(model, 2)
