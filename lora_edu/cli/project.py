"""What can be graded of a project without a reader: its data and leaks, baselines, figures, size, and whether another can repeat it. Chapter 17."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from lora_edu.cli.measuring import BASE
from lora_edu.cli.run_folder import RUN_FILE, run_of, trained_on
from lora_edu.data.personal import find_personal
from lora_edu.data.reading import read_rows
from lora_edu.data.splits import Splits, input_key
from lora_edu.errors import LoRAEduError
from lora_edu.evaluation.baselines import copied, majority, nearest_answers
from lora_edu.evaluation.leakage import split_leaks
from lora_edu.evaluation.metrics import Interval, exact_match

SIGNS = {"passed": "✓", "failed": "✗", "look": "○", "not needed": "–"}
ADAPTER, EVAL, DECISION, CONFIG = "adapter", "eval.json", "decision.md", "config.yaml"
SHEETS = ("data_sheet.md", "model_card.md")
REASON = 300  # characters of a decision not to fine-tune, at least
HASHED = (*(f"{part}.jsonl" for part in Splits._fields), CONFIG, EVAL, f"{ADAPTER}/adapter_model.safetensors")


@dataclass(frozen=True)
class Item:
    """One thing that was looked at: "passed", "failed", "look" (a reader has to) or "not needed"."""

    name: str
    status: str
    said: str


@dataclass
class Graded:
    """What was found in the folder of a project. `passed`: nothing failed."""

    folder: Path
    items: list[Item] = field(default_factory=list)
    intervals: dict[str, dict[str, Interval]] = field(default_factory=dict)  # title: name: figure
    hashes: dict[str, str] = field(default_factory=dict)  # file: the first 16 figures of its SHA-256
    texts: dict[str, str] = field(default_factory=dict)  # the sheets, and the decision

    @property
    def passed(self) -> bool:
        return all(item.status != "failed" for item in self.items)

    def __str__(self) -> str:
        lines = [f"{SIGNS[item.status]} {item.name}: {item.said}" for item in self.items]
        failed = sum(item.status == "failed" for item in self.items)
        last = (
            "Nothing is missing of what can be graded; a reader has to judge the rest."
            if self.passed
            else f"{failed} of {len(self.items)} are open."
        )
        return "\n".join([*lines, last])


def graded(folder: Path) -> Graded:
    """Look at everything in a project's folder. Trains and generates nothing. Never raises for a fault of the project itself."""
    found = Graded(folder)
    found.texts = {
        name: (folder / name).read_text("utf-8", "replace") for name in (*SHEETS, DECISION) if (folder / name).is_file()
    }
    found.hashes = {name: _hash(folder / name) for name in HASHED if (folder / name).is_file()}
    trained = _decision(found)
    splits = _data(found)
    if splits is not None:
        for look in (_doubles, _personal, _leaks, _baselines):
            found.items += look(found, splits)
    for step in (_figures, _forgetting, _adapter, _repeatable):
        found.items += (
            step(found, splits) if trained else [Item(step.__doc__ or "", "not needed", "nothing was trained")]
        )
    found.items += _sheets(found, SHEETS if trained else SHEETS[:1])
    return found


def _hash(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()[:16]


def _decision(found: Graded) -> bool:
    """Whether there is an adapter to be judged: a reasoned "do not fine-tune" stands in its place."""
    text = found.texts.get(DECISION)
    if text is None:
        return True
    reasoned = len(text) >= REASON and re.search(r"\d", text) and "…" not in text
    said = f"{len(text)} characters in {DECISION}"
    found.items.append(
        Item("Decision: do not fine-tune", "look", f"{said}: is the reason carried by the figures below?")
        if reasoned
        else Item(
            "Decision: do not fine-tune",
            "failed",
            f"{said}: a reason has {REASON} or more, gives figures, and leaves no … open",
        )
    )
    return False


def _data(found: Graded) -> Splits | None:
    try:
        splits = Splits(*(read_rows(found.folder / f"{part}.jsonl") for part in Splits._fields))
    except LoRAEduError as error:
        found.items.append(Item("Data", "failed", str(error).replace(f"{found.folder}/", "")))
        return None
    found.items.append(
        Item("Data", "passed", ", ".join(f"{len(rows)} {part}" for part, rows in splits._asdict().items()) + " rows")
    )
    return splits


def _doubles(found: Graded, splits: Splits) -> Iterator[Item]:
    counts = Counter(input_key(row) for rows in splits for row in rows)
    double = sum(count - 1 for count in counts.values())
    yield Item(
        "Doubles",
        "failed" if double else "passed",
        f"{double} rows have the input of another, but for case, spaces and punctuation",
    )


def _personal(found: Graded, splits: Splits) -> Iterator[Item]:
    kinds = Counter(
        each.kind
        for rows in splits
        for row in rows
        for message in row.messages
        for each in find_personal(message["content"])
    )
    if kinds:
        yield Item(
            "Personal data",
            "failed",
            ", ".join(f"{count} × {kind}" for kind, count in kinds.items()) + " (`lora_edu.data.mask_personal`)",
        )
    else:
        yield Item(
            "Personal data",
            "look",
            "nothing in the form of an e-mail address, telephone number, IBAN or card number; names and what sentences say are not looked for",
        )


def _leaks(found: Graded, splits: Splits) -> Iterator[Item]:
    sourced = all("source" in row.meta for rows in splits for row in rows)
    kinds: Counter[str] = Counter()
    for leaks in split_leaks(splits, source="source" if sourced else None).values():
        kinds.update({kind: count for kind, count in leaks.counts().items() if count})
    if not sourced:
        yield Item("Leaks", "failed", "rows have no `source`, so nobody can see whether a source stands on two sides")
    elif hard := {kind: count for kind, count in kinds.items() if kind != "near"}:
        yield Item(
            "Leaks", "failed", ", ".join(f"{count} × {kind}" for kind, count in hard.items()) + ": split by source"
        )
    else:
        near = kinds["near"]
        yield Item(
            "Leaks",
            "look" if near else "passed",
            f"no source on two sides; {near} rows are nearly the same as one of another part"
            + (": look at them" if near else ""),
        )


def _baselines(found: Graded, splits: Splits) -> Iterator[Item]:
    wanted = [row.answer for row in splits.test]
    said = {
        "the commonest answer": majority(splits.train, splits.test),
        "the most alike row's answer": nearest_answers(splits.train, splits.test),
        "copying": copied(splits.test),
    }
    figures = {name: exact_match(answers, wanted).interval() for name, answers in said.items()}
    found.intervals["Without a model: share of test answers that are exactly right"] = figures
    best = max(figures, key=lambda name: figures[name].value)
    yield Item("Baselines", "passed", f"without a model {best} is exactly right in {figures[best]}")


def _measured(found: Graded) -> dict[str, Any]:
    try:
        content = json.loads((found.folder / EVAL).read_text("utf-8"))
        models = content["models"]
        return content if isinstance(models, dict) and models else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _of_the_adapter(measured: dict[str, Any]) -> dict[str, Any]:
    return next((each for name, each in measured["models"].items() if name != BASE), {})


def _held(found: Graded, name: str, look: Callable[[dict[str, Any]], Item]) -> Item:
    """What `look` says of eval.json; a failure where it is not there, or holds something else."""
    how = f"`lora-edu eval {ADAPTER} --data test.jsonl --against-base --general --out {EVAL}`"
    measured = _measured(found)
    if not measured:
        return Item(name, "failed", f"there is no {EVAL} that can be read: {how}")
    try:
        return look(measured)
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration):
        return Item(name, "failed", f"{EVAL} does not hold it: {how}")


def _figures(found: Graded, splits: Splits | None) -> Iterator[Item]:
    """Held-out figure"""

    def look(measured: dict[str, Any]) -> Item:
        mine = _of_the_adapter(measured)
        for metric in mine["scores"]:
            found.intervals[f"Test rows: {metric}"] = {
                name: Interval(*(float(each["scores"][metric][key]) for key in ("value", "low", "high")))
                for name, each in measured["models"].items()
            }
        if splits is not None and mine["rows"] != len(splits.test):
            return Item(
                "Held-out figure",
                "failed",
                f"{EVAL} is about {mine['rows']} rows, and test.jsonl has {len(splits.test)}",
            )
        gain = next(each for each in measured["gains"] if measured["against"] == BASE)
        known = Interval(*(float(gain[key]) for key in ("value", "low", "high")))
        found.intervals[f"Gain over the base: {gain['metric']}"] = {"adapter": known}
        sure = known.low > 0 or known.high < 0
        return Item(
            "Held-out figure",
            "passed" if sure else "look",
            f"{gain['metric']}, gain over the base {known}"
            + ("" if sure else ": the interval holds 0, so nothing is shown"),
        )

    yield _held(found, "Held-out figure", look)


def _forgetting(found: Graded, splits: Splits | None) -> Iterator[Item]:
    """Forgetting"""

    def look(measured: dict[str, Any]) -> Item:
        lost = next(iter(measured["forgetting"].values()))
        said = [
            f"{what} {Interval(*(float(lost[name][key]) for key in ('value', 'low', 'high')))}"
            for name, what in (("nats", "nats a token on general passages"), ("trivia", "share of trivia answered"))
        ]
        return Item("Forgetting", "passed", f"change in {'; '.join(said)}")

    yield _held(found, "Forgetting", look)


def _adapter(found: Graded, splits: Splits | None) -> Iterator[Item]:
    """Adapter"""
    path = found.folder / ADAPTER / "adapter_model.safetensors"
    if not path.is_file():
        yield Item("Adapter", "failed", f"there is no {ADAPTER}/{path.name}: `lora-edu train --config {CONFIG}`")
        return
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            sizes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        yield Item("Adapter", "failed", f"it cannot be read: {error}")
        return
    numbers = sum(math.prod(size) for size in sizes)
    yield Item("Adapter", "passed", f"{numbers:,} numbers, {path.stat().st_size / 1e6:.1f} MB")
    if splits is not None and (count := trained_on(found.folder / ADAPTER, splits.test)):
        yield Item("Test rows unseen", "failed", f"{count} test rows were trained on")


def _repeatable(found: Graded, splits: Splits | None) -> Iterator[Item]:
    """Another can repeat it"""
    name = "Another can repeat it"
    run = run_of(found.folder / ADAPTER)
    if not run:
        yield Item(name, "failed", f"{ADAPTER} has no {RUN_FILE}: train with `lora-edu train --config {CONFIG}`")
        return
    if not (found.folder / CONFIG).is_file():
        yield Item(name, "failed", f"there is no {CONFIG}")
        return
    try:
        said = yaml.safe_load((found.folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        said = error
    if not isinstance(said, dict):
        yield Item(name, "failed", f"{CONFIG} holds no settings: {' '.join(str(said).split())}")
        return
    other = [key for key, value in said.items() if key not in ("out", "data") and key in run and run[key] != value]
    if other:
        yield Item(name, "failed", f"{CONFIG} and the run differ in {', '.join(other)}")
    elif "seed" not in said:
        yield Item(name, "failed", f"{CONFIG} gives no seed")
    else:
        yield Item(
            name,
            "look",
            f"config, seed {said['seed']} and hashes are there: clone the folder elsewhere, train, and compare",
        )


def _sheets(found: Graded, names: tuple[str, ...]) -> Iterator[Item]:
    for name in names:
        left = found.texts.get(name, "").count("…")
        if name not in found.texts:
            yield Item(name, "failed", "it is not there")
        else:
            yield Item(
                name,
                "failed" if left else "look",
                f"{left} places are open (…)" if left else "filled in; a reader has to judge it",
            )
