"""The sweeps of chapter 07 measure what they say: one short run of each."""

import copy

import pytest
import torch

from lora_edu.adapters import lora_layers, set_adapter
from lora_edu.course.sweeps import cut_later, sums_of_two
from lora_edu.course.sweeps.sums_of_two import SEEN, seen
from lora_edu.experiments import table


@pytest.fixture(autouse=True)
def one_epoch(monkeypatch):
    monkeypatch.setattr(cut_later, "EPOCHS", 1)
    monkeypatch.setattr(sums_of_two, "EPOCHS", 1)
    sums_of_two._trained.cache_clear()
    yield
    sums_of_two._trained.cache_clear()


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("r", [4, "full"])
def test_a_run_is_measured_whole_and_cut_and_leaves_the_base_as_it_was(r):
    base = cut_later.reader()
    before = weights(base)
    found = cut_later.SWEEP.run(base, {"r": r, "learning_rate": 1e-3}, 0)
    assert set(found) == set(cut_later.SWEEP.metrics)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(base)))
    cut = [found[f"test_loss_cut_{k}"] for k in cut_later.CUTS]
    assert [loss == loss for loss in cut] == [r == "full" or k < r for k in cut_later.CUTS]
    assert len({found["test_loss"], cut[0], cut[1]}) == 3  # a cut changes something


def test_a_cut_at_the_full_rank_changes_nothing(monkeypatch):
    monkeypatch.setattr(cut_later, "CUTS", (4, 8))
    found = cut_later.SWEEP.run(cut_later.reader(), {"r": "full", "learning_rate": 1e-3}, 0)
    monkeypatch.setattr(cut_later, "CUTS", (256,))
    whole = cut_later.SWEEP.run(cut_later.reader(), {"r": "full", "learning_rate": 1e-3}, 0)
    assert whole["test_loss_cut_256"] == pytest.approx(whole["test_loss"], rel=1e-4)
    assert found["test_loss"] == whole["test_loss"] != pytest.approx(found["test_loss_cut_4"], rel=1e-4)


def test_a_pair_speaks_alone_in_sum_and_at_half():
    base, cell = cut_later.reader(), {"first": "mirrored", "second": "negative"}
    found = sums_of_two.SWEEP.run(base, cell, 0)
    assert set(found) == set(sums_of_two.SWEEP.metrics)
    model = sums_of_two.pair(base, "mirrored", "negative", 0)
    set_adapter(model, "first")
    assert found["alone_first_loss"] == pytest.approx(sums_of_two._measured(model, "mirrored")[0])
    summed = copy.deepcopy(base)
    with torch.no_grad():
        for path, layer in lora_layers(model).items():
            delta = sum(layer.delta_weight(name) for name in ("first", "second"))
            summed.get_submodule(path).weight += delta
    assert found["sum_second_loss"] == pytest.approx(sums_of_two._measured(summed, "negative")[0], rel=1e-4)


def test_one_view_from_two_seeds_is_more_alike_than_two_views():
    base = cut_later.reader()
    same, other = (
        sums_of_two.SWEEP.run(base, {"first": "mirrored", "second": second}, 0) for second in ("mirrored", "negative")
    )
    assert same["cosine"] > other["cosine"] and same["alone_first_loss"] != same["alone_second_loss"]


def test_every_view_shows_the_same_digits_otherwise():
    views = [seen(task) for task in SEEN]
    for view in views:
        assert torch.equal(view.y_train, views[0].y_train) and view.x_train.shape == (1297, 64)
    pixels = [view.x_test[0] for view in views]
    assert all(not torch.equal(a, b) for i, a in enumerate(pixels) for b in pixels[:i])
    sums = [float(p.sum()) for task, p in zip(SEEN, pixels) if task != "negative"]
    assert max(sums) - min(sums) < 1e-4  # all but the negative only move pixels


def test_the_stored_cuts_are_whole_and_there_where_there_is_something_to_cut():
    found = table("cut_later")
    assert bool(found.done.all()) and found.seeds == [0, 1, 2]
    assert found.cells == [dict(cell) for cell in cut_later.SWEEP.cells]
    assert found.about["settings"]["epochs"] == 15
    for r in (1, 2, 4, 8, 32, cut_later.FULL):
        for k in cut_later.CUTS:
            there = found.where(f"test_loss_cut_{k}", r=r).isfinite()
            assert bool(there.all()) if r == cut_later.FULL or k < r else not bool(there.any())
