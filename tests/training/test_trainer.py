"""The trainer: its arithmetic against loops written by hand, what stops it, and what it leaves as it found it."""

import contextlib
import json
import math
import random
import subprocess
import sys
import warnings
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_tiny_llama
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toy_runs import PressCtrlC, ScriptedLoss, adapted, collate, farthest, sentences, weights

from lora_edu.adapters import adapter_parameters, set_adapter
from lora_edu.errors import ConfigError, TrainingError
from lora_edu.models import device
from lora_edu.training import (
    Callback,
    LossSum,
    TensorBoard,
    TrainConfig,
    Trainer,
    causal_lm_loss,
    lr_factor,
    plan_warnings,
    step_rows,
    total_steps,
)
from lora_edu.training.config import epoch_order, steps_per_epoch

FP32 = {"precision": "fp32"}  # no probe, no autocast


def trained(model: nn.Module, rows=None, loss_fn=causal_lm_loss, eval_examples=None, callbacks=(), **config):
    trainer = Trainer(
        model, sentences(11) if rows is None else rows, loss_fn, TrainConfig(**FP32 | config),
        collate=collate, eval_examples=eval_examples, callbacks=callbacks, progress=False,
    )  # fmt: skip
    trainer.train()
    return trainer


# --- arithmetic -------------------------------------------------------------------------------------------------------


def test_equals_a_loop_written_by_hand():
    config = TrainConfig(
        learning_rate=3e-3, batch_size=2, gradient_accumulation_steps=2, epochs=2, warmup_steps=2, max_grad_norm=0.5,
        weight_decay=0.1, precision="fp32",
    )  # fmt: skip
    rows, model, reference = sentences(11), adapted(), adapted()
    start = weights(model)
    trainer = Trainer(model, rows, causal_lm_loss, config, collate=collate, progress=False)
    history = trainer.train()

    params = [p for p in reference.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=1.0, weight_decay=0.1)
    losses, norms, total = [], [], 2 * 3
    reference.train()
    for step in range(total):
        total_loss, tokens = torch.zeros((), dtype=torch.float64), 0
        for part in step_rows(11, step, config):
            batch = collate([rows[i] for i in part])
            logits = reference(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            total_loss = total_loss + F.cross_entropy(
                logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum"
            )
            tokens += int((batch["labels"][:, 1:] != -100).sum())
        optimizer.zero_grad()
        (total_loss / tokens).backward()
        norms.append(nn.utils.clip_grad_norm_(params, 0.5).item())
        rate = (step + 1) / 3 if step < 2 else 0.5 * (1 + math.cos(math.pi * (step - 2) / 4))
        optimizer.param_groups[0]["lr"] = 3e-3 * rate
        optimizer.step()
        losses.append(total_loss.item() / tokens)

    assert farthest(weights(model), start) > 1e-3
    assert farthest(weights(model), weights(reference)) < 1e-12
    assert history.losses == pytest.approx(losses, rel=1e-12)
    assert [record["grad_norm"] for record in history.steps] == pytest.approx(norms, rel=1e-10)
    assert max(norms) > 0.5, "nothing was clipped, so clipping was not compared"


def test_unequal_micro_batches_equal_one_big_batch():
    many, one, rows = adapted(), adapted(), sentences(12)
    small = trained(many, rows, batch_size=2, gradient_accumulation_steps=3, epochs=3, max_grad_norm=None)
    big = trained(one, rows, batch_size=6, epochs=3, max_grad_norm=None)
    shares = [
        [causal_lm_loss(one, collate([rows[i] for i in part])).count for part in step_rows(12, s, small.config)]
        for s in range(2)
    ]
    assert all(len(set(counts)) > 1 for counts in shares), "equal micro-batches would prove nothing"
    assert farthest(weights(many), weights(one)) < 1e-10
    assert small.history.losses == pytest.approx(big.history.losses, rel=1e-10)


@given(n=st.integers(1, 40), batch=st.integers(1, 7), accumulation=st.integers(1, 4), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_every_example_exactly_once_an_epoch(n, batch, accumulation, seed):
    config = TrainConfig(batch_size=batch, gradient_accumulation_steps=accumulation, epochs=2, seed=seed)
    per_epoch = steps_per_epoch(n, config)
    assert total_steps(n, config) == 2 * per_epoch
    for epoch in range(2):
        steps = [step_rows(n, epoch * per_epoch + s, config) for s in range(per_epoch)]
        assert sorted(row for step in steps for part in step for row in part) == list(range(n))
        assert all(len(part) == batch for step in steps[:-1] for part in step)
        assert all(parts for parts in steps)


def test_order_depends_on_seed_and_epoch():
    orders = {epoch_order(30, seed, epoch) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [("constant", [1.0] * 4), ("linear", [1.0, 0.75, 0.5, 0.25]), ("cosine", [1.0, 0.853553, 0.5, 0.146447])],
)
def test_schedule(scheduler, expected):
    config = TrainConfig(scheduler=scheduler, warmup_ratio=1 / 3)
    rates = [lr_factor(step, 6, config) for step in range(6)]
    assert rates[:2] == pytest.approx([1 / 3, 2 / 3])
    assert rates[2:] == pytest.approx(expected, abs=1e-6)


def test_max_steps_goes_past_an_epoch():
    assert len(trained(adapted(), batch_size=8, max_steps=5).history.steps) == 5


def test_knows_nothing_of_its_model():
    """Any module, any examples, any loss: a line through points that are objects of the caller's own."""

    class Point:
        def __init__(self, x: float) -> None:
            self.x, self.y = x, 3 * x - 1

    def squared_error(model, batch):
        x, y = batch
        return LossSum((model(x) - y).square().sum(), len(x))

    def points_to_batch(points):
        return torch.tensor([[p.x] for p in points]), torch.tensor([[p.y] for p in points])

    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    config = TrainConfig(learning_rate=0.1, batch_size=4, epochs=60, **FP32)
    Trainer(
        model, [Point(i / 4) for i in range(8)], squared_error, config, collate=points_to_batch, progress=False
    ).train()
    assert model.weight.item() == pytest.approx(3, abs=0.05) and model.bias.item() == pytest.approx(-1, abs=0.05)


# --- precision and memory ---------------------------------------------------------------------------------------------


def test_bf16_is_autocast_and_the_weights_stay_fp32():
    model, seen = adapted(torch.float32), []
    model.model.layers[0].mlp.down_proj.register_forward_hook(lambda m, args, output: seen.append(output.dtype))
    trainer = trained(model, precision="bf16")
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in trainer.parameters.values()} == {torch.float32}
    exact = trained(adapted(torch.float32)).history
    assert trainer.history.losses == pytest.approx(exact.losses, rel=0.02) and trainer.history.losses != exact.losses


def test_gradient_checkpointing_changes_memory_and_nothing_else():
    model, calls = adapted(), []
    plain = adapted()
    trained(plain, epochs=2)
    model.model.layers[0].mlp.register_forward_pre_hook(lambda module, args: calls.append(module))
    trainer = trained(model, epochs=2, gradient_checkpointing=True)
    assert farthest(weights(model), weights(plain)) < 1e-12
    assert len(calls) == 2 * len(trainer.history.steps), "each block runs twice: once forward, once to be recomputed"
    assert not model.is_activation_checkpointing and not model.model.embed_tokens._forward_hooks


def test_a_model_without_gradient_checkpointing_says_so():
    with pytest.raises(TrainingError, match="Linear has no gradient checkpointing"):
        trained(nn.Linear(2, 2), gradient_checkpointing=True)


def fake_timings(monkeypatch, timings, threads=4):
    monkeypatch.setattr(device, "default_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(device, "_timing", lambda where, precision, n: timings[precision, n])
    return device.fastest_settings.__wrapped__()


@pytest.mark.parametrize(
    ("fp32", "bf16", "one", "bf16_one", "expected"),
    [
        (10, 5, 30, 15, ("bf16", 4)),
        (10, 9.5, 30, 30, ("fp32", 4)),
        (10, 9, 5, 8, ("fp32", 1)),
        (10, 50, 9.5, 1, ("fp32", 4)),
    ],
)
def test_the_probe_takes_what_is_clearly_faster(monkeypatch, fp32, bf16, one, bf16_one, expected):
    timings = {("fp32", 4): fp32, ("bf16", 4): bf16, ("fp32", 1): one, ("bf16", 1): bf16_one}
    found = fake_timings(monkeypatch, timings)
    assert (found.precision, found.threads) == expected and found.timings == timings


@pytest.mark.parametrize(("seconds", "calls"), [(2.0, 1), (0.02, 6)])
def test_a_probe_that_takes_long_is_made_once(monkeypatch, seconds, calls):
    made = []
    monkeypatch.setattr(device, "probe_step", lambda *where: made.append(where) or seconds)
    assert device._timing(torch.device("cpu"), "bf16", 1) == 1000 * seconds and len(made) == calls


def test_the_probe_measures_and_auto_uses_it():
    found = device.fastest_settings()
    assert found is device.fastest_settings() and all(ms > 0 for ms in found.timings.values())
    threads = torch.get_num_threads()
    trainer = trained(adapted(torch.float32), precision="auto", max_steps=1)
    assert (trainer.precision, trainer.threads) == (found.precision, found.threads)
    assert torch.get_num_threads() == threads
    assert trained(adapted(torch.float64), precision="auto", max_steps=1).precision == "fp32"


# --- evaluation, early stopping, callbacks ----------------------------------------------------------------------------


def test_evaluation_is_the_mean_over_tokens_without_dropout():
    model, held_out = adapted(lora_dropout=0.5), sentences(7, seed=9)
    trainer = trained(model, eval_examples=held_out, batch_size=3, epochs=2)
    parts = [causal_lm_loss(model, collate([row])) for row in held_out]  # the model is back in eval mode
    expected = sum(part.total.item() for part in parts) / sum(part.count for part in parts)
    assert trainer.history.eval_losses[-1] == (8, pytest.approx(expected, rel=1e-12))
    assert [step for step, _ in trainer.history.eval_losses] == [4, 8]
    assert trainer.evaluate() == pytest.approx(expected, rel=1e-12)
    assert not any(module.training for module in model.modules())


def test_early_stopping_and_the_best_weights():
    kept = {}

    class Keep(Callback):
        def on_evaluate(self, trainer, record):
            kept[record["step"]] = weights(trainer.model)

    model, loss_fn = adapted(), ScriptedLoss([3.0, 2.0, 2.5, 2.0, 1.0])
    trainer = trained(
        model, loss_fn=loss_fn, eval_examples=sentences(1), callbacks=[Keep()], batch_size=4, epochs=9, eval_every=2,
        patience=2, keep_best=True,
    )  # fmt: skip
    assert trainer.history.eval_losses == [(2, 3.0), (4, 2.0), (6, 2.5), (8, 2.0)]  # an equal one is not better
    assert trainer.history.stopped == "no better evaluation in 2" and trainer.history.best["step"] == 4
    assert farthest(weights(model), kept[4]) == 0 and farthest(kept[4], kept[8]) > 1e-4


def test_callbacks_see_gradients_change_the_rate_and_stop():
    calls = []

    class Steer(Callback):
        def on_train_begin(self, trainer):
            calls.append("begin")

        def on_step_end(self, trainer, record):
            assert all(p.grad is not None for p in trainer.parameters.values())
            calls.append(record["learning_rate"])
            if record["step"] == 2:
                trainer.learning_rate /= 10
            if record["step"] == 3:
                trainer.stop("seen enough")

        def on_train_end(self, trainer, history):
            calls.append(history.stopped)

    trainer = trained(adapted(), callbacks=[Steer()], scheduler="constant", batch_size=2, learning_rate=0.01)
    assert calls == ["begin", 0.01, 0.01, 0.001, "seen enough"]
    assert trainer.train() is trainer.history and trainer.step == 3  # it stays ended


def test_history_is_plain_json():
    trainer = trained(adapted(), eval_examples=sentences(3))
    saved = json.loads(json.dumps(trainer.history.to_dict()))
    assert type(trainer.history).from_dict(saved) == trainer.history
    assert trainer.history.steps[0].keys() == {
        "step",
        "epoch",
        "loss",
        "grad_norm",
        "learning_rate",
        "tokens",
        "seconds",
    }
    assert trainer.history.stopped == "finished" and trainer.history.steps[-1]["epoch"] == 1.0


def test_the_callers_random_generators_are_left_alone():
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    first = trained(model := adapted(lora_dropout=0.5), max_steps=3) and weights(model)
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    trainer_model = adapted(lora_dropout=0.5)
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    trained(trainer_model, max_steps=3)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected
    assert farthest(weights(trainer_model), first) == 0, "the run's own generators are seeded by the config alone"


# --- what stops a run -------------------------------------------------------------------------------------------------


def test_nothing_trains():
    model = make_tiny_llama().requires_grad_(False)
    with pytest.raises(TrainingError, match="Nothing trains"):
        trained(model)


def test_a_parameter_outside_the_graph_is_named():
    model = adapted()
    model.forgotten = nn.Linear(2, 2, dtype=torch.float64)
    before = weights(model)
    with pytest.raises(
        TrainingError, match=r"2 of 30 trainable parameters got no gradient: forgotten\.weight, forgotten\.bias"
    ):
        trained(model)
    assert farthest(weights(model), before) == 0


def test_checkpointing_without_input_gradients_is_caught():
    """The trap itself: the older checkpointing, whose blocks give no gradient when their input needs none."""
    model = adapted()
    model.activation_checkpointing_enable({"use_reentrant": True})
    model.disable_input_require_grads()
    with pytest.raises(TrainingError, match="depends on none of the trainable parameters"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of it too, and goes on
        trained(model)


def test_an_adapter_that_is_off_is_caught():
    model = adapted()
    set_adapter(model, None)
    with pytest.raises(TrainingError, match="depends on none of the trainable parameters"):
        trained(model)


def test_both_factors_at_zero_is_caught():
    model = adapted()
    with torch.no_grad():
        for p in adapter_parameters(model).values():
            p.zero_()
    with pytest.raises(TrainingError, match="Every gradient is exactly zero"):
        trained(model)


def test_one_dead_factor_is_warned_of():
    model = adapted()
    with torch.no_grad():
        dead = next(name for name in adapter_parameters(model) if "down_proj" in name and "lora_A" in name)
        adapter_parameters(model)[dead].zero_()
    with pytest.warns(UserWarning, match="2 trainable parameters are zero and got a gradient of zero.*down_proj"):
        trained(model, max_steps=1)


class PoisonedRows:
    """The loss of any batch that holds a row with token 31 is not a number from call `start` on."""

    def __init__(self, start: int) -> None:
        self.calls, self.start = 0, start

    def __call__(self, model, batch):
        self.calls += 1
        total, count = causal_lm_loss(model, batch)
        poisoned = self.calls > self.start and bool((batch["input_ids"] == 31).any())
        return LossSum(total * float("nan") if poisoned else total, count)


def test_nan_names_the_step_the_row_and_the_cause_and_keeps_the_weights():
    rows = [([1, 2, 3, 4], 2)] * 6 + [([1, 31, 3, 4], 2)] + [([5, 2, 3, 4], 2)] * 5
    config = TrainConfig(batch_size=3, **FP32)
    step = next(s for s in range(4) if any(6 in part for part in step_rows(12, s, config)))
    before = {}

    class Keep(Callback):
        def on_step_end(self, trainer, record):
            before[record["step"]] = weights(trainer.model)

    model = adapted()
    before[0] = weights(model)
    with pytest.raises(TrainingError, match=rf"Stopped at step {step + 1}: .*the data: row 6 give it alone") as error:
        trained(model, rows, PoisonedRows(0), callbacks=[Keep()], batch_size=3)
    assert farthest(weights(model), before[step]) == 0
    named = str(error.value).split("Rows of the examples: ")[1].split(". Likely")[0]
    assert sorted(map(int, named.split(", "))) == sorted(step_rows(12, step, config)[0])


def test_a_rising_loss_blames_the_learning_rate():
    losses = iter([1.0, 1.0, 4.0, 9.0])

    def rising(model, batch):
        total, count = causal_lm_loss(model, batch)
        return LossSum(total * 0 + total / total.detach() * count * next(losses, float("nan")), count)

    with pytest.raises(
        TrainingError, match=r"Stopped at step 5.*learning rate: the loss had risen from 1 to 9.*Try a third of"
    ):
        trained(adapted(), loss_fn=rising, batch_size=1)


def test_an_infinite_gradient_stops_before_the_update():
    def overflowing(model, batch):
        total, count = causal_lm_loss(model, batch)
        return LossSum(total + (total * 0).sqrt(), count)  # the loss is finite, the slope of √ at 0 is not

    model = adapted()
    before = weights(model)
    with pytest.raises(TrainingError, match="the loss is finite, but its gradient is not a finite number"):
        trained(model, loss_fn=overflowing)
    assert farthest(weights(model), before) == 0


def test_an_evaluation_that_is_no_number_stops():
    with pytest.raises(TrainingError, match="evaluation loss after step 2 is not a finite number"):
        trained(adapted(), loss_fn=ScriptedLoss([float("nan")]), eval_examples=sentences(1), eval_every=2, batch_size=2)


def test_a_step_without_tokens_is_refused():
    with pytest.raises(TrainingError, match="no token to learn"):
        trained(adapted(), [([1, 2, 3], 3)] * 2)


WHOLE = "must be a whole number of at least 1 and below a hundred million, not"
CANNOT_BE = [
    ({"batch_size": 0}, f"batch_size {WHOLE} 0"),
    ({"batch_size": "4"}, f"batch_size {WHOLE} '4': that is a text, write 4 without quotes"),
    ({"gradient_accumulation_steps": 2.0}, f"gradient_accumulation_steps {WHOLE} 2.0: write 2"),
    ({"epochs": True}, f"epochs {WHOLE} True"),
    ({"epochs": None}, f"epochs {WHOLE} None"),
    ({"max_steps": 2.5}, f"max_steps {WHOLE} 2.5"),
    ({"max_steps": 10**9}, f"max_steps {WHOLE} 1000000000"),
    ({"max_steps": 10**5000}, f"max_steps {WHOLE} a number of thousands of digits"),
    ({"eval_every": -1}, f"eval_every {WHOLE} -1"),
    ({"patience": 0}, f"patience {WHOLE} 0"),
    ({"scheduler": "cosinus"}, "scheduler must be one of cosine, linear, constant, not 'cosinus'"),
    ({"scheduler": ["cosine"]}, "scheduler must be one of"),
    ({"scheduler": None}, "scheduler must be one of"),
    ({"precision": "fp16"}, "precision must be one of auto, fp32, bf16, not 'fp16'"),
    ({"learning_rate": 0.0}, "learning_rate must be a positive number, such as 0.001, not 0.0"),
    ({"learning_rate": float("nan")}, "learning_rate must be a positive number, such as 0.001, not nan"),
    ({"learning_rate": "1e-3"}, "learning_rate must be a positive number, such as 0.001, not '1e-3': that is a text, write 0.001 without"),
    ({"learning_rate": "fast"}, "learning_rate must be a positive number, such as 0.001, not 'fast'."),
    ({"learning_rate": 1j}, "learning_rate must be"),
    ({"learning_rate": torch.tensor(1e-3)}, "learning_rate must be"),
    ({"learning_rate": True}, "learning_rate must be"),
    ({"max_grad_norm": -1.0}, "max_grad_norm must be a positive number .or None for no clipping., not -1.0"),
    ({"max_grad_norm": "1"}, "max_grad_norm must be"),
    ({"weight_decay": float("nan")}, "weight_decay must be a number of at least 0, not nan"),
    ({"weight_decay": float("inf")}, "weight_decay must be a number of at least 0, not inf"),
    ({"weight_decay": -0.1}, "weight_decay must be"),
    ({"weight_decay": None}, "weight_decay must be"),
    ({"seed": 1.5}, "seed must be a whole number from 0 to 4,000,000,000, not 1.5"),
    ({"seed": -1}, "seed must be"),
    ({"seed": 2**32}, "seed must be"),
    ({"warmup_steps": 2.0}, "warmup_steps must be a whole number of at least 0 and below a hundred million, not 2.0: write 2"),
    ({"warmup_ratio": 1.0}, "warmup_ratio must be a share of the run, at least 0 and below 1, not 1.0"),
    ({"warmup_ratio": "0.1"}, "warmup_ratio must be"),
    ({"warmup_ratio": 0.1, "warmup_steps": 3}, "not both"),
    ({"gradient_checkpointing": 1}, "gradient_checkpointing must be True or False, not 1: write True"),
    ({"keep_best": "false"}, "keep_best must be True or False, not 'false': write False"),
    ({"keep_best": None}, "keep_best must be"),
    ({"save_every": 5}, "output_dir"),
    ({"output_dir": ""}, "output_dir must be the path of a folder, not ''"),
    ({"output_dir": 3}, "output_dir must be"),
    ({"output_dir": "a\0b"}, "output_dir must be"),
    ({"scheduler": "x" * 10**6}, r"x…\.$"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "message"), CANNOT_BE, ids=[" ".join(values) for values, _ in CANNOT_BE])
def test_a_setting_that_cannot_be_is_named_with_its_remedy(values, message):
    with pytest.raises(ConfigError, match=message) as told:
        TrainConfig(**values)
    assert len(str(told.value)) < 300


def test_numpys_numbers_and_paths_are_taken_and_become_pythons_own(tmp_path):
    config = TrainConfig(
        learning_rate=np.float32(0.5), batch_size=np.int64(3), keep_best=np.True_, seed=np.uint8(7), weight_decay=0,
        output_dir=tmp_path,
    )  # fmt: skip
    assert (config.learning_rate, config.batch_size, config.keep_best, config.seed) == (0.5, 3, True, 7)
    assert [type(value) for value in (config.learning_rate, config.batch_size, config.keep_best)] == [float, int, bool]
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_largest_settings_still_make_a_plan():
    config = TrainConfig(batch_size=10**8 - 1, gradient_accumulation_steps=10**8 - 1, seed=4 * 10**9)
    assert total_steps(3, config) == 1 and sorted(step_rows(3, 0, config)[0]) == [0, 1, 2]
    assert len(trained(adapted(), batch_size=8, max_steps=1, seed=4 * 10**9).history.steps) == 1


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"batch_size": 8}, ["The run has only 2 steps (16 rows, 8 a step): more epochs or a smaller batch_size give it more."]),
        ({"batch_size": 1, "warmup_steps": 16}, ["The learning rate rises for 16 steps and the run has 16: it never reaches its peak of 0.001."]),
        ({"batch_size": 1, "eval_every": 17}, ["eval_every is 17 and the run has 16 steps: it happens at the end only."]),
        ({"batch_size": 1, "warmup_steps": 15, "eval_every": 16}, []),
    ],
)  # fmt: skip
def test_a_plan_says_what_it_will_not_do(config, words):
    assert plan_warnings(16, TrainConfig(**config)) == words


def test_config_round_trip_and_unknown_key():
    config = TrainConfig(epochs=3, warmup_ratio=0.1)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ConfigError, match="Unknown training setting lr"):
        TrainConfig.from_dict({"lr": 1e-3})
    with pytest.raises(ConfigError, match="Unknown training setting 3, lr"):
        TrainConfig.from_dict({"lr": 1e-3, 3: 4})
    with pytest.raises(ConfigError, match=r"names with values, not \['lr'\]"):
        TrainConfig.from_dict(["lr"])


def test_empty_data_and_missing_evaluation_are_named():
    with pytest.raises(TrainingError, match="no examples"):
        trained(adapted(), [])
    with pytest.raises(TrainingError, match="need eval_examples"):
        trained(adapted(), patience=2)
    with pytest.raises(TrainingError, match="nothing to evaluate on"):
        trained(adapted(), max_steps=1).evaluate()


# --- what it needs ----------------------------------------------------------------------------------------------------


def test_the_trainer_brings_no_adapters_ledger_or_source_reader_with_it():
    """It knows nothing of its model; advice on memory is imported when memory has run out."""
    code = "import lora_edu.training.trainer, sys; print(*sorted(name for name in sys.modules if name.startswith('lora_edu.')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    rooms = {name.split(".")[1] for name in found}
    assert rooms == {"errors", "files", "models", "training"}
    assert not any(name.startswith(("lora_edu.training.memory", "lora_edu.training.losses")) for name in found)


# --- TensorBoard ------------------------------------------------------------------------------------------------------


class FakeWriter:
    """What torch's SummaryWriter is asked for."""

    made: ClassVar[list["FakeWriter"]] = []

    def __init__(self, folder, purge_step) -> None:
        self.folder, self.purge_step, self.scalars, self.closed = folder, purge_step, [], 0
        self.made.append(self)

    def add_scalar(self, name, value, step) -> None:
        assert not self.closed
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.closed += 1


def test_tensorboard_gets_every_record_and_is_closed_whatever_happens(tmp_path):
    FakeWriter.made.clear()
    board = TensorBoard(tmp_path / "tb", writer=FakeWriter)
    history = trained(adapted(), eval_examples=sentences(2), callbacks=[board], epochs=2).history
    [writer] = FakeWriter.made
    assert writer.folder == str(tmp_path / "tb") and writer.purge_step == 1 and writer.closed == 1
    for name in ("loss", "grad_norm", "learning_rate", "tokens"):
        curve = [(value, step) for found, value, step in writer.scalars if found == f"train/{name}"]
        assert curve == [(record[name], record["step"]) for record in history.steps] and len(curve) == 4
    found = [(step, value) for name, value, step in writer.scalars if name == "eval/loss"]
    assert found == history.eval_losses and len(found) == 2

    def fails(model, batch):
        raise KeyError("labels")

    with pytest.raises(KeyError):
        trained(adapted(), loss_fn=fails, callbacks=[board])
    assert FakeWriter.made[1].closed == 1


def test_a_resumed_run_goes_on_with_its_curves(tmp_path):
    FakeWriter.made.clear()

    def run(*callbacks) -> Trainer:
        settings = TrainConfig(batch_size=2, max_steps=4, output_dir=str(tmp_path / "run"), **FP32)
        return Trainer(
            adapted(), sentences(8), causal_lm_loss, settings, collate=collate, progress=False,
            callbacks=[TensorBoard(tmp_path, writer=FakeWriter), *callbacks],
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        run(PressCtrlC(2)).train()
    run().resume()
    first, second = FakeWriter.made
    assert first.closed and second.purge_step == 3
    assert [step for name, _, step in second.scalars if name == "train/loss"] == [3, 4]


def test_without_the_package_tensorboard_the_remedy_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"package tensorboard, which is not installed: pip install tensorboard"):
        TensorBoard(tmp_path)


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}, {"precision": "fp32"}])
def test_a_run_in_bf16_casts_a_frozen_weight_once(settings, monkeypatch):
    """The weights end as without the copies, bit for bit; where memory is short, or nothing is cast, none are kept."""
    from lora_edu.adapters import arithmetic, fused

    kept = []

    def run(copies):
        config = TrainConfig(learning_rate=1e-2, batch_size=4, max_steps=4, **({"precision": "bf16"} | settings))
        torch.manual_seed(0)
        runner = Trainer(
            adapted(), sentences(8), causal_lm_loss, config, collate=collate, progress=False, callbacks=[Look()]
        )
        if not copies:
            monkeypatch.setattr(arithmetic, "copies_kept", contextlib.nullcontext)
        runner.train()
        return weights(runner.model)

    class Look(Callback):
        def on_step_end(self, trainer, record):
            kept.append(len(arithmetic._copies or ()))

    with fused.switched(True):
        with_copies = run(True)
        assert (min(kept) > 0) == (settings == {}) and arithmetic._copies is None
        assert farthest(with_copies, run(False)) == 0
