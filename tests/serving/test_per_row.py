"""Rows of several adapters in one batch: each as it is alone."""

import pytest
import torch
from conftest import make_tiny_llama
from helpers import randomise, tokens

from lora_edu.adapters import LoRAConfig, inject, load, merge, set_adapter, set_scale
from lora_edu.errors import AdapterError, MergeError
from lora_edu.models import load_base
from lora_edu.serving import adapters_per_row, why_alone

ROWS = [("small", 1.0), (None, 1.0), ("wide", 0.5), ("table", 1.0), ("small", -1.5), ("wide", 0.0), ("table", 2.0)]


@pytest.fixture(scope="module")
def model(model_folder, adapters):
    model = load_base(model_folder, device="cpu").model
    for name, folder in adapters.items():
        load(model, folder, name)
    set_adapter(model, "small")
    return model


def alone(model, row, ids, **more):
    name, dial = row
    set_adapter(model, name)
    if name is not None:
        set_scale(model, dial)
    return model(input_ids=ids[None], **more).logits[0]


@torch.no_grad()
def test_each_row_is_as_it_is_alone(model):
    ids = tokens(len(ROWS), 9, 200)
    with adapters_per_row(model, ROWS):
        together = model(input_ids=ids).logits
    expected = torch.stack([alone(model, row, ids[i]) for i, row in enumerate(ROWS)])
    assert torch.allclose(together, expected, atol=2e-5, rtol=1e-4)
    base = alone(model, (None, 1.0), ids[0])
    assert (expected[0] - base).abs().max() > 0.01  # the adapters say something
    assert torch.equal(together[5], together[5]) and torch.allclose(
        together[5], alone(model, (None, 1.0), ids[5]), atol=1e-5
    )


@torch.no_grad()
def test_padding_on_the_left_changes_no_row(model):
    lengths = [3, 9, 5, 7, 1, 2, 8]
    prompts = [tokens(1, n, 200, seed=n)[0] for n in lengths]
    ids, mask = torch.zeros(len(ROWS), 9, dtype=torch.long), torch.zeros(len(ROWS), 9, dtype=torch.long)
    for i, prompt in enumerate(prompts):
        ids[i, 9 - len(prompt) :], mask[i, 9 - len(prompt) :] = prompt, 1
    with adapters_per_row(model, ROWS):
        together = model(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits
    for i, row in enumerate(ROWS):
        expected = alone(model, row, prompts[i])
        assert torch.allclose(together[i, 9 - lengths[i] :], expected, atol=2e-5, rtol=1e-4), row


@torch.no_grad()
def test_rows_that_stay_keep_their_adapter(model):
    ids, stay = tokens(len(ROWS), 4, 200), [4, 1, 2]
    with adapters_per_row(model, ROWS) as batch:
        model(input_ids=ids)
        batch.keep(stay)
        together = model(input_ids=ids[stay]).logits
    for i, row in enumerate(stay):
        assert torch.allclose(together[i], alone(model, ROWS[row], ids[row]), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_afterwards_all_is_as_before(model):
    ids = tokens(2, 5, 200)
    set_adapter(model, "wide")
    before = model(input_ids=ids).logits
    with pytest.raises(ZeroDivisionError), adapters_per_row(model, [("small", 1.0), (None, 1.0)]):
        raise ZeroDivisionError
    assert torch.equal(model(input_ids=ids).logits, before)
    assert not any(module._forward_hooks for module in model.modules())


def test_what_is_no_plain_lora_is_refused_and_said(model):
    assert "DoRA" in why_alone(model, "dora") and "IA3" in why_alone(model, "ia3")
    assert why_alone(model, "wide") is None
    with (
        pytest.raises(AdapterError, match=r"'dora' cannot share a batch.*DoRA"),
        adapters_per_row(model, [("dora", 1.0)]),
    ):
        pass
    with pytest.raises(AdapterError, match="no adapter 'nobody'"), adapters_per_row(model, [("nobody", 1.0)]):
        pass


def test_whole_modules_and_merged_models_are_refused():
    model = inject(make_tiny_llama(), LoRAConfig(modules_to_save=("lm_head",)))
    assert "lm_head" in why_alone(model, "default")
    model = randomise(inject(make_tiny_llama(), LoRAConfig()))
    merge(model)
    with pytest.raises(MergeError, match="unmerge"), adapters_per_row(model, [("default", 1.0)]):
        pass


def test_a_batch_of_another_size_is_refused(model):
    with (
        torch.no_grad(),
        adapters_per_row(model, [("small", 1.0)] * 2),
        pytest.raises(AdapterError, match="cannot be told apart"),
    ):
        model(input_ids=tokens(3, 4, 200))


@torch.no_grad()
def test_half_precision(model_folder, adapters):
    model = load_base(model_folder, device="cpu", dtype="bfloat16").model
    load(model, adapters["small"], "small")
    ids = tokens(2, 6, 200)
    with adapters_per_row(model, [("small", 1.0), (None, 1.0)]):
        together = model(input_ids=ids).logits
    assert together.dtype == torch.bfloat16
    assert torch.allclose(together[0].float(), alone(model, ("small", 1.0), ids[0]).float(), atol=0.1)
