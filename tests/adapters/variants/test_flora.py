"""FLoRA against the Tucker product written out, on convolutions and linear layers; on disk it is plain LoRA, which PEFT reads."""

import peft
import pytest
import torch
from torch import nn
from variant_pairs import fill

from lora_edu.adapters import LoRAConfig, audit, inject, load, lora_layers, merge, save
from lora_edu.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore")


def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, (3, 2), stride=2, padding=1), nn.Tanh(), nn.Conv2d(6, 5, 1), nn.Flatten(), nn.Linear(125, 4)
    ).double()


CONFIG = LoRAConfig(r=4, lora_alpha=7, target_modules=["0", "2", "4"], rank_pattern={"2": 5}, variant="flora")


def dense(layer):
    """ΔW by one sum over all indices."""
    t = {slot: tensor.detach() for slot, tensor in layer.tensors("default").items()}
    s = layer.scalings["default"]
    if "lora_C" not in t:
        return s * torch.einsum("op,pq,qi->oi", t["lora_B"], t["lora_core"], t["lora_A"])
    factors = (t["lora_B"], t["lora_core"], t["lora_A"], t["lora_C"], t["lora_D"])
    return s * torch.einsum("op,pqmn,qi,my,nx->oiyx", *factors)


def test_the_update_is_the_tucker_product_in_forward_gradients_and_merge():
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    model, base = inject(make(), CONFIG), make()
    assert torch.equal(model(x), base(x))
    core, kernel = 4 * 3 * 3 * 2, 3 * 3 + 2 * 2
    assert audit(model).trainable == (core + 4 * 6 + 3 * 3 + kernel) + (25 + 25 + 30 + 2) + (16 + 16 + 500)
    fill(model)
    with torch.no_grad():
        for path, layer in lora_layers(model).items():
            base.get_submodule(path).weight += dense(layer)
    said = model(x)
    torch.testing.assert_close(said, base(x), rtol=0, atol=1e-12)
    said.square().mean().backward()
    base(x).square().mean().backward()
    for path, layer in lora_layers(model).items():  # the core's gradient is the weight's, taken through the factors
        t = layer.tensors("default")
        G, s = base.get_submodule(path).weight.grad, layer.scalings["default"]
        if "lora_C" in t:
            wanted = torch.einsum("op,qi,my,nx,oiyx->pqmn", t["lora_B"], t["lora_A"], t["lora_C"], t["lora_D"], G)
        else:
            wanted = torch.einsum("op,qi,oi->pq", t["lora_B"], t["lora_A"], G)
        torch.testing.assert_close(t["lora_core"].grad, s * wanted, rtol=0, atol=1e-12)
    merge(model)
    torch.testing.assert_close(model(x), said, rtol=0, atol=1e-12)


def test_what_it_writes_is_plain_lora(tmp_path):
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    model = inject(make(), CONFIG)
    fill(model)
    theirs = peft.PeftModel.from_pretrained(make(), save(model, tmp_path)).double().eval()
    mine = load(make(), tmp_path)
    torch.testing.assert_close(theirs(x), model(x), rtol=0, atol=1e-9)
    torch.testing.assert_close(mine(x), model(x), rtol=0, atol=1e-9)
    with pytest.raises(ConfigError, match="core starts at 0"):
        LoRAConfig(variant="flora", init_lora_weights="gaussian")
