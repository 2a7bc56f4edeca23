"""Angles and cosines of two updates, against the dense matrices."""

import pytest
import torch
from conftest import make_tiny_llama
from helpers import randomise
from torch import nn

from lora_edu.adapters import LoRAConfig, combine, inject, lora_layers, mean_cosine, overlap
from lora_edu.errors import AdapterError


def pair():
    model = make_tiny_llama(dtype=torch.float64)
    inject(model, LoRAConfig(r=2, lora_alpha=6, target_modules=["q_proj", "embed_tokens", "up_proj"]), "a")
    inject(model, LoRAConfig(r=3, use_rslora=True, target_modules=["q_proj", "embed_tokens", "v_proj"]), "b")
    return randomise(randomise(model, "a", 1), "b", 2)


def test_the_cosine_and_the_norms_are_those_of_the_dense_updates():
    model = pair()
    found = overlap(model, "a", "b")
    assert {path.rsplit(".", 1)[-1] for path in found} == {"q_proj", "embed_tokens"} and len(found) == 3
    long = {"a": [], "b": []}
    for path, each in found.items():
        dense = {n: lora_layers(model)[path].delta_weight(n).detach().flatten() for n in long}
        assert each.cosine == pytest.approx(float(torch.cosine_similarity(dense["a"], dense["b"], dim=0)))
        assert each.norms == pytest.approx((float(dense["a"].norm()), float(dense["b"].norm())))
        for n in long:
            long[n].append(dense[n])
    whole = torch.cosine_similarity(torch.cat(long["a"]), torch.cat(long["b"]), dim=0)
    assert mean_cosine(found) == pytest.approx(float(whole))


def test_the_angles_are_those_between_known_spaces():
    model = nn.Sequential(nn.Linear(4, 5, bias=False)).double()
    for name in ("a", "b"):
        inject(model, LoRAConfig(r=2, target_modules=["0"]), name)
    layer = lora_layers(model)["0"]
    e = torch.eye(5, dtype=torch.float64)
    with torch.no_grad():
        layer.factors[0]["a"].copy_(e[:2, :4])  # reads inputs 0 and 1, writes outputs 0 and 1
        layer.factors[1]["a"].copy_(e[:, :2])
        layer.factors[0]["b"].copy_(torch.stack([e[0, :4] * 3, e[2, :4]]))  # reads 0 and 2, writes 0 and, at 60°, 1
        layer.factors[1]["b"].copy_(torch.stack([e[0], 0.5 * e[1] + 0.75**0.5 * e[4]], dim=1))
    found = overlap(model, "a", "b")["0"]
    torch.testing.assert_close(found.reads, torch.tensor([0.0, 90.0]).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.writes, torch.tensor([0.0, 60.0]).double(), atol=1e-5, rtol=0)
    assert (found.shared_reads, found.shared_writes) == pytest.approx((0.5, 0.625))
    with torch.no_grad():
        layer.factors[1]["b"][:, 1] = 0  # a direction that is read and never spoken is none of ΔW's
    torch.testing.assert_close(overlap(model, "a", "b")["0"].reads, torch.zeros(1).double(), atol=1e-5, rtol=0)


def test_an_adapter_against_itself_its_opposite_and_silence():
    model = make_tiny_llama()
    randomise(inject(model, LoRAConfig(r=2), "a"), "a")
    combine(model, {"a": -2.0}, "minus")
    inject(model, LoRAConfig(r=2), "silent")
    assert mean_cosine(overlap(model, "a", "a")) == pytest.approx(1)
    for each in overlap(model, "a", "minus").values():
        assert each.cosine == pytest.approx(-1) and float(each.reads.max()) < 0.1 and each.shared_writes > 0.9999
    for each in overlap(model, "a", "silent").values():
        assert each.cosine == 0 and len(each.reads) == 0 and each.shared_reads == 0


def test_what_cannot_be_compared_is_refused():
    model = make_tiny_llama()
    inject(model, LoRAConfig(r=2, target_modules=["q_proj"]), "a")
    inject(model, LoRAConfig(r=2, target_modules=["v_proj"]), "b")
    with pytest.raises(AdapterError, match="no layer in common"):
        overlap(model, "a", "b")
    with pytest.raises(AdapterError, match="no adapter 'z'"):
        overlap(model, "a", "z")
