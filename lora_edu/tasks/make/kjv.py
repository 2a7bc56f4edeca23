"""Remake lora_edu/tasks/kjv.jsonl from aligned verses: `python -m lora_edu.tasks.make.kjv web-kjv.jsonl.gz`.

The input holds one JSON object a line with `reference`, `modern` (World English Bible) and `kjv` (King James Version);
README.md beside the data says where both texts come from.
"""

import gzip
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable

from lora_edu.data.splits import normalise
from lora_edu.tasks.base import FOLDER
from lora_edu.tasks.kjv import ARCHAIC, MODERN

KEEP = 2000
SHORTEST, LONGEST = 40, 95  # characters of the modern verse: short rows make quick steps
ASCII = str.maketrans({"“": '"', "”": '"', "’": "'"})
WORD = re.compile(r"[A-Za-z]+")


def glued(verses: Iterable[dict[str, str]]) -> set[str]:
    """Rare modern words that are two common ones without their space ("Godcreated"): a footnote stood between them."""
    verses = list(verses)
    modern = Counter(w for v in verses for w in WORD.findall(v["modern"]))
    known = {w for v in verses for w in WORD.findall(v["kjv"])}
    rare = (w for w, n in modern.items() if n <= 3 and w not in known)
    return {w for w in rare if any(modern[w[:i]] >= 20 and modern[w[i:]] >= 20 for i in range(2, len(w) - 1))}


def paired_quotes(text: str) -> str:
    """The text, without its quotation marks if one of them has its partner in another verse."""
    unpaired = set("“”") & set(re.sub("“[^“”]*”", "", text))
    return re.sub("[“”]", "", text) if unpaired else text


def shingles(text: str, n: int = 4) -> set[tuple[str, ...]]:
    words = normalise(text).split()
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def main(source: str) -> None:
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        verses = [json.loads(line) for line in lines]
    bad_words = glued(verses)
    seen: set[tuple[str, ...]] = set()
    kept = []
    for verse in verses:
        modern = paired_quotes(verse["modern"]).translate(ASCII).strip()
        kjv = verse["kjv"].translate(ASCII).strip()
        phrases = shingles(modern)
        usable = (
            MODERN.search(modern)
            and ARCHAIC.search(kjv)
            and SHORTEST <= len(modern) <= LONGEST
            and len(kjv) <= 1.4 * len(modern)
            and not bad_words & set(WORD.findall(modern))
            and not set("‘—()%/") & set(modern + kjv)
            and len(phrases & seen) <= 0.4 * len(phrases)  # parallel passages would stand on both sides of the split
        )
        if usable:
            seen |= phrases
            kept.append({"reference": verse["reference"], "modern": modern, "kjv": kjv})
    step = len(kept) / KEEP  # evenly over the whole book
    chosen = [kept[int(i * step)] for i in range(min(KEEP, len(kept)))]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
    (FOLDER / "kjv.jsonl").write_text(text, encoding="utf-8")
    print(f"{len(kept)} verses pass, {len(chosen)} kept, {len(text.encode()):,} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
