"""Rows of one split that another has already seen: the same, nearly the same, or from the same source. Chapter 13.

A test row that was trained on measures memory. `lora_edu.data.split` keeps equal inputs on one side; what it cannot know is that two
rows say the same in other words, or come from one document.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lora_edu.data.rows import Row
from lora_edu.data.splits import Splits, normalise
from lora_edu.errors import DataError
from lora_edu.tables import html_table, text_table

N = 5  # characters of an n-gram: about a word, and blind to no language
KINDS = ("exact", "normalised", "near", "same source")


class Leak(NamedTuple):
    """A row of `there` (training, usually) that gives away a row of `here`, by their numbers; how alike their inputs are, 0 to 1."""

    kind: str  # one of KINDS
    here: int
    there: int
    alike: float
    text_here: str
    text_there: str


class Leaks(list[Leak]):
    """The leaks found, at most one a row of `here`, worst first. Prints as a table; `share` is that of the rows that leak."""

    def __init__(self, found: Sequence[Leak], rows: int, names: tuple[str, str] = ("these rows", "those rows")) -> None:
        super().__init__(found)
        self.rows, self.names = rows, names

    @property
    def share(self) -> float:
        return len(self) / max(1, self.rows)

    def counts(self) -> dict[str, int]:
        """How many of each kind, in the order of KINDS."""
        found = Counter(leak.kind for leak in self)
        return {kind: found[kind] for kind in KINDS}

    def _lines(self, most: int = 10) -> tuple[str, list[list[str]]]:
        here, there = self.names
        said = ", ".join(f"{count} {kind}" for kind, count in self.counts().items() if count) or "none found"
        title = f"{len(self)} of {self.rows} rows of {here} leak from {there}: {said}"
        head = ["kind", "alike", here, there]
        return title, [
            head,
            *([x.kind, f"{x.alike:.2f}", _short(x.text_here), _short(x.text_there)] for x in self[:most]),
        ]

    def __str__(self) -> str:
        title, lines = self._lines()
        return f"{title}\n{text_table(lines)}" if len(self) else title

    def _repr_html_(self) -> str:
        title, (head, *body) = self._lines()
        return html_table(head, body, title) if body else f"<p>{title}</p>"


class Index:
    """Texts by their character n-grams: finds the most alike one without comparing with each. Exact, no hashing.

    Likeness is Jaccard's, |shared n-grams| / |n-grams of either|, of texts with a space put at both ends.
    """

    def __init__(self, texts: Sequence[str], n: int = N) -> None:
        self.n = n
        where: defaultdict[str, list[int]] = defaultdict(list)
        sizes = []
        for number, text in enumerate(texts):
            grams = ngrams(text, n)
            sizes.append(len(grams))
            for gram in grams:
                where[gram].append(number)
        self._sizes = np.array(sizes)
        self._where = {gram: np.array(numbers) for gram, numbers in where.items()}

    def nearest(self, text: str) -> tuple[int, float] | None:
        """The number of the most alike text (the first of equals) and its likeness; None if none shares an n-gram."""
        grams = ngrams(text, self.n)
        hits = [self._where[gram] for gram in grams if gram in self._where]
        if not hits:
            return None
        shared = np.bincount(np.concatenate(hits), minlength=len(self._sizes))  # n-grams in common with each text
        alike = shared / (len(grams) + self._sizes - shared)
        best = int(alike.argmax())
        return best, float(alike[best])


def ngrams(text: str, n: int = N) -> set[str]:
    """The runs of `n` characters in " text "; a shorter text is one run."""
    padded = f" {text} "
    return {padded[i : i + n] for i in range(max(1, len(padded) - n + 1))}


def leaks(
    here: Sequence[Row],
    there: Sequence[Row],
    near: float = 0.7,
    source: str | Callable[[Row], Hashable] | None = None,
    names: tuple[str, str] = ("these rows", "those rows"),
) -> Leaks:
    """For each row of `here` its worst leak from `there` (the training rows), if it has one.

    exact: the same input. normalised: the same but for case, spaces and punctuation. near: Jaccard likeness of the character 5-grams of
    the normalised inputs ≥ `near`. same source: the same `source`, a key of `meta` ("template") or a function of the row. Inputs are as `bare_input`
    has them. `near` is a choice: rows made from one template are alike and no leak of the answer; look
    at the pairs. Raises DataError for a `near` outside (0, 1] and a key that a row lacks.
    """
    if not 0 < near <= 1:
        raise DataError(f"near={near}: a likeness above 0 and at most 1")
    texts = [bare_input(row) for row in there]
    plain = [normalise(text) for text in texts]
    exact, same, index = _first(texts), _first(plain), Index(plain)
    sources = _first([_source(row, source, i) for i, row in enumerate(there, 1)]) if source is not None else {}
    found = []
    for number, row in enumerate(here):
        text = bare_input(row)
        likest = index.nearest(normalise(text)) if there else None
        if text in exact:
            kind, at, alike = "exact", exact[text], 1.0
        elif normalise(text) in same:
            kind, at, alike = "normalised", same[normalise(text)], 1.0
        elif likest is not None and likest[1] >= near:
            kind, (at, alike) = "near", likest
        elif source is not None and (key := _source(row, source, number + 1)) in sources:
            kind, at = "same source", sources[key]
            alike = (Index([plain[at]]).nearest(normalise(text)) or (0, 0.0))[1]
        else:
            continue
        found.append(Leak(kind, number, at, alike, text, texts[at]))
    found.sort(key=lambda leak: (KINDS.index(leak.kind), -leak.alike, leak.here))
    return Leaks(found, len(here), names)


def split_leaks(
    splits: Splits, near: float = 0.7, source: str | Callable[[Row], Hashable] | None = None
) -> dict[str, Leaks]:
    """`leaks` of every pair of parts: test from train, valid from train, test from valid."""
    parts = splits._asdict()
    pairs = (("test", "train"), ("valid", "train"), ("test", "valid"))
    return {f"{a} from {b}": leaks(parts[a], parts[b], near, source, (a, b)) for a, b in pairs if parts[a] and parts[b]}


def bare_input(row: Row) -> str:
    """The bare input where a task keeps it (`meta["input"]`: a frame that all questions share makes all alike), else the user's turns, or the plain text."""
    if "input" in row.meta:
        return str(row.meta["input"])
    return row.answer if row.is_text else "\n".join(m["content"] for m in row.messages if m["role"] == "user")


def _first(keys: Sequence[Any]) -> dict[Any, int]:
    first: dict[Any, int] = {}
    for number, key in enumerate(keys):
        first.setdefault(key, number)
    return first


def _source(row: Row, source: str | Callable[[Row], Hashable], number: int) -> Hashable:
    if callable(source):
        return source(row)
    if source not in row.meta:
        known = ", ".join(row.meta) or "nothing"
        raise DataError(
            f"row {number} has no {source!r} in its meta ({known}): name a key that every row has, or give a function"
        )
    return row.meta[source]


def _short(text: str, most: int = 90) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"
