"""The hook for variants: what the layers, files and errors do with any of them. (The trainer's part: `tests/training/test_variants_train.py`.)"""

import copy
from dataclasses import dataclass

import peft
import pytest
import torch
from conftest import make_tiny_llama
from helpers import tokens
from safetensors.torch import load_file

from lora_edu.adapters import (
    LoRAConfig,
    adapter_names,
    adapter_parameters,
    after_step,
    audit,
    combine,
    disabled,
    fingerprint,
    fused,
    inject,
    load,
    lora_layers,
    merge,
    remove_adapter,
    save,
    set_scale,
    unmerge,
    variant_loss,
)
from lora_edu.adapters.variants import Slot, Variant, named, names
from lora_edu.adapters.variants.adalora import AdaLoRA
from lora_edu.adapters.variants.vera import VeRA
from lora_edu.errors import AdapterError, ConfigError, TargetError

CONFIGS = {
    "shared": LoRAConfig(r=4, target_modules=["q_proj", "down_proj"], variant=VeRA()),
    "shared, made again": LoRAConfig(r=4, target_modules=["q_proj", "down_proj"], variant=VeRA(save_projection=False)),
    "after each step": LoRAConfig(r=3, target_modules=["q_proj", "v_proj"], variant=AdaLoRA(target_r=1)),
    "with dropout": LoRAConfig(r=3, target_modules="all-linear", lora_dropout=0.2, variant=AdaLoRA(target_r=2)),
}


def train(model, steps=4):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    model.train()
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        x = tokens(seed=step)
        loss = model(input_ids=x, labels=x).loss
        extra = variant_loss(model)
        (loss if extra is None else loss + 0.01 * extra).backward()
        optimizer.step()
        after_step(model, step, steps)
    return model.eval()


@pytest.mark.parametrize("case", CONFIGS)
def test_a_variant_goes_through_everything_an_adapter_goes_through(case, tmp_path):
    base, model = make_tiny_llama(), make_tiny_llama()
    before, config = base(tokens()).logits, CONFIGS[case]
    inject(model, config)
    assert torch.equal(model(tokens()).logits, before)  # law 1
    assert not any("vera_A" in n or "importance" in n for n in audit(model).names) and audit(model).names
    assert fingerprint(train(model)) == fingerprint(base)  # law 3
    trained = model(tokens()).logits
    assert not torch.allclose(trained, before, atol=1e-3)
    twin = copy.deepcopy(model)
    with disabled(model):
        assert torch.equal(model(tokens()).logits, before)  # law 9
    set_scale(model, 0)
    assert torch.equal(model(tokens()).logits, before)
    set_scale(model, 1)
    merge(model)  # law 5
    torch.testing.assert_close(model(tokens()).logits, trained, rtol=1e-4, atol=1e-5)
    unmerge(model)
    assert torch.equal(model(tokens()).logits, trained)
    fresh = load(make_tiny_llama(), save(model, tmp_path), trainable=True)  # law 6
    assert torch.equal(fresh(tokens()).logits, trained) and audit(fresh).names == audit(model).names
    remove_adapter(model, "default")
    assert list(model.state_dict()) == list(base.state_dict()) and torch.equal(model(tokens()).logits, before)
    assert torch.equal(twin(tokens()).logits, trained)


def test_a_shared_tensor_is_one_and_written_once_unless_it_is_made_again(tmp_path):
    model = inject(make_tiny_llama(), CONFIGS["shared"])
    layers = list(lora_layers(model).values())
    assert len({id(layer.tensor("lora_vera_A", "default")) for layer in layers}) == 1 and len(layers) == 4
    twin = [layer.tensor("lora_vera_A", "default") for layer in lora_layers(copy.deepcopy(model).double()).values()]
    assert len({id(t) for t in twin}) == 1 and twin[0].dtype == torch.float64 and twin[0].shape == (4, 24)
    keys = set(load_file(save(model, tmp_path / "a") / "adapter_model.safetensors"))
    assert {"base_model.vera_A", "base_model.vera_B"} <= keys and len(keys) == 2 + 2 * 4
    again = inject(make_tiny_llama(), CONFIGS["shared, made again"])
    assert len(load_file(save(again, tmp_path / "b") / "adapter_model.safetensors")) == 2 * 4


def test_the_budget_is_kept_after_each_step_and_the_penalty_counts():
    model = train(inject(make_tiny_llama(), CONFIGS["after each step"]))
    left = sum(int((layer.tensor("lora_E", "default") != 0).sum()) for layer in lora_layers(model).values())
    assert left == 4  # of 12, in four layers
    assert variant_loss(model) > 0 and variant_loss(inject(make_tiny_llama(), LoRAConfig(r=2))) is None
    for parameter in adapter_parameters(model).values():
        parameter.requires_grad_(False)
    assert variant_loss(model) is None  # what does not train has no say in the loss


def test_a_variant_never_takes_the_fused_path():
    layer = next(iter(lora_layers(inject(make_tiny_llama(), CONFIGS["with dropout"])).values()))
    assert fused.is_on() and layer.fused_part() is None
    layer.state.active = {}
    assert layer.fused_part() is not None


def test_a_variant_beside_plain_lora_adds_up(tmp_path):
    model = train(inject(make_tiny_llama(), CONFIGS["shared"]))
    inject(model, LoRAConfig(r=2, target_modules=["q_proj"]), "plain")
    torch.nn.init.normal_(next(iter(lora_layers(model).values())).tensor("lora_B", "plain"))
    state = next(iter(lora_layers(model).values())).state
    state.active = {"default": 0.5, "plain": 2.0}
    both = model(tokens()).logits
    merge(model)
    torch.testing.assert_close(model(tokens()).logits, both, rtol=1e-4, atol=1e-5)
    unmerge(model)
    with pytest.raises(AdapterError, match="merge them instead"):
        combine(model, {"default": 1, "plain": 1})


@dataclass(frozen=True)
class FromData(Variant):
    """Starts from the data: A = the first directions of what a layer reads."""

    kinds = ("linear",)
    needs_data = True

    def start(self, model, layers, name, data=None):
        super().start(model, layers, name)
        for batch in data:
            model(batch)
            raise ZeroDivisionError("in the data")


def test_a_start_from_data_is_asked_for_and_one_that_fails_leaves_the_model_as_it_was():
    model, config = make_tiny_llama(), LoRAConfig(r=2, target_modules=["q_proj"], variant=FromData())
    with pytest.raises(ConfigError, match="data=batches"):
        inject(model, config)
    with pytest.raises(ZeroDivisionError):
        inject(model, config, data=[tokens()])
    assert adapter_names(model) == [] and list(model.state_dict()) == list(make_tiny_llama().state_dict())
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(TargetError, match="not defined for embedding"):
        inject(model, LoRAConfig(r=2, target_modules=["embed_tokens"], variant=FromData()), data=[])


def test_a_slot_must_be_told_from_a_weight():
    @dataclass(frozen=True)
    class Bad(Variant):
        def slots(self, target):
            return {"weight": Slot((1,))}

    with pytest.raises(AdapterError, match="must begin with lora_"):
        inject(make_tiny_llama(), LoRAConfig(r=2, variant=Bad()))


def test_a_variant_is_chosen_by_its_files_name():
    assert LoRAConfig(variant="vera:d_initial=0.5, save_projection=false").variant == VeRA(0.5, save_projection=False)
    assert all(type(named(name)).__name__.lower() == name.replace("_", "") for name in names())
    for text, words in (
        ("verra", "there are adalora, dora"),
        ("vera:d=1", "vera takes d_initial=…"),
        ("dora:1", "dora takes no settings"),
        (3, "a name, such as"),
    ):
        with pytest.raises(ConfigError, match=words):
            LoRAConfig(variant=text)


def test_a_variant_stands_before_what_is_trained_in_full(tmp_path):
    """`modules_to_save` beside each; written and read with it."""
    for name in ("dora", "pissa"):
        config = LoRAConfig(r=3, target_modules=["q_proj", "v_proj"], variant=name, modules_to_save=["norm"])
        model = train(inject(make_tiny_llama(), config))
        trained = model(tokens()).logits
        ours = load(make_tiny_llama(), save(model, tmp_path / name))
        torch.testing.assert_close(ours(tokens()).logits, trained, rtol=1e-5, atol=1e-6)
        theirs = peft.PeftModel.from_pretrained(make_tiny_llama(), tmp_path / name)
        torch.testing.assert_close(theirs(tokens()).logits, trained, rtol=1e-5, atol=1e-6)
        assert torch.equal(model(tokens()).logits, trained)  # saving changed nothing
