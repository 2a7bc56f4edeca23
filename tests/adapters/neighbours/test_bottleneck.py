"""Bottleneck adapters against a model with the small networks written into its blocks, in float64 to 1e-9."""

import copy

import pytest
import torch
from helpers import tokens
from neighbour_runs import MODELS, batch, llama, trainer, twenty_steps, values
from torch import nn

from lora_edu.adapters import (
    Bottleneck,
    LoRAConfig,
    adapter_parameters,
    attach,
    audit,
    combine,
    disabled,
    fingerprint,
    inject,
    load,
    lora_layers,
    merge,
    save,
    set_adapter,
    set_scale,
    trainable_count,
)
from lora_edu.errors import AdapterError, ConfigError, LoRAEduError, MergeError, TargetError

BEHIND = {
    ("llama", "houlsby"): ["self_attn", "mlp"],
    ("llama", "pfeiffer"): ["mlp"],
    ("gpt2", "houlsby"): ["attn", "mlp"],
    ("gpt2", "pfeiffer"): ["mlp"],
}


class Small(nn.Module):
    """The reference: an ordinary two-layer network beside an identity."""

    def __init__(self, d: int, m: int, f: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(d, m), f, nn.Linear(m, d)).double()

    def forward(self, h):
        return h + self.net(h)


def written_in(make: str, place: str, f: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """(a model whose attention and MLP *modules* pass their output through a network each, the networks), by hooks on whole halves."""
    model, nets = MODELS[make](), nn.ModuleList()
    blocks = model.model.layers if make == "llama" else model.transformer.h
    for block in blocks:
        for half in BEHIND[make, place]:
            net = Small(model.config.hidden_size, 3, f)
            nets.append(net)
            getattr(block, half).register_forward_hook(
                lambda module, args, out, net=net: (net(out[0]), *out[1:]) if isinstance(out, tuple) else net(out)
            )
    for p in model.parameters():
        p.requires_grad_(False)
    return model, nets


def pair(make, place, activation="relu"):
    functions = {"relu": nn.ReLU(), "gelu": nn.GELU(), "silu": nn.SiLU()}
    theirs, nets = written_in(make, place, functions[activation])
    ours = attach(MODELS[make](), Bottleneck(m=3, place=place, activation=activation))
    mine, other = {}, {}
    for i, (layer, net) in enumerate(zip(lora_layers(ours).values(), nets, strict=True)):
        tensors = layer.tensors("default")
        down, up = net.net[0], net.net[2]
        for slot, p in (
            ("lora_down", down.weight),
            ("lora_down_bias", down.bias),
            ("lora_up", up.weight),
            ("lora_up_bias", up.bias),
        ):
            values(p, 10 * i + len(slot))
            values(tensors[slot], 10 * i + len(slot))
            mine[f"{i} {slot}"], other[f"{i} {slot}"] = tensors[slot], p
    return ours, theirs, mine, other


@pytest.mark.parametrize(("make", "place"), BEHIND)
def test_the_same_as_networks_written_into_the_blocks(make, place):
    ours, theirs, mine, other = pair(make, place)
    x = tokens()
    torch.testing.assert_close(ours(x).logits, theirs(x).logits, rtol=0, atol=1e-9)
    assert not torch.allclose(ours(x).logits, MODELS[make]()(x).logits, atol=1e-3)
    twenty_steps(ours, theirs, mine, other)


@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_the_other_nonlinearities(activation):
    ours, theirs, *_ = pair("llama", "houlsby", activation)
    torch.testing.assert_close(ours(tokens()).logits, theirs(tokens()).logits, rtol=0, atol=1e-9)


def test_silent_at_the_start_alive_and_as_many_as_the_formula_says():
    model = llama(torch.float32)
    before, base = model(tokens()).logits, fingerprint(model)
    for place, places in (("houlsby", 4), ("pfeiffer", 2)):
        assert trainable_count(model, Bottleneck(m=5, place=place)) == places * (2 * 5 * 16 + 5 + 16)
    attach(model, Bottleneck(m=5))
    assert audit(model).trainable == 4 * (2 * 5 * 16 + 5 + 16)
    assert torch.equal(model(tokens()).logits, before) and fingerprint(model) == base
    model(**batch()).loss.backward()
    alive = {name: bool(p.grad.any()) for name, p in adapter_parameters(model).items()}
    assert all(on == (".lora_up" in name) for name, on in alive.items())
    assert all(0 < layer.tensors("default")["lora_down"].abs().max() < 0.1 for layer in lora_layers(model).values())


@pytest.mark.filterwarnings("error:.*never train")
def test_a_bias_that_waits_for_the_other_matrix_is_no_cause_for_alarm():
    """c has no gradient while U = 0, and one from the second step on; so with a rank whose A and B are 0 the alarm must still be raised."""
    model = attach(llama(torch.float32), Bottleneck(m=3))
    trainer(model, steps=2).train()
    assert all(layer.tensors("default")["lora_down_bias"].any() for layer in lora_layers(model).values())
    model = inject(llama(torch.float32), LoRAConfig(r=2, target_modules=["q_proj", "o_proj"]))
    with torch.no_grad():
        lora_layers(model)["model.layers.0.self_attn.q_proj"].tensors("default")["lora_A"].zero_()
    with pytest.raises(UserWarning, match="2 trainable parameters"):
        trainer(model, steps=1).train()


def test_the_dial_a_lora_beside_it_and_the_folder(tmp_path):
    base, (model, *_) = llama(), pair("llama", "houlsby")
    whole = model(tokens()).logits
    set_scale(model, 0.5)
    half = model(tokens()).logits
    assert not torch.allclose(half, whole, atol=1e-3)
    with disabled(model):
        assert torch.equal(model(tokens()).logits, base(tokens()).logits)
    set_scale(model, 1)
    folder = save(model, tmp_path)
    again = load(llama(), folder)
    assert torch.equal(again(tokens()).logits, whole)
    assert torch.equal(copy.deepcopy(again)(tokens()).logits, whole)
    inject(again, LoRAConfig(r=2, target_modules=["o_proj"]), "lora")
    for i, p in enumerate(adapter_parameters(again, "lora").values()):
        values(p, i)
    set_adapter(again, ["default", "lora"])
    assert not torch.allclose(again(tokens()).logits, whole, atol=1e-3)
    with pytest.raises(MergeError, match="nonlinearity"):
        merge(again)
    set_adapter(again, "lora")
    merge(again)  # a LoRA beside it, while it is silent


def test_what_is_refused():
    for wrong in ({"m": 0}, {"place": "everywhere"}, {"activation": "tanh"}):
        with pytest.raises(ConfigError):
            attach(llama(), Bottleneck(**wrong))
    with pytest.raises(TargetError, match="target_modules"):
        attach(nn.Sequential(nn.Linear(3, 3)), Bottleneck(m=2))
    model, *_ = pair("llama", "pfeiffer")
    with pytest.raises(MergeError, match="nonlinearity"):
        merge(model)
    assert not any(layer.merged for layer in lora_layers(model).values())
    with pytest.raises(LoRAEduError):
        lora_layers(model)["model.layers.0.mlp.down_proj"].delta_weight()
    with pytest.raises(AdapterError, match="Bottleneck"):
        combine(model, {"default": 1.0}, name="both")
