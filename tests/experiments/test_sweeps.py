"""Sweeps: killed and resumed, changed, damaged, grown, listed. On a fake sweep whose runs cost nothing."""

import math
import os
import signal
from dataclasses import replace

import pytest
import torch
from command_line import run as command
from command_line import said
from conftest import make_tiny_llama

from lora_edu.course import sweeps as registry
from lora_edu.course.chapters import CHAPTERS
from lora_edu.errors import CheckpointError, SweepError
from lora_edu.experiments import Sweep, grid, store, stored, sweep, table
from lora_edu.experiments.sweeps import describe, duration, status
from lora_edu.models import Base


def number(cell, seed):
    return cell["r"] * 10 + cell["learning_rate"] + seed / 100


class Runs(list):
    """A run that remembers what it was asked for, and can be stopped at its n-th call."""

    def __init__(self, stop_at=None, stop=None):
        self.stop_at, self.stop = stop_at, stop

    def __call__(self, base, cell, seed):
        if len(self) + 1 == self.stop_at:
            self.stop()
        self.append((cell["r"], cell["learning_rate"], seed))
        return {"loss": number(cell, seed), "accuracy": 1 / cell["r"]}


def interrupt():
    raise KeyboardInterrupt


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def fake(runs=None, **changes):
    made = {
        "name": "fake", "title": "a test", "chapter": "08", "cells": grid(r=(1, 4), learning_rate=(0.5, 0.25)), "seeds": (0, 1),
        "metrics": ("loss", "accuracy"), "settings": {"steps": 3, "betas": (0.9, 0.99)}, "base": make_tiny_llama,
        "run": Runs() if runs is None else runs,
    }  # fmt: skip
    return Sweep(**(made | changes))


def make(this, folder, **options):
    """The table, and all that was said."""
    lines = []
    return sweep(this, folder=folder, say=lines.append, **options), "\n".join(lines)


def whole(found):
    wanted = [[number(cell, seed) for seed in found.seeds] for cell in found.cells]
    return bool(found.done.all()) and found.metrics["loss"].tolist() == wanted


def test_the_axes_make_every_combination_and_where_finds_them(tmp_path):
    found, _ = make(fake(), tmp_path)
    assert found.cells == [
        {"r": 1, "learning_rate": 0.5},
        {"r": 1, "learning_rate": 0.25},
        {"r": 4, "learning_rate": 0.5},
        {"r": 4, "learning_rate": 0.25},
    ]
    back = table("fake", tmp_path)
    assert whole(back) and (back.cpu_seconds >= 0).all()
    assert back.where("loss", r=4).tolist() == [[40.5, 40.51], [40.25, 40.26]]
    assert back.where("accuracy", r=4, learning_rate=0.25).tolist() == [[0.25, 0.25]]
    with pytest.raises(SweepError, match="no cell has r 3; the cells vary r, learning_rate"):
        back.where("loss", r=3)


def test_a_stored_sweep_says_where_it_comes_from(tmp_path):
    from lora_edu.adapters import fingerprint

    make(fake(), tmp_path)
    about = stored("fake", tmp_path).about
    assert about["fingerprint"] == fingerprint(make_tiny_llama())
    make(fake(base=lambda: Base(make_tiny_llama(), None), name="with_tokenizer"), tmp_path)
    assert stored("with_tokenizer", tmp_path).about["fingerprint"] == about["fingerprint"]
    assert about["command"] == "lora-edu sweep fake" and about["settings"] == {"steps": 3, "betas": [0.9, 0.99]}
    assert about["versions"]["torch"] and about["date"] and about["threads"]


def test_ctrl_c_loses_the_run_under_way_and_no_other(tmp_path):
    with pytest.raises(KeyboardInterrupt, match=r"2 runs are stored.*lora-edu sweep fake"):
        make(fake(Runs(3, interrupt)), tmp_path)
    assert int(table("fake", tmp_path).done.sum()) == 2
    runs = Runs()
    found, said = make(fake(runs), tmp_path)
    assert runs == [(4, 0.5, 0), (4, 0.25, 0), (1, 0.5, 1), (1, 0.25, 1), (4, 0.5, 1), (4, 0.25, 1)]
    assert whole(found) and whole(table("fake", tmp_path)) and "2 runs stored, 6 missing, 6 to make" in said


@pytest.mark.parametrize("stop", ["in a run", "in the writing"])
def test_killed_and_resumed(tmp_path, monkeypatch, stop):
    pid = os.fork()
    if pid == 0:
        runs = Runs(4, kill)
        if stop == "in the writing":
            runs, written = Runs(), os.replace
            monkeypatch.setattr(
                "lora_edu.experiments.stored_results.os.replace",
                lambda *paths: kill() if len(runs) == 4 else written(*paths),
            )
        sweep(fake(runs), folder=tmp_path, say=lambda line: None)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert int(table("fake", tmp_path).done.sum()) == 3
    runs = Runs()
    assert whole(make(fake(runs), tmp_path)[0]) and len(runs) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["fake.safetensors"]


def test_limit_and_what_is_left(tmp_path):
    _, first = make(fake(), tmp_path, limit=3)
    assert "0 runs stored, 8 missing, 3 to make" in first.splitlines()[0]
    assert first.splitlines()[1].startswith(
        "1/3  r 1, learning_rate 0.5, seed 0: loss 10.5, accuracy 1  (0 s of CPU)  0 s left"
    )
    assert first.splitlines()[3].startswith("3/3") and not first.endswith("left")
    _, then = make(fake(), tmp_path, limit=4)
    assert "3 runs stored, 5 missing, 4 to make" in then
    _, last = make(fake(), tmp_path)
    assert "7 runs stored, 1 missing, 1 to make" in last
    runs = Runs()
    found, done = make(fake(runs), tmp_path)
    assert runs == [] and done == "fake: 8 runs stored, 0 missing, 0 to make" and whole(found)


def test_the_time_that_is_left_is_worked_out_from_the_runs_made(tmp_path, monkeypatch):
    clock = iter(range(0, 100_000, 240))
    monkeypatch.setattr("lora_edu.experiments.sweeps.time.perf_counter", lambda: next(clock))
    _, said = make(fake(), tmp_path, limit=4)
    assert [line.rpartition(")")[2].strip() for line in said.splitlines()[1:]] == [
        "12 min left",
        "8 min left",
        "4 min left",
        "",
    ]


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"settings": {"steps": 4, "betas": (0.9, 0.99)}}, "other settings (steps: 3 → 4)"),
        ({"settings": {"steps": 3}}, "other settings (betas: [0.9, 0.99] → None)"),
        ({"metrics": ("accuracy", "loss")}, "other settings (metrics"),
        ({"base": lambda: make_tiny_llama(seed=1)}, "made with the base"),
    ],
)
def test_other_settings_or_another_base_start_anew_and_say_so(tmp_path, changes, why):
    make(fake(), tmp_path)
    before = (tmp_path / "fake.safetensors").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        make(fake(Runs(1, interrupt), **changes), tmp_path)
    assert (tmp_path / "fake.safetensors").read_bytes() == before  # nothing is lost before there is something new
    runs = Runs()
    found, said = make(fake(runs, **changes), tmp_path, limit=2)
    assert why in said and "starting anew" in said and len(runs) == 2
    assert int(found.done.sum()) == int(table("fake", tmp_path).done.sum()) == 2
    assert (tmp_path / "fake.safetensors.old").read_bytes() == before
    _, again = make(fake(**changes), tmp_path)
    assert "starting anew" not in again and "2 runs stored" in again


def test_a_damaged_file_starts_anew_and_says_so(tmp_path):
    make(fake(), tmp_path)
    path = tmp_path / "fake.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    assert "damaged" in status(fake(), tmp_path)
    found, said = make(fake(), tmp_path)
    assert "what is stored is damaged" in said and "starting anew" in said and whole(found)


def test_a_file_that_is_no_sweep_s_is_named(tmp_path):
    store("fake", {"loss": torch.ones(4, 2)}, {"command": "c", "fingerprint": "f"}, tmp_path)
    with pytest.raises(CheckpointError, match="no sweep's: 'cells' is missing"):
        table("fake", tmp_path)
    make(fake(), tmp_path)
    tensors, about = stored("fake", tmp_path)
    store("fake", tensors | {"loss": torch.ones(3, 2)}, about, tmp_path)
    with pytest.raises(CheckpointError, match="4 cells × 2 seeds do not fit"):
        table("fake", tmp_path)


def test_new_cells_and_seeds_keep_what_is_stored(tmp_path):
    make(fake(), tmp_path)
    runs = Runs()
    grown = fake(runs, cells=grid(r=(8, 4), learning_rate=(0.25, 0.5)))
    found, _ = make(grown, tmp_path)
    assert {r for r, _, _ in runs} == {8} and whole(found)
    runs = Runs()
    found, _ = make(replace(grown, run=runs), tmp_path, seeds=range(3))
    assert {seed for _, _, seed in runs} == {2} and found.seeds == [0, 1, 2] and whole(found)
    runs = Runs()
    found, _ = make(replace(grown, run=runs), tmp_path, seeds=[0])
    assert runs == [] and found.seeds == [0, 1, 2]  # fewer seeds throw nothing away


def test_a_run_that_diverged_is_a_result_and_is_not_made_again(tmp_path):
    make(fake(lambda base, cell, seed: {"loss": math.nan, "accuracy": 0.1}), tmp_path)
    runs = Runs()
    found, _ = make(fake(runs), tmp_path)
    assert runs == [] and bool(found.done.all()) and bool(found.metrics["loss"].isnan().all())


def test_other_metrics_than_named_are_refused(tmp_path):
    with pytest.raises(SweepError, match="returned loss; it names loss, accuracy"):
        make(fake(lambda base, cell, seed: {"loss": 1.0}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_status_opens_no_model(tmp_path):
    def closed():
        raise AssertionError("the model was opened")

    this = fake(base=closed)
    assert "4 cells × 2 seeds; nothing stored, cost not measured" in status(this, tmp_path)
    make(fake(), tmp_path, limit=5, seeds=range(3))
    tensors, about = stored("fake", tmp_path)
    tensors["cpu_seconds"][tensors["cpu_seconds"].isfinite()] = 90.0
    store("fake", tensors, about, tmp_path)
    assert "5 of 8 runs stored (base " in status(this, tmp_path) and "about 12 min of CPU in all" in status(
        this, tmp_path
    )
    assert "other settings (steps: 3 → 9)" in status(
        fake(base=closed, settings={"steps": 9, "betas": [0.9, 0.99]}), tmp_path
    )


def test_the_command_lists_makes_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "SWEEPS", ("fake",))
    monkeypatch.setattr(registry, "get_sweep", {"fake": fake()}.__getitem__)
    assert "fake (chapter 08): a test" in said(command("sweep", "--out", tmp_path))
    first = command("sweep", "fake", "--limit", 2, "--out", tmp_path)
    assert first.exit_code == 0 and "2/2" in first.output
    second = command("sweep", "fake", "--seeds", 1, "--out", tmp_path)
    assert "2 runs stored, 2 missing, 2 to make" in said(second)
    assert "4 of 8 runs stored" in said(command("sweep", "--out", tmp_path))
    monkeypatch.setattr(registry, "get_sweep", {"fake": fake(Runs(2, interrupt))}.__getitem__)
    stopped = command("sweep", "fake", "--out", tmp_path)
    assert stopped.exit_code == 130 and "5 runs are stored" in said(stopped) and "lora-edu sweep fake" in said(stopped)


def test_an_unknown_sweep_names_those_there_are(tmp_path):
    result = command("sweep", "target_grid", "--out", tmp_path)
    assert result.exit_code == 1 and "no sweep 'target_grid'; did you mean targets_grid?" in said(result)
    assert f"there are: {', '.join(registry.SWEEPS)}" in said(command("sweep", "zzz"))


@pytest.mark.parametrize("name", registry.SWEEPS)
def test_every_sweep_of_the_course_is_sound(name):
    this = registry.get_sweep(name)
    assert this.name == name and this.chapter in CHAPTERS and this.metrics
    assert len(this.seeds) >= 3 or name.endswith("_pilot")  # a pilot chooses a rate for another sweep, no more
    assert len({describe(cell) for cell in this.cells}) == len(this.cells)
    assert "other settings" not in status(this) and "damaged" not in status(this)


def test_words():
    assert (
        describe({"kinds": ["q", "v"], "r": 8, "learning_rate": 1e-3, "none": []})
        == "kinds q v, r 8, learning_rate 0.001, none none"
    )
    assert [duration(s) for s in (4.4, 89, 150, 3599, 5400)] == ["4 s", "89 s", "2 min", "1 h 0 min", "1 h 30 min"]
