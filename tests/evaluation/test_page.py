"""The report as a file: it holds what was measured, loads nothing, runs nothing, and is written whole or not at all."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from report_pages import EVIL, Page, report

from lora_edu.errors import DataError, DiskError
from lora_edu.evaluation import (
    Interval,
    compare,
    forgotten,
    report_html,
    write_report,
)
from lora_edu.evaluation.page import intervals


@pytest.fixture(scope="module")
def page():
    reports = {"base": report(2), EVIL: report(7, evil=True)}
    general = forgotten(report(9, "general", general=True), report(3, "general", general=True))
    return report_html(
        reports, comparison=compare(reports), forgetting={EVIL: general}, trained={EVIL: {"base": EVIL, "r": 8}}, made_by=f"lora-edu eval {EVIL}",
    )  # fmt: skip


def test_the_page_is_whole_and_says_what_was_measured(page):
    read = Page(page)
    assert read.open == []
    for words in (
        "Gains over base, row by row",
        "no model: majority",
        "Best",
        "Worst",
        "Wrong answers",
        "trivia lost, gained",
        "p of 2",
    ):
        assert words in read.text, words
    assert str(report(7).interval) in read.text and "loss (lower is better)" in read.text
    drawings = [attributes["aria-label"] for tag, attributes in read.tags if tag == "svg"]
    assert len(drawings) == 4 and all(len(alt) > 30 for alt in drawings)
    for svg in re.findall(r"<svg.*?</svg>", page):
        ElementTree.fromstring(svg)


def test_nothing_of_an_answer_becomes_a_page_and_nothing_is_loaded(page):
    read = Page(page)
    assert EVIL in " ".join(read.text.split("\n")), "it is shown, as text"
    assert not {tag for tag, _ in read.tags} & {"script", "img", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in read.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        places = [
            attributes.get(name) for name in ("src", "href", "srcset", "action", "xlink:href") if attributes.get(name)
        ]
        assert all(place == "data:," for place in places), (tag, places)
    assert "url(" not in page and "@import" not in page


def test_the_picture_of_intervals_says_its_numbers_and_holds_zero():
    canvas = intervals({"a": Interval(0.4, 0.2, 0.6), "b": Interval(0.5, 0.5, 0.5)}, "gain", zero=True)
    assert canvas.alt == "gain: a 0.40 [0.20, 0.60]; b 0.50 [0.50, 0.50]."
    dots = [item.centre[0] for item in canvas.items if type(item).__name__ == "Dot"]
    rule = next(item for item in canvas.items if getattr(item, "dash", ()) == (3, 3)).points[0][0]
    assert rule < dots[0] < dots[1] < canvas.width - 100
    intervals({"same": Interval(3.0, 3.0, 3.0)}, "no spread")


def test_one_report_alone_is_a_page_too():
    read = Page(report_html({"mine": report(10)}, title="My own title"))
    assert "My own title" in read.text and "Gains over" not in read.text and "0 of 10 answers are wrong" in read.text
    with pytest.raises(DataError, match="one report or more"):
        report_html({})


def test_it_is_written_whole_or_not_at_all(tmp_path):
    path = write_report(tmp_path / "new" / "report.html", {"mine": report(3)})
    assert path.read_text("utf-8") == report_html({"mine": report(3)}) and [p.name for p in path.parent.iterdir()] == [
        "report.html"
    ]
    before = path.read_bytes()
    with pytest.raises(DataError):
        write_report(path, {})
    assert path.read_bytes() == before
    with pytest.raises(DiskError, match="is a folder"):
        write_report(tmp_path / "new", {"mine": report(3)})
    with pytest.raises(DiskError, match="choose another place"):
        write_report(path / "report.html", {"mine": report(3)})
