"""The laws of LoRA over every variant in the folder, and a table of what one cannot keep by its nature, and why."""

import pytest
import torch
from conftest import make_tiny_llama
from helpers import tokens

from lora_edu.adapters import (
    LoRAConfig,
    after_step,
    audit,
    disabled,
    fingerprint,
    inject,
    load,
    lora_layers,
    merge,
    remove_adapter,
    save,
    set_scale,
    unload,
    unmerge,
    variant_loss,
)
from lora_edu.adapters.variants import names

PLACES = {"r": 3, "lora_alpha": 7, "target_modules": ["q_proj", "v_proj", "down_proj"]}
SETTINGS = {
    "adalora": {"variant": "adalora:target_r=2"},
    "dora": {},
    "eva": {},
    "flora": {},
    "lora_ga": {},
    "olora": {},
    "pissa": {},
    "qalora": {"variant": "qalora:qalora_group_size=4"},
    "vblora": {"variant": "vblora:num_vectors=8,vector_length=4"},
    "vera": {},
}  # of each variant: what its LoRAConfig has beside PLACES and its name
VARIANTS = {"plain": {}, **SETTINGS}


def injected(name):
    torch.manual_seed(1)
    variant = None if name == "plain" else VARIANTS[name].get("variant", name)
    config = LoRAConfig(**PLACES | VARIANTS[name] | {"variant": variant})
    needs = config.variant is not None and config.variant.needs_data
    return inject(
        make_tiny_llama(),
        config,
        data=[{"input_ids": tokens(seed=s), "labels": tokens(seed=s)} for s in (1, 2)] if needs else None,
    )


def trained(name, steps=4):
    model = injected(name).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        x = tokens(seed=step)
        loss = model(input_ids=x, labels=x).loss
        term = variant_loss(model)
        (loss if term is None else loss + term).backward()
        optimizer.step()
        after_step(model, step, steps)
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(tokens()).logits


def silent_at_the_start(name, tmp_path):
    """Law 1, bit for bit; and with the first gradient something moves."""
    model, base = injected(name), make_tiny_llama()
    assert torch.equal(logits(model), logits(base))
    loss = model(input_ids=tokens(), labels=tokens()).loss
    loss.backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


def only_its_own_tensors_train(name, tmp_path):
    """Law 3: the base's bytes are what they were, after training as well."""
    model, base = trained(name), make_tiny_llama()
    assert fingerprint(model) == fingerprint(base)
    assert all(".lora_" in n for n in audit(model).names) and audit(model).names
    assert not torch.allclose(logits(model), logits(base), atol=1e-3)
    bare = unload(model).state_dict()
    assert all(torch.equal(tensor, bare[key]) for key, tensor in base.state_dict().items())


def off_is_the_base(name, tmp_path):
    """Law 9: switched off, dial at 0, removed: bit for bit."""
    model, base = trained(name), logits(make_tiny_llama())
    with disabled(model):
        assert torch.equal(logits(model), base)
    set_scale(model, 0)
    assert torch.equal(logits(model), base)
    set_scale(model, 0.5)
    half = logits(model)
    assert not torch.equal(half, base)
    merge(model)  # the dial counts in a merge, too
    torch.testing.assert_close(logits(model), half, rtol=1e-4, atol=1e-5)
    unmerge(model)
    remove_adapter(model, "default")
    assert torch.equal(logits(model), base) and list(model.state_dict()) == list(make_tiny_llama().state_dict())


def merge_is_the_same_and_unmerge_brings_back(name, tmp_path):
    """Law 5: merged outputs to rounding, W₀ bit for bit."""
    model = trained(name)
    before, weights = logits(model), {k: v.clone() for k, v in make_tiny_llama().state_dict().items()}
    merge(model)
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-5)
    unmerge(model)
    assert torch.equal(logits(model), before)
    bare = unload(model).state_dict()
    assert all(torch.equal(v, bare[k]) for k, v in weights.items())


def save_and_load_bit_for_bit(name, tmp_path):
    """Law 6, the strict half: the loaded model says the same, bit for bit, and trains the same tensors."""
    model = trained(name)
    fresh = load(make_tiny_llama(), save(model, tmp_path), trainable=True)
    assert torch.equal(logits(fresh), logits(model)) and audit(fresh).names == audit(model).names


def save_and_load_to_rounding(name, tmp_path):
    """Law 6, as everybody keeps it; and saving changed nothing."""
    model = trained(name)
    before = logits(model)
    fresh = load(make_tiny_llama(), save(model, tmp_path))
    torch.testing.assert_close(logits(fresh), before, rtol=1e-4, atol=1e-5)
    assert torch.equal(logits(model), before) and audit(fresh).names == ()


def no_tensor_is_shared(name, tmp_path):
    """A layer's tensors are its own: an adapter can be cut, summed and merged layer by layer."""
    layers = lora_layers(injected(name)).values()
    held = [id(t) for layer in layers for t in layer.tensors("default").values()]
    assert len(held) == len(set(held))


def update_of_rank_r(name, tmp_path):
    """ΔW has rank r at most, which is what r promises."""
    for layer in lora_layers(trained(name)).values():
        assert torch.linalg.matrix_rank(layer.delta_weight("default").double(), rtol=1e-5) <= PLACES["r"]


CLAIMS = [
    silent_at_the_start,
    only_its_own_tensors_train,
    off_is_the_base,
    merge_is_the_same_and_unmerge_brings_back,
    save_and_load_bit_for_bit,
    save_and_load_to_rounding,
    no_tensor_is_shared,
    update_of_rank_r,
]
_TAKEN = "its start is taken out of W₀; so that the base stays, it is written as plain LoRA of twice the rank, whose sums are rounded otherwise"
_TWICE = "B A − B₀ A₀ has rank 2r"
EXEMPT = {
    **{(name, save_and_load_bit_for_bit): _TAKEN for name in ("lora_ga", "olora", "pissa")},
    **{(name, update_of_rank_r): _TWICE for name in ("lora_ga", "olora", "pissa")},
    (
        "flora",
        save_and_load_bit_for_bit,
    ): "no tool reads its core, so that it is written as plain LoRA of the same rank",
    ("vblora", silent_at_the_start): "neither of its factors starts at 0",
    ("vblora", no_tensor_is_shared): "one bank of vectors for all layers is what it is",
    ("vera", no_tensor_is_shared): "one random pair of factors for all layers is what it is",
    ("dora", update_of_rank_r): "it changes the length of every row of W₀, and W₀ has full rank",
}


def test_no_variant_is_left_out():
    assert sorted(SETTINGS) == names()


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
@pytest.mark.parametrize("name", VARIANTS)
def test_the_laws_hold_but_for_the_named_exemptions(name, claim, tmp_path):
    """An exemption is one: where the table names it, the claim really fails."""
    if (name, claim) in EXEMPT:
        with pytest.raises(AssertionError):
            claim(name, tmp_path)
    else:
        claim(name, tmp_path)
