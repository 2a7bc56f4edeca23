"""The export map says what the exports do: the same table, and numbers that can be checked by hand."""

import pytest

from lora_edu.errors import ExportError
from lora_edu.plots.canvas import Text
from lora_edu.serving.rules import REFUSED, RULES, WAYS, refuse
from lora_edu.widgets import ExportMap
from lora_edu.widgets.export_map import probe


def result(widget, **state):
    for name, value in state.items():
        widget.controls[name].value = value
    return widget._result()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "control, key",
    [
        ("rslora", "rslora"),
        ("ranks", "rank_pattern"),
        ("alphas", "alpha_pattern"),
        ("dora", "variant"),
        ("whole", "modules_to_save"),
    ],
)
def test_each_box_is_a_feature_and_the_verdict_is_the_refusal_of_the_exports(way, control, key):
    widget = ExportMap()
    found = result(widget, way=way, **{control: True})
    assert found.features == [key]
    assert bool(found.refusal) == (RULES[key].verdict(way) == REFUSED)
    if found.refusal:
        with pytest.raises(ExportError) as error:
            refuse(probe(widget.state)[0], "default", way)
        assert str(error.value) == found.refusal and "Refused" in widget.canvas().alt


def test_what_a_reader_of_one_scale_makes_of_it():
    widget = ExportMap()
    assert result(widget).misread == pytest.approx(0, abs=1e-6)
    for r in (2, 8):
        assert result(widget, r=r, rslora=True).misread == pytest.approx(1 - r**-0.5, abs=1e-5)
    assert result(widget, rslora=False, alphas=True).misread == pytest.approx(
        0.73, abs=0.05
    )  # three quarters of v's share
    assert result(widget, alphas=False, dora=True).misread > 0.1


@pytest.mark.parametrize("way", WAYS)
def test_no_word_of_the_longest_refusal_is_cut_off(way):
    widget = ExportMap()
    for name in ("rslora", "ranks", "alphas", "dora", "whole"):
        widget.controls[name].value = True
    widget.controls["way"].value = way
    canvas = widget.canvas()
    lines = [item for item in canvas.items if isinstance(item, Text) and item.at[0] == 12]
    assert max(line.at[1] for line in lines) + 8 <= canvas.height
    shown = " ".join(line.text for line in lines)
    assert all(words in shown for words in (widget._result().refusal, "without an error"))
