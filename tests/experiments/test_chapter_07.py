"""What chapter 07 shows and does not make itself: whole, small, of one base, made by a command that is there."""

import json

import pytest
import torch
from helpers import ROOT
from safetensors import safe_open

from lora_edu.adapters import disabled, load, lora_layers, unload
from lora_edu.course.sweeps import get_sweep
from lora_edu.experiments import stored as read_stored
from lora_edu.experiments import table
from lora_edu.experiments.stored_results import FOLDER
from lora_edu.experiments.sweeps import status
from lora_edu.widgets import MixerData

NAMES = ("sentiment", "intents", "reminders")


def stored():
    return json.loads((FOLDER / "three_adapters.json").read_text("utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_adapter_is_small_in_bf16_and_says_its_base(name):
    path = FOLDER / "three_adapters" / name / "adapter_model.safetensors"
    assert path.stat().st_size < 500_000
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["base_fingerprint"] == stored()["about"]["fingerprint"]
        tensors = [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118 - no mapping
    assert len(tensors) == 120 and {tensor.dtype for tensor in tensors} == {torch.bfloat16}


def test_the_stored_adapters_speak_on_the_course_s_own_base(base):
    ids = base.tokenizer("Remind Zelda to fold the laundry.", return_tensors="pt")["input_ids"].to(base.model.device)
    try:
        for name in NAMES:
            load(base.model, FOLDER / "three_adapters" / name, name)
            with torch.no_grad():
                said = base.model(ids).logits
                with disabled(base.model):
                    assert not torch.equal(said, base.model(ids).logits)
        assert all(float(layer.lora_B[name].norm()) > 0 for layer in lora_layers(base.model).values() for name in NAMES)
    finally:
        unload(base.model)


def test_three_seeds_of_one_recipe_each_alone_and_in_pairs():
    result = stored()
    assert sorted(result["runs"]) == ["0", "1", "2"] and set(result["base"]) == set(NAMES)
    assert (ROOT / result["about"]["command"].split()[1]).is_file()
    for run in result["runs"].values():
        assert {name: set(tasks) for name, tasks in run["alone"].items()} == {key: set(NAMES) for key in NAMES}
        assert all(set(sums) == set(pair.split(" + ")) for pair, sums in run["sums"].items()) and len(run["sums"]) == 3
        for name in NAMES:  # each learnt its task
            assert run["alone"][name][name]["loss"] < 0.5 * result["base"][name]["loss"]
            assert run["alone"][name][name]["score"] > 0.5


def test_what_the_sums_do_in_every_seed():
    """What the text of section 6 says of the three pairs."""
    for run in stored()["runs"].values():
        keeps = {
            pair: {task: each["score"] / run["alone"][task][task]["score"] for task, each in both.items()}
            for pair, both in run["sums"].items()
        }
        assert min(keeps["sentiment + reminders"].values()) > 0.7
        assert keeps["sentiment + intents"]["sentiment"] < 0.5 and keeps["intents + reminders"]["reminders"] == 0
        assert min(keeps[pair]["intents"] for pair in ("sentiment + intents", "intents + reminders")) > 0.75


def test_the_mixer_s_grid_is_whole_and_of_the_same_adapters():
    data = MixerData.read(FOLDER / "adapter_mixer.json")
    assert data.base == stored()["about"]["fingerprint"] and (ROOT / data.made_by.split()[1]).is_file()
    assert list(data.methods) == ["cat", "linear", "ties_svd"] and data.adapters == ["intents", "reminders"]
    for i, first in enumerate(data.weights):
        for j, second in enumerate(data.weights):
            if 0 in (first, second):  # with one adapter there is nothing to cross
                assert data.methods["linear"][i][j] == data.methods["cat"][i][j]
    assert "cat 1, 1" in data.test and all(len(tasks) == 2 for tasks in data.test.values())


def test_no_chosen_mixture_keeps_what_switching_keeps():
    """What the text under the mixer's test rows says."""
    test = MixerData.read(FOLDER / "adapter_mixer.json").test
    own = [test[name][i]["score"] for i, name in enumerate(("intents", "reminders"))]
    assert test["cat 1, 1"][0]["score"] > 0.9 * own[0] and test["cat 1, 1"][1]["score"] == 0
    chosen = [both for name, both in test.items() if name not in ("base", "intents", "reminders", "cat 1, 1")]
    assert len(chosen) == 3
    for intents, reminders in chosen:
        assert 0 < intents["score"] < own[0] / 2 and 0 < reminders["score"] < 2 / 3 * own[1]
    for one, other in ((a, b) for a in chosen for b in chosen):  # their brackets meet, on either task
        assert all(mine["low"] < its["high"] for mine, its in zip(one, other))


@pytest.mark.parametrize("name", ["sums_of_two"])
def test_the_sweeps_are_whole(name):
    this = get_sweep(name)
    found = table(name)
    assert bool(found.done.all()) and found.seeds == [0, 1, 2] and found.cells == [dict(cell) for cell in this.cells]
    assert "of " not in status(this).split("runs stored")[0][-3:] and "other settings" not in status(this)


def test_what_two_directions_hold_of_a_full_fine_tuning():
    """What the optional section says of the adapters that were taken out of a tuned SmolLM2."""
    taken = read_stored("extracted")
    two = taken.about["losses_of_the_two_models"]
    gain = (two["base"] - taken.tensors["loss"]) / (two["base"] - two["tuned"])
    assert taken.tensors["rank"].tolist() == [128, 32, 8, 2] and bool((gain.diff() < 0).all())
    assert 0.85 < gain[-1] < 0.9 and 0.2 < taken.tensors["energy"][-1] < 0.26
    digits = table("cut_later")
    base, full, cut = (
        digits.where(metric, r="full").nanmean(1).min() for metric in ("valid_loss_cut_1", "valid_loss", "valid_loss_cut_2")
    )
    assert cut > 10 * full and base > cut
