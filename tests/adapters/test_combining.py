"""Combinations that are exact to their definition, and PEFT's recipes to the letter."""

import math
from typing import Any

import peft
import pytest
import torch
from conftest import make_tiny_llama
from helpers import randomise, tokens
from torch import nn

from lora_edu.adapters import (
    METHODS,
    LoRAConfig,
    adapter_names,
    adapter_parameters,
    combine,
    inject,
    load,
    lora_layers,
    save,
    set_adapter,
    set_scale,
)
from lora_edu.errors import AdapterError
from lora_edu.linalg import low_rank

WEIGHTS = {"a": 0.7, "b": -1.3}


@pytest.fixture
def pair():
    model = make_tiny_llama(dtype=torch.float64)
    inject(model, LoRAConfig(r=2, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"]), "a")
    inject(model, LoRAConfig(r=3, lora_alpha=4, use_rslora=True, target_modules=["q_proj", "up_proj"]), "b")
    return randomise(randomise(model, "a", 1), "b", 2)


def wanted(layer, weights):
    return sum(w * layer.delta_weight(n) for n, w in weights.items() if n in layer.scalings)


@pytest.mark.parametrize("method", ["cat", "compact", "svd"])
def test_combinations_are_the_weighted_sum_of_the_updates(pair, method):
    report = combine(pair, WEIGHTS, "sum", method, rank=5 if method == "svd" else None)
    for layer in lora_layers(pair).values():
        torch.testing.assert_close(layer.delta_weight("sum"), wanted(layer, WEIGHTS), rtol=1e-9, atol=1e-11)
    assert report.off == 0 if method == "cat" else report.off < 1e-12
    set_adapter(pair, "sum")
    combined = pair(tokens()).logits
    set_adapter(pair, ["a", "b"])
    set_scale(pair, 0.7, "a")
    set_scale(pair, -1.3, "b")
    torch.testing.assert_close(pair(tokens()).logits, combined)


def test_svd_at_a_small_rank_is_the_best_approximation_and_says_what_it_misses(pair):
    report = combine(pair, {"a": 1, "b": 1}, "small", "svd", rank=2)
    layers = lora_layers(pair)
    missed, whole = 0.0, 0.0
    for path, layer in layers.items():
        if "small" in layer.scalings:
            exact = wanted(layer, {"a": 1, "b": 1}).detach()
            torch.testing.assert_close(layer.delta_weight("small"), low_rank(exact, 2))
            missed += float((layer.delta_weight("small").detach() - exact).square().sum())
            whole += float(exact.square().sum())
            assert layer.factors[0]["small"].shape[0] == report.ranks[path] == 2
    assert report.off == pytest.approx(math.sqrt(missed / whole)) and report.off > 0.01
    assert f"{report.off:.2%} off the exact sum" in str(report)


def test_a_rank_that_nobody_named_is_the_largest_of_the_layer(pair):
    assert combine(pair, {"a": 1, "b": 1}, "small", "svd").ranks == {
        path: 2 if path.endswith(("v_proj", "down_proj")) else 3 for path in lora_layers(pair)
    }


def test_compact_finds_the_smallest_exact_rank_and_keeps_the_sum_not_the_mean_of_factors(pair):
    combine(pair, {"a": 0.5, "b": 0.5}, "mix", "compact")
    q = lora_layers(pair)["model.layers.0.self_attn.q_proj"]
    mean_of_updates = 0.5 * (q.delta_weight("a") + q.delta_weight("b"))
    torch.testing.assert_close(q.delta_weight("mix"), mean_of_updates)
    combine(pair, {"a": 1.0, "mix": 1.0}, "again", "compact")  # a's directions are in mix already: no new rank
    assert q.factors[0]["mix"].shape[0] == q.factors[0]["again"].shape[0] == 5


def test_a_combination_neither_speaks_nor_trains_until_asked_to(pair):
    before = pair(tokens()).logits
    combine(pair, {"a": 1, "b": 1})
    assert torch.equal(pair(tokens()).logits, before)
    assert not any(p.requires_grad for p in adapter_parameters(pair, "combined").values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (({"a": 1, "z": 1},), "no adapter 'z'"),
        (({"a": 1}, "b"), "already"),
        (({"a": 1}, "b.c"), "cannot name an adapter"),
        (({"a": 1}, "c", "mean"), "choose cat"),
        (({"a": math.inf}, "c"), "finite"),
        (({"a": 1}, "c", "cat", 3), "only svd"),
        (({"a": 1}, "c", "svd", 0), "at least 1"),
        (({"a": 1}, "c", "ties"), "needs density"),
        (({"a": 1}, "c", "cat", None, 0.5), "ties, dare and magnitude_prune take one"),
        (({"a": 1}, "c", "ties", None, 1.5), r"in \(0, 1\]"),
        (({"a": 1, "b": 1}, "c", "linear"), "a has rank 2, b has rank 3.*resize them to one rank first, or choose cat"),
        (({},), "at least one"),
    ],
)
def test_impossible_combinations_are_refused_and_change_nothing(pair, arguments, words):
    with pytest.raises(AdapterError, match=words):
        combine(pair, *arguments)
    assert adapter_names(pair) == ["a", "b"] and all("c" not in layer.scalings for layer in lora_layers(pair).values())


# -- PEFT's recipes ----------------------------------------------------------------------------------------------------
def tiny():
    return make_tiny_llama(dtype=torch.float64)


def both(tmp_path, **settings):
    """(ours, PEFT's) with the same two adapters, of one rank as PEFT wants it, in float64."""
    named = {"r": 3, "task_type": "CAUSAL_LM", **settings}
    theirs = peft.get_peft_model(
        tiny(), peft.LoraConfig(lora_alpha=8, target_modules=["q_proj", "up_proj", "embed_tokens"], **named), "a"
    )
    theirs.add_adapter(
        "b", peft.LoraConfig(lora_alpha=5, use_rslora=True, target_modules=["q_proj", "v_proj"], **named)
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, p in sorted((n, p) for n, p in theirs.named_parameters() if "lora_" in n):
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    theirs.save_pretrained(tmp_path)
    ours = tiny()
    for name in ("a", "b"):
        load(ours, tmp_path / name, name)
    return ours, theirs.double()


def compared(ours, theirs, name):
    """Every layer's ΔW of either library, which must be there in both; how many.

    PEFT gives a combination the settings of the first adapter, `use_rslora` too, and so a scale of √r instead of 1 (see below): taken out.
    """
    found = {
        n.removeprefix("base_model.model."): m for n, m in theirs.named_modules() if hasattr(m, "get_delta_weight")
    }
    count = 0
    for path, layer in lora_layers(ours).items():
        peft_layer: Any = found[path]
        assert (name in layer.scalings) == (name in {**peft_layer.lora_A, **peft_layer.lora_embedding_A})
        if name in layer.scalings:
            theirs_too = peft_layer.get_delta_weight(name) / peft_layer.scaling[name]
            # to the precision of the weights, which PEFT keeps in float32
            torch.testing.assert_close(layer.delta_weight(name), theirs_too, rtol=0, atol=1e-6)
            count += 1
    return count


@pytest.mark.filterwarnings("ignore")
def test_pefts_combination_is_too_loud_where_the_first_adapter_uses_rslora_ours_is_the_sum(tmp_path):
    ours, theirs = both(tmp_path)
    for first, second, factor in (("a", "b", 1), ("b", "a", math.sqrt(6))):
        name = f"{first}{second}"
        theirs.add_weighted_adapter([first, second], [1.0, 1.0], name, "cat")
        combine(ours, {first: 1, second: 1}, name)
        path = "model.layers.0.self_attn.q_proj"
        exact = wanted(lora_layers(ours)[path], {"a": 1, "b": 1})
        torch.testing.assert_close(lora_layers(ours)[path].delta_weight(name), exact)
        theirs_too = theirs.base_model.model.get_submodule(path).get_delta_weight(name)
        torch.testing.assert_close(theirs_too, factor * exact, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("weights", [WEIGHTS, {"b": 0.4, "a": 2.0}])
@pytest.mark.parametrize("method", [m for m in METHODS if m != "compact" and "dare" not in m])
def test_the_same_updates_as_pefts_of_that_name(method, weights, tmp_path):
    ours, theirs = both(tmp_path)
    thinned = "ties" in method or "prune" in method
    rank = 2 if method.endswith("svd") else None
    theirs.add_weighted_adapter(
        list(weights), list(weights.values()), "c", method, svd_rank=rank, density=0.6 if thinned else None
    )
    report = combine(ours, weights, "c", method, rank, 0.6 if thinned else None)
    assert compared(ours, theirs, "c") == 7
    assert (report.off < 1e-12) == (method == "cat")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "dare_linear_svd", "dare_ties_svd"])
def test_dare_draws_as_peft_does_from_the_same_random_numbers(method, tmp_path, monkeypatch):
    ours, theirs = both(tmp_path)
    inject_adapter = type(theirs.base_model).inject_adapter

    def then_seeded(self, *args, **kwargs):  # PEFT draws a start for the new adapter first, from the same generator
        inject_adapter(self, *args, **kwargs)
        torch.manual_seed(11)

    monkeypatch.setattr(type(theirs.base_model), "inject_adapter", then_seeded)
    rank = 2 if method.endswith("svd") else None
    theirs.add_weighted_adapter(list(WEIGHTS), list(WEIGHTS.values()), "c", method, svd_rank=rank, density=0.5)
    before = torch.get_rng_state()
    combine(ours, WEIGHTS, "c", method, rank, 0.5, seed=11)
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's random numbers are touched
    assert compared(ours, theirs, "c") == 7
    combine(ours, WEIGHTS, "again", method, rank, 0.5, seed=11)
    combine(ours, WEIGHTS, "other", method, rank, 0.5, seed=12)
    q = lora_layers(ours)["model.layers.0.self_attn.q_proj"]
    assert torch.equal(q.delta_weight("c"), q.delta_weight("again"))
    assert not torch.equal(q.delta_weight("c"), q.delta_weight("other"))


def test_dare_on_the_update_is_right_on_average(pair):
    """E[mask/density] = 1: the mean over many seeds comes near ΔW, without the rescaling it would come near density·ΔW."""
    q = lora_layers(pair)["model.layers.0.self_attn.q_proj"]
    total, count = torch.zeros_like(q.delta_weight("a")), 200
    for seed in range(count):
        combine(pair, {"a": 1.0}, f"c{seed}", "dare_linear_svd", rank=16, density=0.5, seed=seed)
        total += q.delta_weight(f"c{seed}")
    error = torch.linalg.norm(total / count - q.delta_weight("a")) / torch.linalg.norm(q.delta_weight("a"))
    assert error < 1.5 / math.sqrt(count)  # an entry's relative standard deviation at density 1/2 is 1


def test_linear_misses_the_sum_by_its_cross_terms(pair):
    inject(pair, LoRAConfig(r=2, lora_alpha=6, target_modules=["q_proj"]), "c")
    randomise(pair, "c", 3)
    report = combine(pair, {"a": 0.5, "c": 0.5}, "linear", "linear")
    path = "model.layers.1.self_attn.q_proj"
    layer = lora_layers(pair)[path]
    (A1, A2), (B1, B2) = ([held[n] for n in ("a", "c")] for held in layer.factors)
    cross = 0.5 * layer.scalings["a"] * (B1 @ A2 + B2 @ A1)  # √(w₁s₁w₂s₂) of each, and the scales are equal
    exact = wanted(layer, {"a": 0.5, "c": 0.5})
    torch.testing.assert_close(layer.delta_weight("linear"), exact + cross)
    assert report.missed[path] == pytest.approx(float(torch.linalg.norm(cross)))
    assert report.norms[path] == pytest.approx(float(torch.linalg.norm(exact)))


@pytest.mark.parametrize("method", ["linear", "ties", "magnitude_prune", "ties_svd", "magnitude_prune_svd", "cat"])
def test_what_adds_factors_depends_on_which_factors_the_adapter_lies_in(method):
    """(A, B) and (M A, B M⁻¹) are one adapter; a recipe on ΔW cannot tell them apart, one on the factors can."""
    made = []
    for turned in (False, True):
        model = nn.Sequential(nn.Linear(12, 10, bias=False)).double()
        for seed, name in enumerate(("a", "b")):
            inject(model, LoRAConfig(r=2, target_modules=["0"]), name)
            randomise(model, name, seed)
        layer = lora_layers(model)["0"]
        if turned:
            before = layer.delta_weight("a").detach().clone()
            for held in layer.factors:
                held["a"].data = -held["a"].data
            torch.testing.assert_close(layer.delta_weight("a"), before)
        thinned = "ties" in method or "prune" in method
        combine(model, {"a": 1, "b": 1}, "c", method, density=0.5 if thinned else None)
        made.append(layer.delta_weight("c").detach())
    alike = torch.allclose(*made, atol=1e-9)
    assert alike == (method.endswith("svd") or method == "cat")


def test_a_combination_saved_is_read_by_peft_with_the_same_logits(pair, tmp_path):
    combine(pair, WEIGHTS, "c")
    set_adapter(pair, "c")
    theirs = peft.PeftModel.from_pretrained(tiny(), save(pair, tmp_path, "c")).double().eval()
    torch.testing.assert_close(theirs(tokens()).logits, pair(tokens()).logits, rtol=0, atol=1e-6)
    assert not torch.allclose(pair(tokens()).logits, tiny()(tokens()).logits, atol=1e-3)


def test_a_path_that_is_the_end_of_another_keeps_its_own_rank(tmp_path):
    """The pattern for `0` matches `1.0` too: the longer path is written first."""

    def two():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8)))

    model = two()
    inject(model, LoRAConfig(r=2, target_modules=["0"]), "a")
    inject(model, LoRAConfig(r=3, target_modules=r"1\.0"), "b")
    randomise(randomise(model, "a"), "b", 2)
    assert combine(model, {"a": 1, "b": 1}, "c").ranks == {"0": 2, "1.0": 5}
    set_adapter(model, "c")
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    again = load(two(), save(model, tmp_path, "c"))
    torch.testing.assert_close(again(x), model(x))
