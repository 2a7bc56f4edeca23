"""The layer that holds packed bytes: what it computes, what flows back, what it holds, how it is moved and saved."""

import copy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from lora_edu.errors import ConfigError, ModelError
from lora_edu.models.quantized import Quantization, QuantizedLinear, kernels

WAYS = [
    Quantization(),
    Quantization(double=False),
    Quantization("int4", 32),
    Quantization(block_size=7),
    Quantization(block_size=10**6),
]


def dense(n_in=48, n_out=36, bias=True, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Linear(n_in, n_out, bias).to(dtype).requires_grad_(False)


def both(quantization=None, **shape):
    """The quantised layer, and nn.Linear with the same rounded weight."""
    layer = QuantizedLinear.from_dense(dense(**shape), quantization)
    twin = dense(**shape)
    twin.weight.data = layer.dequantized()
    return layer, twin


def inputs(*shape, dtype=torch.float32, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


@pytest.mark.parametrize("how", WAYS, ids=str)
@pytest.mark.parametrize("shape", [(5, 48), (2, 3, 48), (48,), (0, 48)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_it_is_the_linear_layer_with_the_rounded_weight_bit_for_bit(how, shape, dtype):
    layer, twin = both(how, dtype=dtype)
    ours, theirs = inputs(*shape, dtype=dtype), inputs(*shape, dtype=dtype)
    y, want = layer(ours), twin(theirs)
    assert y.dtype == want.dtype == dtype and torch.equal(y, want)
    assert not torch.equal(y, dense(dtype=dtype)(ours)) or not y.numel()
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    y.backward(dy)
    want.backward(dy)
    assert torch.equal(ours.grad, theirs.grad) and ours.grad.dtype == dtype


def test_under_autocast_too():
    layer, twin = both()
    ours, theirs = inputs(5, 48), inputs(5, 48)
    for module, x in ((layer, ours), (twin, theirs)):
        with torch.autocast("cpu", torch.bfloat16):
            y = module(x)
        assert y.dtype == torch.bfloat16
        y.float().square().sum().backward()
    assert torch.equal(ours.grad, theirs.grad) and ours.grad.dtype == torch.float32


def test_a_bias_that_trains_gets_its_gradient():
    layer, twin = both()
    for module in (layer, twin):
        module.bias.requires_grad_(True)
        module(inputs(2, 3, 48)).square().sum().backward()
    assert torch.allclose(layer.bias.grad, twin.bias.grad, atol=1e-6)


def test_the_gradient_can_be_differentiated_again_and_forwards():
    layer, _ = both(n_in=6, n_out=5, dtype=torch.float64)
    layer.bias.requires_grad_(True)
    x = inputs(3, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(layer, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x).square(), x)
    batched = torch.func.vmap(layer)(x.detach())
    assert torch.allclose(batched, layer(x.detach()))


def test_nothing_dense_is_kept_for_the_backward_pass():
    layer, _ = both()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        layer(inputs(5, 48))
    assert kept == []


# -- what it holds -----------------------------------------------------------------------------------------------------
def test_it_holds_4_127_bits_a_weight_and_nothing_else():
    layer = QuantizedLinear.from_dense(dense(4096, 512, bias=False))
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in layer.state_dict().values()}
    assert 8 * sum(held.values()) / (4096 * 512) == pytest.approx(4.127, abs=0.0005)
    assert Quantization().bits == pytest.approx(4.127, abs=0.0005) and Quantization(double=False).bits == 4.5
    assert not list(layer.parameters())
    # Not beside the buffers either: whatever tensor hangs on the layer is one of them.
    assert not [name for name, value in vars(layer).items() if isinstance(value, torch.Tensor)]


def test_a_call_leaves_nothing_behind():
    layer, _ = both()
    before = {name: value for name, value in vars(layer).items()}
    layer(inputs(5, 48))
    assert vars(layer) == before


# -- moved, copied, saved ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", WAYS[:3], ids=str)
def test_a_cast_does_not_touch_the_scales(how):
    layer, twin = both(how)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items() if name != "bias"}
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        layer.to(dtype)
        assert layer.dtype == layer.weight.dtype == layer.bias.dtype == dtype
        assert layer(inputs(2, 48, dtype=dtype)).dtype == dtype
    layer.half().float()
    assert all(torch.equal(layer.state_dict()[name], tensor) for name, tensor in before.items())
    assert torch.equal(layer.weight, twin.weight)


def test_through_a_safetensors_file_and_a_copy(tmp_path):
    layer, twin = both()
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    other = QuantizedLinear(48, 36)
    other.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    copied = copy.deepcopy(layer)
    layer.codes.zero_()
    for again in (other, copied):
        assert torch.equal(again(inputs(3, 48)), twin(inputs(3, 48)))


@pytest.mark.parametrize("other", [Quantization("int4"), Quantization(double=False), Quantization(block_size=32)])
def test_a_file_of_another_kind_does_not_load_in_silence(other):
    layer, _ = both()
    with pytest.raises(RuntimeError, match=r"_codes|absmax"):
        QuantizedLinear(48, 36, quantization=other).load_state_dict(layer.state_dict())


def test_on_the_meta_device_it_has_its_shapes_and_no_content():
    layer = QuantizedLinear.from_dense(dense().to("meta"))
    assert layer.codes.is_meta and layer.codes.shape == (36 * 24,) and layer.weight.shape == (36, 48)
    assert layer.to_empty(device="cpu").device.type == "cpu"


def test_what_it_says_of_itself():
    layer, _ = both()
    assert (
        repr(layer)
        == "QuantizedLinear(in_features=48, out_features=36, bias=True, nf4 in blocks of 64, double quantisation)"
    )


def test_a_weight_cannot_be_put_in_its_place():
    layer, _ = both()
    for value in (torch.zeros(36, 48), nn.Parameter(torch.zeros(36, 48))):
        with pytest.raises((ModelError, KeyError)):
            layer.weight = value
    assert F.linear(inputs(1, 48), layer.weight, layer.bias).equal(layer(inputs(1, 48)))


def test_settings_that_are_none():
    with pytest.raises(ConfigError, match="known are nf4 and int4"):
        Quantization("fp4")
    with pytest.raises(ConfigError, match="block_size"):
        Quantization(block_size=0)
    with pytest.raises(ConfigError, match="not finite"):
        broken = dense()
        broken.weight[0, 0] = float("nan")
        QuantizedLinear.from_dense(broken)


def test_the_kernel_for_a_gpu_reads_these_bytes():
    """On a CPU, where bitsandbytes answers to the same call; a layer here does not ask it."""
    pytest.importorskip("bitsandbytes")
    layer, _ = both(Quantization(double=False))
    assert kernels.works("cpu") and not kernels.applies(layer.codes, "nf4", 64)
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(kernels.dense(layer.codes, layer.absmax, 64, (36, 48), dtype), layer.dequantized(dtype))


def test_a_kernel_that_is_wrong_is_not_used(monkeypatch):
    monkeypatch.setattr(kernels, "dense", lambda *a: torch.zeros(8, 64))
    assert not kernels.works.__wrapped__("cpu")
    monkeypatch.setattr(kernels, "library", lambda: None)
    assert not kernels.works.__wrapped__("cpu")


def test_nothing_here_imports_bitsandbytes():
    code = "import sys, lora_edu.models.quantized as q; q.QuantizedLinear(64, 64).weight; assert 'bitsandbytes' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
