"""Law 4 in full: with Adam the four knobs α, A's start, A's rate and B's rate are two; and what breaks it. Chapter 08."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toy_runs import adapted, collate, sentences

from lora_edu.adapters import LoRAConfig, inject, lora_layers
from lora_edu.training import TrainConfig, Trainer, causal_lm_loss

STEPS, R, ALPHA, RATE_A, RATE_B = 300, 3, 6.0, 1e-2, 4e-2
TINY = 1e-300  # an ε that vanishes beside every gradient of this net, and yet keeps 0/0 out of the first step of A
POWERS = [(2.0, 1.0), (1.0, 8.0), (0.25, 16.0), (4.0, 4.0)]  # (p, q)


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 4)).double()


@pytest.fixture(scope="module")
def task():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 4, (40,), generator=generator)


def adam(a, b, p, q, eps=(TINY, TINY), decay=(0.0, 0.0)):
    return torch.optim.AdamW(
        [
            {"params": a, "lr": p * RATE_A, "eps": eps[0], "weight_decay": decay[0]},
            {"params": b, "lr": q * RATE_B, "eps": eps[1], "weight_decay": decay[1]},
        ]
    )


def sgd(a, b, p, q):
    return torch.optim.SGD([{"params": a, "lr": p * RATE_A}, {"params": b, "lr": q * RATE_B}])


def clip_gradients(factors, limit):
    """Without the 1e-6 that torch's own adds to the norm, and that would not shrink with it."""
    norm = torch.stack([factor.grad.norm() for factor in factors]).norm()
    for factor in factors:
        factor.grad.mul_((limit / norm).clamp(max=1.0))


def run(base, task, p=1.0, q=1.0, optimizer=adam, clip=None, **more):
    """Losses (steps,) and updates s·B A of all layers after training with α/(pq), p·A₀, p·lr_A, q·lr_B."""
    torch.manual_seed(2)
    model = inject(copy.deepcopy(base), LoRAConfig(r=R, lora_alpha=ALPHA / (p * q), target_modules=("0", "2")))
    factors = [
        [getattr(layer, name)["default"] for layer in lora_layers(model).values()] for name in ("lora_A", "lora_B")
    ]
    with torch.no_grad():
        for A in factors[0]:
            A.mul_(p)
    optimizer = optimizer(*factors, p, q, **more)
    losses = []
    for _ in range(STEPS):
        loss = F.cross_entropy(model(task[0]), task[1])
        optimizer.zero_grad()
        loss.backward()
        if clip:
            clip_gradients([*factors[0], *factors[1]], clip)
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64), [
        layer.delta_weight().detach() for layer in lora_layers(model).values()
    ]


def apart(one, other):
    """The largest difference between two runs' losses."""
    return (one[0] - other[0]).abs().max().item()


def same(one, other):
    """Bit for bit: all losses, and the updates at the end."""
    return torch.equal(one[0], other[0]) and all(map(torch.equal, one[1], other[1]))


@pytest.mark.parametrize("p, q", POWERS)
def test_four_knobs_are_two_bit_for_bit(base, task, p, q):
    reference = run(base, task)
    assert reference[0][-1] < reference[0][0] / 10  # it has learnt, so the runs could have parted
    assert same(run(base, task, p, q), reference)


def test_for_any_p_and_q_up_to_rounding(base, task):
    assert 0 < apart(run(base, task, 3.0, 0.7), run(base, task)) < 1e-6


def test_alpha_is_bs_learning_rate(base, task):
    """(s, lr) is (1, lr_A = lr, lr_B = s·lr): here s = 2, and both rates are equal on the left."""

    def equal_rates(a, b, p, q):
        return torch.optim.Adam([*a, *b], lr=RATE_A, eps=TINY)

    def two_rates(a, b, p, q):
        return torch.optim.Adam([{"params": a}, {"params": b, "lr": ALPHA / R * RATE_A}], lr=RATE_A, eps=TINY)

    at_scale_2 = run(base, task, optimizer=equal_rates)
    at_scale_1 = run(base, task, q=ALPHA / R, optimizer=two_rates)  # run() sets α to ALPHA / q = r
    assert same(at_scale_2, at_scale_1)
    assert apart(at_scale_2, run(base, task, q=ALPHA / R, optimizer=equal_rates)) > 1e-2  # α alone is another run


@pytest.mark.parametrize("p, q", POWERS)
def test_one_knob_turned_alone_is_another_run(base, task, p, q):
    """The law says which runs are one; these are none of them: the rates stay, α and the start move."""

    def rates_stay(a, b, _p, _q):
        return adam(a, b, 1.0, 1.0)

    assert apart(run(base, task, p, q, optimizer=rates_stay), run(base, task)) > 1e-2


@pytest.mark.parametrize("p, q", POWERS)
def test_under_sgd_the_rates_go_with_the_squares(base, task, p, q):
    def squares(a, b, p, q):
        return sgd(a, b, p * p, q * q)

    reference = run(base, task, optimizer=sgd)
    assert apart(run(base, task, p, q, optimizer=sgd), reference) > 1e-3
    assert same(run(base, task, p, q, optimizer=squares), reference)


@pytest.mark.parametrize("p, q", POWERS)
def test_an_epsilon_beside_the_gradients_breaks_it_unless_it_moves_too(base, task, p, q):
    large = 1e-2
    reference = run(base, task, eps=(large, large))
    assert apart(run(base, task, p, q, eps=(large, large)), reference) > 1e-3
    assert same(run(base, task, p, q, eps=(large / p, large / q)), reference)


@pytest.mark.parametrize("p, q", POWERS)
def test_decay_breaks_it_unless_it_moves_too(base, task, p, q):
    decay = 0.3
    reference = run(base, task, decay=(decay, decay))
    assert apart(run(base, task, p, q, decay=(decay, decay)), reference) > 1e-3
    assert same(run(base, task, p, q, decay=(decay / p, decay / q)), reference)


def test_clipping_breaks_it_and_only_p_equal_to_q_can_be_mended(base, task):
    """The norm is taken over A's and B's gradients together, which shrink by p and by q."""
    clip = 0.05
    reference = run(base, task, clip=clip)
    for p, q in POWERS:
        assert apart(run(base, task, p, q, clip=clip), reference) > 1e-4
    assert same(run(base, task, 4.0, 4.0, clip=clip / 4), reference)


def updates(clip, alpha, ratio):
    model = adapted(lora_alpha=alpha)
    config = TrainConfig(
        learning_rate=3e-3, loraplus_lr_ratio=ratio, batch_size=4, epochs=10, max_grad_norm=clip, precision="fp32"
    )
    Trainer(model, sentences(12), causal_lm_loss, config, collate=collate, progress=False).train()
    return torch.cat([layer.delta_weight().flatten() for layer in lora_layers(model).values()])


def test_in_the_trainer_alpha_is_loraplus_up_to_epsilon_and_clipping():
    """α = 8 at one rate against α = 2 with B's rate four times as high. AdamW's ε is 1e-8 here, which is small and not nothing."""
    free, clipped = ([updates(clip, 8, 1.0), updates(clip, 2, 4.0)] for clip in (None, 0.02))
    far = [float((one - other).norm() / one.norm()) for one, other in (free, clipped)]
    assert 0 < far[0] < 1e-3 and far[1] > 10 * far[0], far
