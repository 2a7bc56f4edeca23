"""What a budget buys is the largest size whose numbers it pays, by the module's own count."""

import pytest

from lora_edu.adapters import trainable_count
from lora_edu.course.sweeps.neighbours_pilot import METHODS
from lora_edu.experiments.spending import CONTEXT, SHAPE, WAYS
from lora_edu.training.memory.ledger import sketch


@pytest.fixture(scope="module")
def model():
    return sketch(SHAPE)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_the_largest_size_that_is_paid(way, model):
    for budget in (9_000, 230_400, 1_000_000, 10_000_000):
        size = way.bought(budget)
        assert size == 0 or 4 * trainable_count(model, way.make(size)) <= budget
        if size < way.largest:
            assert 4 * trainable_count(model, way.make(size + 1)) > budget
        assert way.numbers(size) == (trainable_count(model, way.make(size)) if size else 0)


def test_prices_and_ends():
    bought = {way.name: way.bought(230_400) for way in WAYS}
    assert bought == {
        "LoRA on q and v": 1, "LoRA, all-linear": 0, "IA³": 1, "prefix": 5, "prompt": 100, "bottleneck": 1, "norms' weights": 1,
        "full fine-tuning": 0,
    }  # fmt: skip
    rich = {way.name: way.bought(1e12) for way in WAYS}
    assert rich["prompt"] == CONTEXT and rich["IA³"] == 1
    assert rich["LoRA on q and v"] == 192 and rich["full fine-tuning"] == 1
    assert [WAYS[3].words(1), WAYS[3].words(5), WAYS[2].words(1), WAYS[0].words(8)] == [
        "1 token",
        "5 tokens",
        "as it is",
        "r = 8",
    ]


def test_what_is_said_to_be_measured_is_the_method_of_that_size(model):
    for way in WAYS:
        for size, name in way.measured.items():
            assert trainable_count(model, way.make(size)) == trainable_count(model, METHODS[name]), name
            assert repr(way.make(size)) == repr(METHODS[name]), name
    assert {name for way in WAYS for name in way.measured.values()} == set(METHODS)
