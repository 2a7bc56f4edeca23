"""A BatchNorm that trains averages what it sees: its statistics are part of where a run stands, as the weights are. Law 8."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from toy_runs import PressCtrlC

from lora_edu.adapters import LoRAConfig, inject
from lora_edu.training import Callback, LossSum, TrainConfig, Trainer
from lora_edu.training.memory.fitting import _seconds_a_step

ROWS = list(torch.randn(16, 3, generator=torch.Generator().manual_seed(1)))


def beside_an_adapter() -> nn.Module:
    """The norm is in modules_to_save: a copy of it trains, statistics and all."""
    return inject(plain(), LoRAConfig(r=2, target_modules=["first"], modules_to_save=["norm"]))


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(first=nn.Linear(3, 3), norm=nn.BatchNorm1d(3), last=nn.Linear(3, 1)))


MODELS = {"the whole model": plain, "a copy beside an adapter": beside_an_adapter}


def squared(model, batch) -> LossSum:
    return LossSum((model(batch) - 1).square().sum(), len(batch))


def run(model, *callbacks, folder=None, loss=squared, **config) -> Trainer:
    settings = {
        "batch_size": 4,
        "gradient_accumulation_steps": 2,
        "epochs": 4,
        "precision": "fp32",
        "learning_rate": 0.05,
    }
    settings["output_dir"] = str(folder) if folder else None
    return Trainer(
        model, ROWS[:12], loss, TrainConfig(**settings | config), collate=torch.stack, eval_examples=ROWS[12:],
        callbacks=callbacks, progress=False,
    )  # fmt: skip


class Spoils(Callback):
    def on_step_end(self, trainer, record):
        trainer.learning_rate = 50.0 if record["step"] >= 4 else trainer.learning_rate


def same(one: nn.Module, other: nn.Module) -> bool:
    other = other.state_dict()
    return all(torch.equal(t, other[name]) for name, t in one.state_dict().items())


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_resumed_run_has_them(make, tmp_path):
    whole = run(make())
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        run(make(), PressCtrlC(3), folder=tmp_path).train()
    resumed = run(make(), folder=tmp_path)
    resumed.resume()
    assert same(resumed.model, whole.model)
    moved = [t for name, t in whole.model.state_dict().items() if "norm" in name and name.endswith("running_mean")]
    assert max(t.abs().max() for t in moved) > 0.01


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_the_best_weights_come_with_those_of_their_evaluation(make, tmp_path):
    """A rate that spoils what was good: the run ends with the model that it called the best."""
    settings = {"keep_best": True, "eval_every": 1, "scheduler": "constant", "folder": tmp_path}
    best = run(make(), Spoils(), **settings)
    history = best.train()
    assert history.best["step"] < len(history.steps), "this comparison would hold trivially"
    assert best.evaluate() == history.best["loss"]
    again = run(make(), **settings)
    again.resume()
    assert same(again.model, best.model)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_step_that_broke_off_is_done_again_as_if_for_the_first_time(make):
    calls = []

    def breaks_off(model, batch):
        calls.append(model.training)
        if calls.count(True) == 5:  # in the second micro-batch of the third step
            raise KeyboardInterrupt
        return squared(model, batch)

    whole, broken = run(make()), run(make(), loss=breaks_off)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    broken.train()
    assert same(broken.model, whole.model)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_timing_a_few_steps_leaves_no_trace_in_them(make):
    model, untouched = make(), make()
    settings = TrainConfig(batch_size=4, precision="fp32")
    _seconds_a_step(model, ROWS, settings, torch.stack, squared)
    assert same(model, untouched)
