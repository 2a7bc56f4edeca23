"""The sweep `capacity` trains what the course's own adapter would, and measures what it says."""

import copy

import pytest
import torch
import torch.nn.functional as F

from lora_edu.adapters import LoRAConfig, inject, lora_layers
from lora_edu.course.sweeps import capacity
from lora_edu.course.sweeps.capacity import SWEEP, factors, frozen_net, memorise, random_rows, row_losses
from lora_edu.experiments import memorised_bits
from lora_edu.experiments.capacity import FULL


@pytest.mark.parametrize("alphabet", [2, 10])
def test_the_losses_are_those_of_the_courses_adapter(alphabet):
    net, (x, y) = frozen_net(8, alphabet), random_rows(12, 8, alphabet)
    A, _ = factors(net, 3)
    B = torch.randn(3, 8, 3, generator=torch.Generator().manual_seed(1))
    model = copy.deepcopy(net)
    inject(model, LoRAConfig(r=3, lora_alpha=3, target_modules=("0", "2", "4")))
    with torch.no_grad():
        for i, layer in enumerate(lora_layers(model).values()):
            layer.A.copy_(A[i])
            layer.B.copy_(B[i])
    got = row_losses(net, [A[None], B[None]], x, y)
    assert torch.allclose(got[0], F.cross_entropy(model(x), y, reduction="none"), atol=1e-5)
    full = row_losses(net, [(B @ A)[None]], x, y)
    assert torch.allclose(full, got, atol=1e-5)


@pytest.mark.parametrize("optimiser", ["Adam", "SGD"])
@pytest.mark.parametrize("r", [2, FULL])
def test_runs_side_by_side_are_the_runs_of_torchs_optimiser(optimiser, r):
    net, (x, y) = frozen_net(8), random_rows(30, 8)
    rates, steps = (0.01, 0.1), 5
    held = memorise(net, x, y, r, rates, steps, optimiser=optimiser)
    for i, rate in enumerate(rates):
        trained = [start[None].clone().requires_grad_() for start in factors(net, r)]
        kinds = {"Adam": torch.optim.Adam, "SGD": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9)}
        optimizer = kinds[optimiser](trained, lr=rate)
        for _ in range(steps):
            optimizer.zero_grad()
            row_losses(net, trained, x, y).mean().backward()
            optimizer.step()
        want = memorised_bits(row_losses(net, trained, x, y).detach(), 2)
        assert float(held[-1, i]) == pytest.approx(float(want), abs=1e-3)
    assert float(held[0, 0]) == float(held[0, 1]) and held.shape == (steps + 1, 2)


def test_an_adapter_learns_labels_by_heart_and_the_net_stays():
    net = frozen_net(8)
    before = [p.clone() for p in net.parameters()]
    held = memorise(net, *random_rows(40, 8), r=2, rates=(0.03,), steps=400)
    assert float(held[-1]) > 35 > 10 > float(held[0])  # 40 bits of labels
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters()))


def test_rows_of_one_seed_are_the_same_and_another_seed_is_another_net():
    assert all(torch.equal(a, b) for a, b in zip(random_rows(5, 4), random_rows(5, 4)))
    assert not torch.equal(random_rows(5, 4)[0], random_rows(5, 4, seed=1)[0])
    assert not torch.equal(frozen_net(4)[0].weight, frozen_net(4, seed=1)[0].weight)
    assert random_rows(2000, 4, alphabet=10)[1].unique().tolist() == list(range(10))


def test_a_run_returns_what_the_sweep_names_and_more_steps_never_hold_less(monkeypatch):
    monkeypatch.setattr(capacity, "STEPS", (2, 4, 8))
    monkeypatch.setattr(capacity, "RATES", {"SGD": (0.01, 0.1, 1e9)})  # the last diverges
    cell = {"optimiser": "SGD", "width": 8, "alphabet": 2, "r": 2, "rows": 30}
    found = SWEEP.run(None, cell, 0)
    for place in ("low", "middle", "high"):
        values = [found[f"{place}_{steps}"] for steps in (2, 4, 8)]
        assert values == sorted(values) and all(value == value for value in values)
    assert len(SWEEP.metrics) == 12 and len(SWEEP.cells) == 33
