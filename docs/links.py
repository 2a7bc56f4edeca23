"""Does a built website stand by itself? Every link leads to a page and a place in it, every picture is there, nothing is fetched elsewhere.

`python docs/links.py site` names each fault; exit code 1 if there is one.
"""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {  # what a browser fetches by itself when it shows a page
    "script": ("src",), "img": ("src", "srcset"), "iframe": ("src",), "source": ("src", "srcset"), "video": ("src", "poster"),
    "audio": ("src",), "embed": ("src",), "object": ("data",), "input": ("src",), "track": ("src",), "image": ("href", "xlink:href"),
    "use": ("href", "xlink:href"),
}  # fmt: skip
PASSIVE_LINKS = {
    "canonical",
    "search",
    "author",
    "license",
    "copyright",
    "next",
    "prev",
    "help",
    "index",
    "top",
    "genindex",
}
_CSS = re.compile(r"""url\(\s*['"]?([^'")]+)|@import\s+['"]([^'"]+)""")


class Page(HTMLParser):
    """The anchors of one page, what it links to and what it loads."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors: set[str] = {"", "top"}
        self.links: list[str] = []
        self.loads: list[str] = []
        self._in_style = False
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.loads += [
            part.split()[0] for name in LOADED.get(tag, ()) for part in self._values(name, given) if part.strip()
        ]
        self.loads += _in_css(given.get("style", ""))
        if tag == "link":
            kinds = set(given.get("rel", "").lower().split())
            (self.links if kinds & PASSIVE_LINKS else self.loads).append(given.get("href", ""))
        elif tag in ("a", "area") and "href" in given:
            self.links.append(given["href"])
        self._in_style = tag == "style"

    @staticmethod
    def _values(name: str, given: dict[str, str]) -> list[str]:
        value = given.get(name, "")
        return value.split(",") if name == "srcset" else [value]

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.loads += _in_css(data)

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False


def _in_css(text: str) -> list[str]:
    return [first or second for first, second in _CSS.findall(text)]


def faults(site: Path) -> Iterator[str]:
    """Each fault of the website in the folder `site` in a sentence."""
    pages = {file: Page(file) for file in sorted(site.rglob("*.html"))}
    for file, page in pages.items():
        here = file.relative_to(site)
        for address in page.loads:
            yield from (f"{here} {fault}" for fault in _loaded(address, file))
        for address in page.links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file.resolve()
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                yield f"{here} links to {address}, which is not there"
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{here} links to {address}: the page has no such place"
    for sheet in sorted(site.rglob("*.css")):
        for address in _in_css(re.sub(r"/\*.*?\*/", "", sheet.read_text("utf-8", errors="replace"), flags=re.DOTALL)):
            yield from (f"{sheet.relative_to(site)} {fault}" for fault in _loaded(address, sheet))


def _loaded(address: str, file: Path) -> Iterator[str]:
    parts = urlsplit(address.strip())
    if parts.netloc or parts.scheme in ("http", "https"):
        yield f"loads {address} from another host"
    elif not parts.scheme and parts.path and not (file.parent / unquote(parts.path)).exists():
        yield f"loads {address}, which is not there"


if __name__ == "__main__":
    found = list(faults(Path(sys.argv[1])))
    print("\n".join(found) or "every link leads somewhere, every picture is there, nothing comes from another host")
    sys.exit(bool(found))
