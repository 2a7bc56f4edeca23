"""Law 5 on a whole model, tied weights, and combinations that are exact to their definition."""

import pytest
import torch
from conftest import make_tiny_llama
from helpers import randomise, tokens

from lora_edu.adapters import (
    LoRAConfig,
    adapter_parameters,
    combine,
    inject,
    lora_layers,
    merge,
    set_adapter,
    set_scale,
    unload,
    unmerge,
    untie,
)
from lora_edu.adapters.finding import base_parameters
from lora_edu.errors import AdapterError, MergeError


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_law_5_merge_unmerge_and_unload(dtype, tolerance):
    model = randomise(inject(make_tiny_llama(dtype=dtype), LoRAConfig(r=2)))
    base = {n: p.clone() for n, p in base_parameters(model)}
    set_scale(model, 0.7)  # the dial counts in a merge
    expected = model(tokens()).logits
    report = merge(model)
    assert report.matrices == 14
    assert report.kept_bytes == sum(layer.base_layer.weight.nbytes for layer in lora_layers(model).values())
    torch.testing.assert_close(model(tokens()).logits, expected, rtol=0, atol=tolerance)
    unmerge(model)
    assert all(torch.equal(base[n], p) for n, p in base_parameters(model))
    torch.testing.assert_close(model(tokens()).logits, expected)
    merge(model, keep_base=False)
    plain = unload(model)
    assert list(plain.state_dict()) == list(make_tiny_llama().state_dict())
    torch.testing.assert_close(plain(tokens()).logits, expected, rtol=0, atol=tolerance)


def test_subtracting_what_was_added_does_not_restore_w0():
    layer = next(iter(lora_layers(randomise(inject(make_tiny_llama(), LoRAConfig(r=2)))).values()))
    W0 = layer.base_layer.weight.detach().clone()
    assert not torch.equal((W0 + layer.delta_weight()) - layer.delta_weight(), W0)


def test_kept_w0_follows_the_model_to_another_dtype_while_merged():
    model = randomise(inject(make_tiny_llama(), LoRAConfig(r=2)))
    merge(model)
    model.double()
    unmerge(model)
    assert next(iter(lora_layers(model).values())).base_layer.weight.dtype == torch.float64


@pytest.mark.parametrize("case", ["twice", "off", "nan", "quantised", "not merged", "not kept"])
def test_refused_merges_change_no_weight(case):
    model = randomise(inject(make_tiny_llama(), LoRAConfig(r=2)))
    last = list(lora_layers(model).values())[-1]
    call = merge
    words = {
        "twice": "twice",
        "off": "no adapter is active",
        "nan": "layers.1.mlp.down_proj.*not finite",
        "quantised": "quantised",
        "not merged": "nothing is merged",
        "not kept": "keep_base=False",
    }[case]
    if case == "twice":
        merge(model)
    elif case == "off":
        set_adapter(model, None)
    elif case == "nan":
        torch.nn.init.constant_(last.B, float("nan"))
    elif case == "quantised":
        last.base_layer.weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.uint8), requires_grad=False)
    else:
        call = unmerge
        if case == "not kept":
            merge(model, keep_base=False)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(MergeError, match=words):
        call(model)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, model.parameters()))


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_merging_into_a_tied_weight_is_refused_until_it_is_untied(target, tmp_path):
    model = make_tiny_llama(tied=True)
    inject(model, LoRAConfig(r=2, target_modules=[target]))
    randomise(model)
    expected = model(tokens()).logits
    with pytest.raises(MergeError, match="shares its weight"):
        merge(model)
    assert torch.equal(model(tokens()).logits, expected)
    untie(model)
    merge(model)
    torch.testing.assert_close(model(tokens()).logits, expected, rtol=1e-4, atol=1e-4)
    unload(model).save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(again(tokens()).logits, expected, rtol=1e-4, atol=1e-4)


def test_a_tied_head_trained_in_full_is_refused_until_it_is_untied():
    model = inject(make_tiny_llama(tied=True), LoRAConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]))
    with pytest.raises(MergeError, match="untie"):
        merge(model)


# -- combine -----------------------------------------------------------------------------------------------------------
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
    weights = {"a": 0.7, "b": -1.3}
    combine(pair, weights, "sum", method, r=5 if method == "svd" else None)
    for layer in lora_layers(pair).values():
        torch.testing.assert_close(layer.delta_weight("sum"), wanted(layer, weights), rtol=1e-9, atol=1e-11)
    set_adapter(pair, "sum")
    combined = pair(tokens()).logits
    set_adapter(pair, ["a", "b"])
    set_scale(pair, 0.7, "a")
    set_scale(pair, -1.3, "b")
    torch.testing.assert_close(pair(tokens()).logits, combined)


def test_svd_at_a_small_rank_is_the_best_approximation(pair):
    combine(pair, {"a": 1, "b": 1}, "small", "svd", r=2)
    layer = lora_layers(pair)["model.layers.0.self_attn.q_proj"]
    from lora_edu.linalg import low_rank

    torch.testing.assert_close(layer.delta_weight("small"), low_rank(wanted(layer, {"a": 1, "b": 1}), 2))
    assert layer.factors[0]["small"].shape[0] == 2


def test_compact_finds_the_smallest_exact_rank_and_keeps_the_sum_not_the_mean_of_factors(pair):
    combine(pair, {"a": 0.5, "b": 0.5}, "mix", "compact")
    q = lora_layers(pair)["model.layers.0.self_attn.q_proj"]
    mean_of_factors = 0.5 * (q.delta_weight("a") + q.delta_weight("b"))
    torch.testing.assert_close(q.delta_weight("mix"), mean_of_factors)
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
        (({"a": 1, "z": 1},), "no adapter z"),
        (({"a": 1}, "b"), "already"),
        (({"a": 1}, "c", "mean"), "choose cat"),
        (({"a": 1}, "c", "linear"), "PEFT's method of that name adds A with A"),
        (({"a": 1}, "c", "cat", 3), "only svd"),
        (({},), "at least one"),
    ],
)
def test_impossible_combinations_are_refused(pair, arguments, words):
    with pytest.raises(AdapterError, match=words):
        combine(pair, *arguments)
