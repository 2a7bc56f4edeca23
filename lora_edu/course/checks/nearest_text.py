"""The answer of the nearest training text, the mistakes that one makes with it, and texts on which all of them show. Exercise 13.1."""

import re
from collections import Counter
from collections.abc import Callable

import torch

Texts = list[tuple[str, str]]
Near = Callable[[Texts, str], str]
WORDS = ["lamp", "heat", "hall", "stop", "play", "song", "warm", "cold", "open", "door", "fan", "light", "set", "room", "two", "ten", "off", "on"]  # fmt: skip


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def overlap(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


def by(likeness: Callable[[str, str], float], last: bool = False) -> Near:
    """The answer of the training text that is most like the question; of several, the first (or the last)."""

    def answer(train: Texts, text: str) -> str:
        order = list(reversed(train)) if last else train
        return max(order, key=lambda pair: likeness(pair[0], text))[1]

    return answer


def _plain(one: str, other: str) -> float:
    return overlap(set(words(one)), set(words(other)))


def _count(text: str) -> int:
    return len(set(words(text)))


def _shared(one: str, other: str) -> int:
    return len(set(words(one)) & set(words(other)))


def _voted(train: Texts, text: str) -> str:
    most = max(_plain(other, text) for other, _ in train)
    return Counter(answer for other, answer in train if _plain(other, text) == most).most_common(1)[0][0]


NEAREST = by(_plain)
MISSED: dict[str, Near] = {
    "shared words are counted, and long texts win": by(lambda a, b: len(set(words(a)) & set(words(b)))),
    "divided by the words of the training text alone": by(
        lambda a, b: len(set(words(a)) & set(words(b))) / len(set(words(a)))
    ),
    "divided by the words of the shorter text": by(lambda a, b: _shared(a, b) / min(_count(a), _count(b))),
    "divided by the words of the longer text": by(lambda a, b: _shared(a, b) / max(_count(a), _count(b))),
    "divided by the root of the product of both numbers of words": by(
        lambda a, b: _shared(a, b) / (_count(a) * _count(b)) ** 0.5
    ),
    "of equals the commonest answer is given": _voted,
    "capitals make another word": by(lambda a, b: overlap(set(re.findall(r"\w+", a)), set(re.findall(r"\w+", b)))),
    "a comma or a full stop makes another word": by(
        lambda a, b: overlap(set(a.lower().split()), set(b.lower().split()))
    ),
    "letters are compared, not words": by(lambda a, b: overlap(set(a.lower()), set(b.lower()))),
    "a word counts as often as it is written": by(
        lambda a, b: (
            sum((Counter(words(a)) & Counter(words(b))).values())
            / sum((Counter(words(a)) | Counter(words(b))).values())
        )
    ),
    "of equals the last is taken": by(_plain, last=True),
    "the least alike is taken": by(lambda a, b: -_plain(a, b)),
    "the commonest answer is given": lambda train, text: Counter(answer for _, answer in train).most_common(1)[0][0],
    "the first answer is given": lambda train, text: train[0][1],
    "words at the same place are compared": by(
        lambda a, b: sum(x == y for x, y in zip(words(a), words(b))) / max(len(words(a)), len(words(b)))
    ),
}


def _sentence(draw: torch.Generator) -> str:
    """A few words, some of them twice, in any case, with commas."""
    size = int(torch.randint(2, 8, (), generator=draw))
    chosen = [WORDS[i] for i in torch.randint(len(WORDS), (size,), generator=draw).tolist()]
    ways = torch.randint(6, (size,), generator=draw).tolist()
    return " ".join(
        word.capitalize() if way == 0 else f"{word}," if way == 1 else word for word, way in zip(chosen, ways)
    )


def lookups(draw: torch.Generator) -> list[tuple[Texts, str]]:
    """Cases on which every mistake of `MISSED` gives another row of answers than the right one, and than every other mistake."""
    cases: list[tuple[Texts, str]] = []
    given: list[list[str]] = [[] for _ in range(1 + len(MISSED))]
    while True:
        answers = torch.randint(5, (14,), generator=draw).tolist()
        train = [(_sentence(draw), "abcde"[i]) for i in answers]
        train += [(train[0][0], "e")] * 2  # twins with another answer: the first is right, most of them are not
        text = train[0][0] if len(cases) % 4 == 0 else _sentence(draw)
        cases.append((train, text))
        for answer, said in zip((NEAREST, *MISSED.values()), given):
            said.append(answer(train, text))
        if len(cases) >= 12 and len({tuple(said) for said in given}) == len(given):
            return cases
