"""The graph of prerequisites, drawn: what leans on what, so that a teacher sees what comes along with a chapter."""

import html
from collections.abc import Sequence

from lora_edu.course.chapters import CHAPTERS, NEEDS, before

_WIDE, _HIGH, _BOX, _TALL = 190, 64, 164, 40


def levels() -> dict[str, int]:
    """How far each chapter is from the beginning: one more than the furthest that it leans on."""
    found: dict[str, int] = {}
    for chapter, needs in NEEDS.items():  # a chapter stands after all that it leans on
        found[chapter] = 1 + max((found[need] for need in needs), default=-1)
    return found


def direct(chapter: str) -> list[str]:
    """Its needs without those that another of them brings along: the arrows that are drawn."""
    return [need for need in NEEDS[chapter] if not any(need in before(other) for other in NEEDS[chapter])]


def as_text(wanted: list[str]) -> str:
    """What the chapters lean on, a line each."""
    names = CHAPTERS | {"choosing": "Choosing (15 minutes)"}
    lines = [f"{chapter} {names[chapter]}: {', '.join(NEEDS[chapter]) or 'nothing'}" for chapter in wanted or NEEDS]
    if wanted:
        along = before(*wanted)
        lines.append(f"With all that these lean on in turn: {', '.join(along) or 'nothing more'}.")
    return "\n".join(lines)


def _way(start: tuple[int, int], end: tuple[int, int], boxes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """From the box at `start` down to the one at `end`: straight, or through the gap beside a column where a box stands in between."""
    (x0, y0), (x, y) = start, end
    out, into = (x0 + _BOX // 2, y0 + _TALL), (x + _BOX // 2, y)
    if not any(_crosses(out, into, box) for box in boxes):
        return [out, into]
    lane = x0 + _BOX + (_WIDE - _BOX) // 2
    return [out, (lane, y0 + _TALL + 10), (lane, y - 10), into]


def _crosses(a: tuple[int, int], b: tuple[int, int], box: tuple[int, int]) -> bool:
    """Whether the line from a down to b runs through a box that lies wholly between their heights."""
    left, top = box
    if not a[1] < top < top + _TALL < b[1]:
        return False
    at = [a[0] + (b[0] - a[0]) * (height - a[1]) / (b[1] - a[1]) for height in (top, top + _TALL)]
    return min(at) <= left + _BOX and max(at) >= left


def as_svg(wanted: Sequence[str] = ()) -> str:
    """The graph as a picture, with alt text that says every arrow. The chapters `wanted` are dark, those that they lean on tinted."""
    along = before(*wanted)
    depth, row, place = levels(), dict[int, int](), dict[str, tuple[int, int]]()
    for chapter, level in depth.items():
        row[level] = row.get(level, -1) + 1
        place[chapter] = (10 + row[level] * _WIDE, 10 + level * _HIGH)
    width = 20 + _WIDE * (1 + max(row.values()))
    height = 10 + _HIGH * (1 + max(depth.values()))
    said = "; ".join(f"{chapter} leans on {' and '.join(direct(chapter))}" for chapter in NEEDS if direct(chapter))
    marked = f" Marked: {', '.join(wanted)}, which lean on {', '.join(along) or 'nothing'}." if wanted else ""
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' role='img' font-family='sans-serif' font-size='12'>",
        f"<title>Which chapter leans on which</title><desc>{html.escape(said)}. Arrows that others bring along are left out.{marked}</desc>",
        "<defs><marker id='tip' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7' orient='auto'>"
        "<path d='M0 0L8 4L0 8z' fill='#777'/></marker></defs>",
    ]
    for chapter, (x, y) in place.items():
        for need in direct(chapter):
            points = " ".join(f"{a},{b}" for a, b in _way(place[need], (x, y), list(place.values())))
            parts.append(f"<polyline points='{points}' fill='none' stroke='#777' marker-end='url(#tip)'/>")
    for chapter, (x, y) in place.items():
        name = html.escape(f"{chapter} {CHAPTERS[chapter]}" if chapter in CHAPTERS else "Choosing")
        fill, ink = ("#0b4f8a", "#fff") if chapter in wanted else ("#cfe3f5" if chapter in along else "#f4f4f4", "#111")
        parts.append(f"<rect x='{x}' y='{y}' width='{_BOX}' height='{_TALL}' rx='6' fill='{fill}' stroke='#777'/>")
        parts.append(f"<text x='{x + 8}' y='{y + 25}' fill='{ink}'>{name}</text>")
    return "\n".join([*parts, "</svg>\n"])
