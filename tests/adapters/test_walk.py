"""The quick walk gives what `named_modules` gives."""

import pytest
from conftest import make_tiny_llama
from torch import nn

from lora_edu.adapters import LoRAConfig, inject
from lora_edu.adapters.walk import everywhere, outside


def shared():
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "b": nn.Linear(2, 2)})
    model["c"] = model["a"]
    model.register_module("none", None)
    return model


def with_adapters():
    model = inject(make_tiny_llama(), LoRAConfig(r=2, modules_to_save=("embed_tokens",)))
    return inject(model, LoRAConfig(r=1, target_modules=("q_proj",)), "second")


@pytest.mark.parametrize("make", [shared, with_adapters, lambda: nn.Linear(1, 1)])
@pytest.mark.parametrize("once", [True, False])
def test_everywhere_is_named_modules(make, once):
    model = make()
    assert list(everywhere(model, remove_duplicate=once)) == list(model.named_modules(remove_duplicate=once))


def test_outside_leaves_out_what_is_inside_lora_layers():
    model = with_adapters()
    inside = [name for name, _ in model.named_modules() if ".base_layer" in name or ".lora_" in name]
    assert inside and [name for name, _ in outside(model)] == [n for n, _ in model.named_modules() if n not in inside]
