"""Exercises of chapter 13, Is it any good?"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lora_edu.course.checks.nearest_text import MISSED, NEAREST, Near, lookups
from lora_edu.course.exercises import (
    Wrong,
    as_list,
    as_number,
    as_numbers,
    as_whole,
    attempt,
    generator,
    kind,
    register,
)

# --- 13.1: the answer of the nearest training text ----------------------------------------------------------------------


@register(
    "13.1",
    title="A baseline that looks it up",
    stars=1,
    minutes=7,
    task="Write `lookup(train, text)`: the answer of the training text most like `text`. `train` is a list of (text, answer). Likeness is the share "
    "of common words: of all the *different* words that stand in one of the two texts or in both, how many stand in both? Capitals and punctuation "
    "make no difference. Of several that are equally like it, take the first.",
    wants="lookup",
    shows="The nearest text's answer. Nothing was learnt for it.",
    hints=(
        r'`set(re.findall(r"\w+", text.lower()))` are the different words of a text.',
        "For two sets, `a & b` holds what is common, `a | b` what is in either.",
        "`max(train, key=…)` gives the first of the best; its answer is what is wanted.",
    ),
)
def lookup(function: Near) -> None:
    cases = lookups(generator())
    given = [list(train) for train, _ in cases]
    got = [attempt(function, texts, text) for texts, (_, text) in zip(given, cases)]
    if given != [train for train, _ in cases]:
        raise Wrong("the training texts are changed in place", "`lookup` changed the list that it was given")
    for (train, _), answer in zip(cases, got):
        if isinstance(answer, tuple) or any(answer == text for text, _ in train):
            raise Wrong(
                "a training text, not its answer", "give the answer that stands beside the text, and not the text"
            )
        if not isinstance(answer, str):
            raise Wrong("not an answer", f"`lookup` returned {kind(answer)}; the answers are texts")
    want = [NEAREST(*case) for case in cases]
    if got == want:
        return
    same = [name for name, answer in MISSED.items() if [answer(*case) for case in cases] == got]
    place = next(i for i, pair in enumerate(zip(got, want)) if pair[0] != pair[1])
    raise Wrong(
        same[0] if same else "another text is nearest",
        f"for {cases[place][1]!r} and {len(cases[place][0])} training texts you say {got[place]!r}, and the nearest one's answer is {want[place]!r}",
    )


# --- 13.2: a paired interval --------------------------------------------------------------------------------------------

REDRAWS = 400


def _middle(values: Tensor, level: float = 0.95) -> tuple[float, float]:
    low, high = values.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=values.dtype)).tolist()
    return low, high


def paired_mistakes(before: Tensor, after: Tensor, draws: Tensor) -> dict[str, tuple[float, float]]:
    """What each way to get it wrong leads to."""
    gains = (after - before)[draws].mean(1)  # (n,)
    mean, sd = float(gains.mean()), float(gains.std())
    low, high = _middle(gains)
    (b_low, b_high), (a_low, a_high) = _middle(before[draws].mean(1)), _middle(after[draws].mean(1))
    rows = len(before)
    each = float((after - before).std())
    return {
        "before minus after": (-high, -low),
        "the interval of one model alone": (a_low, a_high),
        "that of the model before": (b_low, b_high),
        "the ends of two intervals, subtracted crosswise": (a_low - b_high, a_high - b_low),
        "the ends of two intervals, subtracted": (a_low - b_low, a_high - b_high),
        "90 %, not 95 %": _middle(gains, 0.9),
        "all of the redraws, not the middle 95 %": (float(gains.min()), float(gains.max())),
        "half of the redraws": _middle(gains, 0.5),
        "the sum over the rows, not their mean": (low * rows, high * rows),
        "the median of the rows, not their mean": _middle((after - before)[draws].median(1).values),
        "the error of the mean of the redraws": (mean - 1.96 * sd / REDRAWS**0.5, mean + 1.96 * sd / REDRAWS**0.5),
        "mean ± 1.96 standard deviations, as if the redraws lay evenly to both sides": (
            mean - 1.96 * sd,
            mean + 1.96 * sd,
        ),
        "the spread of the rows, not of their mean": _middle(after - before),
        "the rows' standard deviation, not the mean's": (mean - 1.96 * each, mean + 1.96 * each),
        "nothing is redrawn": (float((after - before).mean()),) * 2,
    }


def paired_case(draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of two models on the same rows, most rows alike in both, and gains of a few: before, after (N,), draws (n, N)."""
    rows = int(torch.randint(14, 22, (), generator=draw))
    hard = 3 * torch.rand(rows, generator=draw, dtype=torch.float64)
    gain = 0.6 * torch.rand(rows, generator=draw, dtype=torch.float64) ** 6 + 0.02 * torch.rand(rows, generator=draw)
    gain[0] = 0.9
    return hard, hard + gain, torch.randint(rows, (REDRAWS, rows), generator=draw)


@register(
    "13.2",
    title="The paired interval",
    stars=2,
    minutes=8,
    task="Write `paired_interval(before, after, draws)`: the 95 % interval of what `after` gains over `before`. Both are tensors with a score for "
    "each of the same N rows. Each line of `draws`, a tensor (n, N) of whole numbers, names N rows drawn with replacement: one redraw. The gain of a "
    "redraw is the mean of `after` less the mean of `before` on its rows. Return (low, high): 2.5 % of the redraws lie below low, 2.5 % above high.",
    wants="paired_interval",
    shows="Both models are redrawn together, and the middle 95 % of the gains is the interval.",
    hints=(
        "`values[draws]` has the shape of `draws`: line i holds the scores of the rows of redraw i.",
        "One gain for each redraw: the mean over the N rows of a line, for both models from the *same* line.",
        "`torch.quantile(gains, 0.025)` is the low end.",
    ),
)
def paired_interval(function: Callable[[Tensor, Tensor, Tensor], tuple[float, float]]) -> None:
    draw = generator()
    for _ in range(3):
        before, after, draws = paired_case(draw)
        got = as_numbers(attempt(function, before, after, draws), "what `paired_interval` returned")
        if len(got) != 2:
            raise Wrong("not two ends", f"you return {len(got)} numbers, and an interval has two ends, (low, high)")
        low, high = float(got[0]), float(got[1])
        if low > high:
            raise Wrong("the ends are exchanged", f"you give ({low:.4g}, {high:.4g}): the low end comes first")
        gains = (after - before)[draws].mean(1).sort().values
        if _between(low, gains, 0.025) and _between(high, gains, 0.975):
            continue
        for bug, (one, other) in paired_mistakes(before, after, draws).items():
            room = 1e-6 + 1e-3 * abs(other - one)
            if abs(low - one) <= room and abs(high - other) <= room:
                raise Wrong(bug, f"you give ({low:.4g}, {high:.4g}) for the gain on {len(before)} rows")
        wide = (high - low) / float(gains.quantile(0.975) - gains.quantile(0.025))
        bug = "the two models are redrawn apart" if wide > 2 else "another interval"
        raise Wrong(bug, f"you give ({low:.4g}, {high:.4g}), {wide:.2g} times as wide as the middle 95 % of the gains")


def _between(end: float, gains: Tensor, share: float) -> bool:
    """Whether an end is where some rule puts the quantile: between the two neighbours of that place in the sorted gains."""
    place = share * (len(gains) - 1)
    low, high = max(int(place) - 1, 0), min(int(place) + 2, len(gains) - 1)
    slack = 1e-6 * float(gains.abs().max())
    return float(gains[low]) - slack <= end <= float(gains[high]) + slack


# --- 13.3: the Pareto front ---------------------------------------------------------------------------------------------

Pairs = Sequence[tuple[float, float]]


def _beaten(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether `other` is nowhere worse than `one` and somewhere better; less is better in both."""
    return other[0] <= one[0] and other[1] <= one[1] and other != one


def the_front(pairs: Pairs) -> list[int]:
    return [i for i, one in enumerate(pairs) if not any(_beaten(one, other) for other in pairs)]


def front_mistakes(pairs: Pairs) -> dict[str, list[int]]:
    """What each way to get it wrong leads to."""
    turned = [(-a, -b) for a, b in pairs]
    best = the_front(pairs)
    return {
        "the beaten runs, not the others": [i for i in range(len(pairs)) if i not in best],
        "more is taken for better": the_front(turned),
        "in the first number more is taken for better": the_front([(-a, b) for a, b in pairs]),
        "in the second number more is taken for better": the_front([(a, -b) for a, b in pairs]),
        "a run is beaten only where it is worse in both": [
            i for i, (a, b) in enumerate(pairs) if not any(c < a and d < b for c, d in pairs)
        ],
        "a run is beaten only where the first number is worse": [
            i for i, (a, b) in enumerate(pairs) if not any(c < a and d <= b for c, d in pairs)
        ],
        "a run is beaten only where the second number is worse": [
            i for i, (a, b) in enumerate(pairs) if not any(c <= a and d < b for c, d in pairs)
        ],
        "a run is beaten where it is worse in one": [
            i for i, (a, b) in enumerate(pairs) if not any(c < a or d < b for c, d in pairs)
        ],
        "equal runs beat each other": [
            i
            for i, (a, b) in enumerate(pairs)
            if not any(c <= a and d <= b for j, (c, d) in enumerate(pairs) if j != i)
        ],
        "of equal runs one is left out": [i for i in best if pairs[i] not in pairs[:i]],
        "only the best in each number": [
            i for i, (a, b) in enumerate(pairs) if a == min(c for c, _ in pairs) or b == min(d for _, d in pairs)
        ],
        "only the least sum": [i for i, pair in enumerate(pairs) if sum(pair) == min(map(sum, pairs))],
    }


def front_case(draw: torch.Generator) -> list[tuple[float, float]]:
    """Runs with ties in one number and one pair of equals, on which all mistakes differ."""
    while True:
        drawn = torch.randint(1, 12, (14, 2), generator=draw).tolist()
        pairs = [(a / 4, b / 8) for a, b in drawn]
        pairs.append(pairs[int(torch.randint(14, (), generator=draw))])
        found = [the_front(pairs), *front_mistakes(pairs).values()]
        if len(found[0]) >= 4 and len({tuple(each) for each in found}) == len(found):
            return pairs


@register(
    "13.3",
    title="Who is on the front?",
    stars=2,
    minutes=7,
    task="Write `front(runs)`. `runs` is a list of (task loss, forgetting), both better when lower. A run is *beaten* when some other run is nowhere "
    "worse and somewhere better. Return the places (0, 1, …) of those that nobody beats, in any order: the Pareto front.",
    wants="front",
    shows="Whoever is left cannot be bettered in one number without paying in the other. Which of them to take is a matter of your budget.",
    hints=(
        "Write `beaten(one, other)` first. May the two be equal in one number? In both?",
        "Nowhere worse: ≤ in both. Somewhere better: < in at least one.",
        "Keep the places whose run is beaten by no run of the list.",
    ),
)
def front(function: Callable[[list[tuple[float, float]]], Sequence[int]]) -> None:
    draw = generator()
    for pairs in (front_case(draw), front_case(draw)):
        given = list(pairs)
        places = as_list(_listed(attempt(function, given)), "what `front` returned")
        if given != pairs:
            raise Wrong("the runs are changed in place", "`front` changed the list that it was given")
        if any(isinstance(place, tuple | list) for place in places):
            raise Wrong("the runs themselves, not their places", "return places in the list: 0, 1, …")
        got = sorted(as_whole(as_number(place, "a place"), "a place") for place in places)
        want = the_front(pairs)
        if got == want:
            continue
        bug = next((name for name, wrong in front_mistakes(pairs).items() if sorted(wrong) == got), "")
        if not bug and sorted(set(got)) == want:
            bug = "a place is named more than once"
        if not bug and got == [place + 1 for place in want]:
            bug = "places are counted from 1"
        more, less = sorted(set(got) - set(want)), sorted(set(want) - set(got))
        raise Wrong(
            bug or "another front",
            f"of {len(pairs)} runs, wrongly on your front: {more or 'none'}; missing: {less or 'none'}",
        )


def _listed(value: Any) -> Any:
    """A set is as good as a list here."""
    return sorted(value) if isinstance(value, set | frozenset) else value
