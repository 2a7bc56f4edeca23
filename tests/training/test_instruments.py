"""Instruments read what they say, cheaply, and change nothing in the run that they watch."""

import json

import pytest
import torch
from conftest import make_tiny_llama
from helpers import randomise
from toy_runs import adapted, collate, farthest, sentences, weights

from lora_edu.adapters import LoRAConfig, fingerprint, inject, lora_layers
from lora_edu.errors import ConfigError
from lora_edu.training import Callback, Instruments, TrainConfig, Trainer, causal_lm_loss
from lora_edu.training.instruments import INSTRUMENTS, factor_norms, gradient_norms, norm_of_product, trained_names


@pytest.mark.parametrize("shape", [(7, 5, 2), (6, 6, 3), (1, 9, 1), (40, 30, 8)])
def test_norm_of_a_product_without_the_product(shape):
    n_out, n_in, r = shape
    B, A = torch.randn(n_out, r), torch.randn(r, n_in)
    assert norm_of_product(B, A) == pytest.approx(float((B @ A).norm()), rel=1e-5)


def test_norm_of_a_product_that_nearly_cancels():
    """B's columns point against each other: in float32 the terms of the sum would cancel to noise, or below zero."""
    b, a = torch.randn(300, 1), torch.randn(1, 200)
    B, A = torch.cat([b, -b], 1), torch.cat([a, a * (1 + 1e-6)], 0)
    assert norm_of_product(B, A) == pytest.approx(float((B.double() @ A.double()).norm()), rel=1e-3)
    assert norm_of_product(torch.cat([b, -b], 1), torch.cat([a, a], 0)) == pytest.approx(0, abs=1e-6)


def test_norms_are_those_of_the_matrices():
    model = randomise(inject(make_tiny_llama(), LoRAConfig(r=3, lora_alpha=7, target_modules="all-linear")))
    layers = list(lora_layers(model).values())
    expected = {
        "norm_A": torch.cat([layer.A.flatten() for layer in layers]).norm(),
        "norm_B": torch.cat([layer.B.flatten() for layer in layers]).norm(),
        "norm_delta_W": torch.cat([layer.delta_weight("default").flatten() for layer in layers]).norm(),
    }
    assert factor_norms(model) == pytest.approx({name: value.item() for name, value in expected.items()}, rel=1e-5)


def test_gradient_norms_are_those_of_grad_or_none():
    model = randomise(inject(make_tiny_llama(), LoRAConfig(r=2, target_modules=["q_proj", "down_proj"])))
    assert gradient_norms(model) == {"grad_A": None, "grad_B": None}
    model(torch.randint(1, 32, (2, 6))).logits.square().sum().backward()
    grads = [torch.cat([getattr(layer, k).grad.flatten() for layer in lora_layers(model).values()]) for k in "AB"]
    assert gradient_norms(model) == pytest.approx(
        {"grad_A": float(grads[0].norm()), "grad_B": float(grads[1].norm())}, rel=1e-5
    )


def watched(instruments: Callback | None, **config) -> Trainer:
    settings = {"batch_size": 2, "epochs": 2, "precision": "fp32", "eval_every": 3, "learning_rate": 1e-2} | config
    trainer = Trainer(
        adapted(lora_dropout=0.2), sentences(8), causal_lm_loss, TrainConfig(**settings), collate=collate,
        eval_examples=sentences(3), callbacks=[instruments] if instruments else [], progress=False,
    )  # fmt: skip
    trainer.train()
    return trainer


def test_every_instrument_is_read_and_nothing_else_happens():
    def draw() -> str:
        return f"drew {torch.rand(3).sum() > 0}"  # a sample that uses the random generator

    instruments = Instruments(every=2, sample=draw)
    run, alone = watched(instruments), watched(None)
    assert farthest(weights(run.model), weights(alone.model)) == 0
    assert run.model.training == alone.model.training
    assert instruments.column("step") == [0, 2, 4, 6, 8]
    entries = {entry for names, _ in INSTRUMENTS.values() for entry in names}
    assert all(set(reading) == {"step", *entries} for reading in instruments.readings)
    first, *_, last = instruments.readings
    assert (first["grad_A"], first["loss"], first["norm_delta_W"]) == (None, None, 0.0)
    assert last["names"] == trained_names(run.model) and last["trains"] == len(last["names"]) > 0
    assert set(instruments.column("base")) == {fingerprint(run.model)}
    assert last["norm_delta_W"] == pytest.approx(factor_norms(run.model)["norm_delta_W"], rel=1e-9)
    assert last["loss"] == run.history.losses[-1] and last["held_out"] == run.history.eval_losses[-1][1]
    assert instruments.column("held_out") == [None, None, None, run.history.eval_losses[1][1], last["held_out"]]
    assert instruments.column("tokens")[1:] == [run.history.steps[i]["tokens"] for i in (1, 3, 5, 7)]
    assert last["sample"] == "drew True"
    assert json.loads(json.dumps(instruments.readings)) == instruments.readings
    assert set(instruments.costs) == {"names", "base", "gradients", "norms", "sample"}


def test_gradients_are_read_as_they_were_before_clipping():
    free, clipped = Instruments(every=1), Instruments(every=1)
    watched(free, max_grad_norm=None, max_steps=1)
    run = watched(clipped, max_grad_norm=1e-3, max_steps=1)
    assert run.history.steps[0]["grad_norm"] > 1e-3
    assert clipped.readings[1]["grad_B"] == pytest.approx(free.readings[1]["grad_B"], rel=1e-3)


def test_the_end_is_always_read():
    class StopAt3(Instruments):
        def on_step_end(self, trainer, record):
            super().on_step_end(trainer, record)
            if record["step"] == 3:
                trainer.stop("enough")

    instruments = StopAt3(every=2)
    watched(instruments)
    assert instruments.column("step") == [0, 2, 3]


def test_a_base_that_moves_changes_its_hash():
    model = inject(make_tiny_llama(), LoRAConfig(r=2, target_modules=["q_proj"]))
    before = fingerprint(model)
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.base_layer.weight[0, 0] += 1e-4
    assert fingerprint(model) != before


def test_it_shows_itself_and_says_what_it_cost():
    instruments = Instruments(every=4, sample=lambda: "<b>hello</b>")
    watched(instruments)
    text, html = str(instruments), instruments._repr_html_()
    assert "‖ΔW‖" in text and "step 8 says: <b>hello</b>" in text and "milliseconds a reading: names" in text
    assert html.count("<tr>") == 4 and "&lt;b&gt;hello" in html and 'scope="col"' in html.replace("'", '"')


def test_bad_input_is_named():
    for every in (0, 2.5, True):
        with pytest.raises(ConfigError, match="every must be a whole number of steps"):
            Instruments(every=every)
    with pytest.raises(ConfigError, match=r"no entry 'norm_W' in a reading; there are: step, trains"):
        Instruments().column("norm_W")
