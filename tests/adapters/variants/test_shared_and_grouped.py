"""VB-LoRA and QA-LoRA against PEFT's."""

import json
from types import SimpleNamespace

import peft
import pytest
import torch
from peft.tuners.lora.variants import QALoraLinearVariant
from torch import nn
from transformers.pytorch_utils import Conv1D
from variant_pairs import NEAR, agreed, fill, folders_apart, merged_apart, outputs, pair, train_both

from lora_edu.adapters import LoRAConfig, audit, inject, load, lora_layers, save
from lora_edu.errors import CheckpointError, ConfigError

pytestmark = pytest.mark.filterwarnings("ignore")
LAYERS = ["first", "middle", "last"]


class Even(nn.Module):
    """Sides that 4 divides: (8 → 12), Conv1D (12 → 8), (8 → 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(8, 12), Conv1D(8, 12), nn.Linear(8, 16, bias=False)
        nn.init.normal_(self.middle.weight, std=0.4)

    def forward(self, x):
        return self.last(torch.tanh(self.middle(torch.tanh(self.first(x)))))


def make(dtype=torch.float64):
    torch.manual_seed(0)
    return Even().to(dtype).eval()


def data(seed):
    generator = torch.Generator().manual_seed(seed)
    x, wanted = (torch.randn(5, n, generator=generator, dtype=torch.float64) for n in (8, 16))
    return x, wanted


@pytest.mark.parametrize("more", [{}, {"vblora_dropout": 0.3, "topk": 3}])
def test_vblora_is_pefts(more, tmp_path):
    settings = {"r": 3, "num_vectors": 10, "vector_length": 4, "target_modules": LAYERS} | more
    ours, theirs = pair(peft.VBLoRAConfig(**settings), tmp_path / "theirs", make)
    mine = {name.rsplit(".", 2)[-2] for name in audit(ours).names}
    assert mine == {"lora_logits_A", "lora_logits_B", "lora_vector_bank"}
    assert audit(ours).trainable == 40 + 10 * 3 * (2 + 3 + 3 + 2 + 2 + 4)
    found = {"forward": float((outputs(ours, data=data)[0] - outputs(theirs.eval(), data=data)[0]).abs().max())}
    found |= train_both(ours, theirs, data=data, words=("lora_", "vblora_"))
    found |= folders_apart(ours, tmp_path / "ours", make, data)
    found |= merged_apart(ours, theirs, make, data=data)
    agreed(found)
    known = set(peft.VBLoRAConfig().to_dict())
    assert set(json.loads((tmp_path / "ours" / "adapter_config.json").read_text())) <= known


def test_vblora_refuses_what_it_is_not(tmp_path):
    with pytest.raises(ConfigError, match="vector_length=5 does not divide"):
        inject(make(), LoRAConfig(r=2, target_modules=LAYERS, variant="vblora:vector_length=5"))
    with pytest.raises(ConfigError, match="topk=9"):
        LoRAConfig(variant="vblora:topk=9,num_vectors=8")
    with pytest.raises(ConfigError, match="VB-LoRA has no α"):
        LoRAConfig(variant="vblora", use_rslora=True)
    theirs = peft.get_peft_model(
        make(),
        peft.VBLoRAConfig(r=2, num_vectors=8, vector_length=4, target_modules=LAYERS, save_only_topk_weights=True),
    )
    theirs.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="holds no logits"):
        load(make(), tmp_path)


def test_qalora_is_pefts_formula_merges_and_comes_back(tmp_path):
    """PEFT has it on GPTQ layers alone: its own function is asked, on this layer's factors."""
    settings = {"r": 3, "lora_alpha": 8, "target_modules": LAYERS}
    ours = inject(make(), LoRAConfig(**settings, variant="qalora:qalora_group_size=4"))
    assert torch.equal(*outputs(ours, make(), data=data)) and audit(ours).trainable == 3 * (2 + 12 + 3 + 8 + 2 + 16)
    fill(ours)
    for path, layer in lora_layers(ours).items():
        x = torch.randn(2, 5, layer.shape[1], dtype=torch.float64)
        A, B = (nn.Linear(1, 1, bias=False) for _ in range(2))
        A.weight, B.weight = layer.tensor("lora_A", "default"), layer.tensor("lora_B", "default")
        stub = SimpleNamespace(
            lora_A={"default": A}, lora_B={"default": B}, lora_dropout={"default": nn.Identity()}, training=False,
            scaling=layer.scalings, qalora_group_size={"default": 4}, in_features=layer.shape[1],
        )  # fmt: skip
        theirs = QALoraLinearVariant.forward(stub, active_adapter="default", x=x, result=layer.base_layer(x))
        mine = layer(x)
        assert float((theirs - mine).abs().max()) < NEAR, path
        inputs = list(layer.tensors("default").values())
        gradients = [torch.autograd.grad(y.square().sum(), inputs) for y in (mine, theirs)]
        assert max(float((a - b).abs().max()) for a, b in zip(*gradients)) < NEAR
        groups = layer.oriented(layer.delta_weight("default")).unflatten(1, (-1, 4))
        assert torch.equal(groups, groups[..., :1].expand_as(groups))  # alike within a group
    loaded = load(make(), save(ours, tmp_path))
    assert torch.equal(*outputs(loaded, ours, data=data))
    said = json.loads((tmp_path / "adapter_config.json").read_text())
    assert said["use_qalora"] is True and said["qalora_group_size"] == 4
    with pytest.raises(ConfigError, match="does not divide the 8 inputs"):
        inject(make(), LoRAConfig(**settings, variant="qalora:qalora_group_size=3"))
