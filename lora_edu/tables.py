"""A table of short texts: as text, and as HTML that a screen reader can follow. Every table of the course is made here."""

import re
from collections.abc import Collection, Sequence
from html import escape

Line = Sequence[str]


def text_table(lines: Sequence[Line], align: str = "l") -> str:
    """The lines, head first, in columns two spaces apart. `align`: "l" or "r" for each column; the last letter counts for the rest."""
    columns = max(map(len, lines))
    wide = [max(len(line[i]) for line in lines if i < len(line)) for i in range(columns)]
    sides = align.ljust(len(wide), align[-1])
    padded = [
        [cell.ljust(n) if side == "l" else cell.rjust(n) for cell, n, side in zip(line, wide, sides)] for line in lines
    ]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def html_table(
    head: Line, rows: Sequence[Line], caption: str = "", align: str = "l", faint: Collection[int] = ()
) -> str:
    """The same as HTML: a row's first cell is its heading, a column's is in `head` (none: empty). All texts are escaped.

    `align` as in `text_table`; two spaces before a text indent it; rows whose numbers are in `faint` step back.
    """
    columns = max(map(len, [head, *rows]), default=0)
    styles = [
        f'style="text-align:{"left" if side == "l" else "right"};padding:.1em .9em .1em 0;vertical-align:top"'
        for side in align.ljust(columns, align[-1])
    ]

    def line(cells: Line, first: str, others: str, number: int = -1) -> str:
        kinds = [first, *[others] * (len(cells) - 1)]
        made = "".join(
            f"<td {style}></td>" if scope and not cell else _cell(cell, scope, style)
            for cell, scope, style in zip(cells, kinds, styles)
        )
        return f'<tr style="opacity:.7">{made}</tr>' if number in faint else f"<tr>{made}</tr>"

    titled = f'<caption style="text-align:left">{escape(caption)}</caption>' if caption else ""
    top = f"<thead>{line(head, 'col', 'col')}</thead>" if head else ""
    body = "".join(line(row, "row", "", number) for number, row in enumerate(rows))
    return f"<table>{titled}{top}<tbody>{body}</tbody></table>"


def _cell(text: str, scope: str, style: str) -> str:
    indent = len(re.match(" *", text)[0]) // 2  # type: ignore[index]  # matches always
    content = "&emsp;" * indent + escape(text.strip() if indent else text)
    return f'<th scope="{scope}" {style}>{content}</th>' if scope else f"<td {style}>{content}</td>"
