"""The capacity meter of chapter 09: room against need, its spread, and what it says that it is not."""

import pytest
import torch
from every_widget import held

from lora_edu.adapters import LoRAConfig
from lora_edu.adapters.targets import plan
from lora_edu.errors import DataError
from lora_edu.experiments import free_parameters
from lora_edu.experiments.capacity import FULL, SPOTS, bits_each, free_in_model
from lora_edu.training.memory import sketch
from lora_edu.widgets import CapacityMeter
from lora_edu.widgets.capacity_meter import RANKS, ROWS, TOKENS


def meter(**state) -> CapacityMeter:
    widget = CapacityMeter(held(1.5, 2.0, 2.5))
    for name, value in state.items():
        widget.controls[name].value = value
    return widget


@pytest.mark.parametrize("spot", SPOTS)
def test_the_numbers_of_an_adapter_are_those_of_the_model(spot):
    config = LoRAConfig(r=8, target_modules=tuple(f"{kind}_proj" for kind in SPOTS[spot]))
    targets = plan(sketch("smollm2-135m"), config)
    counted = sum(free_parameters(n_in, n_out, 8) for n_out, n_in in (target.shape for target in targets))
    assert free_in_model("smollm2-135m", spot, 8) == counted
    assert counted == sum(target.parameters - 64 for target in targets)


def test_room_and_need_and_the_smallest_rank():
    widget = meter(rows=50_000, tokens=20, surprise=2.0, r=8)
    room = widget._result()
    free = free_in_model("smollm2-135m", "all-linear", 8)
    assert room.free == free and room.need == 2e6
    assert (room.at(8).least, room.at(8).mean, room.at(8).most) == (1.5 * free, 2.0 * free, 2.5 * free)
    smallest = next(r for r in RANKS if 2.0 * free_in_model("smollm2-135m", "all-linear", r) >= 2e6)
    assert room.smallest("mean") == smallest == 4
    assert "Room enough: 41 % used." in widget.canvas().alt
    assert "r = 4" in widget.canvas().alt


def test_more_rows_than_any_rank_has_room_for_and_what_lies_on_the_edge():
    assert "No rank up to 256 has room" in meter(rows=ROWS[-1], tokens=TOKENS[-1], surprise=16.0).canvas().alt
    free = free_in_model("smollm2-135m", "all-linear", 1)
    for factor, said in ((1.4, "Room enough"), (1.6, "On the edge"), (2.6, "Too much")):
        widget = meter(r=1)
        room = widget.compute(widget.state)
        drawn = widget.draw(widget.state, type(room)(room.free, factor * free, room.budgets))
        assert said in drawn.alt


def test_rows_and_tokens_are_asked_for_alike_and_a_measured_loss_can_be_chosen():
    assert (
        meter(rows=1000, tokens=50).compute(meter(rows=1000, tokens=50).state).need
        == meter(rows=5000, tokens=10)._result().need
    )
    widget = CapacityMeter(held(2.0), {"dates": 1.21})
    widget.controls["surprise"].value = 1.21
    assert (
        "1.21: dates, the base" in dict(widget.controls["surprise"].options)
        and widget._result().need == 1000 * 20 * 1.21
    )


def test_the_larger_model_has_more_room_and_a_rank_beyond_a_matrix_adds_nothing_there():
    small, large = (meter(model=model)._result() for model in ("smollm2-135m", "llama-2-7b"))
    assert all(a.mean < b.mean for a, b in zip(small.budgets, large.budgets))
    assert free_in_model("smollm2-135m", "q and v", 1000) == 30 * (576 * 576 + 576 * 192)  # all of both matrices


def test_no_line_beside_the_drawing_leaves_it():
    from lora_edu.plots.primitives import Text
    from lora_edu.plots.raster import font
    from lora_edu.widgets.base import WIDTH

    for state in (
        {"rows": ROWS[-1], "tokens": TOKENS[-1]},
        {"rows": 100_000, "surprise": 2.0, "r": 1},
        {"model": "llama-2-7b", "r": 256},
    ):
        for item in meter(**state).canvas().items:
            if isinstance(item, Text) and item.anchor == "start":
                assert item.at[0] + font(item.size, item.bold).getlength(item.text) <= WIDTH, item.text


def test_it_says_what_it_is_not():
    assert "not: a bound, or a promise" in meter().canvas().alt and "4,000 steps" in meter().canvas().alt


def test_bits_each_leaves_the_matrices_themselves_out_and_spans_every_net():
    first, other = held(2.0, 2.2), held(1.0, 3.0, width=32)
    whole = [type(first[0])("Adam", 16, 2, FULL, 768, 768, 4000, torch.tensor([9.0, 9.0]) * 768, 100, 0.03, True)]
    found = bits_each([*first, *other, *whole])
    assert (found.mean, found.least, found.most) == pytest.approx((2.1, 1.0, 3.0))


def test_without_a_measurement_there_is_no_meter():
    with pytest.raises(DataError, match="lora-edu sweep capacity"):
        CapacityMeter([])
