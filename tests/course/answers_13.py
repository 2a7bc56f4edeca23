"""Chapter 13: solutions, stubs and planted bugs; RIGHT and MORE_WRONG hold further programs."""

import re
from collections import Counter

import numpy as np
import torch
from kit import Answers


def bag(text):
    return set(re.findall(r"\w+", text.lower()))


def lookup(train, text):
    wanted = bag(text)

    def likeness(pair):
        return len(bag(pair[0]) & wanted) / len(bag(pair[0]) | wanted)

    return max(train, key=likeness)[1]


def lookup_stub(train, text): ...


def looks(likeness):
    return lambda train, text: max(train, key=lambda pair: likeness(pair[0], text))[1]


def often(a, b):
    a, b = (Counter(re.findall(r"\w+", text.lower())) for text in (a, b))
    return sum((a & b).values()) / sum((a | b).values())


def jaccard(a, b):
    return len(a & b) / len(a | b)


def by_vote(train, text):
    likeness = [jaccard(bag(other), bag(text)) for other, _ in train]
    return Counter(a for (_, a), x in zip(train, likeness) if x == max(likeness)).most_common(1)[0][0]


def paired_interval(before, after, draws):
    gains = (after - before)[draws].mean(dim=1)
    return gains.quantile(0.025), gains.quantile(0.975)


def paired_stub(before, after, draws):
    gains = ...
    return gains


def ends(make, level=0.95):
    """An interval of what `make` draws: (n,)."""
    return lambda before, after, draws: np.quantile(
        np.asarray(make(before, after, draws)), ((1 - level) / 2, (1 + level) / 2)
    )


def gains_of(before, after, draws):
    return (after - before)[draws].mean(1)


def apart(before, after, draws):
    return after[draws].mean(1) - before[draws.flip(0)].mean(1)


def evenly(before, after, draws):
    gains = gains_of(before, after, draws)
    return gains.mean() - 1.96 * gains.std(), gains.mean() + 1.96 * gains.std()


def of_the_mean(before, after, draws):
    gains = gains_of(before, after, draws)
    half = 1.96 * gains.std() / len(gains) ** 0.5
    return gains.mean() - half, gains.mean() + half


def crosswise(before, after, draws):
    b, a = (torch.quantile(x[draws].mean(1), torch.tensor([0.025, 0.975]).to(x)) for x in (before, after))
    return a[0] - b[1], a[1] - b[0]


def front(runs):
    def beaten(one, other):
        return other != one and other[0] <= one[0] and other[1] <= one[1]

    return [i for i, one in enumerate(runs) if not any(beaten(one, other) for other in runs)]


def front_stub(runs): ...


def unbeaten(beats):
    """Places of runs that no other run beats. beats(other, one)."""
    return lambda runs: [
        i for i, one in enumerate(runs) if not any(beats(other, one) for j, other in enumerate(runs) if j != i)
    ]


ANSWERS = {
    "13.1": Answers(
        lookup,
        lookup_stub,
        {
            "shared words are counted": looks(lambda a, b: len(bag(a) & bag(b))),
            "the training text alone": looks(lambda a, b: len(bag(a) & bag(b)) / len(bag(a))),
            "the shorter text": looks(lambda a, b: len(bag(a) & bag(b)) / min(len(bag(a)), len(bag(b)))),
            "the longer text": looks(lambda a, b: len(bag(a) & bag(b)) / max(len(bag(a)), len(bag(b)))),
            "the root of the product": looks(lambda a, b: len(bag(a) & bag(b)) / (len(bag(a)) * len(bag(b))) ** 0.5),
            "of equals the commonest": by_vote,
            "changed in place": lambda train, text: (train.reverse(), lookup(train[::-1], text))[1],
            "capitals make another word": looks(
                lambda a, b: jaccard(set(re.findall(r"\w+", a)), set(re.findall(r"\w+", b)))
            ),
            "a comma": looks(lambda a, b: jaccard(set(a.lower().split()), set(b.lower().split()))),
            "letters are compared": looks(lambda a, b: jaccard(set(a.lower()), set(b.lower()))),
            "as often as it is written": looks(often),
            "of equals the last": lambda train, text: lookup(train[::-1], text),
            "the least alike": looks(lambda a, b: -jaccard(bag(a), bag(b))),
            "the commonest answer": lambda train, text: Counter(a for _, a in train).most_common(1)[0][0],
            "the first answer": lambda train, text: train[0][1],
            "a training text": lambda train, text: max(train, key=lambda pair: jaccard(bag(pair[0]), bag(text)))[0],
        },
    ),
    "13.2": Answers(
        paired_interval,
        paired_stub,
        {
            "before minus after": lambda b, a, d: paired_interval(a, b, d),
            "redrawn apart": ends(apart),
            "one model alone": ends(lambda b, a, d: a[d].mean(1)),
            "the model before": ends(lambda b, a, d: b[d].mean(1)),
            "crosswise": crosswise,
            "90 %": ends(gains_of, 0.9),
            "all of the redraws": lambda b, a, d: (gains_of(b, a, d).min(), gains_of(b, a, d).max()),
            "half of the redraws": ends(gains_of, 0.5),
            "the sum over the rows": ends(lambda b, a, d: (a - b)[d].sum(1)),
            "the median of the rows": ends(lambda b, a, d: (a - b)[d].median(1).values),
            "the error of the mean": of_the_mean,
            "mean ± 1.96": evenly,
            "the spread of the rows": ends(lambda b, a, d: a - b),
            "nothing is redrawn": lambda b, a, d: ((a - b).mean(), (a - b).mean()),
            "the ends are exchanged": lambda b, a, d: paired_interval(b, a, d)[::-1],
            "not two ends": lambda b, a, d: gains_of(b, a, d),
        },
    ),
}
ANSWERS["13.3"] = Answers(
    front,
    front_stub,
    {
        "the beaten runs": lambda runs: [i for i in range(len(runs)) if i not in front(runs)],
        "more is taken": lambda runs: front([(-a, -b) for a, b in runs]),
        "in the first number": lambda runs: front([(-a, b) for a, b in runs]),
        "in the second number": lambda runs: front([(a, -b) for a, b in runs]),
        "worse in both": unbeaten(lambda other, one: other[0] < one[0] and other[1] < one[1]),
        "only where the first number": unbeaten(lambda other, one: other[0] < one[0] and other[1] <= one[1]),
        "only where the second number": unbeaten(lambda other, one: other[0] <= one[0] and other[1] < one[1]),
        "worse in one": unbeaten(lambda other, one: other[0] < one[0] or other[1] < one[1]),
        "equal runs beat": unbeaten(lambda other, one: other[0] <= one[0] and other[1] <= one[1]),
        "one is left out": lambda runs: [i for i in front(runs) if runs[i] not in runs[:i]],
        "the best in each": lambda runs: [
            i for i, run in enumerate(runs) if any(run[k] == min(r[k] for r in runs) for k in (0, 1))
        ],
        "the least sum": lambda runs: [i for i, run in enumerate(runs) if sum(run) == min(map(sum, runs))],
        "the runs themselves": lambda runs: [runs[i] for i in front(runs)],
        "counted from 1": lambda runs: [i + 1 for i in front(runs)],
        "more than once": lambda runs: front(runs) * 2,
        "changed in place": lambda runs: runs.sort() or front(runs),
    },
)


def lookup_by_loop(train, text):
    best, answer = -1.0, ""
    for other, said in train:
        a, b = set(re.findall("[a-z0-9]+", other.casefold())), set(re.findall("[a-z0-9]+", text.casefold()))
        if (now := len(a.intersection(b)) / (len(a) + len(b) - len(a & b))) > best:
            best, answer = now, said
    return answer


def lookup_by_dice(train, text):
    """2·both / (one + other) puts the texts in the same order."""
    return looks(lambda a, b: 2 * len(bag(a) & bag(b)) / (len(bag(a)) + len(bag(b))))(train, text)


def interval_by_sorting(before, after, draws):
    gains = sorted((after[draw].mean() - before[draw].mean()).item() for draw in draws)
    return gains[int(0.025 * len(gains))], gains[int(0.975 * len(gains)) - 1]


def front_by_sorting(runs):
    kept, least = set(), float("inf")
    for value in sorted({a for a, _ in runs}):
        lowest = min(b for a, b in runs if a == value)
        if lowest < least:
            kept |= {i for i, run in enumerate(runs) if run == (value, lowest)}
            least = lowest
    return kept


def front_by_numpy(runs):
    pairs = np.array(runs)
    no_worse = (pairs[:, None] <= pairs[None]).all(-1)
    better = (pairs[:, None] < pairs[None]).any(-1)
    return np.flatnonzero(~(no_worse & better).any(0))


RIGHT = [
    ("13.1", lookup_by_loop),
    ("13.1", lookup_by_dice),
    ("13.2", ends(gains_of)),
    ("13.2", interval_by_sorting),
    ("13.2", lambda b, a, d: np.percentile((a[d].mean(1) - b[d].mean(1)).float().numpy(), [2.5, 97.5])),
    ("13.3", front_by_sorting),
    ("13.3", front_by_numpy),
    ("13.3", lambda runs: torch.tensor(front(runs)).flip(0)),
]
MORE_WRONG = [
    ("13.1", lambda train, text: 3, "not an answer"),
    ("13.1", lambda train, text: text, "a training text, not its answer"),
    ("13.2", lambda b, a, d: 0.5, "not a list"),
    ("13.2", lambda b, a, d: (float("nan"), 1.0), "not a number"),
    ("13.3", lambda runs: 3, "not a list"),
    ("13.3", lambda runs: [0.5], "not a whole number"),
]
