"""Law 5 on a whole model, and tied weights."""

import pytest
import torch
from conftest import make_tiny_llama
from helpers import randomise, tokens
from safetensors import safe_open

from lora_edu.adapters import (
    LoRAConfig,
    inject,
    load,
    lora_layers,
    merge,
    save,
    set_adapter,
    set_scale,
    unload,
    unmerge,
    untie,
)
from lora_edu.adapters.finding import base_parameters
from lora_edu.errors import CheckpointError, MergeError


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


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("separate", [False, True])
def test_a_merged_model_saved_is_a_plain_one_whose_head_is_tied_as_its_configuration_says(
    tied, separate, wrapped, tmp_path
):
    model = make_tiny_llama(tied=tied)
    plain_names = list(model.state_dict())
    randomise(inject(model, LoRAConfig(r=2)), std=0.1)
    expected = model(tokens()).logits
    if separate:
        untie(model)
    outer = torch.compile(model) if wrapped else model
    merge(outer, keep_base=False)
    unload(outer)
    model.save_pretrained(tmp_path)
    with safe_open(next(tmp_path.glob("*.safetensors")), "pt") as file:
        written = set(file.keys())
    kept_tied = tied and not separate
    assert written == set(plain_names) - ({"lm_head.weight"} if kept_tied else set())
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert again.config.tie_word_embeddings is kept_tied
    assert (again.lm_head.weight is again.model.embed_tokens.weight) is kept_tied
    torch.testing.assert_close(again(tokens()).logits, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(make_tiny_llama(tied=tied)(tokens()).logits, expected, atol=1e-3)


def test_a_model_saved_with_its_adapter_still_in_it_is_no_model():
    """What the wrong order writes: names that transformers does not know, and fills with random numbers at the next load."""
    model = randomise(inject(make_tiny_llama(), LoRAConfig(r=2)))
    merge(model)
    assert any(".base_layer." in name for name in model.state_dict())
    assert not any("lora_" in name or ".base_layer." in name for name in unload(model).state_dict())


def test_a_second_adapter_over_a_merged_one(tmp_path):
    """Merge a, take the plain model, load b, merge it: as both merged at once; b says that its base has other weights."""
    model = make_tiny_llama()
    for seed, name in enumerate(("a", "b")):
        randomise(inject(model, LoRAConfig(r=2), name), name, seed, std=0.1)
        save(model, tmp_path, name)
    set_adapter(model, ["a", "b"])
    both = model(tokens()).logits
    chain = load(make_tiny_llama(), tmp_path / "a")
    merge(chain)
    with pytest.raises(CheckpointError, match="unmerge"):  # over W₀ + ΔW_a that may be taken back, nothing is put
        load(chain, tmp_path / "b", "b")
    unload(chain)
    with pytest.warns(UserWarning, match="trained on a base with other weights"):
        load(chain, tmp_path / "b", "b")
    torch.testing.assert_close(chain(tokens()).logits, both, rtol=1e-4, atol=1e-5)
    merge(chain)
    torch.testing.assert_close(unload(chain)(tokens()).logits, both, rtol=1e-4, atol=1e-5)


def test_a_plain_module_without_a_configuration_is_untied_too():
    model = torch.nn.ModuleDict({"read": torch.nn.Embedding(8, 4), "say": torch.nn.Linear(4, 8, bias=False)})
    model["say"].weight = model["read"].weight
    untie(inject(model, LoRAConfig(r=2, target_modules=["say"])))
    merge(randomise(model))
    assert not torch.equal(model["say"].weight, model["read"].weight)
