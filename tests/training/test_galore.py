"""GaLore against the same steps written out with dense matrices; through the trainer; across a stop."""

import pytest
import torch
import torch.nn.functional as F
from conftest import make_tiny_llama
from torch import nn
from toy_runs import PressCtrlC, collate, farthest, sentences, weights

from lora_edu.errors import TrainingError
from lora_edu.training import GaLore, TrainConfig, Trainer, causal_lm_loss

RATE, R, EVERY, SCALE, DECAY = 0.02, 2, 3, 0.25, 0.1


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 10), nn.Tanh(), nn.Linear(10, 6), nn.Tanh(), nn.Linear(6, 2)).double()


def loss_at(model, step):
    generator = torch.Generator().manual_seed(step)
    x, wanted = (torch.randn(5, n, generator=generator, dtype=torch.float64) for n in (7, 2))
    return F.mse_loss(model(x), wanted)


def written_out(model, steps):
    """Projectors as whole (n, n) or (m, m) matrices P Pᵀ; moments in the small space; AdamW for the rest."""
    kept = {}
    for step in range(steps):
        gradients = torch.autograd.grad(loss_at(model, step), list(model.parameters()))
        for p, G in zip(model.parameters(), gradients):
            small = p.ndim == 2 and min(p.shape) > R
            m, v, basis = kept.get(p, (0.0, 0.0, None))
            if small and step % EVERY == 0:
                U, _, Vh = torch.linalg.svd(G)
                basis = Vh[:R].T if p.shape[0] >= p.shape[1] else U[:, :R]  # orthonormal columns
            if small:
                G = G @ basis if p.shape[0] >= p.shape[1] else basis.T @ G
            m, v = 0.9 * m + 0.1 * G, 0.999 * v + 0.001 * G**2
            kept[p] = m, v, basis
            N = (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))) ** 0.5 + 1e-8)
            if small:
                N = SCALE * (N @ basis.T if p.shape[0] >= p.shape[1] else basis @ N)
            with torch.no_grad():
                p.copy_((1 - RATE * DECAY) * p - RATE * N)
    return model


def test_20_steps_are_those_of_the_dense_computation():
    model, expected = make(), written_out(make(), 20)
    optimizer = GaLore(model.parameters(), R, EVERY, SCALE, lr=RATE, weight_decay=DECAY)
    for step in range(20):
        optimizer.zero_grad()
        loss_at(model, step).backward()
        optimizer.step()
    assert farthest(weights(model), weights(expected)) < 1e-9 < 1e-2 < farthest(weights(model), weights(make()))
    wide, tall = model[0].weight, model[2].weight  # (10, 7) and (6, 10)
    assert optimizer.state[wide]["exp_avg"].shape == (10, 2) and optimizer.state[tall]["exp_avg"].shape == (2, 10)
    moved = torch.linalg.matrix_rank(wide.detach() - make()[0].weight, rtol=1e-6)
    assert moved > R  # more directions than it ever holds moments for


def test_what_it_does_not_project_is_torchs_adamw():
    model, other = make(), make()
    ours = GaLore([*model.parameters()], R, lr=RATE, weight_decay=DECAY)
    theirs = torch.optim.AdamW(other.parameters(), lr=RATE, weight_decay=DECAY)
    for step in range(5):
        for each, optimizer in ((model, ours), (other, theirs)):
            optimizer.zero_grad()
            loss_at(make(), step)
            for p in each.parameters():
                p.grad = torch.full_like(p, 0.1 * (step + 1))
            optimizer.step()
    for p, q in zip(model.parameters(), other.parameters()):
        if not ours.projects(p):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-12)
    assert [ours.projects(p) for p in model.parameters()] == [True, False, True, False, False, False]


def run(folder=None, callbacks=()):
    config = TrainConfig(
        optimizer="galore", galore_rank=3, galore_every=2, max_steps=4, batch_size=2, learning_rate=0.02, precision="fp32",
        output_dir=str(folder) if folder else None,
    )  # fmt: skip
    model = make_tiny_llama(dtype=torch.float64)
    return Trainer(model, sentences(16), causal_lm_loss, config, collate=collate, callbacks=callbacks, progress=False)


def test_a_run_goes_on_where_it_stopped_bit_for_bit(tmp_path):
    whole = run()
    whole.train()
    assert isinstance(whole.optimizer, GaLore)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [PressCtrlC(3)]).train()
    again = run(tmp_path)
    again.resume()
    assert farthest(weights(again.model), weights(whole.model)) == 0
    held = sum(t.numel() for state in whole.optimizer.state.values() for t in state.values())
    assert held < 0.9 * 2 * sum(p.numel() for p in whole.model.parameters())


def test_where_there_is_nothing_to_project_it_says_so():
    with pytest.raises(TrainingError, match="nothing that trains here has more"):
        GaLore(make().parameters(), 64, lr=RATE)
