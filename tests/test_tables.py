"""One table for the whole course: columns that line up as text, headings that a screen reader hears, nothing of the user's run as HTML."""

import re
from html.parser import HTMLParser
from pathlib import Path

from helpers import ROOT

from lora_edu.tables import html_table, text_table


class Cells(HTMLParser):
    """(tag, attributes, text) of each cell and caption."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[list] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag in ("th", "td", "caption"):
            self.found.append([tag, dict(attributes), ""])

    def handle_data(self, data):
        if self.found:
            self.found[-1][2] += data


def test_columns_line_up_as_text():
    lines = [("", "loss", "x"), ("base", "1.25", "long one"), ("a b", "10", "")]
    assert text_table(lines).splitlines() == ["      loss  x", "base  1.25  long one", "a b   10"]
    assert text_table(lines, "lr").splitlines()[2] == "a b     10"
    assert text_table([["a"], ["b", "c"]]).splitlines() == ["a", "b  c"]


def test_headings_have_a_scope_and_every_text_is_text():
    evil = "<script>alert('x')</script> & \"quoted\""
    page = html_table(("", evil), [(evil, evil), ("  of it", "2")], evil, "lr", faint=[1])
    cells = Cells(page)
    assert cells.tags == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    kinds = [(tag, more.get("scope"), text) for tag, more, text in cells.found]
    assert kinds == [
        ("caption", None, evil), ("td", None, ""), ("th", "col", evil), ("th", "row", evil), ("td", None, evil),
        ("th", "row", "\u2003of it"), ("td", None, "2"),
    ]  # fmt: skip
    sides = [re.search("left|right", more["style"])[0] for _, more, _ in cells.found]
    assert sides == ["left", "left", "right", "left", "right", "left", "right"] and page.count("opacity") == 1
    assert "<thead>" not in html_table((), [("a", "b")]) and "<caption" not in html_table((), [("a", "b")])


def test_nobody_else_writes_a_table():
    own = {
        path.name
        for path in Path(ROOT, "lora_edu").rglob("*.py")
        if re.search(r"<t[rdh][ >]|<table", path.read_text("utf-8"))
    }
    assert own == {"tables.py"}
