"""The website: every page is in it, what is made for it is whole, and its checker finds what would be missing or fetched elsewhere."""

import json
import re
import sys
from pathlib import Path

import pytest
from helpers import NOTEBOOKS, ROOT

from lora_edu import widgets
from lora_edu.course.notebooks.files import chapters

sys.path.insert(0, str(ROOT / "docs"))
import reference
import staging
from docstrings import translate
from links import faults

PIXEL = "data:image/png;base64,iVBO"


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "source"
    staging.stage(folder)
    return folder


def test_every_page_is_once_in_the_table_of_contents(staged):
    trees = re.findall(r"```\{toctree\}\n(.*?)```", (staged / "index.md").read_text("utf-8"), re.DOTALL)
    lines = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    entries = [re.sub(r"^.*<(.*)>$", r"\1", line) for line in lines]
    made = [
        path.relative_to(staged).with_suffix("").as_posix()
        for path in staged.rglob("*")
        if path.suffix in (".ipynb", ".md", ".rst")
    ]
    assert sorted(entries) == sorted(set(made) - {"index"})
    assert {path.relative_to(ROOT).with_suffix("").as_posix() for path in chapters(folder=NOTEBOOKS)} <= set(entries)
    titles = [line for line in lines if "<" in line]
    assert any(line.startswith("03 The LoRA layer <notebooks/03") for line in titles)


def test_what_the_pages_link_to_is_there(staged):
    for page in staged.rglob("*.md"):
        for link in re.findall(r"\]\(([^)#\s:]+)[)#]", page.read_text("utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_glossary_has_every_term_of_the_card(staged):
    card = "".join(
        "".join(cell["source"]) + "\n" for cell in json.loads((NOTEBOOKS / "card.ipynb").read_text("utf-8"))["cells"]
    )
    terms = [
        line.split(" | ")[0].removeprefix("| ")
        for line in card.partition("## Glossary")[2].splitlines()
        if line.startswith("| ")
    ]
    shown = (staged / "glossary.md").read_text("utf-8").splitlines()
    assert len(terms) > 60 and [term for term in terms[1:] if term not in shown] == []


def test_every_widget_that_left_a_picture_is_in_the_gallery(staged):
    stored = "".join(page.read_text("utf-8") for page in NOTEBOOKS.glob("*.ipynb"))
    gallery = (staged / "widgets.md").read_text("utf-8")
    kinds = [
        name
        for name in widgets.__all__
        if issubclass(kind := getattr(widgets, name), widgets.Widget) and kind is not widgets.Widget
    ]
    drawn = [name for name in kinds if f'<img alt=\\"{getattr(widgets, name).title}' in stored]
    assert len(drawn) >= 12
    for name in drawn:
        assert (
            f"pictures/{name}.png" in gallery and (staged / "pictures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        )


def test_what_jupyterlab_folds_is_folded(staged):
    name = "notebooks/03_the_lora_layer.ipynb"
    before, after = (json.loads((folder / name).read_text("utf-8"))["cells"] for folder in (ROOT, staged))
    for cell, shown in zip(before, after, strict=True):
        hidden = bool(cell["metadata"].get("jupyter", {}).get("source_hidden"))
        assert hidden == ("hide-input" in shown["metadata"].get("tags", []))


def test_every_room_has_its_page_with_all_that_it_offers(staged):
    assert {"lora_edu", "lora_edu.adapters", "lora_edu.linalg", "lora_edu.training.memory", "lora_edu.widgets"} <= set(
        reference.rooms()
    )
    page = (staged / "reference" / "lora_edu.adapters.rst").read_text("utf-8")
    assert "autofunction:: lora_edu.adapters.inject\n" in page and "autoclass:: lora_edu.adapters.LoRAConfig\n" in page
    assert "`inject <lora_edu.adapters.inject>`" in (staged / "reference" / "lora_edu.rst").read_text("utf-8")


def test_a_docstring_becomes_markup_that_says_the_same():
    lines = [
        "Takes a_b times *c*; `Row`s.",
        "",
        "one    what it does",
        "Example:",
        "    f(x)",
        "Args:",
        "    r: a `rank`",
        "        of W",
        "After.",
    ]
    assert translate(lines) == [
        "Takes a\\_b times \\*c\\*; ``Row``\\ s.", "", "", "::", "", "    one    what it does", "", "Example:", "", "::", "", "        f(x)", "",
        "**Args**", "", "- ``r``: a ``rank``", "  of W", "", "After.",
    ]  # fmt: skip


SOUND = f"""<html><head><link rel="stylesheet" href="a.css"><link rel="canonical" href="https://else.where/"></head>
<body id="here"><a href="b.html#there">b</a><a href="#here">up</a><a href="https://else.where/">a reader may follow it</a>
<img src="{PIXEL}"><img src="p.png"></body></html>"""
PLANTED = {
    "a page that is not there": ('<a href="c.html">c</a>', "links to c.html, which is not there"),
    "a place that is not there": (
        '<a href="b.html#nowhere">b</a>',
        "links to b.html#nowhere: the page has no such place",
    ),
    "a place on its own page": ('<a href="#nowhere">b</a>', "no such place"),
    "a picture that is not there": ('<img src="q.png">', "loads q.png, which is not there"),
    "a picture of another host": ('<img src="//else.where/q.png">', "from another host"),
    "a script of another host": ('<script src="https://else.where/x.js"></script>', "from another host"),
    "a style sheet of another host": ('<link rel="stylesheet" href="https://else.where/x.css">', "from another host"),
    "a connection made beforehand": ('<link rel="preconnect" href="https://else.where">', "from another host"),
    "an inline style": ('<p style="background: url(https://else.where/q.png)">', "from another host"),
    "a style element": ("<style>@import 'https://else.where/x.css';</style>", "from another host"),
    "a frame": ('<iframe src="https://else.where/"></iframe>', "from another host"),
    "one of several pictures": ('<img srcset="p.png 1x, https://else.where/q.png 2x">', "from another host"),
}


def small_site(folder: Path) -> Path:
    (folder / "a.html").write_text(SOUND, "utf-8")
    (folder / "b.html").write_text("<h1 id='there'>b</h1>", "utf-8")
    (folder / "a.css").write_text("body { background: url(p.png) } /* url(https://else.where/of-a-comment) */", "utf-8")
    (folder / "p.png").write_bytes(b"")
    return folder


def test_a_site_that_stands_by_itself_has_no_fault(tmp_path):
    assert list(faults(small_site(tmp_path))) == []


@pytest.mark.parametrize("name", PLANTED)
def test_each_fault_of_a_site_is_found(name, tmp_path):
    planted, said = PLANTED[name]
    (small_site(tmp_path) / "a.html").write_text(SOUND.replace("</body>", f"{planted}</body>"), "utf-8")
    found = list(faults(tmp_path))
    assert len(found) == 1 and found[0].startswith("a.html ") and said in found[0], found


def test_a_style_sheet_that_asks_another_host_is_found(tmp_path):
    (small_site(tmp_path) / "a.css").write_text("@font-face { src: url('https://else.where/font.woff2') }", "utf-8")
    assert list(faults(tmp_path)) == ["a.css loads https://else.where/font.woff2 from another host"]


@pytest.mark.slow
def test_the_whole_site_stands_by_itself(tmp_path):
    pytest.importorskip("myst_nb", reason="the website's packages are not installed: pip install -e '.[site]'")
    from build import build

    assert build(tmp_path / "site", tmp_path / "work" / "source") == []
    page = (tmp_path / "site" / "notebooks" / "03_the_lora_layer.html").read_text("utf-8")
    assert "<math" in page and '<script src="https' not in page and "Show code cell source" in page
    index = (tmp_path / "site" / "searchindex.js").read_text("utf-8")
    assert "intrinsic" in index and "causal_lm_loss" in index
