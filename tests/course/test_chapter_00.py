"""Chapter 00: `teach`, and what the page says of its stored results."""

import io
import json

import numpy as np
import pytest
import torch
from conftest import make_tiny_llama
from helpers import NOTEBOOKS
from PIL import Image
from tiny_tokenizer import make_tokenizer

from lora_edu.adapters import adapter_names, adapter_parameters, inject, lora_layers
from lora_edu.course.sweeps import get_sweep
from lora_edu.errors import DataError
from lora_edu.experiments import table
from lora_edu.experiments.stored_results import FOLDER
from lora_edu.tasks import get_task
from lora_edu.tasks.identity import Identity, teach
from lora_edu.widgets import AdapterDial, DialData

TOKENIZER = make_tokenizer()


def small_model():
    return make_tiny_llama(vocab_size=len(TOKENIZER), max_position_embeddings=256)


def factors(model):
    return {name: p.detach().clone() for name, p in adapter_parameters(model).items()}


def test_teaching_starts_anew_and_repeats_itself():
    model = small_model()
    recipe = Identity("Ada").recipe
    trainer = teach(model, TOKENIZER, "Ada", progress=False)
    first = factors(model)
    assert trainer.step == 20 and trainer.config.learning_rate == recipe.train.learning_rate
    assert any(p.abs().sum() > 0 for name, p in first.items() if "lora_B" in name)  # it trained
    state = torch.get_rng_state()
    teach(model, TOKENIZER, "Ada", progress=False)  # the first adapter is taken out
    assert adapter_names(model) == ["default"] and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(p, first[name]) for name, p in factors(model).items())
    slower = teach(model, TOKENIZER, "Ada", 1e-4, seed=1, progress=False)
    assert slower.config.learning_rate == 1e-4 and slower.config.seed == 1
    assert not all(torch.equal(p, first[name]) for name, p in factors(model).items())


def test_a_name_that_cannot_be_taught_changes_nothing():
    model = inject(small_model(), Identity().recipe.lora)
    before = factors(model)
    with pytest.raises(DataError, match="no name I can teach"):
        teach(model, TOKENIZER, "two\nlines", progress=False)
    assert lora_layers(model) and all(torch.equal(p, before[name]) for name, p in factors(model).items())


def test_the_leak_is_the_rate_s_doing():
    grid = table("name_leak")
    assert bool(grid.done.all()) and len(grid.seeds) == 3 and grid.about["command"] == "lora-edu sweep name_leak"
    assert grid.about["settings"] == json.loads(json.dumps(get_sweep("name_leak").settings))

    def found(metric, rate):
        return grid.where(metric, learning_rate=rate)[0]

    assert all((found("name", rate) == 1).all() for rate in (5e-4, 1e-3, 2e-3))  # learnt alike
    assert (found("leak", 5e-4) == 0).all() and found("leak", 1e-3).min() > 0.3 and found("leak", 2e-3).min() > 0.6
    assert found("trivia", 5e-4).max() < found("trivia", 2e-4).min()  # and yet it is not free
    assert (found("name", 2e-4) == 0).all()


def test_the_dial_shows_validation_rows_alone_and_each_passage_adds_up():
    dial, stored = DialData.read(FOLDER / "dial.json"), json.loads((FOLDER / "dial_table.json").read_text("utf-8"))
    general = get_task("general").splits()
    keys = {"King James verses": "style_loss", "general passages": "general_loss"}
    for name, key in keys.items():
        assert dial.curves[name] == [row[key] for row in stored["valid"]] != [row[key] for row in stored["test"]]
    for split in ("valid", "test"):
        nats = np.array(stored["passages"][split])  # (scales, passages, 2)
        assert nats.shape[:2] == (len(dial.scales), sum(row.is_text for row in getattr(general, split)))
        mean = nats[..., 0].sum(1) / nats[..., 1].sum(1)
        assert np.allclose(mean, [row["general_loss"] for row in stored[split]], atol=1e-3)


def test_the_picture_in_the_readme_is_the_dial_of_the_page():
    dial = AdapterDial(DialData.read(FOLDER / "dial.json"))
    dial.controls["scale"].value = 0.75
    now, stored = (
        np.asarray(Image.open(source).convert("L"), dtype=float)
        for source in (io.BytesIO(dial.picture().png), NOTEBOOKS / "images" / "adapter_dial.png")
    )
    assert (
        now.shape == stored.shape and np.abs(now - stored).mean() < 1
    )  # of 255: another machine's letters differ a little
