"""The fast path gives what the plain formula gives, keeps fewer bytes, and steps aside where it is not right."""

import copy
import functools
import pickle
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from conftest import make_tiny_llama
from helpers import tokens
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from lora_edu.adapters import (
    LoRAConfig,
    LoRALinear,
    adapter_parameters,
    arithmetic,
    disabled,
    fused,
    inject,
    merge,
    set_adapter,
    set_scale,
    unload,
)
from lora_edu.training import causal_lm_loss
from lora_edu.training.memory import saved_for_backward


@pytest.fixture(autouse=True)
def steps(monkeypatch):
    """The fast path on, and a list of the fused steps that were taken: "_Linear" or "_GatedMLP"."""
    taken: list[str] = []
    for kind in (fused._Linear, fused._GatedMLP):
        apply = kind.apply

        def counted(*args, apply=apply, kind=kind):
            taken.append(kind.__name__)
            return apply(*args)

        monkeypatch.setattr(kind, "apply", counted)
    with fused.switched(True):
        yield taken


def make_layer(n_in=6, n_out=5, r=3, dtype=torch.float64, bias=False, dropout=0.0, base=None) -> LoRALinear:
    layer = LoRALinear(base or nn.Linear(n_in, n_out, bias=bias).to(dtype), r, 4, dropout)
    nn.init.normal_(layer.B)
    return layer.train()


class GatedMLP(nn.Module):
    def __init__(self, d=6, wide=9, act_fn=None, dtype=torch.float64, bias=False):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(d, wide, bias=bias, dtype=dtype) for _ in range(2))
        self.down_proj = nn.Linear(wide, d, bias=bias, dtype=dtype)
        self.act_fn = act_fn or nn.SiLU()

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


ALL = ["gate_proj", "up_proj", "down_proj"]


def make_mlp(targets=ALL, dropout=0.0, r=2, mlp=None, **settings) -> nn.Module:
    mlp = inject(mlp or GatedMLP(**settings), LoRAConfig(r=r, target_modules=targets, lora_dropout=dropout)).train()
    randomise(mlp)
    return mlp


def randomise(model: nn.Module) -> None:
    for parameter in adapter_parameters(model).values():
        nn.init.normal_(parameter, std=0.2)


def gradients(module: nn.Module, x: torch.Tensor, on: bool, autocast: bool = False, seed: int = 0) -> dict:
    """Output and all gradients of one pass, with the fast path on or off: {"y", "x", parameter: tensor}."""
    module.zero_grad(set_to_none=True)
    x = x.detach().requires_grad_(x.requires_grad)
    torch.manual_seed(seed)
    with fused.switched(on), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = module(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    (y * weights).sum().backward()
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return found | {"y": y.detach(), "next random number": torch.rand(1)} | ({"x": x.grad} if x.requires_grad else {})


def assert_same(found: dict, plain: dict, tolerance: float) -> None:
    assert found.keys() == plain.keys()
    for name, value in plain.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
        atol = tolerance * max(float(value.abs().max()) if value.numel() else 0.0, 1e-30)
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


# -- the same numbers --------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(
    n_in=st.integers(1, 17), n_out=st.integers(1, 17), r=st.integers(1, 20), bias=st.booleans(), flows=st.booleans(),
    batch=st.sampled_from([(), (1,), (5,), (2, 3), (2, 1, 4), (0,)]), transposed=st.booleans(),
    dropout=st.sampled_from([0.0, 0.4]), dtype=st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_one_matrix_equals_the_plain_formula(n_in, n_out, r, bias, flows, batch, transposed, dropout, dtype):
    layer = make_layer(n_in, n_out, 1, dtype, bias, dropout)
    A, B = layer.A, layer.B  # here even a rank above the matrix's own, which no layer would take
    A.data, B.data = torch.randn(r, n_in, dtype=dtype), torch.randn(n_out, r, dtype=dtype)
    x = torch.randn(*batch, n_in, dtype=dtype)
    if transposed:
        x = x.mT.contiguous().mT if x.dim() > 1 else torch.randn(2 * n_in, dtype=dtype)[::2]
    x = x.detach().requires_grad_(flows)
    assert fused.applies(x, layer.fused_part())
    found, plain = gradients(layer, x, on=True), gradients(layer, x, on=False)
    assert_same(found, plain, 1e-10 if dtype == torch.float64 else 1e-5)
    assert dropout or torch.equal(found["y"], plain["y"])


@settings(max_examples=30, deadline=None)
@given(
    d=st.integers(2, 9), wide=st.integers(2, 12), bias=st.booleans(), flows=st.booleans(),
    batch=st.sampled_from([(), (5,), (2, 3), (2, 1, 4)]), dropout=st.sampled_from([0.0, 0.4]),
    targets=st.sampled_from([ALL, ["gate_proj"], ["up_proj"], ["up_proj", "down_proj"], ["gate_proj", "up_proj"]]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_the_gated_mlp_equals_the_plain_formula(d, wide, bias, flows, batch, dropout, targets, dtype):
    mlp = make_mlp(targets, dropout, d=d, wide=wide, bias=bias, dtype=dtype)
    x = torch.randn(*batch, d, dtype=dtype, requires_grad=flows)
    assert fused.applies(x, *fused.gated_parts(mlp))
    found, plain = gradients(mlp, x, on=True), gradients(mlp, x, on=False)
    assert_same(found, plain, 1e-10 if dtype == torch.float64 else 1e-5)
    assert dropout or torch.equal(found["y"], plain["y"])


@pytest.mark.parametrize("make", [make_layer, make_mlp])
def test_gradcheck_and_double_backward(make, steps):
    module = make()
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    values = [p.detach().clone().requires_grad_(True) for p in module.parameters() if p.requires_grad]

    def run(x, *values):
        return torch.func.functional_call(module, dict(zip(names, values)), (x,))

    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, *values))
    assert torch.autograd.gradgradcheck(run, (x, *values))
    assert steps


@pytest.mark.parametrize("make", [make_layer, make_mlp])
def test_gradient_of_a_gradient_with_dropout_uses_the_same_mask(make):
    module, x = make(dropout=0.5), torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    found = []
    for on in (True, False):
        torch.manual_seed(0)
        with fused.switched(on):
            y = module(x).square().sum()
        wanted = [x, *(p for p in module.parameters() if p.requires_grad)]
        first = torch.autograd.grad(y, wanted, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), wanted))
    for one, two in zip(*found):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("make", [make_layer, make_mlp])
@pytest.mark.parametrize(("dtype", "autocast"), [(torch.float32, True), (torch.bfloat16, False), (torch.bfloat16, True), (torch.float16, False)])  # fmt: skip
@pytest.mark.parametrize("own_bf16", [True, False])
def test_half_precision_is_as_near_to_the_truth_as_the_plain_formula(
    make, dtype, autocast, dropout, own_bf16, monkeypatch
):
    """Roundings differ, so both are held against float64: the fast path's error is at most that of the plain path, or nearly so."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: own_bf16)
    torch.manual_seed(0)
    size = {"n_in": 64, "n_out": 48} if make is make_layer else {"d": 64, "wide": 96}
    module = make(r=4, dtype=dtype, dropout=dropout, **size)
    x = torch.randn(2, 50, 64, requires_grad=True)
    exact = gradients(copy.deepcopy(module).double(), x.to(dtype).double(), on=False)
    fast, plain = (gradients(module, x.to(dtype), on, autocast) for on in (True, False))
    unit = 2**-8 if torch.bfloat16 in (dtype, autocast and torch.bfloat16) else 2**-11
    for name, value in exact.items():
        assert fast[name].dtype == plain[name].dtype
        errors = [float((each[name].double() - value).norm() / value.norm()) for each in (fast, plain)]
        assert name != "y" or dropout or torch.equal(fast[name], plain[name])
        assert errors[0] <= 1.25 * errors[1] + 0.1 * unit and errors[0] < 4 * unit, (name, errors)


class Products(TorchDispatchMode):
    """Notes the types of matrix products."""

    def __init__(self):
        super().__init__()
        self.types = set()

    def __torch_dispatch__(self, operation, types, inputs=(), named=None):
        if operation in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.addmm_.default):
            self.types |= {each.dtype for each in inputs if isinstance(each, torch.Tensor)}
        return operation(*inputs, **(named or {}))


@pytest.mark.parametrize("make", [make_layer, make_mlp])
@pytest.mark.parametrize(("dtype", "autocast"), [(torch.float32, True), (torch.bfloat16, False)])
@pytest.mark.parametrize("own_bf16", [True, False])
def test_a_cpu_without_bf16_goes_backwards_in_float32(make, dtype, autocast, own_bf16, monkeypatch):
    """Such a product in bf16 takes it 30 to 60 times as long."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: own_bf16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = make(dtype=dtype)(torch.randn(4, 6, dtype=dtype, requires_grad=True))
    with Products() as seen:
        y.sum().backward()
    assert (torch.bfloat16 in seen.types) == own_bf16


def test_law_1_at_the_start_the_output_is_the_base_s_bit_for_bit(steps):
    for dtype, autocast in ((torch.float32, False), (torch.float32, True), (torch.bfloat16, False)):
        base = make_tiny_llama(dtype=dtype)
        adapted = inject(copy.deepcopy(base), LoRAConfig(r=2)).train()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            assert torch.equal(adapted(tokens(2, 6)).logits, base(tokens(2, 6)).logits)
    assert steps.count("_GatedMLP") == 3 * 2 and steps.count("_Linear") == 3 * 2 * 4


@pytest.mark.parametrize("make", [make_layer, make_mlp])
def test_a_frozen_weight_is_cast_once_where_copies_are_kept(make, monkeypatch):
    """The same bits as with a cast a step; a weight that has changed is cast anew; nothing is kept when the block has ended."""
    module = make(dtype=torch.float32)
    weights = [p for name, p in module.named_parameters() if not p.requires_grad]
    x = torch.randn(4, 6)
    plain = gradients(module, x, on=True, autocast=True)
    with arithmetic.copies_kept():
        for _ in range(2):
            assert_same(gradients(module, x, on=True, autocast=True), plain, 0.0)
        kept = dict(arithmetic._copies)
        assert {id(w) for w in kept} == {id(w) for w in weights}
        with arithmetic.copies_kept():
            gradients(module, x, on=True, autocast=True)
        assert all(arithmetic._copies[w][1] is copy for w, (_, copy) in kept.items())
        with torch.no_grad():
            weights[0].mul_(1.5)
        changed = gradients(module, x, on=True, autocast=True)
        assert not torch.equal(changed["y"], plain["y"])
    assert arithmetic._copies is None
    assert_same(gradients(module, x, on=True, autocast=True), changed, 0.0)


def test_a_mask_survives_its_bits():
    for shape in ((1, 1), (3, 5), (16, 8), (7, 9)):
        x = torch.randn(shape)
        kept = arithmetic.draw(x, 0.3)
        bits = arithmetic.pack(kept)
        assert torch.equal(arithmetic.unpack(bits, x), kept) and bits.numel() == -(-x.numel() // 8)
    assert 0.69 < arithmetic.draw(torch.empty(200, 200), 0.3).mean() < 0.71


@pytest.mark.parametrize("make", [make_layer, make_mlp])
@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 6), (2, 0, 6)])
def test_the_output_may_be_changed_in_place(make, shape, steps):
    module, x = make(bias=True), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    behind = nn.Sequential(module, nn.ReLU(inplace=True))
    assert_same(gradients(behind, x, on=True), gradients(behind, x, on=False), 1e-12)
    assert steps


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_module_called_twice_and_a_factor_used_twice(create_graph, tied, steps):
    """With `create_graph` the gradient is asked of autograd itself: it must not run on into the first call."""
    mlp, x = make_mlp(), torch.randn(3, 6, dtype=torch.float64)
    if tied:
        mlp.up_proj.lora_A["default"] = mlp.gate_proj.A
    layer = make_layer(6, 6)
    wanted = [p for module in (mlp, layer) for p in module.parameters() if p.requires_grad]
    found = []
    for on in (True, False):
        with fused.switched(on):
            y = layer(mlp(layer(mlp(x) / 9) / 9) / 9).square().sum()
        found.append(torch.autograd.grad(y, wanted, create_graph=create_graph))
    assert len(steps) == 4
    for one, two in zip(*found):
        torch.testing.assert_close(one, two)


# -- what is kept ------------------------------------------------------------------------------------------------------
def saved_bytes(module: nn.Module, x: torch.Tensor, on: bool, autocast: bool = False) -> int:
    with (
        fused.switched(on),
        saved_for_backward(module) as saved,
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        module(x)
    return saved.total


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_bytes_kept_are_counted(dropout):
    n, d, wide, r = 10, 16, 24, 2
    x = torch.randn(2, n // 2, d, requires_grad=True)
    bits = (lambda width: n * width // 8) if dropout else (lambda width: 0)
    layer = make_layer(d, wide, r, torch.float32, dropout=dropout)
    assert saved_bytes(layer, x, on=True) == 4 * n * (d + r) + bits(d)
    assert saved_bytes(layer, x, on=False) == 4 * n * (d + r + (d if dropout else 0))
    mlp = make_mlp(dropout=dropout, d=d, wide=wide, r=r, dtype=torch.float32)
    assert saved_bytes(mlp, x, on=True) == 4 * n * (d + 2 * wide + 3 * r) + 2 * bits(d) + bits(wide)
    assert saved_bytes(mlp, x, on=False) >= 4 * n * (d + 4 * wide + 3 * r)  # silu(gate) and the product too
    half = make_layer(d, wide, r, torch.bfloat16, dropout=dropout)
    assert saved_bytes(half, x.bfloat16(), on=True) == n * (2 * d + 4 * r) + bits(d)  # no copy of x in float32
    assert saved_bytes(half, x.bfloat16(), on=False) >= n * 4 * (d + r)
    full = make_layer(d, wide, r, torch.float32, dropout=dropout)
    kept = 2 * d * wide  # the weight in bf16, as autocast itself keeps it: x is not copied
    assert saved_bytes(full, x, on=True, autocast=True) == n * (4 * d + 2 * r) + bits(d) + kept


# -- a model -----------------------------------------------------------------------------------------------------------
def model_gradients(model, on, passes=1, **forward) -> dict:
    model.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    with fused.switched(on):
        for number in range(passes):
            batch = {"input_ids": tokens(2, 6, seed=number), "labels": tokens(2, 6, seed=number)}
            causal_lm_loss(model, batch | forward).total.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def make_model(dropout=0.0, dtype=torch.float64, **settings):
    model = inject(make_tiny_llama(dtype=dtype), LoRAConfig(r=2, lora_dropout=dropout, **settings)).train()
    randomise(model)
    return model


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_model_trains_alike_with_accumulated_gradients_and_checkpointing(dropout, steps):
    model = make_model(dropout)
    plain = model_gradients(model, on=False, passes=2)
    assert not steps
    assert_same(model_gradients(model, on=True, passes=2), plain, 1e-10)
    assert steps.count("_GatedMLP") == 4 and steps.count("_Linear") == 16
    for reentrant in (False, True):
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        steps.clear()
        assert_same(model_gradients(model, on=True, passes=2), plain, 1e-10)
        assert steps.count("_GatedMLP") == 4 * (1 if reentrant else 2)  # reentrant: the first pass is without gradients
        model.gradient_checkpointing_disable()
        model.disable_input_require_grads()


def test_the_graph_can_be_walked_twice():
    layer, x = make_mlp(), torch.randn(3, 6, dtype=torch.float64)
    loss = layer(x).square().sum()
    loss.backward(retain_graph=True)
    once = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    loss.backward()
    for name, p in layer.named_parameters():
        if name in once:
            torch.testing.assert_close(p.grad, 2 * once[name])


def test_switching_dial_and_silence_reach_the_fused_steps(steps):
    model = make_model()
    inject(model, LoRAConfig(r=3, target_modules=["up_proj", "q_proj"]), "other")
    randomise(model)
    for parameter in model.parameters():
        parameter.requires_grad_(
            any(parameter is p for name in ("default", "other") for p in adapter_parameters(model, name).values())
        )
    ids = tokens(2, 6)
    for choose in (
        lambda: set_adapter(model, "default"), lambda: set_scale(model, -0.5), lambda: set_adapter(model, "other"),
        lambda: set_adapter(model, None), lambda: set_adapter(model, ["default", "other"]),
    ):  # fmt: skip
        choose()
        with fused.disabled():
            plain = model(ids).logits
        torch.testing.assert_close(model(ids).logits, plain, rtol=0, atol=1e-12)
    set_adapter(model, "default")
    steps.clear()
    with disabled(model):
        model(ids)
    assert not steps


def test_the_forward_put_on_an_mlp_follows_a_copy_and_leaves_with_the_adapter(steps):
    model = make_model()
    names = [name for name, _ in model.named_modules()]
    twin = copy.deepcopy(model)
    mlp = twin.model.layers[0].mlp
    assert mlp.forward.args == (mlp,) and [name for name, _ in twin.named_modules()] == names
    assert set(twin.state_dict()) == set(model.state_dict())
    nn.init.zeros_(mlp.up_proj.B)
    assert not torch.equal(twin(tokens()).logits, model(tokens()).logits)
    assert steps.count("_GatedMLP") == 4
    unload(twin)
    assert all("forward" not in module.__dict__ for module in twin.modules())
    assert torch.equal(twin(tokens()).logits, make_tiny_llama(dtype=torch.float64)(tokens()).logits)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["DDP", "FSDP2"])
def test_distributed_trains_alike(kind, tmp_path, steps):
    """One process is enough to see whether gradients reach the wrapper's hooks; FSDP2 shards the frozen weights too."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    model = make_model(dtype=torch.float32)
    plain = model_gradients(model, on=False)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        if kind == "DDP":
            found = model_gradients(nn.parallel.DistributedDataParallel(model), on=True)
        else:
            for block in model.model.layers:
                fully_shard(block)
            found = model_gradients(fully_shard(model), on=True)
            assert all(isinstance(grad, DTensor) for grad in found.values())
            found = {name: grad.full_tensor() for name, grad in found.items()}
    finally:
        dist.destroy_process_group()
    assert steps.count("_GatedMLP") == 2 and steps.count("_Linear") == 8
    assert_same({name.removeprefix("module."): grad for name, grad in found.items()}, plain, 1e-5)


def doubled(forward):
    @functools.wraps(forward)
    def twice(self, x):
        return 2 * forward(self, x)

    return twice


def test_a_forward_put_on_the_class_later_is_seen(monkeypatch, steps):
    mlp, x = make_mlp(), torch.randn(3, 6, dtype=torch.float64)
    y = mlp(x)
    monkeypatch.setattr(GatedMLP, "forward", doubled(GatedMLP.forward))
    torch.testing.assert_close(mlp(x), 2 * y)
    assert steps.count("_GatedMLP") == 1


@pytest.mark.parametrize("make", [make_layer, make_mlp])
def test_a_forward_put_on_every_linear_layer_is_seen(make, monkeypatch, steps):
    monkeypatch.setattr(nn.Linear, "forward", doubled(nn.Linear.forward))
    module, x = make(), torch.randn(3, 6, dtype=torch.float64)
    y = module(x)
    with fused.disabled():
        torch.testing.assert_close(y, module(x))
    assert not steps


def test_a_pickled_mlp_keeps_its_fused_forward(steps):
    twin = pickle.loads(pickle.dumps(make_mlp()))
    twin(torch.randn(3, 6, dtype=torch.float64))
    assert steps == ["_GatedMLP"]
    assert "forward" not in unload(twin).__dict__


def test_which_mlps_are_gated_is_read_off_their_source():
    from transformers.models.gemma.modeling_gemma import GemmaMLP
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
    from transformers.models.llama.modeling_llama import LlamaMLP
    from transformers.models.mistral.modeling_mistral import MistralMLP
    from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP

    class Decorated(GatedMLP):
        @doubled
        def forward(self, x):
            return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))

    class TakesMore(GatedMLP):
        def forward(self, x, *more, scale=2):
            return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))

    class Clamped(GatedMLP):
        def forward(self, x):
            return self.down_proj(self.act_fn(self.gate_proj(x)).clamp(max=5) * self.up_proj(x))

    assert all(fused.is_gated_mlp(kind) for kind in (LlamaMLP, MistralMLP, Qwen2MLP, GemmaMLP, GatedMLP))
    assert not any(fused.is_gated_mlp(kind) for kind in (GPT2MLP, Clamped, Decorated, TakesMore, nn.Linear, type("Unread", (nn.Module,), {"forward": eval("lambda self, x: x")})))  # fmt: skip


# -- where it steps aside ----------------------------------------------------------------------------------------------
def hooked(kind, path):
    """A hook of this kind on a submodule doubles what passes there, so a path that went round it would be seen."""

    def double(module, *args):
        return (
            tuple(2 * a for a in args[0])
            if "pre" in kind
            else (2 * args[-1] if "forward" in kind else (2 * args[0][0],))
        )

    def change(module):
        target = module.get_submodule(path)
        getattr(target, f"register_{kind}_hook")(double)

    return change


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Shouting(LoRALinear):
    def forward(self, x):
        return 2 * super().forward(x)


def own_forward(module):
    base = module.base_layer
    base.forward = lambda x: 2 * F.linear(x, base.weight, base.bias)


def second_adapter(module):
    module.add_adapter("second", 2, 8)
    nn.init.normal_(module.factors[1]["second"])
    module.state.active["second"] = 1.0


def train_base(module):
    module.base_layer.weight.requires_grad_(True)


def freeze_A(module):
    module.A.requires_grad_(False)


def parametrized(module):
    parametrize.register_parametrization(module.base_layer, "weight", Twice())


def conv1d():
    from transformers.pytorch_utils import Conv1D

    return make_layer(base=Conv1D(5, 6).double())


def embedding():
    return inject(nn.ModuleDict({"e": nn.Embedding(9, 6)}).double(), LoRAConfig(r=2, target_modules=["e"]))["e"]


class Wrapped(torch.Tensor):
    """A tensor of another kind, as a sharded or quantised weight is."""


def other_tensor(module):
    module.base_layer.weight = nn.Parameter(module.base_layer.weight.detach().as_subclass(Wrapped), requires_grad=False)


LAYERS = {
    **{f"{kind} hook on the base": (make_layer, hooked(kind, "base_layer")) for kind in ("forward", "forward_pre", "full_backward", "full_backward_pre")},
    "forward put on the base": (make_layer, own_forward),
    "subclass of Linear": (lambda: make_layer(base=Doubled(6, 5, dtype=torch.float64)), None),
    "parametrised weight": (make_layer, parametrized),
    "tensor of another kind": (make_layer, other_tensor),
    "subclass of LoRALinear": (lambda: Shouting(nn.Linear(6, 5).double(), 2), None),
    "Conv1D": (conv1d, None),
    "embedding": (embedding, None),
    "two active adapters": (make_layer, second_adapter),
    "no active adapter": (make_layer, lambda module: module.state.active.clear()),
    "merged": (make_layer, lambda module: module.merge()),
    "the base trains": (make_layer, train_base),
    "the base's bias trains": (lambda: make_layer(bias=True), lambda module: module.base_layer.bias.requires_grad_(True)),
    "one factor is frozen": (make_layer, freeze_A),
    "the adapter is frozen": (make_layer, lambda module: module.requires_grad_(False)),
}  # fmt: skip


@pytest.mark.parametrize("situation", LAYERS)
def test_a_layer_steps_aside(situation, steps):
    make, change = LAYERS[situation]
    module = make()
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    if change:
        if situation != "merged":  # the situation alone stops it, not the layer
            module(x)
            assert steps == ["_Linear"]
            steps.clear()
        change(module)
    if situation == "embedding":
        y = module(torch.tensor([[0, 3]]))
        assert y.requires_grad and not steps
        return
    found = gradients(module, x, on=True)
    assert not steps
    assert_same(found, gradients(module, x, on=False), 1e-12)


@contextmanager
def nothing():
    yield


def under(name, module, x):
    """The module's output in a situation that is around it, not of it."""
    if name == "no gradient wanted":
        with torch.no_grad():
            return module(x)
    if name == "inference mode":
        with torch.inference_mode():
            return module(x)
    if name == "disabled()":
        with fused.disabled():
            return module(x)
    if name == "global hook":
        handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
        try:
            return module(x)
        finally:
            handle.remove()
    if name == "vmap":
        return torch.func.vmap(module)(x)
    if name == "jvp":
        return torch.func.jvp(module, (x,), (torch.ones_like(x),))[1]
    if name == "grad":
        return torch.func.grad(lambda x: module(x).square().sum())(x)
    if name == "forward mode":
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
            return torch.autograd.forward_ad.unpack_dual(module(dual)).tangent
    if name == "tensor of another kind":
        return module(x.as_subclass(Wrapped)).as_subclass(torch.Tensor)
    if name == "float64 under autocast":
        with torch.autocast("cpu", torch.bfloat16):
            return module(x)
    if name == "traced":
        return torch.jit.trace(module, (x,), check_trace=False)(x)
    if name == "exported":
        return torch.export.export(module, (x,)).module()(x)
    raise KeyError(name)


AROUND = ["no gradient wanted", "inference mode", "disabled()", "global hook", "vmap", "jvp", "grad", "forward mode",
          "tensor of another kind", "float64 under autocast", "traced", "exported"]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("situation", AROUND)
@pytest.mark.parametrize("make", [make_layer, make_mlp])
def test_layer_and_mlp_step_aside_in(situation, make, steps):
    module, x = make(), torch.randn(3, 6, dtype=torch.float64)
    found = under(situation, module, x)
    assert not steps
    with fused.disabled():
        plain = under(situation, module, x)
    torch.testing.assert_close(found, plain, rtol=0, atol=0)
    module(x)
    assert steps  # nothing else was in the way


MLPS = {
    **{f"{kind} hook on {path}": (make_mlp, hooked(kind, path)) for path in ("up_proj", "down_proj.base_layer", "act_fn") for kind in ("forward", "forward_pre", "full_backward")},
    "another activation": (lambda: make_mlp(act_fn=nn.GELU()), None),
    "another formula": (lambda: make_mlp(mlp=type("Other", (GatedMLP,), {"forward": lambda self, x: self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)) + x})()), None),
    "only down has an adapter": (lambda: make_mlp(["down_proj"]), None),
    "one matrix trains": (lambda: make_mlp(["gate_proj"]), lambda module: module.up_proj.weight.requires_grad_(True)),
    "one matrix is of another kind": (lambda: make_mlp(["gate_proj"]), lambda module: setattr(module, "up_proj", Doubled(6, 9, dtype=torch.float64).requires_grad_(False))),
    "one matrix has two adapters": (make_mlp, lambda module: second_adapter(module.up_proj)),
    "merged": (make_mlp, merge),
    "silent": (make_mlp, lambda module: set_adapter(module, None)),
}  # fmt: skip


@pytest.mark.parametrize("situation", MLPS)
def test_an_mlp_steps_aside(situation, steps):
    make, change = MLPS[situation]
    mlp = make()
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    if change:
        mlp(x)
        assert steps == ["_GatedMLP"]
        steps.clear()
        change(mlp)
    found = gradients(mlp, x, on=True)
    assert "_GatedMLP" not in steps
    assert_same(found, gradients(mlp, x, on=False), 1e-12)


@pytest.mark.slow
def test_torch_compile_takes_the_plain_formula(steps):
    mlp, x = make_mlp(), torch.randn(3, 6, dtype=torch.float64)
    with fused.disabled():
        plain = mlp(x)
    torch.testing.assert_close(torch.compile(mlp, fullgraph=True, backend="aot_eager")(x), plain)
    assert not steps


def test_checkpointing_by_hand_keeps_the_mask():
    layer, x = make_layer(dropout=0.5), torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    plain = gradients(layer, x, on=True)
    layer.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    y = checkpoint(layer, x, use_reentrant=False)
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)).sum().backward()
    torch.testing.assert_close(layer.A.grad, plain["lora_A.default"])


@pytest.mark.parametrize("make", [make_layer, make_mlp])
@pytest.mark.parametrize("bias", [False, True])
def test_selective_checkpointing_keeps_what_a_product_gave(make, bias, steps):
    """What it keeps of the first pass must not be changed in place: the second pass would add the adapter to it again."""
    module, behind = make(bias=bias), nn.Linear(5 if make is make_layer else 6, 3, dtype=torch.float64)
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)

    def policy(context, operation, *args, **kwargs):
        kept = operation in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    def both(x):
        return behind(module(x)).square()

    contexts = functools.partial(create_selective_checkpoint_contexts, policy)
    wanted = [x, *(p for p in module.parameters() if p.requires_grad)]
    found = torch.autograd.grad(checkpoint(both, x, use_reentrant=False, context_fn=contexts).sum(), wanted)
    assert not steps
    for one, two in zip(found, torch.autograd.grad(both(x).sum(), wanted)):
        torch.testing.assert_close(one, two)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["nested", "complex"])
def test_numbers_of_another_kind(kind, steps):
    if kind == "nested":
        rows = [torch.randn(n, 6, dtype=torch.float64) for n in (3, 2)]
        module, x = make_layer(), torch.nested.nested_tensor(rows)
        torch.testing.assert_close(module(x).to_padded_tensor(0.0)[0], module(rows[0]))
    else:
        module = LoRALinear(nn.Linear(6, 5, dtype=torch.complex128), 2, 4)
        x = torch.randn(3, 6, dtype=torch.complex128, requires_grad=True)
        y = module(x)
        dy = torch.randn_like(y)
        torch.testing.assert_close(torch.autograd.grad(y, x, dy)[0], dy @ module.weight.conj())
    assert steps == ["_Linear"] * (kind == "nested")
