"""Laws 1, 3 and 9 on a whole model: the plan, the audit, switching, and everything that must be refused."""

import copy
import hashlib
import warnings

import pytest
import torch
from conftest import make_tiny_llama
from helpers import randomise, tokens
from torch import nn

from lora_edu.adapters import (
    LoRAConfig,
    LoRALinear,
    adapter_names,
    adapter_parameters,
    audit,
    disabled,
    inject,
    lora_layers,
    merge,
    plan,
    remove_adapter,
    set_adapter,
    set_scale,
    unload,
)
from lora_edu.adapters.finding import base_parameters
from lora_edu.errors import AdapterError, ConfigError, LoRAEduError, MergeError, TargetError

ATTENTION = [f"model.layers.{i}.self_attn.{m}_proj" for i in range(2) for m in "qkvo"]
MLP = [f"model.layers.{i}.mlp.{m}_proj" for i in range(2) for m in ("gate", "up", "down")]


def bytes_of(tensors) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# -- the plan ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ATTENTION + MLP),  # all-linear leaves the output head out
        ({"target_modules": ["q_proj", "v_proj"]}, [n for n in ATTENTION if n[-6] in "qv"]),
        ({"target_modules": r".*layers\.1\.mlp\..*_proj"}, [n for n in MLP if ".1." in n]),
        (
            {"exclude_modules": ["k_proj", "down_proj"]},
            [n for n in ATTENTION + MLP if "k_proj" not in n and "down" not in n],
        ),
        ({"target_modules": ["q_proj"], "layers_to_transform": [1]}, ["model.layers.1.self_attn.q_proj"]),
        ({"target_modules": ["lm_head", "embed_tokens"]}, ["model.embed_tokens", "lm_head"]),
        ({"target_modules": ["model.layers.0.mlp.up_proj"]}, ["model.layers.0.mlp.up_proj"]),
    ],
)
def test_the_plan_names_exactly_the_modules_asked_for(tiny_llama, settings, expected):
    assert sorted(t.name for t in plan(tiny_llama, LoRAConfig(r=2, **settings))) == sorted(expected)


def test_a_name_that_matches_nothing_beside_one_that_does_is_warned_of(tiny_llama):
    with pytest.warns(UserWarning, match="q_porj, c_attn matches no layer of this model and is left out"):
        targets = plan(tiny_llama, LoRAConfig(r=2, target_modules=["q_proj", "q_porj", "c_attn"]))
    assert len(targets) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a name outside the chosen layers, or left out on purpose, is no mistake
        plan(
            tiny_llama,
            LoRAConfig(r=2, target_modules=["q_proj", "v_proj"], layers_to_transform=[1], exclude_modules=["v_proj"]),
        )


def test_the_plan_applies_patterns_and_counts_parameters(tiny_llama):
    targets = {
        t.name: t for t in plan(tiny_llama, LoRAConfig(r=2, rank_pattern={"q_proj": 4}, alpha_pattern={"up_proj": 3}))
    }
    assert targets[ATTENTION[0]].r == 4 and targets[ATTENTION[0]].parameters == 4 * (16 + 16)
    assert targets["model.layers.0.mlp.up_proj"].lora_alpha == 3


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"target_modules": ["q_prj"]}, TargetError, "did you mean q_proj"),
        (
            {"target_modules": "q_proj"},
            TargetError,
            "regular expression for the whole name: write .'q_proj'., or '.*q_proj'",
        ),
        ({"target_modules": ["input_layernorm"]}, TargetError, "LlamaRMSNorm"),
        ({"r": 17}, ConfigError, "rank 17 exceeds"),
        ({"rank_pattern": {"k_proj": 9}}, ConfigError, "rank 9 exceeds"),
        ({"rank_pattern": {"z_proj": 4}}, TargetError, "z_proj"),
        ({"modules_to_save": ["heads"]}, TargetError, "heads"),
    ],
)
def test_an_impossible_plan_is_refused_and_the_model_stays_as_it_was(tiny_llama, settings, error, words):
    before = bytes_of(tiny_llama.state_dict().items())
    with pytest.raises(error, match=words):
        inject(tiny_llama, LoRAConfig(**settings))
    assert bytes_of(tiny_llama.state_dict().items()) == before and not lora_layers(tiny_llama)
    assert all(p.requires_grad for p in tiny_llama.parameters())


# -- laws 1 and 3 ------------------------------------------------------------------------------------------------------
def test_law_1_a_new_adapter_changes_no_bit_of_the_output(tiny_llama):
    before = tiny_llama(tokens()).logits
    inject(tiny_llama, LoRAConfig(r=2, target_modules=["q_proj", "down_proj", "lm_head", "embed_tokens"]))
    assert torch.equal(tiny_llama(tokens()).logits, before)


def test_law_3_exactly_the_adapter_trains_and_no_byte_of_the_base_moves(tiny_llama):
    inject(tiny_llama, LoRAConfig(r=2, target_modules=["q_proj", "embed_tokens"], modules_to_save=["lm_head"]))
    expected = {f"model.layers.{i}.self_attn.q_proj.lora_{f}.default" for i in range(2) for f in "AB"}
    expected |= {f"model.embed_tokens.lora_embedding_{f}.default" for f in "AB"} | {"lm_head.copies.default.weight"}
    assert set(audit(tiny_llama).names) == expected
    base = bytes_of(base_parameters(tiny_llama))
    optimizer = torch.optim.AdamW([p for p in tiny_llama.parameters() if p.requires_grad], lr=0.1)
    before = {n: p.detach().clone() for n, p in tiny_llama.named_parameters() if p.requires_grad}
    for _ in range(3):
        optimizer.zero_grad()
        tiny_llama(tokens(), labels=tokens()).loss.backward()
        optimizer.step()
    assert bytes_of(base_parameters(tiny_llama)) == base
    assert all(not torch.equal(before[n], p) for n, p in tiny_llama.named_parameters() if p.requires_grad)


def test_audit_counts_what_requires_grad_says_not_what_was_configured(tiny_llama):
    inject(tiny_llama, LoRAConfig(r=2, target_modules=["q_proj"]))
    report = audit(tiny_llama)
    assert report.trainable == 2 * 2 * (16 + 16) and report.by_kind == {"q_proj": (4, 128)}
    assert "128" in str(report) and "q_proj" in str(report)
    tiny_llama.model.norm.weight.requires_grad_(True)  # an impostor
    assert "model.norm.weight" in audit(tiny_llama).names and audit(tiny_llama).trainable == 128 + 16


# -- several adapters --------------------------------------------------------------------------------------------------
@pytest.fixture
def two(tiny_llama):
    """Adapters "a" (q, v) and "b" (all-linear), both random."""
    inject(tiny_llama, LoRAConfig(r=2, target_modules=["q_proj", "v_proj"]), "a")
    inject(tiny_llama, LoRAConfig(r=3, lora_alpha=5), "b")
    return randomise(randomise(tiny_llama, "a", 1), "b", 2)


def test_a_new_adapter_is_the_only_one_that_speaks_and_trains(two):
    assert adapter_names(two) == ["a", "b"]
    assert all(n.endswith(".b") for n in audit(two).names)
    output = two(tokens()).logits
    remove_adapter(two, "a")
    assert torch.equal(two(tokens()).logits, output) and adapter_names(two) == ["b"]


def test_law_9_off_is_the_base_and_switching_gives_each_adapter_back(two):
    base = make_tiny_llama()(tokens()).logits
    b = two(tokens()).logits
    set_adapter(two, "a")
    a = two(tokens()).logits
    with disabled(two):
        assert torch.equal(two(tokens()).logits, base)
    assert torch.equal(two(tokens()).logits, a) and not torch.equal(a, b) and not torch.equal(a, base)
    set_adapter(two, None)
    assert torch.equal(two(tokens()).logits, base)
    set_adapter(two, "b")
    assert torch.equal(two(tokens()).logits, b)


def test_several_active_adapters_add_their_updates(two):
    set_adapter(two, ["a", "b"])
    layer = lora_layers(two)[ATTENTION[0]]
    torch.testing.assert_close(layer.delta_weight(), layer.delta_weight("a") + layer.delta_weight("b"))
    together = two(tokens()).logits
    merge(two)
    torch.testing.assert_close(two(tokens()).logits, together, rtol=1e-4, atol=1e-4)


def test_the_dial_multiplies_the_update(two):
    layer = lora_layers(two)[ATTENTION[0]]
    full = layer.delta_weight()
    set_scale(two, -0.5)
    torch.testing.assert_close(layer.delta_weight(), -0.5 * full)
    set_scale(two, 0)
    assert torch.equal(two(tokens()).logits, make_tiny_llama()(tokens()).logits)


def test_disabled_restores_the_dial_even_after_an_error(two):
    set_scale(two, 0.25)
    with pytest.raises(RuntimeError, match="boom"), disabled(two):
        raise RuntimeError("boom")
    assert lora_layers(two)[ATTENTION[0]].state.active == {"b": 0.25}


def test_unload_gives_the_plain_model_back(two):
    fresh = make_tiny_llama()
    unload(two)
    assert list(two.state_dict()) == list(fresh.state_dict()) and adapter_names(two) == []
    assert torch.equal(two(tokens()).logits, fresh(tokens()).logits)


def test_removing_the_last_adapter_leaves_the_plain_model(two):
    remove_adapter(two, "b")
    remove_adapter(two, "a")
    assert list(two.state_dict()) == list(make_tiny_llama().state_dict())


def test_a_deep_copy_has_a_state_of_its_own(two):
    twin = copy.deepcopy(two)
    output = two(tokens()).logits
    set_adapter(twin, None)
    assert torch.equal(two(tokens()).logits, output) and not torch.equal(twin(tokens()).logits, output)


def test_modules_to_save_follow_their_adapter(tiny_llama):
    base = tiny_llama(tokens()).logits
    inject(tiny_llama, LoRAConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]))
    nn.init.normal_(tiny_llama.lm_head.copies["default"].weight)
    changed = tiny_llama(tokens()).logits
    assert not torch.equal(changed, base)
    with disabled(tiny_llama):
        assert torch.equal(tiny_llama(tokens()).logits, base)
    merge(tiny_llama)
    unload(tiny_llama)
    torch.testing.assert_close(tiny_llama(tokens()).logits, changed)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: inject(m, LoRAConfig(), "a"), AdapterError, "already"),
        (lambda m: inject(m, LoRAConfig(), "a.b"), AdapterError, "dot"),
        (lambda m: set_adapter(m, "c"), AdapterError, "no adapter 'c'; the model has: a, b"),
        (lambda m: remove_adapter(m, "c"), AdapterError, "no adapter 'c'"),
        (lambda m: set_scale(m, 2, "a"), AdapterError, "not active"),
        (lambda m: [merge(m), set_adapter(m, "a")], MergeError, "unmerge"),
        (lambda m: [merge(m), inject(m, LoRAConfig(), "c")], MergeError, "unmerge"),
        (lambda m: [merge(m), disabled(m).__enter__()], MergeError, "unmerge"),
    ],
)
def test_misuse_is_refused_by_name(two, call, error, words):
    with pytest.raises(error, match=words):
        call(two)


def test_a_plain_model_says_that_it_has_no_adapter(tiny_llama):
    with pytest.raises(LoRAEduError, match="no adapter"):
        set_adapter(tiny_llama, None)
    assert adapter_names(tiny_llama) == []


def test_all_linear_skips_the_factors_of_an_adapter_that_is_there_already(two):
    inject(two, LoRAConfig(r=1), "c")
    assert all(isinstance(layer.base_layer, nn.Linear) for layer in lora_layers(two).values())
    assert len([n for n in adapter_parameters(two, "c")]) == 2 * len(ATTENTION + MLP)
    assert not any(isinstance(m, LoRALinear) for layer in lora_layers(two).values() for m in layer.children())
