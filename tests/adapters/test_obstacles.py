"""What an adapter cannot be put on, and a frozen base that stays as it is: laws 1, 3, 5 and 9 where PyTorch has a way past the layers."""

import copy
import warnings

import peft
import pytest
import torch
from conftest import make_tiny_llama
from helpers import randomise, tokens
from torch import nn

from lora_edu.adapters import (
    LoRAConfig,
    disabled,
    fingerprint,
    inject,
    load,
    lora_layers,
    merge,
    plan,
    save,
    unload,
    unmerge,
)
from lora_edu.errors import ConfigError, TargetError


def encoder():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


def test_an_adapter_in_an_encoder_layer_is_heard_in_eval_and_merge_changes_nothing():
    model, x = encoder(), torch.randn(2, 5, 16)
    with torch.no_grad():
        before = model(x)
        with pytest.warns(UserWarning, match="self_attn.out_proj: nn.MultiheadAttention reads its weight"):
            inject(model, LoRAConfig(r=2))
        randomise(model)
        fast = model(x)
    assert {path.rsplit(".", 1)[1] for path in lora_layers(model)} == {"linear1", "linear2"}
    assert not torch.allclose(fast, before, atol=1e-2)
    torch.testing.assert_close(fast, model(x).detach())  # with gradients PyTorch never took its own kernel
    with torch.no_grad():
        merge(model)
        torch.testing.assert_close(model(x), fast, rtol=1e-4, atol=1e-4)
        unmerge(model)
        assert torch.equal(unload(model)(x), before)
    assert not any(m._forward_pre_hooks for m in model.modules())


class Router(nn.Linear):
    def forward(self, x):
        return super().forward(x).softmax(-1)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = self.second = nn.Linear(4, 4)
        self.third = nn.Linear(4, 4)


@pytest.mark.parametrize(
    ("make", "name", "words"),
    [
        (encoder, "out_proj", "would not be heard"),
        (lambda: nn.Sequential(Router(4, 4), nn.Linear(4, 4)), "0", "Router has a forward of its own"),
        (lambda: nn.ModuleDict({"a": nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), "b": nn.Linear(4, 4)}), "a", "made from other tensors"),
        (lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 4)), nn.Linear(4, 4)), "0", "made from other tensors"),
        (Twice, "first", "one layer under 2 names .first, second."),
    ],
)  # fmt: skip
def test_a_layer_that_would_be_wrong_is_refused_by_name_and_left_out_of_all_linear(make, name, words):
    with pytest.raises(TargetError, match=words):
        plan(make(), LoRAConfig(r=2, target_modules=[name]))
    with pytest.warns(UserWarning, match=f"all-linear leaves out .*{words}"):
        assert plan(make(), LoRAConfig(r=2))


def test_pefts_own_layers_are_refused():
    theirs = peft.get_peft_model(make_tiny_llama(), peft.LoraConfig(r=2, target_modules=["q_proj"])).base_model.model
    with pytest.raises(TargetError, match="PEFT's Linear"):
        inject(theirs, LoRAConfig(r=2, target_modules=["up_proj"]))


def test_stacked_experts_are_named_with_their_share():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Linear(8, 1)
            self.up_proj = nn.Parameter(torch.zeros(4, 8, 8))
            self.mlp = nn.Linear(8, 8)

    with pytest.warns(UserWarning, match=r"1 stacked tensors \(up_proj …: 76% of the parameters\) frozen"):
        targets = plan(Experts(), LoRAConfig())
    assert [(t.name, t.r) for t in targets] == [
        ("gate", 8),
        ("mlp", 8),
    ]  # a gate of one output has ranks to spare, as in PEFT
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 8)), LoRAConfig(target_modules=["1"]))
        with pytest.raises(ConfigError, match="rank 9 exceeds"):
            plan(nn.Sequential(nn.Linear(8, 1), nn.Linear(8, 8)), LoRAConfig(r=9))


def test_the_layers_number_is_named_when_it_is_at_fault():
    with pytest.raises(TargetError, match=r"layers_to_transform=\[5\] leaves none of the 2 layers .*: 0 to 1"):
        plan(make_tiny_llama(), LoRAConfig(r=2, target_modules=["q_proj"], layers_to_transform=[5]))


# -- buffers -----------------------------------------------------------------------------------------------------------
class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.bn, self.head_bn, self.b = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.BatchNorm1d(8), nn.Linear(8, 8)

    def forward(self, x):
        return self.b(self.head_bn(self.bn(self.a(x))))


def test_laws_3_6_and_9_hold_for_running_statistics(tmp_path):
    torch.manual_seed(0)
    base = Normed()
    model, x = copy.deepcopy(base), torch.randn(9, 8)
    inject(model, LoRAConfig(r=2, modules_to_save=["head_bn"]))
    randomise(model).train()
    for _ in range(3):
        model(x).sum().backward()
    assert torch.equal(model.bn.running_mean, base.bn.running_mean) and fingerprint(model) == fingerprint(base)
    assert not torch.equal(model.head_bn.copies["default"].running_mean, base.head_bn.running_mean)
    inject(model, LoRAConfig(r=2, modules_to_save=["head_bn"]), "second")
    assert (
        model.train().head_bn.copies["second"].training
    )  # a copy trains, though the module it was copied from stands still
    model.eval()
    with disabled(model):
        assert torch.equal(model(x), base.eval()(x))
    loaded = load(copy.deepcopy(base), save(model, tmp_path)).eval()
    from lora_edu.adapters import set_adapter

    set_adapter(model, "default")
    assert torch.equal(loaded(x), model(x))
    unload(model).train()(x)
    assert not torch.equal(model.bn.running_mean, base.bn.running_mean)  # a plain model is a plain model again


def test_the_fingerprint_tells_buffers_and_a_tables_last_rows_apart():
    first = Normed()
    second = copy.deepcopy(first)
    second.bn.running_var[3] = 2
    assert fingerprint(first) != fingerprint(second)
    table = nn.Embedding(70, 31)
    other = copy.deepcopy(table)
    with torch.no_grad():
        other.weight[-1, -2] += 1
    assert fingerprint(table) != fingerprint(other)


def mixture(**config):
    """Two layers of a mixture: routed experts stacked in one tensor, and a shared expert of ordinary layers."""
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    torch.manual_seed(0)
    sizes = dict(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    sizes |= dict(num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8)
    return Qwen2MoeForCausalLM(Qwen2MoeConfig(**sizes | dict(shared_expert_intermediate_size=8) | config)).eval()


@pytest.mark.parametrize("wanted", [["q_proj", "gate_up_proj"], ["gate_up_proj"], ["experts.gate_proj", "q_proj"]])
def test_a_name_that_means_routed_experts_alone_is_refused(wanted):
    with pytest.raises(TargetError, match=r"gate_(up_)?proj, in model\.layers\.0\.mlp\.experts\.gate_up_proj"):
        plan(mixture(), LoRAConfig(r=2, target_modules=wanted))


def test_an_old_mixture_s_names_of_its_experts_are_refused():
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = dict(vocab_size=32, hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    model = MixtralForCausalLM(MixtralConfig(**sizes, num_key_value_heads=2, num_local_experts=2))
    with pytest.raises(TargetError, match=r"w1, in .*experts\.gate_up_proj; w2, in .*experts\.down_proj"):
        plan(model, LoRAConfig(r=2, target_modules=["q_proj", "w1", "w2"]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wanted", [["q_proj", "v_proj"], ["q_proj", "down_proj"], "all-linear"])
def test_a_mixture_s_shared_expert_is_the_same_in_peft(wanted, tmp_path):
    """Its layers bear the names by which older mixtures called their routed experts, and PEFT knows of both."""
    model = randomise(inject(mixture(), LoRAConfig(r=2, target_modules=wanted)))
    theirs = peft.PeftModel.from_pretrained(mixture(), save(model, tmp_path))
    torch.testing.assert_close(theirs(tokens()).logits, model(tokens()).logits, rtol=1e-4, atol=1e-5)
