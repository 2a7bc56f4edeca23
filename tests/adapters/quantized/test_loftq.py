"""LoftQ's start, and the grid that snaps a merged weight back."""

import inspect

import pytest
import torch
from conftest import make_tiny_llama
from helpers import tokens

from lora_edu.adapters import LoRAConfig, disabled, inject, load, loftq, loftq_split, lora_layers, save
from lora_edu.adapters.variants.dora import DoRA
from lora_edu.errors import AdapterError, ConfigError
from lora_edu.models.quantized import Grid, Quantization, q4_1, quantize

CONFIG = LoRAConfig(r=4, lora_alpha=10)


def matrix(rows=48, columns=64, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("iterations", [1, 3])
def test_the_split_is_pefts(iterations):
    """PEFT's own function, told to work on a CPU: it knows CUDA and XPU alone."""
    pytest.importorskip("bitsandbytes")
    from peft.utils import loftq_utils

    source = inspect.getsource(loftq_utils.loftq_init).replace('"xpu" if is_xpu_available() else "cuda"', '"cpu"')
    names = dict(vars(loftq_utils))
    exec(source, names)
    Q, A, B = names["loftq_init"](matrix(), 4, 6, iterations)
    ours = loftq_split(matrix(), 6, Quantization(double=False), iterations)
    assert torch.equal(ours.Q, Q)
    assert torch.allclose(ours.A, A, atol=1e-6) and torch.allclose(ours.B, B, atol=1e-6)


@pytest.mark.parametrize("s", [1.0, 2.5])
def test_the_update_is_the_best_of_its_rank_for_the_error(s):
    W = matrix()
    part = loftq_split(W, 6, s=s)
    U, S, Vh = torch.linalg.svd((W - part.Q).double(), full_matrices=False)
    best = U[:, :6] * S[:6] @ Vh[:6]
    assert torch.allclose(s * part.B.double() @ part.A.double(), best, atol=1e-6)
    assert torch.equal(part.rounded, W)


def test_each_iteration_comes_nearer_and_needs_a_base_of_its_own():
    W = matrix()
    parts = [loftq_split(W, 12, iterations=n) for n in (1, 2, 4)]
    left = [float((W - part.Q - part.B @ part.A).norm()) for part in parts]
    assert left[0] > left[1] > left[2]
    assert not torch.equal(parts[1].Q, parts[0].Q)


def test_a_model_starts_nearer_to_the_dense_one_and_trains_from_there(tmp_path):
    dense, ids = make_tiny_llama(), tokens()
    plain, started = make_tiny_llama(), make_tiny_llama()
    quantize(plain)
    report = loftq(started, CONFIG)
    assert all(after < before for before, after in report.layers.values()) and "14 matrices" in str(report)
    with torch.no_grad():
        off = [(model(ids).logits - dense(ids).logits).norm() for model in (plain, started)]
        assert off[1] < off[0]
        with disabled(started):  # one iteration: the base is that of load_base(…, bits=4)
            assert torch.equal(started(ids).logits, plain(ids).logits)
    started(ids, labels=ids).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in started.parameters() if p.requires_grad)
    load(plain, save(started, tmp_path))
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, started(ids).logits)


def test_a_target_that_stays_dense_starts_silent():
    model, before = make_tiny_llama(), make_tiny_llama()
    report = loftq(model, CONFIG, dense=("lm_head", "q_proj"))
    assert len(report.layers) == 12
    layer = lora_layers(model)["model.layers.0.self_attn.q_proj"]
    assert not layer.B.any() and torch.equal(layer.weight, before.model.layers[0].self_attn.q_proj.weight)


def test_what_loftq_refuses():
    with pytest.raises(AdapterError, match="fresh base"):
        loftq(inject(make_tiny_llama(), CONFIG), CONFIG)
    with pytest.raises(ConfigError, match="start of plain LoRA"):
        loftq(make_tiny_llama(), LoRAConfig(r=4, variant=DoRA()))
    with pytest.raises(ConfigError, match="at least 1"):
        loftq_split(matrix(), 2, iterations=0)


# -- the grid of GGUF's Q4_1 ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("std", [0.05, 0.0, 30.0])
def test_q4_1_is_ggufs(std):
    import gguf

    W = matrix(seed=3) / 0.05 * std
    packed = gguf.quants.quantize(W.numpy(), gguf.GGMLQuantizationType.Q4_1)
    theirs = torch.from_numpy(gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q4_1))
    assert torch.equal(q4_1(W), theirs)
    assert torch.equal(q4_1(theirs), theirs), "what lies on the grid stays"
    assert torch.equal(Grid.of(theirs).snap(theirs), theirs)


def test_on_its_own_grid_a_small_update_is_forgotten_and_on_another_it_is_not():
    """The share of ΔW that is left, by its projection: rounding is dither everywhere but on the grid that the weights lie on."""
    W0 = q4_1(matrix(256, 256, seed=4))
    delta = matrix(256, 256, seed=5) * 0.02
    left = {}
    merged = W0 + delta
    quantised = [loftq_split(W, 1, Quantization(double=False)).Q for W in (W0, merged)]
    for name, change in (("own", Grid.of(W0).snap(merged) - W0), ("nf4", quantised[1] - quantised[0])):
        left[name] = float((change * delta).sum() / delta.square().sum())
    assert left["own"] < 0.01 and 0.8 < left["nf4"] < 1.2


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="divide by 32"):
        q4_1(torch.ones(2, 33))


@pytest.mark.real_model
@pytest.mark.slow
def test_the_courses_own_model_lies_on_that_grid(base):
    weights = {
        n: m.weight
        for n, m in base.model.named_modules()
        if n.startswith("model.layers.3.") and hasattr(m, "in_features")
    }
    assert len(weights) == 7
    for weight in weights.values():
        assert torch.equal(q4_1(weight), weight) and torch.equal(Grid.of(weight).snap(weight), weight)
