"""DoRA against PEFT's, and its norm against the matrix's own."""

import peft
import pytest
import torch
from variant_pairs import LAYERS, agreed, batch, fill, folders_apart, merged_apart, net, outputs, pair, train_both

from lora_edu.adapters import LoRAConfig, audit, inject, lora_layers
from lora_edu.adapters.variants.dora import row_norms
from lora_edu.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore")
SETTINGS = {"r": 3, "lora_alpha": 8, "target_modules": LAYERS}
CASES = {
    "plain": {},
    "dropout": {"lora_dropout": 0.3},
    "α/√r, other ranks": {"use_rslora": True, "rank_pattern": {"middle": 2}, "alpha_pattern": {"last": 5}},
}


def config(**more):
    return peft.LoraConfig(**SETTINGS | {"use_dora": True} | more)


@pytest.mark.parametrize("case", CASES)
def test_forward_gradients_20_steps_merge_and_folders_are_pefts(case, tmp_path):
    ours, theirs = pair(config(**CASES[case]), tmp_path / "theirs")
    found = {"forward": float((outputs(ours)[0] - outputs(theirs.eval())[0]).abs().max())}
    found |= train_both(ours, theirs)
    found |= folders_apart(ours, tmp_path / "ours")
    found |= merged_apart(ours, theirs)
    agreed(found)


def test_it_starts_where_peft_starts():
    """Lengths of W₀'s rows, and the base's output bit for bit."""
    ours = inject(net(), LoRAConfig(**SETTINGS, variant="dora"))
    theirs = peft.get_peft_model(net(), config()).double()
    for path, layer in lora_layers(ours).items():
        reference = theirs.get_parameter(f"base_model.model.{path}.lora_magnitude_vector.default.weight")
        torch.testing.assert_close(layer.tensor("lora_magnitude_vector", "default"), reference, rtol=1e-6, atol=0)
    assert torch.equal(*outputs(ours, net()))
    assert audit(ours).trainable == 3 * (17 + 16 + 15) + (10 + 6 + 9)


def test_the_norm_is_that_of_the_matrix_that_it_never_builds():
    ours = inject(net(), LoRAConfig(**SETTINGS, variant="dora"))
    fill(ours)
    for layer in lora_layers(ours).values():
        A, B, s = layer.tensor("lora_A", "default"), layer.tensor("lora_B", "default"), layer.scalings["default"]
        V = layer.oriented(layer.base_layer.weight) + s * B @ A
        torch.testing.assert_close(row_norms(layer, "default"), V.norm(dim=1), rtol=1e-12, atol=0)


def test_nothing_in_a_step_is_as_large_as_the_matrix():
    """256 × 256, r = 2, one row: no tensor of the forward or backward pass but W₀ and views of it has so many numbers."""
    from torch.utils._python_dispatch import TorchDispatchMode

    model = torch.nn.Sequential(torch.nn.Linear(256, 256))
    fill(inject(model, LoRAConfig(r=2, target_modules=["0"], variant="dora")))
    W = model[0].base_layer.weight
    made = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **kwargs or {})
            for tensor in result if isinstance(result, tuple | list) else [result]:
                if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() != W.data_ptr():
                    made.append(tensor.numel())
            return result

    with Watch():
        model(torch.randn(1, 256)).sum().backward()
    assert 256 <= max(made) <= 2 * 256


def test_a_row_of_zeros_is_no_division_by_zero():
    model = torch.nn.Sequential(torch.nn.Linear(7, 10)).double()
    with torch.no_grad():
        model[0].weight[3] = 0
    expected = model(batch(0)[0])
    inject(model, LoRAConfig(r=2, target_modules=["0"], variant="dora"))
    out = model(batch(0)[0])
    assert torch.equal(out, expected)
    out.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.requires_grad)


def test_half_precision_and_autocast_keep_the_start_and_the_norm():
    base = net(torch.bfloat16)
    model = inject(net(torch.bfloat16), LoRAConfig(**SETTINGS, variant="dora"))
    x = batch(0)[0].bfloat16()
    assert torch.equal(model(x), base(x)) and model(x).dtype == torch.bfloat16
    model, base = inject(net(torch.float32), LoRAConfig(**SETTINGS, variant="dora")), net(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(x.float()), base(x.float()))
        fill(model)
        layer = lora_layers(model)["first"]
        norms = row_norms(layer, "default")
    V = layer.base_layer.weight + layer.delta_weight("default") * 0  # the weight alone, as a tensor
    V = V + layer.scalings["default"] * layer.tensor("lora_B", "default") @ layer.tensor("lora_A", "default")
    torch.testing.assert_close(norms, V.norm(dim=1), rtol=1e-6, atol=0)


def test_what_it_cannot_do_is_refused():
    quantised = torch.nn.Sequential(torch.nn.Linear(4, 4))
    quantised[0].weight = torch.nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ConfigError, match="DoRA computes with the weights themselves, and 0 is quantised"):
        inject(quantised, LoRAConfig(r=2, target_modules=["0"], variant="dora"))
