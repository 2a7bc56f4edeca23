"""The knob map of chapter 08: which runs it calls one, and what it shows behind each."""

import pytest
import torch
from every_widget import budget_grid, two_rates

from lora_edu.errors import DataError
from lora_edu.plots.primitives import Text
from lora_edu.widgets.knob_map import HIDDEN, MARKED, SHOWN, KnobMap, Knobs, _diagonal


def set_to(widget, knobs):
    for name in ("alpha", "start", "rate_A", "rate_B"):
        widget.controls[name].value = getattr(knobs, name)
    return widget._result()


def marks_of(widget):
    """The names that stand on the map."""
    return [item for item in widget.canvas().items if isinstance(item, Text) and item.halo and item.text in MARKED]


@pytest.mark.parametrize("p, q", [(2, 1), (1, 4), (0.25, 2), (4, 0.5)])
def test_the_two_numbers_are_those_of_law_4(p, q):
    """α/(pq), p·A₀, p·lr_A and q·lr_B are the same run; each knob turned alone is another."""
    alpha, start, a, b = 24, 0.5, 0.004, 0.016
    here = Knobs(alpha, start, a, b).point(8)
    assert Knobs(alpha / (p * q), p * start, p * a, q * b).point(8) == here
    for other in (
        Knobs(2 * alpha, start, a, b),
        Knobs(alpha, 2 * start, a, b),
        Knobs(alpha, start, 2 * a, b),
        Knobs(alpha, start, a, 2 * b),
    ):
        assert other.point(8) != here
    assert Knobs(2 * alpha, start, a, b).point(16) == here  # the scale is α/r


def test_of_the_marked_runs_exactly_two_are_one():
    places = [knobs.point(8) for knobs in MARKED.values()]
    assert len(set(places)) == len(places) - 1 and places[0] == places[3]
    widget = KnobMap(two_rates())
    assert all(
        set_to(widget, knobs).point == place for knobs, place in zip(MARKED.values(), places)
    )  # sliders can reach them


def test_the_knob_map_shows_the_nearest_measured_run_or_says_that_there_is_none():
    data = two_rates()
    widget = KnobMap(data)
    found = set_to(widget, Knobs(8, 1.0, 0.008, 0.008))  # s = 1
    assert found.nearest == (1e-2, 1e-2)
    wanted = torch.stack([data.where(f"valid_loss_{step}", rate_A=1e-2, rate_B=1e-2)[0] for step in (4, 64)])
    assert torch.equal(found.curves, wanted)
    assert "ends with a validation loss of 0.21, seeds 0.20 to 0.22" in widget.canvas().alt
    assert "the lowest, 0.21, lies at (0.01, 0.01)" in widget.canvas().alt
    assert set_to(widget, Knobs(32, 1.0, 0.008, 0.002)).curves is found.curves  # α is B's rate
    assert set_to(widget, Knobs(128, 4.0, 0.064, 0.064)).nearest is None
    assert "Nothing was measured near it" in widget.canvas().alt
    assert widget.errors == []


def test_a_run_that_diverged_is_no_best_and_stops_nothing():
    widget = KnobMap(two_rates())
    found = set_to(widget, Knobs(16, 1.0, 0.064, 0.064))
    assert found.nearest == (1e-1, 1e-1) and found.curves.isnan().any()
    assert "validation loss of diverged, seeds 0.81 to diverged" in widget.canvas().alt


def test_the_places_of_the_marked_runs_are_told_only_when_asked():
    widget = KnobMap(two_rates())
    assert "lies at (0.004, 0.016)" not in widget.canvas().alt and widget.state["places"] == HIDDEN
    assert marks_of(widget) == []
    widget.controls["places"].value = SHOWN
    assert widget.canvas().alt.count("lies at (0.004, 0.016)") == 2
    marks = marks_of(widget)
    assert [mark.text for mark in marks] == list(MARKED) and len({mark.at for mark in marks}) == len(MARKED)


def test_a_table_that_is_no_grid_of_two_rates_is_refused():
    with pytest.raises(DataError, match="two_rates"):
        KnobMap(budget_grid())
    short = two_rates()
    short.cells, short.metrics = short.cells[:-1], {name: each[:-1] for name, each in short.metrics.items()}
    with pytest.raises(DataError, match="every pair"):
        KnobMap(short)


def test_the_dashes_are_both_rates_moved_together():
    """From the ring both ways until the map ends, and nowhere where the line passes by the map."""
    limits = (1e-4, 1e-1), (1e-3, 1.0)
    for point in ((0.004, 0.016), (0.1, 0.001), (1e-4, 1.0)):
        ends = _diagonal(point, *limits)
        assert all(y / x == pytest.approx(point[1] / point[0]) for x, y in ends)
        if ends:
            (x0, y0), (x1, y1) = ends
            assert x0 == pytest.approx(1e-4) or y0 == pytest.approx(1e-3)
            assert x1 == pytest.approx(1e-1) or y1 == pytest.approx(1.0)
    assert len(_diagonal((0.004, 0.016), *limits)) == 2
    assert _diagonal((0.1, 1e-4), *limits) == [] == _diagonal((1e-4, 2.0), *limits)
    together = [Knobs(64, 0.5, rate, 4 * rate).point(8) for rate in (0.001, 0.008)]
    assert together[0][1] / together[0][0] == pytest.approx(together[1][1] / together[1][0])


def test_one_rate_and_alpha_stand_wherever_four_knobs_can():
    for knobs in MARKED.values():
        x, y = knobs.point(8)
        assert Knobs(8 * y / x, 1.0, x, x).point(8) == pytest.approx((x, y))
