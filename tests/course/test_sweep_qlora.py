"""The sweep of chapter 11 measures what it says: one run of three steps on each base."""

import pytest
import torch

from lora_edu.adapters import lora_layers
from lora_edu.course.sweeps import qlora
from lora_edu.course.sweeps.qlora import DENSE, NF4, SWEEP
from lora_edu.models import load_base
from lora_edu.models.quantized import quantized_layers
from lora_edu.training import TrainConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base():
    return load_base(device="cpu")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(qlora, "TRAIN", TrainConfig(batch_size=1, max_steps=3, precision="fp32"))
    monkeypatch.setattr(qlora, "HELD_OUT", 2)


def test_both_bases_are_measured_and_left_as_they_were(base):
    before = base.model.model.layers[0].self_attn.q_proj.weight.detach().clone()
    codes = next(iter(quantized_layers(qlora.in_four_bits().model).values())).codes.clone()
    found = {kind: SWEEP.run(base, {"base": kind, "learning_rate": 1e-3}, 0) for kind in (DENSE, NF4)}
    for each in found.values():
        assert set(each) == set(SWEEP.metrics) and all(value > 0 for value in each.values())
        assert each["on_other"] != each["test"]
    assert found[DENSE]["test"] != found[NF4]["test"]
    assert torch.equal(base.model.model.layers[0].self_attn.q_proj.weight, before)
    assert torch.equal(next(iter(quantized_layers(qlora.in_four_bits().model).values())).codes, codes)
    assert not lora_layers(base.model) and not lora_layers(qlora.in_four_bits().model)


def test_the_first_steps_of_a_run_are_those_of_the_whole_run(base):
    whole = qlora.trained(base, 1e-3, 0, steps=3).history.losses
    qlora.unload(base.model)
    begun = qlora.trained(base, 1e-3, 0, steps=2).history.losses
    qlora.unload(base.model)
    assert len(begun) == 2 and begun == pytest.approx(whole[:2], rel=1e-5)
