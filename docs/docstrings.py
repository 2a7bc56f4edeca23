"""Our docstrings are plain text: paragraphs, `code`, `Args:` and its like, and lines set out by indentation. This makes
reStructuredText of them. A Sphinx extension."""

import re
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_SECTION = re.compile(r"^(Args|Arguments|Returns|Raises|Yields|Attributes):\s*$")
_ENTRY = re.compile(r"^([\w*.]+(?:, [\w*.]+)*)(?: \([^)]*\))?: (.*)$")
_COLUMNS = re.compile(r"^\s|\S {2,}\S")  # set out by hand: a list of options with their meanings, an example
_BULLET = re.compile(r"^(?:[-*]|\d+\.) ")


def translate(lines: list[str]) -> list[str]:
    """Paragraphs and bullets stay; what else is indented is shown as it stands; the entries of Args and its like become a list."""
    out: list[str] = []
    index = 0
    while index < len(lines):
        section = _SECTION.match(lines[index])
        if section:
            end = next(
                (n for n in range(index + 1, len(lines)) if lines[n].strip() and not lines[n].startswith(" ")),
                len(lines),
            )
            out += [f"**{section[1]}**", "", *_entries(lines[index + 1 : end]), ""]
        else:
            end = next((n for n in range(index + 1, len(lines)) if _SECTION.match(lines[n])), len(lines))
            out += _prose(lines[index:end])
        index = end
    return out


def _prose(lines: list[str]) -> list[str]:
    out: list[str] = []
    in_list = False
    for indented, group in groupby(lines, key=lambda line: bool(_COLUMNS.search(line)) if line.strip() else None):
        block = list(group)
        if indented is None:
            out.append("")
            in_list = False
        elif indented and not in_list:
            out += ["", "::", "", *(f"    {line}" for line in block), ""]
        else:
            for line in block:
                if _BULLET.match(line) and not in_list:
                    out.append("")
                in_list = in_list or bool(_BULLET.match(line))
                bullet = _BULLET.match(line)
                out.append(line[: bullet.end()] + _text(line[bullet.end() :]) if bullet else _text(line))
    return out


def _entries(lines: list[str]) -> list[str]:
    lines = [line for line in lines if line.strip()]
    first = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    out: list[str] = []
    for line in lines:
        begins = len(line) - len(line.lstrip()) == first
        entry = _ENTRY.match(line.strip()) if begins else None
        if entry:
            out.append(f"- ``{entry[1]}``: {_text(entry[2])}")
        elif begins and not out:
            out.append(f"- {_text(line.strip())}")
        else:
            out.append(f"  {_text(line.strip())}")
    return out


def _text(line: str) -> str:
    """`line` with `code` as code, and every other character that would be markup escaped."""
    parts = re.split(r"(``.+?``|`[^`]+`)", line)
    for index, part in enumerate(parts):
        if index % 2:
            before, after = parts[index - 1][-1:], parts[index + 1][:1]
            code = f"``{part.strip('`')}``"
            parts[index] = (
                ("\\ " if before and not before.isspace() else "") + code + ("\\ " if after.isalnum() else "")
            )
        else:
            parts[index] = re.sub(r"([*|_\\`])", r"\\\1", part)
    return "".join(parts)


def _process(app: "Sphinx", what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = translate(lines)


def setup(app: "Sphinx") -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True}
