"""What a GPU measured, as a page shows it: the results of `benchmarks/gpu.py`, or that there are none yet. Chapter 14."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from lora_edu.course.card import Card
from lora_edu.errors import DataError
from lora_edu.home import course_root
from lora_edu.plots.palette import BLUE, GREEN, ORANGE
from lora_edu.plots.picture import Picture
from lora_edu.tables import html_table, text_table

COMMAND = "python benchmarks/gpu.py"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A table with its title, as text and as HTML."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def __str__(self) -> str:
        return f"{self.title}\n{text_table([self.head, *self.rows], 'lr')}"

    def html(self) -> str:
        return html_table(self.head, self.rows, self.title, "lr")


@dataclass(frozen=True)
class DeviceResult:
    """One stored file of `benchmarks/gpu.py`. Prints as tables under a label: device, versions, date and command."""

    content: dict[str, Any]

    @property
    def label(self) -> str:
        """Where and when this was measured, and what measures it again."""
        versions = ", ".join(f"{name} {number}" for name, number in self.content["versions"].items())
        cuda = f", CUDA {self.content['cuda']}" if self.content.get("cuda") else ""
        return (
            f"{self.content['device']}{cuda}; {versions}; {self.content['date']}; made by `{self.content['command']}`"
        )

    def tables(self) -> list[Table]:
        """Checks, speed, quality, and speed at the width of larger models."""
        content = self.content
        checks = [
            (row["check"], f"{row['error']:.1e}", f"{row['bound']:.0e}", "yes" if row["passed"] else "NO")
            for row in content["checks"]
        ]
        return [
            Table("Right? Errors against the CPU", ("check", "error", "bound", "below it"), checks),
            Table("A step on the default model", *_speed(content["speed"])),
            Table(
                "After the same number of steps, each at the rate that validation rows chose; test rows",
                *_quality(content["quality"]),
            ),
            *(
                Table(f"Layers of {name} width, random weights", *_speed(rows))
                for name, rows in content["widths"].items()
            ),
        ]

    def __str__(self) -> str:
        return "\n\n".join([self.label, *map(str, self.tables())])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return "".join([f"<p>{escape(self.label)}</p>", *(table.html() for table in self.tables())])

    def picture(self) -> Picture:
        """Tokens a second, and the peak measured beside the ledger's sum, for every method without options."""
        import matplotlib.pyplot as plt

        rows = [row for row in self.content["speed"] if row["option"] == "plain" and "seconds" in row]
        names, places = [row["method"] for row in rows], range(len(rows))
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 2.9), sharey=True)
        left.barh(places, [row["tokens_per_s"] for row in rows], color=BLUE)
        left.set(yticks=places, yticklabels=names, xlabel="tokens a second")
        left.invert_yaxis()
        right.barh(places, [row.get("peak_bytes", 0) / 1e9 for row in rows], color=ORANGE, label="largest allocation")
        predicted = [(place, row["ledger_bytes"] / 1e9) for place, row in zip(places, rows) if "ledger_bytes" in row]
        right.plot(
            [size for _, size in predicted], [place for place, _ in predicted], "D", color=GREEN, label="the ledger"
        )
        right.set(xlabel="GB")
        right.legend(frameon=False, fontsize=8)
        figure.suptitle(self.content["device"], fontsize=9, color="0.35")
        said = "; ".join(f"{row['method']} {row['tokens_per_s']:,.0f} tokens a second" for row in rows)
        return Picture.of(figure, alt=f"Bars of speed and of memory on {self.content['device']}. {said}.")


def _speed(rows: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    head = ("method", "option", "ms a step", "tokens/s", "of the matrix rate", "peak GB", "ledger GB", "ledger / peak")
    lines = []
    for row in rows:
        if "failed" in row:
            lines.append((row["method"], row["option"], "out of memory", *["–"] * 5))
            continue
        peak, ledger = row.get("peak_bytes"), row.get("ledger_bytes")
        lines.append((
            row["method"], row["option"], f"{1e3 * row['seconds']:.1f}", f"{row['tokens_per_s']:,.0f}",
            f"{row['share_of_matrix_rate']:.0%}" if "share_of_matrix_rate" in row else "–",
            f"{peak / 1e9:.2f}" if peak else "–", f"{ledger / 1e9:.2f}" if ledger else "–",
            f"{ledger / peak:.2f}" if peak and ledger else "–",
        ))  # fmt: skip
    return head, lines


def _quality(rows: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    def interval(figure: Row) -> str:
        return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"

    head = ("method", "rate", "seed", "exact match", "loss on general text", "training seconds")
    return head, [
        (row["method"], f"{row['learning_rate']:g}{' (edge)' if row['at_edge'] else ''}", str(row["seed"]), interval(row["exact_match"]), interval(row["general_nll"]), f"{row['training_seconds']:.0f}")
        for row in rows
    ]  # fmt: skip


def results_folder() -> Path | None:
    """`benchmarks/results` of the copy of the course that this notebook belongs to, else of the module's own; None if there is none."""
    here = Path.cwd()
    own = course_root()
    for root in (here, *here.parents, *([own] if own else [])):
        if (root / "benchmarks" / "results").is_dir():
            return root / "benchmarks" / "results"
    return None


def result(name: str, folder: Path | None = None) -> dict[str, Any] | None:
    """The stored result of a benchmark (`step`, say), or None if it was not measured. Raises DataError if the file is damaged."""
    folder = folder or results_folder()
    path = folder / f"{name}.json" if folder else None
    if path is None or not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path.name} is damaged ({error}): make it again") from error


def gpu_results(folder: Path | None = None) -> list[DeviceResult]:
    """What GPUs measured, one result a device; quick runs and those of a CPU do not count."""
    folder = folder or results_folder()
    contents = [result(path.stem, folder) or {} for path in sorted(folder.glob("*.json"))] if folder else []
    parts = {"device", "checks", "speed", "quality", "widths"}
    return [
        DeviceResult(content)
        for content in contents
        if parts <= set(content) and content["device"] != "cpu" and not content.get("quick")
    ]


def gpu_report(folder: Path | None = None) -> Card:
    """The tables of every GPU that was measured, or the words *not measured yet* and the command."""
    found = gpu_results(folder)
    if not found:
        return Card(
            f"Not measured yet: no result of a GPU is stored here. On a machine with one, `{COMMAND}` makes it.",
            kind="open",
        )
    card = Card("\n\n\n".join(map(str, found)))
    card.html = "".join(each._repr_html_() for each in found)
    return card
