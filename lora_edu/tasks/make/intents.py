"""Remake lora_edu/tasks/intents.jsonl: `python -m lora_edu.tasks.make.intents en.json`.

The input is `home_assistant_intents/data/en.json` of the package home-assistant-intents (Apache-2.0; README.md beside the data names the
version): sentence templates by intent. A template is written out here with things, rooms and names of our own in its slots.
"""

import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_edu.tasks.base import FOLDER
from lora_edu.tasks.intents import LABELS

VERSION = "2026.10.27"
ROWS_A_LABEL = 110
MOST_A_TEMPLATE = 6  # rows: no single template makes a label
LONGEST = 70  # characters

SLOTS = {  # what the package leaves open, or says as a range of numbers
    "name": "kettle|heater|coffee machine|bedside lamp|desk lamp|radio|speaker|air purifier|fountain|projector|humidifier|fairy lights",
    "area": "kitchen|bedroom|living room|bathroom|garage|hallway|office|garden|attic|nursery|dining room|cellar",
    "floor": "first floor|ground floor|upstairs|downstairs|second floor",
    "search_query": "some jazz|the news|rain sounds|Nina Simone|the new episode|an old waltz|lullabies|brass bands",
    "timer_name": "pasta|eggs|laundry|bread|tea|homework|nap|pizza",
    "timer_command": "open the garage door|turn off the kettle|close the blinds|turn on the radio",
}
RANGES = {"temperature": (15, 26), "color_temperature": (2000, 6500), "timer_hours": (2, 9)}  # others: 2 … 95


class Writer:
    """Writes templates out: (a|b) one of them, [a] it or nothing, (a;b) both in either order, <rule> and {slot} by name."""

    def __init__(self, rules: dict[str, str], lists: dict[str, Any], draw: random.Random) -> None:
        self.rules, self.lists, self.draw = rules, lists, draw

    def write(self, template: str) -> str:
        text, rest = self._choice(template, 0)
        assert rest == len(template), template
        return re.sub(r"\s+", " ", text).strip()

    def _choice(self, text: str, at: int) -> tuple[str, int]:
        """The alternatives from `at` on, up to the bracket that ends them: (one of them, where that bracket stands)."""
        options, parts = [], [""]
        while at < len(text) and text[at] not in ")]":
            sign = text[at]
            if sign in "([":
                inner, at = self._choice(text, at + 1)
                parts[-1] += inner if sign == "(" or self.draw.random() < 0.5 else ""
            elif sign in "<{":
                end = text.index(">" if sign == "<" else "}", at)
                name = text[at + 1 : end].split(":")[0]
                parts[-1] += self.write(self.rules[name]) if sign == "<" else self._slot(name)
                at = end
            elif sign == "|":
                options.append(parts)
                parts = [""]
            elif sign == ";":
                parts.append("")
            else:
                parts[-1] += sign
            at += 1
        options.append(parts)
        chosen = self.draw.choice(options)
        self.draw.shuffle(chosen)
        return " ".join(chosen), at

    def _slot(self, name: str) -> str:
        if name in SLOTS:
            return self.draw.choice(SLOTS[name].split("|"))
        if "values" in self.lists[name]:
            return self.write(self.draw.choice(self.lists[name]["values"])["in"])
        low, high = RANGES.get(name, (2, 95))
        return str(self.draw.randrange(low, high, 100 if low >= 1000 else 1))


def rows(data: dict[str, Any], seed: int = 0) -> Iterator[dict[str, str]]:
    """`ROWS_A_LABEL` different sentences of each label, spread over its templates. `template` is what the split keeps on one side."""
    draw = random.Random(seed)
    writer = Writer(data["expansion_rules"], data["lists"], draw)
    seen: dict[str, str] = {}
    for label, intents in LABELS.items():
        templates = [
            (f"{intent}/{number}", sentence)
            for intent in intents
            for number, sentence in enumerate(
                s for block in data["intents"][intent]["data"] for s in block["sentences"]
            )
        ]
        draw.shuffle(templates)
        made = 0
        for template, sentence in templates * MOST_A_TEMPLATE:
            text = writer.write(sentence)
            key = text.casefold()
            if made < ROWS_A_LABEL and len(text) <= LONGEST and len(text.split()) > 1 and key not in seen:
                seen[key] = label
                made += 1
                yield {"text": text, "intent": label, "template": template}


def main(source: str) -> None:
    made = list(rows(json.loads(Path(source).read_text(encoding="utf-8"))))
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made)
    (FOLDER / "intents.jsonl").write_text(text, encoding="utf-8")
    print(f"{len(made)} rows of {len({row['template'] for row in made})} templates, {len(text.encode()):,} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
