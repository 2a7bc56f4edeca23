"""A report as one HTML file: opened anywhere, without a network, without a script, in light and dark. Chapter 13.

Everything that a model, a row or a folder brings is escaped: an answer may be HTML.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lora_edu.errors import DataError, DiskError
from lora_edu.evaluation.comparing import Comparison, named
from lora_edu.evaluation.forgetting import Forgotten
from lora_edu.evaluation.metrics import Interval
from lora_edu.evaluation.report import Report
from lora_edu.evaluation.wrong import Wrong, extremes, short, wrong_answers
from lora_edu.files import write_whole
from lora_edu.plots.axes import Axes, ticks
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import BLUE, INK, MUTED, RULE
from lora_edu.plots.raster import font
from lora_edu.tables import html_table

WIDTH = 720
# Allows what the file itself holds and nothing else: an answer that escaped the escaping could still load nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """
:root { color-scheme: light dark; --jp-content-font-color1: #1a1a1a; --jp-content-font-color2: #595959; --jp-border-color1: #b5b5b5;
  --jp-layout-color0: #fff; --jp-layout-color2: #eee; }
@media (prefers-color-scheme: dark) { :root { --jp-content-font-color1: #e8e8e8; --jp-content-font-color2: #ababab;
  --jp-border-color1: #666; --jp-layout-color0: #161616; --jp-layout-color2: #2c2c2c; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: var(--jp-content-font-color1);
  background: var(--jp-layout-color0); }
table { border-collapse: collapse; margin: .6rem 0 1.2rem; } caption { font-weight: 600; padding-bottom: .2rem; }
.scroll { overflow-x: auto; } td, th { overflow-wrap: anywhere; min-width: 4rem; border-bottom: 1px solid var(--jp-border-color1); font-weight: normal; }
thead th { font-weight: 600; } summary { cursor: pointer; } .note { color: var(--jp-content-font-color2); }
"""


def report_html(
    reports: Mapping[str, Report],
    comparison: Comparison | None = None,
    forgetting: Mapping[str, Forgotten] | None = None,
    trained: Mapping[str, Mapping[str, Any]] | None = None,
    title: str = "",
    made_by: str = "",
) -> str:
    """The page. Chapter 13.

    reports: by the model's name, all on the same rows. comparison: `compare(reports)`. forgetting: by name, `forgotten(base, model)`.
    trained: by name, what was trained, on what base, with which settings (any words). made_by: the command that makes the page again.
    Raises DataError for no report.
    """
    if not reports:
        raise DataError("a report page needs one report or more")
    first = next(iter(reports.values()))
    title = title or f"{', '.join(reports)} on {first.task}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="note">{len(first.rows)} {escape(first.split)} rows of {escape(first.task)}. Brackets hold 95 % intervals.</p>',
    ]
    if trained:
        parts += ["<h2>What was measured</h2>", *(_settings(name, each) for name, each in trained.items())]
    parts += ["<h2>Scores</h2>", *_scores(reports)]
    if comparison is not None and comparison.lines:
        parts += ["<h2>Differences</h2>", *_differences(comparison)]
    for name, each in (forgetting or {}).items():
        parts += [f"<h2>What {escape(name)} forgot</h2>", _scroll(each._repr_html_())]
    for name, report in reports.items():
        if report.outputs:
            parts += [f"<h2>Answers of {escape(name)}</h2>", *_answers(report)]
    if made_by:
        parts.append(f'<p class="note">Made by <code>{escape(made_by)}</code>.</p>')
    return whole_page(title, parts)


def whole_page(title: str, parts: Sequence[str]) -> str:
    """A page of its own around parts of HTML: no script, nothing from elsewhere, light and dark. What the parts hold is escaped by now."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body><main>\n" + "\n".join(parts) + "\n</main></body></html>\n"
    )


def write_report(path: Path | str, reports: Mapping[str, Report], **more: Any) -> Path:
    """Write `report_html(reports, …)` to `path`, whole or not at all, and return the path.

    Raises DiskError where that folder cannot be written into, or where the path is a folder.
    """
    path, page = Path(path), report_html(reports, **more)
    if path.is_dir():
        raise DiskError(f"{path} is a folder: name a file in it, such as {path / 'report.html'}")
    try:
        write_whole(path, page)
    except OSError as error:
        raise DiskError(f"{path} cannot be written: {error.strerror or error}; choose another place") from error
    return path


# --- parts -----------------------------------------------------------------------------------------------------------


def _scroll(table: str) -> str:
    return f'<div class="scroll">{table}</div>'


def _settings(name: str, settings: Mapping[str, Any]) -> str:
    rows = [[str(key), short(str(value), 300)] for key, value in settings.items()]
    return _scroll(html_table((), rows, name))


def _scores(reports: Mapping[str, Report]) -> list[str]:
    metrics = list(dict.fromkeys(metric for report in reports.values() for metric in report.scores))
    head, body = ["", *map(named, metrics)], []
    for name, report in reports.items():
        body.append([name, *(str(report.scores[m].interval()) if m in report.scores else "–" for m in metrics)])
    plain = next(iter(reports.values())).baselines  # the same rows: the same baselines
    for name, scores in plain.items():
        body.append([f"no model: {name}", *(str(scores[m].interval()) if m in scores else "–" for m in metrics)])
    parts = [_scroll(html_table(head, body))]
    for metric in metrics:
        drawn = {name: report.scores[metric].interval() for name, report in reports.items() if metric in report.scores}
        drawn |= {f"no model: {name}": scores[metric].interval() for name, scores in plain.items() if metric in scores}
        parts.append(f"<figure>{intervals(drawn, named(metric)).svg()}</figure>")
    return parts


def _differences(comparison: Comparison) -> list[str]:
    parts = [_scroll(comparison._repr_html_())]
    asked = len(comparison.lines)
    told = "p: how often chance alone would make a difference so large, if there were none."
    if asked > 1:
        told += f" The last column allows for {asked} questions having been asked (Holm): go by that one."
    parts.append(f'<p class="note">{told}</p>')
    for metric in dict.fromkeys(line.metric for line in comparison.lines):
        drawn = {line.model: line.gain.interval for line in comparison.lines if line.metric == metric}
        parts.append(
            f"<figure>{intervals(drawn, f'{named(metric)}: gain over {comparison.against}', zero=True).svg()}</figure>"
        )
    return parts


def _answers(report: Report) -> list[str]:
    best, worst = extremes(report)
    parts = [_rows("Best", best), _rows("Worst", worst)] if worst else [_rows("All", best)]
    main = report.scores.get(report.metric)
    if main is not None and main.is_share and len(main.values) == len(report.outputs):
        parts += ["<h3>Wrong answers</h3>", wrong_answers(report).html()]
    return parts


def _rows(caption: str, rows: Sequence[Wrong]) -> str:
    cells = [[str(x.row), short(x.asked, 400), short(x.said, 400) or "(nothing)", short(x.wanted, 400)] for x in rows]
    return _scroll(html_table(("row", "asked", "said", "wanted"), cells, caption))


def intervals(figures: Mapping[str, Interval], title: str, zero: bool = False) -> Canvas:
    """A line a figure: a dot where it was measured, a bar over its interval; with `zero` a rule at 0, "no difference"."""
    names = {name: short(name, 28) for name in figures}
    left = 24 + max(font(13).getlength(name) for name in names.values())
    low, high = min(f.low for f in figures.values()), max(f.high for f in figures.values())
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = 0.06 * (high - low or max(abs(high), 1.0))
    canvas = Canvas(WIDTH, 74 + 28 * len(figures))
    axes = Axes(canvas, (left, 34, WIDTH - left - 110, 28 * len(figures)), (low - room, high + room), (0, 1))
    canvas.text(8, 18, title, 14, INK, bold=True)
    axes.frame(ticks(*axes.xlim, 5))
    if zero:
        axes.rule_at(0.0)
    for row, (name, figure) in enumerate(figures.items()):
        y = 50 + 28 * row
        canvas.text(left - 10, y + 4, names[name], 13, INK, "end")
        canvas.path([(axes.x(figure.low), y), (axes.x(figure.high), y)], stroke=BLUE, width=4, opacity=0.55)
        for end in (figure.low, figure.high):
            canvas.path([(axes.x(end), y - 5), (axes.x(end), y + 5)], stroke=RULE if zero else BLUE, width=1.5)
        canvas.dot(axes.x(figure.value), y, 5, BLUE, INK)
        canvas.text(WIDTH - 100, y + 4, f"{figure.value:.3g}", 12, MUTED)
    canvas.alt = f"{title}: " + "; ".join(f"{name} {figure}" for name, figure in figures.items()) + "."
    return canvas
