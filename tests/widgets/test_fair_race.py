"""The race of chapter 10: who stands where at one rate, and at each one's own."""

import math

import pytest
from every_widget import race, two_rates

from lora_edu.errors import DataError
from lora_edu.widgets.fair_race import ONE, OWN, FairRace, place


def standing(widget):
    return [(each.method, each.rate) for each in widget._result()]


def test_at_one_rate_the_winner_depends_on_the_rate_and_at_their_own_they_are_even():
    widget = FairRace(race())
    widget.controls["rates"].value = ONE
    widget.controls["rate"].value = 1e-3
    assert standing(widget) == [("early", 1e-3), ("late", 1e-3)]
    assert "from 0.2 (early) to 0.8 (late): 4 ×" in widget.canvas().alt
    widget.controls["rate"].value = 1e-1
    assert standing(widget) == [("late", 1e-1), ("early", 1e-1)]
    widget.controls["rates"].value = OWN
    assert sorted(standing(widget)) == [("early", 1e-3), ("late", 1e-1)]
    assert "from 0.2 (early) to 0.2 (late): 1 ×" in widget.canvas().alt or "from 0.2 (late)" in widget.canvas().alt
    assert widget.errors == []


def test_a_best_rate_at_the_grids_edge_is_called_that_and_a_diverged_seed_never_wins():
    table = race()
    assert place(table, "early", 1).at_edge and not place(table, "early", 1, 1e-2).at_edge
    assert math.isinf(place(table, "late", 2, 1e-1).mean)  # one of its seeds is nan
    assert place(table, "late", 2).rate == 1e-2  # the best of those that ended
    widget = FairRace(table)
    widget.controls["epochs"].value = 2
    widget.controls["rate"].value = 1e-1
    assert standing(widget)[-1] == ("late", 1e-1) and "late diverged" in widget.canvas().alt


def test_a_table_of_another_kind_is_refused():
    with pytest.raises(DataError, match="method, epochs and learning_rate"):
        FairRace(two_rates())
    table = race()
    with pytest.raises(DataError, match="valid_loss"):
        FairRace(race(metrics={"loss": table.metrics["valid_loss"]}))
    cells = [*table.cells[:-1], table.cells[-1] | {"learning_rate": 0.5}]
    with pytest.raises(DataError, match="late was not tried at the rates of early"):
        FairRace(race(cells=cells))
