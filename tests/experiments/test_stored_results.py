"""Stored results: they load, say where they come from, and a damaged or missing one is named. And the picture of chapter 01."""

import json

import pytest
import torch

from lora_edu.course.sweeps import get_sweep
from lora_edu.course.sweeps.targets_grid import CHOICES, SCALE, at_scale
from lora_edu.errors import CheckpointError
from lora_edu.experiments import store, stored, table
from lora_edu.experiments.choices import ALL_LINEAR, NOTHING, budget
from lora_edu.linalg import effective_rank
from lora_edu.plots.ellipses import ellipses
from lora_edu.widgets.budget import loss_of_base, matching_rank, scores


def test_what_is_stored_comes_back_with_its_origin(tmp_path):
    about = {"command": "python benchmarks/some.py", "fingerprint": "0123456789abcdef", "losses": [2.5, 1.25]}
    tensors = {"delta": torch.randn(4, 3).to(torch.float16), "turned": torch.arange(6.0).reshape(2, 3).T}
    store("some", tensors, about, tmp_path)
    back = stored("some", tmp_path)
    assert back.about == about
    assert set(back.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert back.tensors[name].dtype == tensor.dtype and torch.equal(back.tensors[name], tensor)


def test_a_result_without_an_origin_is_refused(tmp_path):
    with pytest.raises(ValueError, match="fingerprint is missing"):
        store("some", {"delta": torch.ones(1)}, {"command": "python benchmarks/some.py"}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_result_names_those_there_are_and_a_damaged_one_is_named(tmp_path):
    path = store("some", {"delta": torch.ones(8)}, {"command": "c", "fingerprint": "f"}, tmp_path)
    with pytest.raises(CheckpointError, match=r"other.*there are: some"):
        stored("other", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["some.safetensors"]  # nothing unfinished is left
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"some\.safetensors is damaged"):
        stored("some", tmp_path)


def test_the_stored_change_of_chapter_01_is_whole_small_and_lower_in_rank_than_noise():
    tensors, about = stored("full_finetuning_delta")
    delta = tensors["delta"].float()
    assert delta.shape == (576, 576) and bool(delta.isfinite().all())
    assert about["command"] == "python benchmarks/full_finetuning_delta.py"
    assert len(about["fingerprint"]) == 16 and len(about["losses"]) == about["train"]["max_steps"]
    assert about["valid_loss_after"] < about["valid_loss_before"]  # it is a change that learnt something
    directions = effective_rank(torch.linalg.svdvals(delta))
    assert directions == about["directions_for_90_percent"][15]  # rounding to fp16 has not moved the spectrum
    assert directions < effective_rank(torch.linalg.svdvals(torch.randn(576, 576))) / 2


def test_the_stored_change_belongs_to_the_course_s_own_model(base):
    from lora_edu.adapters import fingerprint

    assert stored("full_finetuning_delta").about["fingerprint"] == fingerprint(base.model)


def test_the_ellipse_has_the_singular_values_as_half_axes():
    W = torch.tensor([[1.2, 0.6], [0.2, 1.0]])
    U, S, Vh = torch.linalg.svd(W)
    s1, s2 = S.tolist()
    canvas = ellipses(U.tolist(), Vh.tolist(), {"W": (s1, s2), "a line": (s1, 0.0)})
    curves = [item.points[0] for item in canvas.items if getattr(item, "width", 0) == 1.4]
    panels = [torch.tensor(curves[i * 72 : (i + 1) * 72]) for i in range(3)]
    centred = [panel - (panel.amax(0) + panel.amin(0)) / 2 for panel in panels]
    unit = float(centred[0].norm(dim=1).max())  # pixels of length 1
    lengths = [centre.norm(dim=1) / unit for centre in centred]
    assert torch.allclose(lengths[0], torch.ones(72), atol=1e-3)
    assert abs(float(lengths[1].max()) - s1) < 0.01 and abs(float(lengths[1].min()) - s2) < 0.01
    assert int(torch.linalg.matrix_rank(centred[2], rtol=1e-3)) == 1
    assert f"{s1:.2f}" in canvas.alt and "line" in canvas.alt


@pytest.mark.parametrize("name", ["targets_grid", "targets_same_alpha"])
def test_the_stored_grids_of_chapter_04_are_whole_and_at_equal_bytes(name):
    grid, sweep = table(name), get_sweep(name)
    assert bool(grid.done.all()) and len(grid.seeds) == 3
    assert grid.about["command"] == f"lora-edu sweep {name}"
    assert grid.about["settings"] == json.loads(json.dumps(sweep.settings)) and grid.cells == list(sweep.cells)
    measured = scores(grid)
    assert [score.choice for score in measured] == list(CHOICES[:-1])
    for score in measured:
        assert max(score.losses) < loss_of_base(grid)  # every run learnt something
        assert matching_rank(score.choice) == score.choice.r
    spent = [budget(score.choice).parameters for score in measured]
    assert max(spent) < 1.025 * min(spent)


def test_the_grids_of_chapter_04_differ_in_the_scale_alone():
    grid, same_alpha = table("targets_grid"), table("targets_same_alpha")
    for choice in (ALL_LINEAR, NOTHING):  # r = 8 and α = 16 are the scale 2: the same runs
        assert torch.equal(grid.where("loss", **choice.cell()), same_alpha.where("loss", **choice.cell()))
    for choice in CHOICES[:-1]:
        config = at_scale(choice)
        assert config.lora_alpha / config.r == SCALE and config.target_modules == choice.config().target_modules


@pytest.mark.parametrize("name", ["targets_grid", "targets_same_alpha"])
def test_the_stored_grids_belong_to_the_course_s_own_model(base, name):
    from lora_edu.adapters import fingerprint

    assert table(name).about["fingerprint"] == fingerprint(base.model)
