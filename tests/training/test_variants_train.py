"""What the trainer asks of a variant: its term of the loss, its change after a step, and that a resumed run has all of it. Law 8."""

import copy

import pytest
import torch
from torch import nn
from toy_runs import PressCtrlC, adapted, collate, farthest, sentences, weights

from lora_edu.adapters import after_step, fused, lora_layers, training_hooks, variant_loss
from lora_edu.adapters.training_hooks import variant_state
from lora_edu.adapters.variants.adalora import AdaLoRA
from lora_edu.adapters.variants.vera import VeRA
from lora_edu.training import TrainConfig, Trainer, causal_lm_loss
from lora_edu.training.config import step_rows

STEPS = 4
KINDS = {"shares a tensor": VeRA(), "acts after steps": AdaLoRA(target_r=1), "dora": "dora", "pissa": "pissa"}


def with_variant(variant, dropout: float = 0.0) -> nn.Module:
    return adapted(r=3, target_modules=["q_proj", "v_proj"], lora_dropout=dropout, variant=variant)


def run(model, callbacks=(), folder=None, **config) -> Trainer:
    settings = {
        "batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": STEPS,
        "learning_rate": 0.02,
        "precision": "fp32",
    }
    settings |= {
        "scheduler": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": None,
        "output_dir": str(folder) if folder else None,
    }
    return Trainer(
        model,
        sentences(16),
        causal_lm_loss,
        TrainConfig(**settings | config),
        collate=collate,
        callbacks=callbacks,
        progress=False,
    )


def everything(model) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in model.state_dict().items()}


def by_hand(model) -> nn.Module:
    """The trainer's run, written out: the mean over all answer tokens of a step, plus the variant's term."""
    config = run(copy.deepcopy(model)).config
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02, weight_decay=0.0)
    model.train()
    for step in range(STEPS):
        optimizer.zero_grad()
        losses = [
            causal_lm_loss(model, collate([sentences(16)[i] for i in rows])) for rows in step_rows(16, step, config)
        ]
        loss = sum(loss.total for loss in losses) / sum(loss.count for loss in losses)
        term = variant_loss(model)
        (loss if term is None else loss + term).backward()
        optimizer.step()
        after_step(model, step + 1, STEPS)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_the_trainer_asks_the_variant_as_a_loop_by_hand_does(kind, monkeypatch):
    asked = run(with_variant(KINDS[kind]))
    history = asked.train()
    expected = by_hand(with_variant(KINDS[kind]))
    assert farthest(weights(asked.model), weights(expected)) < 1e-9
    monkeypatch.setattr(training_hooks, "variant_loss", lambda model: None)
    without_term = run(with_variant(KINDS[kind]))
    without_term.train()
    monkeypatch.setattr(training_hooks, "after_step", lambda *args: None)
    deaf = run(with_variant(KINDS[kind]))
    deaf.train()
    if kind != "acts after steps":  # they ask for neither
        assert farthest(weights(asked.model), weights(deaf.model)) == 0 and "penalty" not in history.steps[0]
        return
    assert farthest(weights(asked.model), weights(without_term.model)) > 1e-4
    assert farthest(weights(without_term.model), weights(deaf.model)) > 1e-4
    assert all(record["penalty"] > 0 for record in history.steps)
    left = [int((layer.tensor("lora_E", "default") != 0).sum()) for layer in lora_layers(asked.model).values()]
    assert sum(left) == 4  # target_r in each of four layers


@pytest.mark.parametrize("kind", KINDS)
def test_a_variant_trains_without_the_fused_path(kind):
    """With it on, no layer that has the variant takes it, and the numbers are those of the plain path."""
    model = with_variant(KINDS[kind], dropout=0.3)
    assert fused.is_on() and not any(layer.fused_part() for layer in lora_layers(model).values())
    run(model).train()
    with fused.disabled():
        run(plain := with_variant(KINDS[kind], dropout=0.3)).train()
    torch.testing.assert_close(weights(model), weights(plain), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_has_what_the_variant_keeps_for_itself(kind, tmp_path):
    """A fresh model's frozen projection and empty means are replaced by the run's: bit for bit."""
    expected = with_variant(KINDS[kind], dropout=0.3)
    run(expected).train()
    with pytest.raises(KeyboardInterrupt):
        run(with_variant(KINDS[kind], dropout=0.3), [PressCtrlC(2)], tmp_path).train()
    fresh = with_variant(KINDS[kind], dropout=0.3)
    assert kind == "dora" or variant_state(fresh)
    with torch.no_grad():
        for tensor in variant_state(fresh).values():
            tensor.add_(0.125)
    run(fresh, folder=tmp_path).resume()
    for name, tensor in everything(expected).items():
        assert torch.equal(tensor, everything(fresh)[name]), name
