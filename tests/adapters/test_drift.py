"""What a merge loses to rounding is what merging a model of that dtype really loses."""

import warnings

import pytest
import torch
from conftest import make_tiny_llama
from helpers import randomise
from torch import nn

from lora_edu.adapters import LoRAConfig, inject, load, lora_layers, merge, merge_drift, save
from lora_edu.errors import MergeError

WIDE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}


def model_of(std, config=LoRAConfig(r=2), **more):  # noqa: B008  (frozen)
    return randomise(inject(make_tiny_llama(**(WIDE | more)), config), std=std)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_report_is_what_merge_does_to_a_model_of_that_dtype(dtype, tmp_path):
    model = model_of(0.02, LoRAConfig(r=2, target_modules=["q_proj", "embed_tokens"]))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    report = merge_drift(model, dtype)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())  # nothing is changed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the base in half precision is another base
        other = load(make_tiny_llama(dtype=dtype, **WIDE), save(model, tmp_path))
    old = {p: m.base_layer.weight.double() for p, m in lora_layers(other).items()}
    deltas = {p: m.delta_weight("default").double() for p, m in lora_layers(other).items()}
    merge(other)
    error = delta = along = 0.0
    for path, layer in lora_layers(other).items():
        moved = layer.base_layer.weight.double() - old[path]
        error += float((moved - deltas[path]).square().sum())
        along += float((moved * deltas[path]).sum())
        delta += float(deltas[path].square().sum())
    assert report.error == pytest.approx((error / delta) ** 0.5, rel=1e-6)
    assert report.kept == pytest.approx(along / delta, rel=1e-6)
    assert report.dtype == dtype and 0 < report.size < 1


def test_a_small_update_loses_most_in_bf16_and_keeps_its_length():
    """A relative size of about 1 %: bf16's steps are 2⁻⁸ of a weight, fp16's 2⁻¹¹, fp32's 2⁻²⁴."""
    model = model_of(0.004)
    by_dtype = {dtype: merge_drift(model, dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)}
    assert 0.003 < by_dtype[torch.float32].size < 0.03
    errors = [report.error for report in by_dtype.values()]
    assert errors[0] < 1e-4 < errors[1] < 0.1 < errors[2] and errors[2] / errors[1] == pytest.approx(8, rel=0.1)
    assert by_dtype[torch.bfloat16].still > by_dtype[torch.float16].still > 0
    # the error is noise about ΔW, not a part of it that is missing
    assert abs(by_dtype[torch.bfloat16].kept - 1) < 0.2 * by_dtype[torch.bfloat16].error
    assert "bfloat16: ΔW is" in str(by_dtype[torch.bfloat16])


def test_what_has_no_drift_to_measure_is_refused():
    with pytest.raises(MergeError, match="train it first"):
        merge_drift(inject(make_tiny_llama(), LoRAConfig(r=2)))
    model = model_of(0.1)
    merge(model)
    with pytest.raises(MergeError, match="unmerge"):
        merge_drift(model)
    huge = randomise(inject(nn.Sequential(nn.Linear(8, 8)), LoRAConfig(r=2, target_modules=["0"])), std=1e3)
    with pytest.raises(MergeError, match=r"not finite in torch.float16: keep the base in float32"):
        merge_drift(huge, torch.float16)
    assert merge_drift(huge).error < 1e-3
