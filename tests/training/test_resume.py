"""Law 8: kill a run at any moment and resume it; it ends bit for bit as the run that was never killed."""

import functools
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
from lora_edu.training.identity import data_identity, told
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


# --- another run ------------------------------------------------------------------------------------------------------


def llama(change=None, lora=None, **overrides) -> nn.Module:
    from conftest import make_tiny_llama

    from lora_edu.adapters import LoRAConfig, inject

    torch.manual_seed(5)
    model = make_tiny_llama(**overrides)
    if change:
        change(model)
    torch.manual_seed(5)
    return inject(model, LoRAConfig(**{"r": 2, "lora_alpha": 16, "lora_dropout": 0.2} | (lora or {})))


def turned(dial: float) -> nn.Module:
    from lora_edu.adapters import set_scale

    model = llama()
    set_scale(model, dial)
    return model


def other_activation(model: nn.Module) -> None:
    for layer in model.model.layers:
        layer.mlp.act_fn = nn.GELU()


def one_louder_layer() -> nn.Module:
    model = llama()
    model.model.layers[1].mlp.up_proj.scalings["default"] *= 2
    return model


def doubled_loss(model, batch):
    total, count = causal_lm_loss(model, batch)
    return total * 2, count


def other_collate(rows):
    return collate(rows[::-1])


class Weighted:
    """A loss with a setting."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, model, batch):
        total, count = causal_lm_loss(model, batch)
        return total * self.weight, count


def scaled_loss(factor: float):
    return lambda model, batch: (causal_lm_loss(model, batch)[0] * factor, causal_lm_loss(model, batch)[1])


def run_of(folder: Path, model=llama, loss_fn=causal_lm_loss, collate_fn=collate, callbacks=(), **config) -> Trainer:
    settings = {"batch_size": 2, "max_steps": 4, "precision": "fp32", "output_dir": str(folder)} | config
    return Trainer(
        model(), sentences(8), loss_fn, TrainConfig(**settings), collate=collate_fn, callbacks=callbacks, progress=False
    )


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        ({}, {"model": lambda: llama(lora={"lora_alpha": 64})}, r"adapter default lora_alpha: 16 then, 64 now"),
        ({}, {"model": lambda: llama(lora={"use_rslora": True})}, r"adapter default use_rslora: False then, True now"),
        ({}, {"model": lambda: llama(lora={"lora_dropout": 0.1})}, r"adapter default lora_dropout: 0.2 then, 0.1 now"),
        ({}, {"model": lambda: llama(lora={"alpha_pattern": {"q_proj": 3}})}, r"alpha_pattern q_proj: None then, 3 now"),
        ({}, {"model": lambda: turned(0.5)}, r"adapter default dial: 1.0 then, 0.5 now\.$"),
        ({}, {"model": one_louder_layer}, r"modules model\.layers\.\*\.mlp\.up_proj scalings: .* then, \w{8} now\.$"),
        ({}, {"model": lambda: llama(rms_norm_eps=1e-5)}, r"base config rms_norm_eps: .* then, 1e-05 now"),
        ({}, {"model": lambda: llama(rope_parameters={"rope_type": "default", "rope_theta": 500.0})}, r"base config rope_parameters rope_theta"),
        ({}, {"model": lambda: llama(hidden_act="gelu")}, r"base config hidden_act: .* then, gelu now"),
        ({}, {"model": lambda: llama(attention_dropout=0.1)}, r"attention_dropout: .* then, 0.1 now"),
        ({}, {"model": lambda: llama(other_activation)}, r"modules model\.layers\.\*\.mlp\.act_fn class: SiLUActivation then, GELU now"),
        ({}, {"loss_fn": doubled_loss}, r"loss_fn: lora_edu\.training\.losses\.causal_lm_loss then, doubled_loss \[\w{8}\] now\.$"),
        ({"loss_fn": Weighted(2.0)}, {"loss_fn": Weighted(3.0)}, r"loss_fn: Weighted \[\w+\] then"),
        ({"loss_fn": scaled_loss(2.0)}, {"loss_fn": scaled_loss(3.0)}, r"loss_fn: scaled_loss\.<locals>\.<lambda> \[\w+\] then"),
        ({}, {"collate_fn": other_collate}, r"collate: collate \[\w+\] then, other_collate"),
        ({"collate_fn": functools.partial(collate)}, {"collate_fn": functools.partial(collate, pad=1)}, r"collate: .*\(\) then, .*\(pad=1\) now"),
    ],
    ids=[
        "alpha", "rslora", "dropout", "pattern", "dial", "one layer's scale", "epsilon", "rope", "activation", "base dropout",
        "activation by hand", "loss", "loss setting", "closure", "collate", "partial",
    ],
)  # fmt: skip
def test_nothing_that_decides_a_step_may_change(tmp_path, first, then, words):
    run_of(tmp_path, **first).train()
    assert run_of(tmp_path, **first).resume().stopped == "finished", "the same run is taken for another"
    other = run_of(tmp_path, **then)
    with pytest.raises(TrainingError, match=rf"is of another run\. What differs: .*{words}"):
        other.resume()
    assert other.step == 0


@pytest.mark.parametrize(
    "change",
    [
        {"save_every": 1},
        {"gradient_checkpointing": True},
        {"batch_size": 1, "gradient_accumulation_steps": 2},
        {"model": lambda: llama(lora={"base_model_name_or_path": "elsewhere", "init_lora_weights": "gaussian"})},
    ],
    ids=["save_every", "checkpointing", "smaller batches", "notes in the adapter's config"],
)
def test_what_decides_nothing_may_change(tmp_path, change):
    with pytest.raises(KeyboardInterrupt):
        run_of(tmp_path, callbacks=[PressCtrlC(2)]).train()
    assert run_of(tmp_path, **change).resume().stopped == "finished"


def test_rows_with_sets_functions_and_slots_are_known_again_in_another_process():
    """The hash of a set of strings, or of a function's address, is another one in every process."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import math, torch\nfrom dataclasses import dataclass\n"
        "from lora_edu.training.identity import data_identity, told\n"
        "class Slots:\n    __slots__ = ('a',)\n    def __init__(self, a): self.a = a\n"
        "@dataclass\nclass Row:\n    x: object\n"
        "def f(): return 1\n"
        "print([data_identity([row])['content'] for row in ({'a', 'b', 'c'}, f, Slots({'x', 'y'}), Row(torch.arange(10_000)))])\n"
        "print(data_identity([Row(torch.arange(10_000))]) == data_identity([Row(torch.arange(10_000).index_fill(0, torch.tensor(5000), 1))]))\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, str(TESTS.parent)],
            capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(outputs) == 1 and outputs.pop().endswith("False\n")


def test_a_function_is_the_same_in_a_script_that_is_run_and_in_one_that_is_imported(monkeypatch):
    imported = told(doubled_loss)
    monkeypatch.setattr(doubled_loss, "__module__", "__main__")
    assert told(doubled_loss) == imported != told(other_collate) and imported.startswith("doubled_loss [")


# --- damaged and strange folders --------------------------------------------------------------------------------------


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def swap_tensors(folder: Path) -> None:
    """The tensors of another run of the same shapes."""
    other = folder.parent.parent / "other"
    trainer(other, model=adapted(lora_dropout=0.2), seed=1).train()
    shutil.copy(checkpoints(other)[0] / "tensors.safetensors", folder)


def rewrite(folder: Path, change_values=None, change_tensors=None) -> None:
    """A forged checkpoint: changed, with hashes that fit."""
    from safetensors.torch import save_file

    from lora_edu.training import checkpoints as module

    values, tensors = json.loads((folder / "run.json").read_text()), load_file(folder / "tensors.safetensors")
    del values["sha256"]
    if change_values:
        change_values(values)
    if change_tensors:
        change_tensors(tensors)
    values["tensors"] = module.tensors_hash(tensors)
    save_file(tensors, folder / "tensors.safetensors")
    (folder / "run.json").write_text(json.dumps({"sha256": module._values_hash(values)} | values))


FACTOR = "weights/model.layers.0.mlp.up_proj.lora_B.default"


def broadcastable(tensors) -> None:
    tensors[FACTOR] = tensors[FACTOR][:, :1].clone()


DAMAGE = {
    "a bit of the weights": lambda folder: flip(folder / "tensors.safetensors", -9),
    "a bit of run.json": lambda folder: flip(folder / "run.json", (folder / "run.json").read_bytes().index(b'"loss": ') + 10),
    "another run's tensors": swap_tensors,
    "no tensors": lambda folder: (folder / "tensors.safetensors").unlink(),
    "a pipe": lambda folder: ((folder / "run.json").unlink(), os.mkfifo(folder / "run.json")),
    "run.json is a list": lambda folder: (folder / "run.json").write_text("[1]"),
    "run.json is deep": lambda folder: (folder / "run.json").write_text("[" * 100_000),
    "a broadcastable shape": lambda folder: rewrite(folder, None, broadcastable),
    "another dtype": lambda folder: rewrite(folder, None, lambda t: t.update({FACTOR: t[FACTOR].half()})),
    "a weight is missing": lambda folder: rewrite(folder, None, lambda t: t.pop(FACTOR)),
    "a moment is missing": lambda folder: rewrite(folder, None, lambda t: t.pop(FACTOR.replace("weights", "adamw") + "/exp_avg")),
    "one best weight of many": lambda folder: rewrite(folder, None, lambda t: t.update({FACTOR.replace("weights", "best"): t[FACTOR].clone()})),
    "a tensor too many": lambda folder: rewrite(folder, None, lambda t: t.update({"weights/strange": torch.zeros(1)})),
    "a generator is missing": lambda folder: rewrite(folder, None, lambda t: t.pop("rng/0/numpy")),
    "a generator of another size": lambda folder: rewrite(folder, None, lambda t: t.update({"rng/0/python": torch.zeros(3, dtype=torch.int64)})),
    "an unknown field": lambda folder: rewrite(folder, lambda v: v["history"].update(strange=1)),
    "a record without a loss": lambda folder: rewrite(folder, lambda v: v["history"]["steps"][0].pop("loss")),
    "no step": lambda folder: rewrite(folder, lambda v: v.pop("step")),
    "a step beyond the end": lambda folder: rewrite(folder, lambda v: v.update(step=10**9)),
    "a rate that is a text": lambda folder: rewrite(folder, lambda v: v.update(learning_rate="1e-3")),
    "a million threads": lambda folder: rewrite(folder, lambda v: v.update(threads=10**6)),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_any_damage_leads_back_to_the_older_checkpoint(tmp_path, damage):
    expected = trainer(None)
    expected.train()
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "run", callbacks=[PressCtrlC(5)], save_every=3).train()
    DAMAGE[damage](checkpoints(tmp_path / "run")[0])
    resumed = trainer(tmp_path / "run", save_every=3)
    with pytest.warns(UserWarning, match=r"Passing over the damaged checkpoint .*step-00000005"):
        resumed.resume()
    assert farthest(weights(resumed.model), weights(expected.model)) == 0


def test_without_a_whole_one_nothing_is_changed(tmp_path):
    trainer(tmp_path).train()
    rewrite(checkpoints(tmp_path)[0], None, broadcastable)
    run = trainer(tmp_path)
    before = weights(run.model)
    with pytest.raises(TrainingError, match="no whole checkpoint"), pytest.warns(UserWarning, match="damaged"):
        run.resume()
    assert farthest(weights(run.model), before) == 0 and run.step == 0 and run.history.steps == []


def test_only_checkpoints_count_as_checkpoints_and_nothing_else_is_removed(tmp_path):
    strangers = [
        "step-notes.txt",
        "step-zz",
        "step-1",
        "step-00000001.bak",
        "step-00000004 (copy)",
        ".writing-step-notes",
    ]
    for name in strangers:
        (tmp_path / name).write_text("mine")
    (tmp_path / "step-99999999 (copy)").mkdir()
    (tmp_path / "step-99999999").write_text("a file")
    os.symlink(tmp_path / "step-99999999 (copy)", tmp_path / "step-88888888")
    broken_off = tmp_path / ".writing-step-00000001-1f-00ff00ff"
    broken_off.mkdir()
    before = {path.name for path in tmp_path.iterdir()} - {broken_off.name}
    trainer(tmp_path, save_every=2).train()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000008", "step-00000006"]
    assert before <= {path.name for path in tmp_path.iterdir()} and not broken_off.exists()
    assert all((tmp_path / name).read_text() == "mine" for name in strangers)
    assert trainer(tmp_path, save_every=2).resume().stopped == "finished"


@pytest.mark.parametrize("kind", ["file", "link"])
def test_something_under_the_next_name_ends_no_run(tmp_path, kind):
    target = tmp_path / "elsewhere"
    target.mkdir()
    there = tmp_path / "run" / "step-00000004"
    there.parent.mkdir()
    there.write_text("mine") if kind == "file" else there.symlink_to(target)
    run = trainer(tmp_path / "run", save_every=4)
    with pytest.warns(
        UserWarning, match=r"Nothing was saved after step 4; the run goes on\. .*step-00000004 is in the way"
    ):
        run.train()
    assert run.history.stopped == "finished" and [p.name for p in checkpoints(tmp_path / "run")] == ["step-00000008"]
    assert there.read_text() == "mine" if kind == "file" else there.is_symlink()


def test_checkpoints_from_a_future_that_was_given_up_take_no_place(tmp_path):
    """Two newer, damaged ones: those written now must not be removed as the oldest."""
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, callbacks=[PressCtrlC(3)], save_every=1).train()
    for name in ("step-00000007", "step-00000006"):
        shutil.copytree(tmp_path / "step-00000003", tmp_path / name)
        flip(tmp_path / name / "tensors.safetensors", -1)
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, callbacks=[PressCtrlC(5)], save_every=1).resume()
    assert {"step-00000005", "step-00000004"} <= {path.name for path in checkpoints(tmp_path)}


# --- one folder, one run ----------------------------------------------------------------------------------------------


def test_a_folder_is_held_by_one_run_and_says_by_whom(tmp_path):
    class Intrude(Callback):
        words = ""

        def on_step_end(self, outer, record):
            if record["step"] == 2:
                with pytest.raises(TrainingError) as told:
                    trainer(tmp_path).train()
                self.words = str(told.value)
                with pytest.raises(TrainingError, match="is in use by"):
                    trainer(tmp_path, save_every=1).resume()

    intruder = Intrude()
    trainer(tmp_path, callbacks=[intruder], save_every=1).train()
    assert (
        f"{tmp_path} is in use by process {os.getpid()} on " in intruder.words
        and "another output_dir" in intruder.words
    )
    assert trainer(tmp_path).resume().stopped == "finished", "the lock is gone with the run"


@needs_fork
def test_a_killed_process_leaves_no_lock(tmp_path):
    pid = os.fork()
    if pid == 0:

        class Die(Callback):
            def on_step_end(self, run, record):
                if record["step"] == 3:
                    os.kill(os.getpid(), signal.SIGKILL)

        trainer(tmp_path, callbacks=[Die()], save_every=2).train()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert trainer(tmp_path, save_every=2).resume().stopped == "finished"
