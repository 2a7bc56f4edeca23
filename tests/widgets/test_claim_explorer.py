"""The claim explorer of chapter 16: its filters, what it says of a row, and that nothing is drawn outside its paper."""

import pytest
from every_widget import claim_explorer, claims

from lora_edu.course.museum import ledger
from lora_edu.course.museum.specimen import ROOMS
from lora_edu.errors import DataError
from lora_edu.plots.primitives import Text
from lora_edu.plots.raster import font
from lora_edu.widgets import ClaimExplorer
from lora_edu.widgets.claim_explorer import LINES, SIGNS


def texts(widget):
    return [item for item in widget.canvas().items if isinstance(item, Text)]


def test_rows_are_filtered_by_topic_and_verdict():
    widget = claim_explorer()
    assert len(widget._result()) == 12 == widget.controls["row"].max
    widget.controls["room"].value = "b"
    assert {each.room for each in widget._result()} == {"b"} and widget.controls["row"].max == 2
    widget.controls["verdict"].value = "correct"
    assert widget._result() == () and "no row" in widget.canvas().alt
    widget.controls["room"].value = "all"
    assert [each.verdict for each in widget._result()] == ["correct"] * 4 and widget.controls["row"].max == 4
    assert widget.errors == []


def test_a_topic_without_rows_is_no_button():
    assert [value for _, value in claim_explorer().controls["room"].options] == ["all", "a", "b"]


def test_the_chosen_row_is_told_with_source_law_and_cell():
    widget = claim_explorer()
    widget.controls["row"].value = 3
    alt, shown = widget.canvas().alt, [item.text for item in texts(widget)]
    assert "Row 1.03" in alt and "cell 16-cell-3" in alt and "Source: a paper" in shown and "Breaks: law 2" in shown
    widget.controls["row"].value = 5
    assert "Tested by: nothing: no source" in [item.text for item in texts(widget)]


def test_a_choice_that_leaves_fewer_rows_keeps_the_slider_within():
    widget = claim_explorer()
    widget.controls["row"].value = 12
    widget.controls["room"].value = "b"
    assert widget.controls["row"].value == 2 and "Row 1.12" in widget.canvas().alt


@pytest.mark.parametrize("row", range(1, len(ledger()) + 1, 7))
def test_every_row_of_the_ledger_fits_its_paper(row):
    widget = ClaimExplorer(ledger(), ROOMS)
    widget.controls["row"].value = row
    canvas = widget.canvas()
    assert sum(item.text in {sign for sign, _ in SIGNS.values()} for item in texts(widget)) == LINES
    for item in texts(widget):
        left = item.at[0] - (font(item.size).getlength(item.text) if item.anchor == "end" else 0)
        assert left >= 0 and item.at[1] < canvas.height - 2, item.text
        if item.anchor == "start":
            assert item.at[0] + font(item.size).getlength(item.text) < canvas.width, item.text


def test_what_it_cannot_show_is_refused():
    with pytest.raises(DataError, match="needs rows"):
        ClaimExplorer([], ROOMS)
    with pytest.raises(DataError, match="cellar"):
        ClaimExplorer(claims(("cellar", "wrong")), ROOMS)
    with pytest.raises(DataError, match="doubtful"):
        ClaimExplorer(claims(("shapes", "doubtful")), ROOMS)
