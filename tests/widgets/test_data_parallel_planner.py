"""Chapter 14's planner: what it says one card holds is the ledger's, and a card that is too small is called so in words."""

import re
from itertools import pairwise

import pytest
import torch

from lora_edu.adapters import LoRAConfig
from lora_edu.errors import ConfigError
from lora_edu.plots import INK
from lora_edu.plots.primitives import Path, Text
from lora_edu.plots.raster import font
from lora_edu.training.memory import Ledger, megabytes, predict_memory, sharded, sketch
from lora_edu.training.memory.fitting import SPARE
from lora_edu.widgets import DataParallelPlanner
from lora_edu.widgets.shares import CARDS, Share

ONE, SEVEN, SEVENTY = "llama-3.2-1b", "llama-2-7b", "llama-2-70b"


def planner(shape: str = SEVEN, batch_size: int = 128, **settings) -> DataParallelPlanner:
    widget = DataParallelPlanner([shape], batch_size)
    for name, value in settings.items():
        widget.controls[name].value = value
    return widget


def shown(widget: DataParallelPlanner) -> Share:
    return widget._result()[widget.state["way"]][CARDS.index(widget.state["cards"])]


def words(widget: DataParallelPlanner) -> list[str]:
    return [item.text for item in widget.canvas().items if isinstance(item, Text)]


def of_the_ledger(widget: DataParallelPlanner) -> Ledger:
    """Straight from `predict` and `sharded`; AdamW's means are as wide as what trains."""
    state = widget.state
    lora = LoRAConfig(r=8) if state["trains"] == "lora" else None
    model = sketch(state["shape"], lora, torch.bfloat16)
    rows = widget.batch_size // state["cards"] if state["at_once"] == "all" else 1
    whole = predict_memory(model, rows, 512, gradient_checkpointing=state["checkpointing"])
    alone = state["cards"] == 1 or state["way"] == "DDP"
    return whole if alone else sharded(whole, model, state["cards"])


@pytest.mark.parametrize("way", ["DDP", "FSDP"])
@pytest.mark.parametrize(
    "shape, trains, checkpointing, at_once",
    [
        (ONE, "full", False, "all"),
        (ONE, "lora", True, "1"),
        (SEVEN, "full", True, "all"),
        (SEVENTY, "lora", False, "all"),
    ],
)
def test_a_card_holds_what_the_ledger_says(shape, trains, checkpointing, at_once, way):
    widget = planner(shape, way=way, trains=trains, checkpointing=checkpointing, at_once=at_once)
    for cards in CARDS:
        widget.controls["cards"].value = cards
        share, ledger = shown(widget), of_the_ledger(widget)
        assert share.parts["gathered"] == ledger.gathered
        assert share.parts["activations"] == ledger.activations
        assert share.total - share.parts["optimizer"] == ledger.total - ledger.optimizer
        # two means of 4 bytes: twice the ledger's where it counts them in bf16, its own where the factors are fp32
        assert share.parts["optimizer"] == (2 if trains == "full" else 1) * ledger.optimizer
        assert f"One card holds weights {megabytes(share.parts['weights'])}, " in widget.canvas().alt
        together = "" if at_once == "all" else "1 of "
        assert f">{megabytes(share.parts['activations'])}, {together}its {128 // cards} rows<" in widget._image.value


def test_ddp_copies_what_fsdp_divides():
    """The weights of 7 billion in bf16, and 8 bytes a weight of AdamW, stand on each of 64 cards under DDP."""
    widget = planner(cards=64, way="DDP")
    number = predict_memory(SEVEN, 1, 8).parameters
    copied = shown(widget).parts
    assert (copied["weights"], copied["gradients"]) == (2 * number, 2 * number)
    assert copied["optimizer"] == pytest.approx(8 * number, rel=1e-6)
    assert copied["gathered"] == 0
    widget.controls["way"].value = "FSDP"
    divided = shown(widget).parts
    for part in ("weights", "gradients", "optimizer"):
        assert divided[part] == pytest.approx(copied[part] / 64, rel=0.01)
    assert divided["activations"] == copied["activations"]
    assert divided["gathered"] > 0


def test_ddp_flattens_and_fsdp_goes_on_falling():
    result = planner()._result()
    for way, least in (("DDP", 0.99), ("FSDP", 0.8)):
        ratio = result[way][-1].total / result[way][-2].total
        assert (ratio > least) == (way == "DDP")
    assert all(share.total > result["DDP"][0].copied for share in result["DDP"])


def frames(widget: DataParallelPlanner) -> list[Path]:
    """The dashed outline of what is too much."""
    return [
        p for p in widget.canvas().items if isinstance(p, Path) and p.closed and p.stroke == INK and p.dash == (5, 3)
    ]


def test_what_does_not_fit_is_named_and_hatched():
    widget = planner(cards=4, way="DDP", size="24 GB")
    need, room = of_the_ledger(widget), (1 - SPARE) * 24e9
    over = megabytes(int(need.total + need.optimizer - room))
    assert f"too much by {over}" in words(widget)
    assert (
        f"does not fit: {over} too much" in words(widget)[0] and f"does not fit: {over} too much" in widget.canvas().alt
    )
    assert "none of them fits" in widget._image.value
    (frame,) = frames(widget)
    assert frame.points[1][0] - frame.points[0][0] > 0.5 * 736  # more than half of the bar is too much
    left, right = frame.points[0][0], frame.points[1][0]
    slanting = [
        p
        for p in widget.canvas().items
        if isinstance(p, Path)
        and len(p.points) == 2
        and all(left - 0.1 <= x <= right + 0.1 and 66 <= y <= 106 for x, y in p.points)
    ]
    assert len(slanting) > (right - left) / 9  # hatched all along, and only there
    widget.controls["way"].value, widget.controls["cards"].value = "FSDP", 32
    need = of_the_ledger(widget)
    assert f"it fits: {megabytes(need.total + need.optimizer)} of the 21.6 GB to use" in words(widget)[0]
    assert "too much" not in widget._image.value and "not fit:" not in widget.canvas().alt
    assert "they all fit" in widget._image.value and frames(widget) == []


def test_a_tenth_of_a_card_stays_free():
    """74.7 GB would go on a card of 80 GB, but into 72 GB they do not."""
    widget = planner(batch_size=64, cards=4, way="FSDP", checkpointing=False)
    total = shown(widget).total
    assert 0.9 * 80e9 < total < 80e9
    assert f"does not fit: {megabytes(int(total - 72e9))} too much" in words(widget)[0]


@pytest.mark.parametrize(
    "way, said", [("DDP", "from the activations alone"), ("FSDP", "weights, gradients, optimizer and")]
)
def test_it_says_what_more_cards_take_off(way, said):
    widget = planner(cards=4, way=way)
    row = widget._result()[way]
    saved = row[CARDS.index(4)].total - row[CARDS.index(8)].total
    assert f"8 cards would take {megabytes(saved)} off each" in words(widget)[1] and said in words(widget)[1]


def test_with_one_row_at_once_more_cards_take_nothing_off_under_ddp_and_fewer_are_needed_under_fsdp():
    widget = planner(SEVENTY, cards=16, way="DDP", at_once="1")
    assert words(widget)[1] == "32 cards would take nothing off each."
    needed = {}
    for trains in ("full", "lora"):
        widget.controls["trains"].value = trains
        for at_once in ("all", "1"):
            widget.controls["at_once"].value = at_once
            needed[trains, at_once] = next(share.cards for share in widget._result()["FSDP"] if share.total <= 72e9)
    assert needed == {
        ("full", "all"): 32,
        ("full", "1"): 16,
        ("lora", "all"): 4,
        ("lora", "1"): 4,
    }  # as chapter 14 says


def test_the_alt_text_and_the_marks_say_from_how_many_cards_it_fits():
    widget = planner(trains="full")
    assert re.search(r"DDP: [^;]*fits on none of these", widget.canvas().alt)
    assert re.search(r"FSDP: [^;]*fits from 2 cards on", widget.canvas().alt)
    ticks = [p for p in widget.canvas().items if isinstance(p, Path) and not p.closed and len(p.points) == 3]
    assert len(ticks) == 6  # under FSDP from 2 cards on; nowhere under DDP, so no small card either


@pytest.mark.parametrize("cards", [1, 64])
def test_figures_over_the_columns_do_not_touch(cards):
    """Where they are widest: 70 billion weights, activations kept."""
    widget = planner(SEVENTY, cards=cards, checkpointing=False)
    figures = [
        item
        for item in widget.canvas().items
        if isinstance(item, Text) and item.anchor == "middle" and item.size == 11 and item.text != "to use"
    ]
    half = {item: font(11, item.bold).getlength(item.text) / 2 for item in figures}
    row = sorted((item.at[0] - half[item], item.at[0] + half[item]) for item in figures)
    assert len(row) == 14
    assert all(left[1] < right[0] for left, right in pairwise(row))


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="100 rows do not divide among 64 cards"):
        DataParallelPlanner(batch_size=100)
