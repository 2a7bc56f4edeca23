"""Law 8: kill a run at any moment and resume it; it ends bit for bit as the run that was never killed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TESTS
from safetensors.torch import load_file
from torch import nn
from toy_runs import PressCtrlC, ScriptedLoss, adapted, collate, farthest, sentences, weights

from lora_edu.errors import TrainingError
from lora_edu.training import Callback, TrainConfig, Trainer, causal_lm_loss
from lora_edu.training.folder import checkpoints
from lora_edu.training.identity import data_identity
from lora_edu.training.rng import capture_rng, restore_rng

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL and fork are not there on Windows")
MOMENTS = [
    "in_a_step", "in_the_update", "in_the_tensors", "before_the_rename", "after_the_rename", "between_steps",
    "before_any_checkpoint", "from_outside",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The folder in which `run_and_kill.py` has run, killed and resumed."""
    folder = tmp_path_factory.mktemp("runs")
    script = TESTS / "run_and_kill.py"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(script), str(folder)], env=environment, check=True, timeout=300)
    return folder


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_sigkill_and_resume_is_bit_equal(runs, moment):
    ends = json.loads((runs / "ends.json").read_text())
    assert ends[moment] == -signal.SIGKILL and ends[f"{moment} resumed"] == 0 and ends["uninterrupted"] == 0
    expected, found = (load_file(runs / f"{name}.safetensors") for name in ("uninterrupted", moment))
    assert expected.keys() == found.keys() and len(expected) == 28
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    one, other = (json.loads((runs / f"{name}.json").read_text()) for name in ("uninterrupted", moment))
    assert one == other and len(one["steps"]) == 12 and one["stopped"] == "finished"
    assert not list((runs / moment).glob(".writing-*"))


@needs_fork
@pytest.mark.slow
def test_the_kills_left_what_they_should(runs):
    """Each kill hit the moment that it is named after."""
    ends = json.loads((runs / "ends.json").read_text())
    assert any(name.startswith(".writing-step-00000006-") for name in ends["in_the_tensors left"])
    assert any(name.startswith(".writing-step-00000009-") for name in ends["before_the_rename left"])
    assert ends["after_the_rename left"] == ["step-00000003", "step-00000006", "step-00000009"]
    assert ends["before_any_checkpoint left"] == []


# --- in this process --------------------------------------------------------------------------------------------------


def trainer(folder: Path | None, model: nn.Module | None = None, rows=None, callbacks=(), **config) -> Trainer:
    settings = {"batch_size": 2, "epochs": 2, "precision": "fp32", "output_dir": str(folder) if folder else None}
    return Trainer(
        adapted(lora_dropout=0.2) if model is None else model, sentences(8) if rows is None else rows, causal_lm_loss,
        TrainConfig(**settings | config), collate=collate, callbacks=callbacks, progress=False,
    )  # fmt: skip


def test_ctrl_c_saves_and_says_how_to_resume(tmp_path):
    expected = weights(trainer(None, reference := adapted(lora_dropout=0.2)).train() and reference)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(
        KeyboardInterrupt, match=r"Stopped after step 3 and saved .*step-00000003\. To go on: .*resume\(\)"
    ):
        trainer(tmp_path, callbacks=[PressCtrlC(3)]).train()
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = trainer(tmp_path)
    history = resumed.resume()
    assert history.stopped == "finished" and len(history.steps) == 8
    assert farthest(weights(resumed.model), expected) == 0


def test_ctrl_c_without_a_folder_goes_on_in_the_same_process():
    expected = weights(trainer(None, reference := adapted(lora_dropout=0.2)).train() and reference)
    run = trainer(None, callbacks=[PressCtrlC(3)])
    with pytest.raises(KeyboardInterrupt, match=r"Stopped after step 3. train\(\) of the same trainer goes on"):
        run.train()
    torch.rand(10), np.random.rand(10), random.random()  # what the caller draws in between changes nothing
    run.train()
    assert farthest(weights(run.model), expected) == 0


def test_a_second_ctrl_c_leaves_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt) as error:
        trainer(tmp_path, callbacks=[PressCtrlC(3, times=2)]).train()
    assert not str(error.value) and not checkpoints(tmp_path)


def test_the_best_weights_survive(tmp_path):
    """The best evaluation came before the interruption; it is what the resumed run ends with."""

    def run(values: list[float], *callbacks: Callback) -> Trainer:
        settings = TrainConfig(
            batch_size=2, epochs=2, eval_every=2, keep_best=True, precision="fp32", output_dir=str(tmp_path)
        )  # fmt: skip
        return Trainer(
            adapted(), sentences(8), ScriptedLoss(values), settings, collate=collate, eval_examples=sentences(1),
            callbacks=callbacks, progress=False,
        )  # fmt: skip

    best = {}

    class Keep(PressCtrlC):
        def on_evaluate(self, trainer, record):
            best[record["step"]] = weights(trainer.model)

    with pytest.raises(KeyboardInterrupt):
        run([1.0], Keep(3)).train()
    resumed = run([2.0, 3.0, 4.0])
    history = resumed.resume()
    assert history.eval_losses == [(2, 1.0), (4, 2.0), (6, 3.0), (8, 4.0)]
    assert farthest(weights(resumed.model), best[2]) == 0
    again = run([])
    again.resume()  # ended already: the same weights
    assert farthest(weights(again.model), best[2]) == 0


def test_a_finished_run_gives_its_weights_back(tmp_path):
    first = trainer(tmp_path)
    first.train()
    second = trainer(tmp_path)
    history = second.resume()
    assert farthest(weights(first.model), weights(second.model)) == 0
    assert history == first.history


def test_train_does_not_overwrite_an_earlier_run(tmp_path):
    trainer(tmp_path).train()
    with pytest.raises(TrainingError, match=r"holds checkpoints of an earlier run: go on with resume\(\)"):
        trainer(tmp_path).train()


def test_the_two_newest_checkpoints_are_kept_and_nothing_is_pickled(tmp_path):
    trainer(tmp_path, save_every=1).train()
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-00000008", "step-00000007"]
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"tensors.safetensors", "run.json", ".lock"} and not (tmp_path / ".lock").read_bytes()


@pytest.mark.parametrize("damage", ["tensors.safetensors", "run.json"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage):
    expected = trainer(None)
    expected.train()
    trainer(tmp_path, save_every=3).train()
    file = checkpoints(tmp_path)[0] / damage
    file.write_bytes(file.read_bytes()[:100])
    resumed = trainer(tmp_path, save_every=3)
    with pytest.warns(UserWarning, match=r"Passing over the damaged checkpoint .*step-00000008"):
        resumed.resume()
    assert farthest(weights(resumed.model), weights(expected.model)) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the damaged one has been replaced
        trainer(tmp_path, save_every=3).resume()


def other_base() -> nn.Module:
    model = adapted(lora_dropout=0.2)
    with torch.no_grad():
        model.lm_head.weight[3, 4] += 1e-3
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 2e-3}, r"config learning_rate: 0.001 then, 0.002 now\.$"),
        ({"rows": sentences(9)}, "examples rows: 8 then, 9 now"),
        ({"rows": sentences(8)[::-1]}, r"differs: examples content: \w+ then, \w+ now\.$"),
        ({"model": other_base}, r"differs: model frozen weights: \w+ then, \w+ now\.$"),
        ({"model": lambda: adapted(r=3)}, r"lora_A.default: float64 \(2, 16\) then, float64 \(3, 16\) now"),
        ({"model": lambda: adapted(target_modules=["q_proj"])}, r"k_proj.lora_A.default: float64 \(2, 16\) then, None now"),
    ],
    ids=["config", "more rows", "order", "base", "rank", "targets"],
)  # fmt: skip
def test_resuming_another_run_names_what_differs(tmp_path, change, message):
    trainer(tmp_path).train()
    change = {key: value() if callable(value) else value for key, value in change.items()}
    other = trainer(tmp_path, **change)
    before = weights(other.model)
    with pytest.raises(TrainingError, match=message):
        other.resume()
    assert farthest(weights(other.model), before) == 0 and other.step == 0


class Opaque:
    """An example of the caller's own, whose repr is an address."""

    def __init__(self, *content) -> None:
        self.content = content


def test_any_example_is_known_again_by_its_content():
    def examples(number: float, dtype: torch.dtype = torch.bfloat16) -> list:
        return [Opaque(torch.tensor([[number]], dtype=dtype), {"a": np.arange(3)}, [1, 2], "x"), torch.tensor(number)]

    same, content = data_identity(examples(1.0)), data_identity(examples(2.0))
    assert same == data_identity(examples(1.0)) and same["rows"] == 2
    assert same != content and same != data_identity(examples(1.0, torch.float32))
    assert data_identity(None) is None


def test_the_folder_may_move(tmp_path):
    trainer(tmp_path / "here").train()
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert trainer(tmp_path / "there").resume().stopped == "finished"


def test_nothing_to_resume_is_said(tmp_path):
    with pytest.raises(TrainingError, match=r"no whole checkpoint in .* to resume from: start the run with"):
        trainer(tmp_path).resume()
    with pytest.raises(TrainingError, match="no output_dir"):
        trainer(None).resume()


def test_full_fine_tuning_of_tied_weights_resumes(tmp_path):
    """The tied lm_head is a second name of a weight that trains: it must not count as frozen."""
    from conftest import make_tiny_llama

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, make_tiny_llama(tied=True), callbacks=[PressCtrlC(3)]).train()
    resumed, expected = trainer(tmp_path, make_tiny_llama(tied=True)), trainer(None, make_tiny_llama(tied=True))
    resumed.resume(), expected.train()
    assert farthest(weights(resumed.model), weights(expected.model)) == 0


def test_random_generators_are_restored_exactly():
    random.gauss(0, 1), np.random.randn()  # both keep a second normal number in store
    state = capture_rng()
    first = [random.gauss(0, 1), random.random(), np.random.randn(3).tolist(), torch.randn(3).tolist()]
    restore_rng(
        json.loads(json.dumps(state.values)) and type(state)(state.tensors, json.loads(json.dumps(state.values)))
    )
    assert [random.gauss(0, 1), random.random(), np.random.randn(3).tolist(), torch.randn(3).tolist()] == first
