"""Starting kits of chapter 17: a folder with raw text, a protocol, a rubric, a config, and the sheets that are to be filled in.

Raw means raw: some rows are there twice but for case and spaces, some bear an e-mail address or a telephone number (made up), and the
answers of the last third are missing, but for `style`. What is done about it is the project's first half.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_edu.course.kit_phrases import FORMS, THINGS, TIMES
from lora_edu.course.kit_texts import CONFIG, DATA_SHEET, MODEL_CARD, PROTOCOL, RUBRIC
from lora_edu.errors import DataError, DiskError
from lora_edu.files import write_whole

Raw = dict[str, str]  # text, answer ("" where it is missing), source


def _style(draw: random.Random) -> list[Raw]:
    from lora_edu.tasks.base import stored

    rows = [
        {"text": row["modern"], "answer": row["kjv"], "source": row["reference"].rpartition(" ")[0]}
        for row in stored("kjv.jsonl")
    ]
    return draw.sample(rows, 400)


def _extractor(draw: random.Random) -> list[Raw]:
    from lora_edu.tasks.reminders import CHORES, DAYS, NAMES, SLOTS, WEEKDAYS
    from lora_edu.tasks.reminders import FORMS as SENTENCES

    names, chores = (sorted({word for part in pool.values() for word in part.split(", ")}) for pool in (NAMES, CHORES))
    rows: dict[str, Raw] = {}
    while len(rows) < 400:
        book = draw.randrange(8)  # eight notebooks; each has people and chores of its own
        who, what, when = draw.choice(names[book::8]), draw.choice(chores[book::8]), draw.choice(DAYS.split(", "))
        text = draw.choice(SENTENCES).format(who=who, what=what, when=f"on {when}" if when in WEEKDAYS else when)
        answer = json.dumps(dict(zip(SLOTS, (who, what, when))))
        rows[text] = {"text": text[0].upper() + text[1:], "answer": answer, "source": f"notebook {book + 1}"}
    return list(rows.values())


def _languages(draw: random.Random) -> list[Raw]:
    rows = [
        {"text": form.format(thing=word, time=word), "answer": intent, "source": f"{language}/{intent}/{number}"}
        for intent, languages in FORMS.items()
        for language, forms in languages.items()
        for number, form in enumerate(forms, 1)
        for word in (THINGS if "{thing}" in form else TIMES)[language]
    ]
    draw.shuffle(rows)
    return rows


KITS: dict[str, tuple[str, Callable[[random.Random], list[Raw]], str]] = {
    "style": ("your own style", _style, "400 verse pairs, World English Bible and King James Version, both in the public domain: an example of a style. Put pairs of your own in their place: what anybody would write, and how you write it. The source is the letter, the post, the day"),
    "extractor": ("a structured extractor", _extractor, "400 sentences that ask for a reminder, from a generator (Apache-2.0), out of eight notebooks; the answer is JSON with who, what and when. The source is the notebook"),
    "languages": ("a classifier for users of three languages", _languages, "270 sentences that guests of a hotel say in English, German and French (our own, CC BY 4.0); the answer is one of bring, repair, wake, leave. The source is the form of the sentence"),
}  # fmt: skip


def raw_rows(kit: str, seed: int = 0) -> list[Raw]:
    """The raw rows of a kit: with doubles, with (made-up) personal data, and with answers missing. The same for the same seed.

    Raises DataError for an unknown kit.
    """
    if kit not in KITS:
        raise DataError(f"there is no kit {kit!r}: there are {', '.join(KITS)}")
    draw = random.Random(f"{seed} {kit}")
    rows = KITS[kit][1](draw)
    # Telephone numbers that Germany keeps for fiction (Bundesnetzagentur), and a domain that is nobody's (RFC 2606).
    for row in draw.sample(rows, len(rows) // 20):
        row["text"] += draw.choice(
            (" (call me: +49 30 23125042)", " Write to {}@example.org.", " My number is 0171 3920042.")
        ).format(draw.choice("abcdef"))
    doubles = [
        row | {"text": draw.choice((row["text"].upper(), f" {row['text']} ", row["text"].replace(".", "")))}
        for row in draw.sample(rows, len(rows) // 10)
    ]
    rows += doubles
    draw.shuffle(rows)
    if kit != "style":
        for row in rows[2 * len(rows) // 3 :]:
            row["answer"] = ""
    return rows


def start_kit(kit: str, folder: Path | str) -> list[str]:
    """Write the kit into a new (or empty) folder, and return the names of its files. Chapter 17.

    Raises DataError for an unknown kit, DiskError where the folder holds anything: nothing is written over.
    """
    folder, rows = Path(folder), raw_rows(kit)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DiskError(f"{folder} is there already, and not empty: name a new folder, so that no work is written over")
    title, _, source = KITS[kit]
    files: dict[str, Any] = {
        "README.md": PROTOCOL.format(
            title=title, source=source, rows=len(rows), missing=sum(not row["answer"] for row in rows)
        ),
        "RUBRIC.md": RUBRIC,
        "data_sheet.md": DATA_SHEET.format(title=title),
        "model_card.md": MODEL_CARD.format(title=title),
        "config.yaml": CONFIG,
        "raw.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_whole(folder / name, text)
    return list(files)
