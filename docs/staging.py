"""What Sphinx reads: the repository's own pages in their places, so that their links hold, and the pages that are made of them.

Made are the front page (the README with the table of contents), the glossary (the card's), a gallery of the widgets, and the module's rooms.
"""

import json
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import reference

from lora_edu.course.chapters import CHAPTERS

ROOT = Path(__file__).resolve().parents[1]
TEXTS = (
    "TEACHING.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "AGENTS.md",
    "LICENSE-TEXT.md",
    "lora_edu/tasks/README.md",
    "hosted/colab.ipynb",
)
LINK = re.compile(r"\]\(([^)#\s:]+)[)#]")
ROW = re.compile(
    r"^\| (?:\*\*(?P<part>.+?)\*\* )?\| \[(?P<title>[^\]]+)\]\((?P<page>notebooks/\S+)\.ipynb\)", re.MULTILINE
)
TERM = re.compile(r"^\| (?P<term>[^|]+?) \| (?P<line>[^|]+?) \| (?P<chapter>[^|]*?) ?\|$", re.MULTILINE)


def stage(target: Path, only: str = "*") -> list[str]:
    """Fill the folder `target`, emptied first. `only`: which notebooks, by a pattern of their names. Returns the documents."""
    shutil.rmtree(target, ignore_errors=True)
    pages = [
        page
        for page in sorted((ROOT / "notebooks").glob("**/*.ipynb"))
        if page.match(only) and ".ipynb_checkpoints" not in page.parts
    ]
    for page in pages:
        _write(
            target / page.relative_to(ROOT),
            json.dumps(_folded(json.loads(page.read_text("utf-8"))), ensure_ascii=False),
        )
    for picture in (ROOT / "notebooks" / "images").glob("*"):
        _copy(picture, target)
    texts = [name for name in TEXTS if (ROOT / name).exists()]
    for name in texts:
        _write(target / name, (ROOT / name).read_text("utf-8").replace("](README.md", "](index.md"))
    for name in ("README.md", *texts):  # files that they link to or show, and that are no pages here
        for link in LINK.findall((ROOT / name).read_text("utf-8")):
            file = (ROOT / name).parent / link
            if file.is_file() and file.suffix not in (".md", ".ipynb"):
                _copy(file.resolve(), target)
    for room in reference.rooms():
        _write(target / "reference" / f"{room}.rst", reference.page(room))
    _write(target / "glossary.md", glossary())
    _write(target / "widgets.md", gallery(target / "pictures", pages))
    documents = [page.relative_to(ROOT).with_suffix("").as_posix() for page in pages]
    _write(target / "index.md", front(documents, [Path(name).with_suffix("").as_posix() for name in texts]))
    return documents


def front(documents: list[str], texts: list[str]) -> str:
    """The README, and after it the table of contents: the parts of the course as the README's table has them, then the rest."""
    readme = (ROOT / "README.md").read_text("utf-8")
    parts: dict[str, list[str]] = {}
    titles: dict[str, str] = {}  # where a page's own title is too long for a table of contents, or like others
    part = ""
    for row in ROW.finditer(readme):
        part = row["part"] or part
        parts.setdefault(part, []).append(row["page"])
        titles[row["page"]] = row["title"]
    listed = {page for pages in parts.values() for page in pages}
    solutions = [page for page in documents if "/solutions/" in page]
    titles |= {
        page: f"{number} {CHAPTERS[number]}" for page in solutions if (number := Path(page).name[:2]) in CHAPTERS
    }
    parts["Beside the chapters"] = [page for page in documents if page not in listed and page not in solutions] + [
        "glossary",
        "widgets",
    ]
    parts["Solutions"] = solutions
    parts["The module"] = [f"reference/{room}" for room in reference.rooms()]
    parts["About"] = texts
    made = {*documents, *texts, "glossary", "widgets", *parts["The module"]}
    trees = [
        _tree(caption, [f"{titles[page]} <{page}>" if page in titles else page for page in pages if page in made])
        for caption, pages in parts.items()
    ]
    return "\n\n".join([readme.rstrip(), *filter(None, trees)]) + "\n"


def _tree(caption: str, pages: list[str]) -> str:
    if not pages:
        return ""
    return "\n".join(["```{toctree}", ":hidden:", ":maxdepth: 1", f":caption: {caption}", "", *pages, "```"])


def glossary() -> str:
    """The card's glossary, each term with an address of its own, so that the search finds it."""
    cells = json.loads((ROOT / "notebooks" / "card.ipynb").read_text("utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown").partition(
        "## Glossary"
    )[2]
    lines = []
    for row in TERM.finditer(text.partition("\n## ")[0]):
        if row["term"] == "Term" or set(row["term"]) <= {"-", ":", " "}:
            continue
        homes = sorted((ROOT / "notebooks").glob(f"{row['chapter']}_*.ipynb")) if row["chapter"] else []
        where = f" ([chapter {row['chapter']}](notebooks/{homes[0].name}))" if homes else ""
        lines += [row["term"], f"  {row['line']}{where}", ""]
    return "\n".join(["# Glossary", "", "The terms of the course in the order in which it meets them, as on [the card](notebooks/card.ipynb).", "",
                      "````{glossary}", *lines, "````", ""])  # fmt: skip


def gallery(pictures: Path, pages: list[Path]) -> str:
    """Every widget with the picture that it left in its chapter, its question, and where it stands."""
    import base64

    from lora_edu import widgets

    pictures.mkdir(parents=True, exist_ok=True)
    lines = ["# The widgets", "", "In JupyterLab they move; here is the picture that each left in its chapter."]
    for name in widgets.__all__:
        kind = getattr(widgets, name)
        if not (isinstance(kind, type) and issubclass(kind, widgets.Widget) and kind is not widgets.Widget):
            continue
        page, alt, data = _picture_of(name, kind.title, pages)
        if page is None:
            continue
        (pictures / f"{name}.png").write_bytes(base64.b64decode(data))
        link = page.relative_to(ROOT).as_posix()
        lines += ["", f"## {kind.title}", "", f"*{kind.question}*", "", f"[{page.stem}]({link}), `lora_edu.widgets.{name}`", "",
                  f"```{{image}} pictures/{name}.png", f":alt: {' '.join(alt.split())}", "```"]  # fmt: skip
    return "\n".join(lines) + "\n"


def _picture_of(name: str, title: str, pages: list[Path]) -> tuple[Path | None, str, str]:
    """The page where the widget's picture is stored, its alt text and its PNG in base64."""
    for page in pages:
        for cell in json.loads(page.read_text("utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                html = "".join(output.get("data", {}).get("text/html", ""))
                picture = re.search(r'<img alt="([^"]*)"[^>]*?src="data:image/png;base64,([^"]+)"', html)
                if picture and unescape(picture[1]).startswith(title):
                    return page, unescape(picture[1]), picture[2]
    return None, "", ""


def _folded(notebook: dict[str, Any]) -> dict[str, Any]:
    """What JupyterLab folds is folded here too."""
    for cell in notebook["cells"]:
        if cell["metadata"].get("jupyter", {}).get("source_hidden"):
            cell["metadata"]["tags"] = [*cell["metadata"].get("tags", []), "hide-input"]
    return notebook


def _copy(file: Path, target: Path) -> None:
    place = target / file.relative_to(ROOT)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, place)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
