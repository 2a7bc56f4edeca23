"""LoRA on Conv2d against PEFT's: forward, gradients, 20 steps, merge, folders; and what only a right merge shows."""

import peft
import pytest
import torch
from torch import nn
from variant_pairs import agreed, folders_apart, merged_apart, outputs, pair, train_both

from lora_edu.adapters import (
    LoRAConfig,
    audit,
    combine,
    disabled,
    extract,
    inject,
    load,
    lora_layers,
    merge,
    overlap,
    plan,
    resize,
    save,
    unload,
    unmerge,
)
from lora_edu.errors import TargetError

pytestmark = pytest.mark.filterwarnings("ignore")
LAYERS = ["first", "second", "third"]


class Pictures(nn.Module):
    """Kernels of several shapes, stride and padding, with and without a bias; a linear layer behind."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.second = nn.Conv2d(6, 5, 1, bias=False)
        self.third = nn.Conv2d(5, 7, (3, 2), padding=(0, 1))
        self.last = nn.Linear(7, 4)

    def forward(self, x):
        h = torch.tanh(self.third(torch.tanh(self.second(torch.tanh(self.first(x))))))  # (N, 7, H, W)
        return self.last(h.mean((2, 3)))


def make(dtype=torch.float64):
    torch.manual_seed(0)
    return Pictures().to(dtype).eval()


def data(seed):
    generator = torch.Generator().manual_seed(seed)
    x, wanted = (torch.randn(4, *shape, generator=generator, dtype=torch.float64) for shape in ((3, 8, 9), (4,)))
    return x, wanted


CASES = {
    "plain": {},
    "dropout": {"lora_dropout": 0.3},
    "with a linear layer": {"target_modules": [*LAYERS, "last"], "use_rslora": True, "rank_pattern": {"second": 2}},
}


@pytest.mark.parametrize("case", CASES)
def test_forward_gradients_20_steps_merge_and_folders_are_pefts(case, tmp_path):
    settings = {"r": 3, "lora_alpha": 8, "target_modules": LAYERS} | CASES[case]
    ours, theirs = pair(peft.LoraConfig(**settings), tmp_path / "theirs", make)
    found = {"forward": float((outputs(ours, data=data)[0] - outputs(theirs.eval(), data=data)[0]).abs().max())}
    # PEFT keeps A and B of a convolution as four dimensions, here they are matrices: the same numbers in the same order.
    found |= train_both(ours, theirs, data=data)
    found |= folders_apart(ours, tmp_path / "ours", make, data)
    found |= merged_apart(ours, theirs, make, data=data)
    agreed(found)


@pytest.mark.parametrize("how", [{"dilation": 2}, {"padding_mode": "circular", "padding": 1}, {"stride": (2, 1)}])
def test_an_unmerged_layer_is_its_merge_whatever_the_convolution(how):
    """PEFT leaves out dilation and padding_mode in A."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3, **how)).double()
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    base = model(x)
    inject(model, LoRAConfig(r=2, target_modules=["0"]))
    assert torch.equal(model(x), base) and audit(model).trainable == 2 * (27 + 5)
    with torch.no_grad():
        model[0].B.normal_()
    said = model(x)
    merge(model)
    torch.testing.assert_close(model(x), said, rtol=0, atol=1e-12)
    unmerge(model)
    assert torch.equal(model(x), said)
    with disabled(model):
        assert torch.equal(model(x), base)
    merge(model, keep_base=False)
    torch.testing.assert_close(model(x), said, rtol=0, atol=1e-12)


def test_channels_last_merges_alike():
    model = make(torch.float32).to(memory_format=torch.channels_last)
    inject(model, LoRAConfig(r=2, target_modules=LAYERS))
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.B, std=0.1)
    x = data(0)[0].float()
    said = model(x)
    merge(model, keep_base=False)
    torch.testing.assert_close(model(x), said, rtol=1e-4, atol=1e-5)


def test_resize_combine_overlap_and_extract_know_convolutions(tmp_path):
    model = inject(make(), LoRAConfig(r=3, target_modules=LAYERS))
    inject(model, LoRAConfig(r=3, target_modules=LAYERS), "other")
    for layer in lora_layers(model).values():
        for name in ("default", "other"):
            nn.init.normal_(layer.tensor("lora_B", name))
    assert overlap(model, "default", "other")
    combine(model, {"default": 1.0, "other": 0.5}, "sum")
    want = {
        path: layer.delta_weight("default") + 0.5 * layer.delta_weight("other")
        for path, layer in lora_layers(model).items()
    }
    for path, layer in lora_layers(model).items():
        torch.testing.assert_close(layer.delta_weight("sum"), want[path], rtol=0, atol=1e-10)
    resize(model, 2, adapter="default")
    assert lora_layers(model)["first"].tensor("lora_A", "default").shape == (2, 27)
    loaded = load(make(), save(model, tmp_path, "default"))
    assert lora_layers(loaded)["third"].tensor("lora_A", "default").shape == (2, 30)
    tuned = unload_merged(loaded)
    base = make()
    report = extract(base, tuned, 2, targets=LAYERS)
    assert report.energy > 1 - 1e-6
    torch.testing.assert_close(*outputs(base, tuned, data=data), rtol=0, atol=1e-6)


def unload_merged(model):
    merge(model)
    return unload(model)


def test_all_linear_leaves_convolutions_alone_and_groups_are_refused():
    assert [target.name for target in plan(make(), LoRAConfig(r=2))] == ["last"]
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2))
    with pytest.raises(TargetError, match="2 groups, each with inputs of its own"):
        inject(model, LoRAConfig(r=2, target_modules=["0"]))
    for variant in ("dora", "pissa", "vera"):
        with pytest.raises(TargetError, match="not defined for conv2d"):
            inject(make(), LoRAConfig(r=2, target_modules=["first"], variant=variant))
