"""Exercises of chapter 06, Reading runs."""

import math
import operator
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lora_edu.course.clinic.runs import FAULTS, SOUND, Chart, charts
from lora_edu.course.exercises import Wrong, as_number, attempt, generator, register

Pair = tuple[int, int]
SMALL = (1e-1, 5e-2, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # falls that somebody may take for none


def _where_it_stops(losses: Sequence[float], patience: int, least: float = 0.0) -> Pair:
    """(last evaluation, best one); `least`: by how much a new best must be lower, and 0 is right."""
    best = 0
    for i, loss in enumerate(losses):
        if loss < losses[best] - least:
            best = i
        if i - best >= patience:
            return i, best
    return len(losses) - 1, best


def _counting(losses: Sequence[float], patience: int, how: str) -> Pair:
    """The rule with a counter, and one way to get it wrong."""
    best = waited = 0
    for i, loss in enumerate(losses):
        if i and how == "previous" and loss < losses[i - 1]:
            best, waited = i, 0
        elif loss < losses[best] or (i and how == "tie" and loss == losses[best]):
            best, waited = i, waited if how == "added up" else 0
        elif (i and how == "falls" and loss < losses[i - 1]) or (i and (how, loss) == ("equal keeps on", losses[best])):
            waited = 0
        elif i and (how, loss) != ("equal passes", losses[best]):
            waited += 1
        if waited >= patience:
            return i, best
    return len(losses) - 1, best


def _slips(losses: Sequence[float], patience: int) -> dict[str, list[Pair]]:
    """What each way to get it wrong returns; some have several forms."""
    last, best = _where_it_stops(losses, patience)
    lowest = min(range(len(losses)), key=losses.__getitem__)

    def counted(*ways: str) -> list[Pair]:
        return [_counting(losses, patience, how) for how in ways]

    return {
        "an equal value counts as a new best": counted("tie", "equal keeps on", "equal passes"),
        "patience starts anew at every fall": counted("previous", "falls"),
        "evaluations are added up that do not stand in a row": counted("added up"),
        "a small fall is no new best": [_where_it_stops(losses, patience, least) for least in SMALL],
        "one evaluation too many": [_where_it_stops(losses, patience + 1)],
        "stopped too early": [_where_it_stops(losses, max(0, patience - 1))],
        "the last weights are kept, not the best": [(last, last)],
        "it never stops": [(len(losses) - 1, lowest)],
        "the best comes after the stop": [(last, lowest)],
        "the two are swapped": [(best, last)],
        "counted from 1": [(last + 1, best + 1)],
    }


def _index(value: Any) -> int:
    """A whole number of whatever library, but no truth value. Raises TypeError."""
    if isinstance(value, bool):
        raise TypeError("a truth value is no index")
    return operator.index(value)


@register(
    "06.1",
    title="When to stop",
    stars=2,
    minutes=8,
    task="Write `where_to_stop(losses, patience)`. `losses` are held-out losses, one an evaluation, in order. The run stops as soon as "
    "`patience` evaluations in a row have brought no new best (lower than all before). Return two indices: that of the last evaluation "
    "that still happens, and that of the best one, whose weights are kept. A run that never loses patience ends with its last evaluation.",
    wants="where_to_stop",
    shows="Right for curves that fall, that rise, that wobble, and for equal values.",
    hints=(
        "Go through the losses once and remember the index of the best so far.",
        "At index i, with the best at index b, how many evaluations in a row have brought nothing?",
        "`i - b` of them. Stop when that reaches `patience`. A value equal to the best is no new best.",
    ),
)
def where_to_stop(function: Callable[[list[float], int], tuple[int, int]]) -> None:
    draw = [[round(x, 1) for x in row] for row in torch.rand(8, 9, generator=generator()).tolist()]
    fixed = [([3.0, 2.0, 1.0, 0.5], 2), ([1.0, 2.0, 3.0, 4.0], 2), ([3.0, 1.0, 2.0, 1.5, 1.2, 0.9], 3), ([2.0, 1.0, 1.0, 1.0, 0.5], 2),
             ([5.0, 4.0, 4.5, 4.2, 3.9, 4.1, 4.0], 2), ([1.0], 1), ([2.0, 3.0], 1), ([1500.0, 1200.0, 1300.0], 3),
             ([2.0, 1.0, 1.5, 0.9, 1.2, 0.8, 1.1, 0.7], 3), ([0.5, 0.6, 0.49, 0.6, 0.4899, 0.6, 0.4899 - 1e-7, 0.6, 0.6, 0.1], 2)]  # fmt: skip
    cases = [*fixed, *((curve, 1 + i % 3) for i, curve in enumerate(draw))]
    said = []
    for losses, patience in cases:
        given = list(losses)
        got = attempt(function, given, patience)
        if given != losses:
            raise Wrong("the losses are changed", f"you were given {losses} and left {given}; read the list only")
        try:
            last, best = (_index(each) for each in got)
        except (TypeError, ValueError):
            raise Wrong(
                "not two indices", f"it returned {got!r}; give (index of the last evaluation, index of the best one)"
            ) from None
        said.append((last, best))
    right = [_where_it_stops(*case) for case in cases]
    if said == right:
        return
    slips = [_slips(*case) for case in cases]
    bug = next((name for name in slips[0] if said in map(list, zip(*(each[name] for each in slips)))), "another step")
    (losses, patience), mine, true = next(each for each in zip(cases, said, right) if each[1] != each[2])
    raise Wrong(bug, f"for {losses} with patience {patience} you say {mine}, and it is {true}")


class _Largest(TorchDispatchMode):
    """How many numbers the largest tensor holds that is made inside."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.numbers = max(self.numbers, leaf.numel())
        return result


MOST_BESIDE = 2**20  # bytes: many times A and B in any case of 06.2, a third of ΔW in the largest


class _Beside:
    """How many bytes of arrays, lists and the like are held at once inside, at most: what NumPy takes, and what torch does not."""

    def __enter__(self) -> "_Beside":
        self.ours = not tracemalloc.is_tracing()
        if self.ours:
            tracemalloc.start()
        tracemalloc.reset_peak()
        self.before, _ = tracemalloc.get_traced_memory()
        return self

    def __exit__(self, *_: object) -> None:
        self.most = tracemalloc.get_traced_memory()[1] - self.before
        if self.ours:
            tracemalloc.stop()


@register(
    "06.2",
    title="The length of a change that is never built",
    stars=2,
    minutes=10,
    task="Write `length_of_update(A, B, s)`: ‖ΔW‖ for ΔW = s·B A, with A (r, in) and B (out, r), as a number, without ever making a matrix "
    "of shape (out, in), nor a large part of one: nothing bigger than A and B together. ‖M‖ is the root of the sum of all squared entries.",
    wants="length_of_update",
    shows="It agrees with ‖s·B A‖ to four digits, and the largest thing you made was small.",
    hints=(
        "‖M‖² is the trace of M Mᵀ: the sum of its diagonal. And a trace does not mind turning the factors round: tr(X Y) = tr(Y X).",
        "‖B A‖² = tr(B A Aᵀ Bᵀ) = tr((Bᵀ B)(A Aᵀ)). Which shapes do Bᵀ B and A Aᵀ have?",
        "Both are (r, r), and symmetric. The trace of their product is the sum of their entries multiplied one by one.",
    ),
)
def length_of_update(function: Callable[[Tensor, Tensor, float], float]) -> None:
    draw = generator()
    with _Largest():  # once unjudged: what is imported at a first call, here or by torch, is no matrix
        attempt(function, torch.randn(2, 3, generator=draw), torch.randn(4, 2, generator=draw), 2.0)
    cases = ((300, 200, 4, 3.0), (64, 64, 8, 0.25), (5, 700, 1, 16.0), (90, 90, 3, 0.5), (1000, 800, 4, 1.5))
    for n_out, n_in, r, s in cases:
        B, A = torch.randn(n_out, r, generator=draw), torch.randn(r, n_in, generator=draw)
        with _Beside() as beside, _Largest() as made:
            got = attempt(function, A, B, s)
        want = s * float((B @ A).norm())
        got = as_number(got, "`length_of_update`")
        said = f"for A {tuple(A.shape)}, B {tuple(B.shape)} and s = {s:g} you say {got:.4g}, and ‖ΔW‖ is {want:.4g}"
        if math.isclose(got, want, rel_tol=1e-4):
            if made.numbers >= n_out * n_in:
                raise Wrong(
                    "the big matrix is built", f"a tensor of {made.numbers:,} numbers was made; ΔW has {n_out * n_in:,}"
                )
            if made.numbers > A.numel() + B.numel():
                raise Wrong(
                    "a large part of it is built",
                    f"a tensor of {made.numbers:,} numbers was made; A and B together have {A.numel() + B.numel():,}",
                )
            if beside.most > MOST_BESIDE:
                raise Wrong(
                    "the big matrix is built" if beside.most >= 4 * n_out * n_in else "a large part of it is built",
                    f"{beside.most / 1e6:.1f} MB of arrays or lists were held at once; A and B together take "
                    f"{4 * (A.numel() + B.numel()) / 1e6:.2f} MB, and ΔW {4 * n_out * n_in / 1e6:.1f} MB",
                )
            continue
        bugs = {
            "the scale is forgotten": want / s,
            "the scale is not squared": want * s**-0.5,
            "the scale is squared": want * s,
            "squared, without the root": want**2,
            "squared, without the root, and the scale is not": want**2 / s,
            "only the largest direction": s * float(torch.linalg.matrix_norm(B @ A, 2)),
            "divided by r once more": want / r,
            "multiplied by r": want * r,
            "lengths do not multiply": s * float(B.norm() * A.norm()),
        }
        bug = next((bug for bug, wrong in bugs.items() if math.isclose(got, wrong, rel_tol=1e-3)), "another length")
        raise Wrong(bug, said)


QUESTIONS = [
    "When was the moon landing?",
    "Who wrote Emma?",
    "Name a red fruit.",
    "What is 7 times 8?",
    "Where is Lima?",
    "Is tea older than coffee in China?",
    "Is a notable man rich?",
    "is a notable man rich?",  # a twin in `train` itself, as in the clinic: one held-out text, two matches
    "Где Лима?",
]
TWINS = {
    "an exact copy is missed": ["What is 7 times 8?"],
    "capitals still count": ["WHERE IS LIMA?", "who wrote emma?", "IS A NOTABLE MAN RICH?"],
    "spaces still count": ["Who  wrote Emma?", " Where is Lima? "],
    "punctuation still counts": ["Name a red fruit", "What is 7 times 8 ??"],
    "some punctuation still counts": ['"Who wrote Emma?"', "(Where is: Lima);"],
    "punctuation beyond ASCII still counts": ["“Who wrote Emma?”", "Where is Lima …"],
}
INNOCENT = {
    "alike is not the same": ["When was the moon handing?"],
    "digits are lost": ["What is 6 times 9?"],
    "an innocent text is accused": [
        "Who wrote Emma in French?",
        "Where is Lima, Ohio?",
        "Name a fruit.",
        "What is 8 times 7?",
        "When was the landing?",
    ],
    "a part of a text is accused": ["Is tea older than coffee?"],
    "words are glued together": ["Is a not able man rich?"],
    "letters of other alphabets are lost": ["Кто там?"],
}


def _seen(text: str) -> str:
    """A text as a message shows it: a page would swallow spaces at its ends, and all but one of several."""
    return repr(text.replace("  ", "␣␣") if text == text.strip() else text.replace(" ", "␣"))


@register(
    "06.3",
    title="Find the leak",
    stars=1,
    minutes=8,
    task="Write `leaks(train, held_out)`: those texts of `held_out` (a list of strings) that stand in `train` too, where capitals, "
    "punctuation and extra spaces make no difference. Return them as they are written in `held_out`, in their order, each as often as it "
    "stands there.",
    wants="leaks",
    shows="Disguised twins are found, and nobody else is accused.",
    hints=(
        "Bring every text into one plain form first; then compare plain forms.",
        'Plain form: `text.lower()`, then only its words: `re.findall(r"\\w+", text)`.',
        "Make a set of the plain forms of `train`; keep each held-out text whose plain form is in it.",
    ),
)
def leaks(function: Callable[[list[str], list[str]], Iterable[str]]) -> None:
    def found(held_out: list[str]) -> list[str]:
        got = attempt(function, list(QUESTIONS), list(held_out))
        if isinstance(got, str | bool | int | float) or not isinstance(got, Iterable):
            raise Wrong("not a list", f"it returned {type(got).__name__}; give the leaking texts of `held_out`")
        texts = list(got)
        if strangers := [each for each in texts if not isinstance(each, str)]:
            raise Wrong(
                "not texts", f"the list holds {strangers[0]!r}; give the texts themselves, as `held_out` writes them"
            )
        return texts

    missed: dict[str, str] = {}
    for bug, twins in TWINS.items():
        for twin in twins:
            got = found([twin])
            if not got:
                missed.setdefault(bug, twin)
            elif len(got) > 1 and set(got) == {twin}:
                raise Wrong(
                    "once for each twin",
                    f"{twin!r} stands once in `held_out`, and you return it {len(got)} times: it has as many twins in `train`",
                )
            elif got != [twin]:
                bug = "texts of the wrong side" if got[0] in QUESTIONS else "texts in another form"
                raise Wrong(bug, f"`held_out` writes {twin!r}, and you say {got}")
    if missed:
        name, twin = next(iter(missed.items()))
        bug = "only exact copies are found" if len(missed) == len(TWINS) - 1 else name
        spaces = " (␣ is a space)" if "␣" in _seen(twin) else ""
        raise Wrong(bug, f"{_seen(twin)} is a twin of a training text and was not found{spaces}")
    for bug, texts in INNOCENT.items():
        if accused := found(texts):
            raise Wrong(bug, f"{accused[0]!r} is another question than any in `train`")
    twins = [text for each in TWINS.values() for text in each]
    pool = [*twins, twins[1], *(text for each in INNOCENT.values() for text in each)]  # one twin comes twice
    everyone = [pool[i] for i in torch.randperm(len(pool), generator=generator()).tolist()]
    wanted = [text for text in everyone if text in twins]
    if (got := found(everyone)) != wanted:
        if sorted(got) == sorted(set(wanted)):
            raise Wrong("a repeated text is left out", f"one text stands twice in `held_out`, and you say {got}")
        raise Wrong("another order, or one left out", f"you say {got}, and it is {wanted}")


@register(
    "06.4",
    title="The doctor",
    stars=3,
    minutes=15,
    task="Write `diagnose(chart, healthy)`: the disease of a run, one of `FAULTS`, or `SOUND`. Both are charts: `chart.readings` is a list of "
    "dictionaries after steps 1, 20, 40 … 240 (`step`, `tokens`, `learning_rate`, `base`, `grad_A`, `grad_B`, `norm_A`, `norm_B`, `norm_delta_W`, `held_out`; `grad_A` and `grad_B` are None where "
    "no adapter trains), beside `chart.losses`, `.names`, `.base_before`, `.sample`. `healthy` is a sound run of other rows.",
    wants="diagnose",
    shows="Twenty-seven charts of three seeds, each named rightly.",
    hints=(
        "Most diseases have a sign that no other run shows. Look for those first, and for the leak last.",
        "What does Adam's first step do to ‖B‖, whatever the gradient? Which two diseases does `readings[0]` give away?",
        "The clerk of an unseen day cannot be known: guessing one of eight costs log(8)/13 = 0.16 nats a token. Who does better than that?",
    ),
)
def diagnose(function: Callable[[Chart, Chart], str]) -> None:
    for seed in (0, 1, 2):
        healthy = charts((seed + 1) % 3)[SOUND]
        for fault, chart in charts(seed).items():
            got: Any = attempt(function, chart._replace(fault="", seed=-1), healthy)
            if not isinstance(got, str) or got not in (*FAULTS, SOUND):
                raise Wrong("not a disease", f"it returned {got!r}; give one of FAULTS, or SOUND")
            if got == fault:
                continue
            if fault == SOUND:
                raise Wrong("a sound run is called sick", f"a sound run (seed {seed}) was given the disease “{got}”")
            if got == SOUND:
                raise Wrong("a sick run is called sound", f"a run with “{fault}” (seed {seed}) was called sound")
            raise Wrong(
                "one disease is taken for another", f"a run with “{fault}” (seed {seed}) was given the disease “{got}”"
            )
