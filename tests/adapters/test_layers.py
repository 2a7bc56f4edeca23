"""Laws 1, 2, 4 and 5 of one layer, over shapes, ranks, dtypes and configurations."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from lora_edu.adapters import LoRAEmbedding, LoRALinear
from lora_edu.errors import AdapterError, ConfigError, MergeError, TargetError

DTYPES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
shapes = st.fixed_dictionaries(
    {
        "n_in": st.integers(2, 9),
        "n_out": st.integers(2, 9),
        "alpha": st.sampled_from([1, 3, 16]),
        "bias": st.booleans(),
        "batch": st.sampled_from([(), (3,), (2, 4), (1, 2, 3)]),
        "conv1d": st.booleans(),
        "rslora": st.booleans(),
    }
)


def make(n_in, n_out, alpha, bias, conv1d, rslora, dtype, r=2, silent=False):
    base = Conv1D(n_out, n_in) if conv1d else nn.Linear(n_in, n_out, bias=bias)
    layer = LoRALinear(base.to(dtype), r, alpha, use_rslora=rslora)
    if not silent:
        nn.init.normal_(layer.B)
    return layer


def dense(layer, x):
    """The reference: one dense matrix W₀ + s·B A in float64."""
    W0 = layer.base_layer.weight.double()
    W0 = W0.T if layer.fan_in_fan_out else W0
    y = x.double() @ (W0 + layer.scaling * layer.B.double() @ layer.A.double()).T
    return y if layer.base_layer.bias is None else y + layer.base_layer.bias.double()


@settings(max_examples=40, deadline=None)
@given(shape=shapes)
def test_law_1_a_new_layer_is_silent_bit_for_bit(shape):
    batch = shape.pop("batch")
    layer = make(**shape, dtype=torch.float32, silent=True)
    x = torch.randn(*batch, shape["n_in"])
    assert torch.equal(layer(x), layer.base_layer(x))
    assert layer.A.abs().sum() > 0  # silent, not dead


@settings(max_examples=80, deadline=None)
@given(shape=shapes, dtype=st.sampled_from(list(DTYPES)))
def test_law_2_forward_equals_the_dense_reference(shape, dtype):
    batch = shape.pop("batch")
    layer = make(**shape, dtype=dtype)
    x = torch.randn(*batch, shape["n_in"], dtype=dtype)
    y, reference = layer(x), dense(layer, x)
    assert y.dtype == dtype and y.shape == (*batch, shape["n_out"])
    torch.testing.assert_close(
        y.double(), reference, rtol=DTYPES[dtype], atol=DTYPES[dtype] * max(1, reference.detach().abs().max().item())
    )


@settings(max_examples=30, deadline=None)
@given(shape=shapes)
def test_law_4_gradients_are_the_formulas(shape):
    batch = shape.pop("batch")
    layer = make(**shape, dtype=torch.float64)
    x, G_out = (
        torch.randn(*batch, shape["n_in"], dtype=torch.float64),
        torch.randn(*batch, shape["n_out"], dtype=torch.float64),
    )
    (layer(x) * G_out).sum().backward()
    G = G_out.reshape(-1, shape["n_out"]).T @ x.reshape(-1, shape["n_in"])  # ∂L/∂W (out, in)
    s = layer.scaling
    torch.testing.assert_close(layer.B.grad, s * G @ layer.A.detach().T)
    torch.testing.assert_close(layer.A.grad, s * layer.B.detach().T @ G)
    assert all(p.grad is None for p in layer.base_layer.parameters())


def test_law_4_first_sgd_step_is_minus_eta_s2_G_AtA():
    layer = make(5, 4, 6, True, False, False, torch.float64, r=3, silent=True)
    x = torch.randn(7, 5, dtype=torch.float64)
    loss = layer(x).square().sum()
    loss.backward()
    assert layer.A.grad.abs().max() == 0 and layer.B.grad.abs().max() > 0
    G = (2 * layer.base_layer(x).detach()).T @ x
    A = layer.A.detach().clone()
    torch.optim.SGD([layer.A, layer.B], lr=0.01).step()
    torch.testing.assert_close(layer.delta_weight(), -0.01 * layer.scaling**2 * G @ A.T @ A)


def test_law_4_alpha_is_the_learning_rate_of_b_under_adam():
    """(s, lr) and (1, lr_A = lr, lr_B = s·lr) are one run, up to ε: ΔW is compared after 15 steps."""
    torch.manual_seed(0)
    one = make(6, 5, 12, False, False, False, torch.float64, r=3, silent=True)
    two = copy.deepcopy(one)
    two.scalings["default"] = 1.0
    s = one.scaling
    x, target = torch.randn(20, 6, dtype=torch.float64), torch.randn(20, 5, dtype=torch.float64)
    first = torch.optim.Adam([one.A, one.B], lr=1e-2, eps=1e-30)
    second = torch.optim.Adam([{"params": [two.A], "lr": 1e-2}, {"params": [two.B], "lr": s * 1e-2}], eps=1e-30)
    for _ in range(15):
        for layer, optimizer in ((one, first), (two, second)):
            optimizer.zero_grad()
            (layer(x) - target).square().mean().backward()
            optimizer.step()
    assert s != 1 and one.delta_weight().abs().max() > 1e-2
    torch.testing.assert_close(one.delta_weight(), two.delta_weight(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("conv1d", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_law_5_merge_keeps_the_output_and_unmerge_restores_every_bit(dtype, conv1d):
    torch.manual_seed(1)
    layer = make(16, 12, 4, True, conv1d, False, dtype)
    before, x = layer.base_layer.weight.detach().clone(), torch.randn(5, 16, dtype=dtype)
    expected = dense(layer, x)
    layer.merge()
    torch.testing.assert_close(layer(x).double(), expected, rtol=0, atol=DTYPES[dtype] * float(expected.abs().max()))
    assert not torch.equal(layer.base_layer.weight, before)
    with pytest.raises(MergeError, match="twice"):
        layer.merge()
    layer.unmerge()
    assert torch.equal(layer.base_layer.weight, before) and layer.W0 is None
    torch.testing.assert_close(layer(x).double(), expected, rtol=0, atol=DTYPES[dtype] * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merge_without_the_base_cannot_be_undone_and_says_so(dtype):
    layer = make(6, 4, 4, True, False, False, dtype)
    x = torch.randn(3, 6, dtype=dtype)
    expected = dense(layer, x)
    layer.merge(keep_base=False)
    torch.testing.assert_close(layer(x).double(), expected, rtol=0, atol=DTYPES[dtype] * float(expected.abs().max()))
    with pytest.raises(MergeError, match="keep_base=False"):
        layer.unmerge()


@pytest.mark.parametrize("fault", ["quantised", "nan", "overflow"])
def test_a_merge_that_would_corrupt_the_weight_is_refused_and_nothing_changes(fault):
    layer = make(6, 4, 4, True, False, False, torch.float16 if fault == "overflow" else torch.float32)
    if fault == "quantised":
        layer.base_layer.weight = nn.Parameter(torch.zeros(12, 1, dtype=torch.uint8), requires_grad=False)
    else:
        nn.init.constant_(layer.A, float("nan") if fault == "nan" else 1e5)
    before = layer.base_layer.weight.clone()
    with pytest.raises(MergeError, match={"quantised": "quantised", "nan": "not finite", "overflow": "exceeds"}[fault]):
        layer.merge()
    assert torch.equal(layer.base_layer.weight, before) and not layer.merged


def test_dropout_acts_on_the_adapter_input_alone_and_only_in_training():
    base = nn.Linear(50, 40)
    layer = LoRALinear(base, 4, 8, lora_dropout=0.5)
    nn.init.normal_(layer.B)
    x = torch.randn(3, 50)
    torch.manual_seed(5)
    trained = layer.train()(x)
    torch.manual_seed(5)
    dropped = torch.nn.functional.dropout(x, 0.5)
    torch.testing.assert_close(trained, base(x) + layer.scaling * dropped @ layer.A.T @ layer.B.T)
    torch.testing.assert_close(layer.eval()(x).double(), dense(layer, x), rtol=1e-4, atol=1e-4)


def test_factors_stay_float32_on_a_half_precision_base_and_follow_autocast():
    layer = make(8, 8, 4, True, False, False, torch.bfloat16)
    assert layer.A.dtype == layer.B.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(2, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


@settings(max_examples=20, deadline=None)
@given(vocabulary=st.integers(3, 9), dim=st.integers(2, 6), padding=st.booleans())
def test_embedding_is_silent_then_equals_its_merged_table(vocabulary, dim, padding):
    base = nn.Embedding(vocabulary, dim, padding_idx=1 if padding else None).double()
    layer = LoRAEmbedding(base)
    layer.add_adapter("default", 2, 6)
    layer.state.active["default"] = 1.0
    ids = torch.tensor([[0, 1, 2], [2, 2, 0]])
    assert torch.equal(layer(ids), base(ids))
    layer(ids).square().sum().backward()
    assert layer.A.grad.abs().max() > 0 and layer.B.grad.abs().max() == 0  # the mirror image of LoRALinear
    assert not padding or layer.A.grad[:, 1].abs().max() == 0
    nn.init.normal_(layer.A)
    adapted, before = layer(ids), base.weight.clone()
    torch.testing.assert_close(adapted, torch.nn.functional.embedding(ids, before + layer.delta_weight()))
    layer.merge()
    torch.testing.assert_close(layer(ids), adapted)
    layer.unmerge()
    assert torch.equal(base.weight, before)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: LoRALinear(nn.Linear(4, 3), r=4), ConfigError, "rank 4 exceeds"),
        (lambda: LoRALinear(nn.Linear(4, 3), r=0), ConfigError, "r=0"),
        (lambda: LoRALinear(nn.Conv2d(1, 1, 1), r=1), TargetError, "Conv2d"),
        (lambda: LoRAEmbedding(nn.Embedding(3, 2, max_norm=1.0)), TargetError, "max_norm"),
        (lambda: LoRALinear(nn.Linear(4, 3), r=1).add_adapter("default", 1, 1), AdapterError, "already"),
        (lambda: LoRALinear(nn.Linear(4, 3)).A, AdapterError, "adapters"),
        (lambda: LoRALinear(nn.Linear(4, 3), r=1).unmerge(), MergeError, "nothing is merged"),
    ],
)
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
