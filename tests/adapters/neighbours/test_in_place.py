"""Full fine-tuning and BitFit: what trains is what should, as if trained by hand; and what a base that moves cannot do is refused."""

import warnings

import pytest
import torch
from helpers import tokens
from neighbour_runs import MODELS, attached, gpt2, llama, trainer, twenty_steps
from torch import nn

from lora_edu.adapters import (
    BitFit,
    FullFineTuning,
    LoRAConfig,
    PrefixTuning,
    adapter_names,
    adapter_parameters,
    attach,
    audit,
    disabled,
    fingerprint,
    inject,
    load,
    merge,
    remove_adapter,
    save,
    set_adapter,
    set_scale,
    trainable_count,
    unload,
)
from lora_edu.errors import AdapterError, MergeError, TargetError

# (model, method, which of its parameters train, by a rule of the test's own)
CASES = {
    "full llama": (llama, FullFineTuning(), lambda name: True),
    "full gpt2": (gpt2, FullFineTuning(), lambda name: True),
    "full, tied": (lambda dtype=torch.float64: llama(dtype, tied=True), FullFineTuning(), lambda name: name != "lm_head.weight"),
    "biases": (gpt2, BitFit(), lambda name: name.endswith(".bias")),
    "biases and norms": (gpt2, BitFit(norms=True), lambda name: name.endswith(".bias") or ".ln_" in name),
    "norms": (llama, BitFit(norms=True), lambda name: name.endswith("norm.weight")),
    "biases of attention": (lambda dtype=torch.float64: llama(dtype, attention_bias=True), BitFit(), lambda name: name.endswith("_proj.bias")),
}  # fmt: skip
every = pytest.mark.parametrize("case", CASES)


@every
def test_the_same_as_trained_by_hand(case):
    make, method, trains = CASES[case]
    ours, theirs = attach(make(), method), make()
    for name, p in theirs.named_parameters():
        p.requires_grad_(trains(name))
    by_hand = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    assert set(audit(ours).names) == by_hand.keys() == adapter_parameters(ours).keys()
    assert trainable_count(make(), method) == audit(ours).trainable == sum(p.numel() for p in by_hand.values())
    frozen = {name: p.detach().clone() for name, p in ours.named_parameters() if name not in by_hand}
    twenty_steps(ours, theirs, adapter_parameters(ours), by_hand)
    assert all(torch.equal(p, frozen[name]) for name, p in ours.named_parameters() if name in frozen)
    torch.testing.assert_close(ours(tokens()).logits, theirs(tokens()).logits, rtol=0, atol=1e-9)


def test_the_counts_are_the_formulas():
    """GPT-2: 11·d biases a block (3 + 1 + 4 + 1 of matrices, 2 of norms), d of the last norm; LN: a block's two and the last, twice."""
    d, layers = 8, 2
    assert trainable_count(gpt2(), BitFit()) == layers * 11 * d + d
    assert trainable_count(gpt2(), BitFit(norms=True)) == layers * 13 * d + 2 * d
    assert trainable_count(llama(), BitFit(norms=True)) == (2 * layers + 1) * 16


def test_a_bias_that_two_layers_share_trains_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].bias = model[0].bias
    attach(model, BitFit())
    assert audit(model).names == ("0.bias",) and trainable_count(model, BitFit()) == 3
    before = model[0].bias.detach().clone()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert model[1].bias is model[0].bias and not torch.equal(model[0].bias, before)


@every
def test_saved_and_loaded_bit_for_bit_without_a_warning_and_only_what_trains(case, tmp_path):
    make, method, _trains = CASES[case]
    model = attached(make, method)
    trainer(model).train()
    folder = save(model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error"
        )  # the base that it was trained on is this one, though its weights have moved since
        again = load(make(torch.float32), folder)
    assert torch.equal(again(tokens()).logits, model(tokens()).logits) and audit(again).trainable == 0
    assert not torch.equal(again(tokens()).logits, make(torch.float32)(tokens()).logits)
    other = make(torch.float32)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    with pytest.warns(UserWarning, match="other weights"):
        load(other, folder)


def test_a_norms_averages_move_with_full_fine_tuning_and_are_saved(tmp_path):
    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()

    model, x = attach(make(), FullFineTuning()), torch.randn(8, 4)
    model(x)
    still = attach(make(), BitFit())
    still(x)
    assert torch.equal(still[1].running_mean, torch.zeros(4)) and not torch.equal(model[1].running_mean, torch.zeros(4))
    again = load(make(), save(model, tmp_path))
    assert torch.equal(again.eval()(x), model.eval()(x))


def test_a_base_that_moves_stands_alone():
    for first, second in [
        (FullFineTuning(), LoRAConfig(r=2)), (LoRAConfig(r=2), FullFineTuning()), (FullFineTuning(), FullFineTuning()),
        (BitFit(norms=True), LoRAConfig(r=2)), (LoRAConfig(r=2), BitFit(norms=True)), (BitFit(norms=True), PrefixTuning(2)),
        (PrefixTuning(2), FullFineTuning()),
    ]:  # fmt: skip
        model = attach(llama(), first)
        names = audit(model).names
        with pytest.raises(AdapterError, match="two copies"):
            attach(model, second, "second")
        assert audit(model).names == names and adapter_names(model) == ["default"]
    model = inject(llama(), LoRAConfig(r=2))
    merge(model)
    with pytest.raises(Exception, match=r"unmerge|unload"):
        attach(model, BitFit(norms=True), "second")
    attach(unload(model), BitFit(norms=True))  # the remedy that it names


@pytest.mark.parametrize("method", [FullFineTuning(), BitFit(norms=True)])
def test_what_cannot_be_is_refused_with_the_reason(method, tmp_path):
    model = attach(llama(), method)
    with pytest.raises(MergeError, match="nothing to merge"):
        merge(model)
    for act in (lambda: set_scale(model, 0.5), lambda: set_scale(model, 0), lambda: set_adapter(model, None)):
        with pytest.raises(AdapterError, match="no base left"):
            act()
    with pytest.raises(AdapterError, match="no base left"), disabled(model):
        pass
    with pytest.raises(AdapterError, match="load the base again"):
        remove_adapter(model, "default")
    set_adapter(model, "default")
    with torch.no_grad():
        model.model.norm.weight.mul_(2)
    trained = model(tokens()).logits
    plain = unload(model)
    assert torch.equal(plain(tokens()).logits, trained) and list(plain.state_dict()) == list(llama().state_dict())
    assert adapter_names(plain) == [] and fingerprint(plain) != fingerprint(llama())


def test_a_model_without_a_bias_and_one_of_codes():
    with pytest.raises(TargetError, match="norms=True"):
        attach(llama(), BitFit())
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(TargetError, match="quantised"):
        attach(model, FullFineTuning())
    with pytest.warns(UserWarning, match="16 bits"):
        attach(MODELS["llama"](torch.bfloat16), FullFineTuning())
