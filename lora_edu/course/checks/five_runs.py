"""Five runs of which two are one, and every way to compare them wrongly. Exercise 08.2."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from lora_edu.course.exercises import Wrong, as_parts, as_whole, attempt

Run = dict[str, Any]
Pair = tuple[int, int]
_Key = Callable[[Run], tuple[float, ...]]


def _scale(run: Run) -> float:
    return float(run["alpha"]) / (math.sqrt(run["r"]) if run["rslora"] else float(run["r"]))


def _key(run: Run) -> tuple[float, float]:
    return run["rate_A"] / run["start"], _scale(run) * run["start"] * run["rate_B"]


def _b_side(scale: Callable[[Run], float]) -> _Key:
    """The two numbers with another scale."""
    return lambda run: (_key(run)[0], scale(run) * run["start"] * run["rate_B"])


def _changed(run: Run, by: dict[str, float]) -> Run:
    """Each number times what `by` says; `rslora` turned over where it is named."""
    return {
        name: not value if name == "rslora" and name in by else value * by.get(name, 1) if name != "rslora" else value
        for name, value in run.items()
    }


def _other_rule(run: Run, power: float) -> Run:
    """The run under the other rule, α times √r to this power where the rule becomes α/r, divided by it where it becomes α/√r."""
    by = math.sqrt(run["r"]) ** power
    return _changed(run, {"rslora": 1, "alpha": by if run["rslora"] else 1 / by})


class _Mistake(NamedTuple):
    """What a way to compare wrongly looks at, and a change of a run that it does not see, and that makes it another run."""

    key: _Key
    change: Callable[[Run], Run]


def _by(**factors: float) -> Callable[[Run], Run]:
    return lambda run: _changed(run, factors)


# Finer ways stand before the coarser ones that see all of theirs and more.
_MISTAKES: dict[str, _Mistake] = {
    "the two rules are swapped": _Mistake(
        _b_side(lambda run: run["alpha"] / (run["r"] if run["rslora"] else math.sqrt(run["r"]))),
        lambda run: _other_rule(run, -1),
    ),
    "the root is taken of α, too": _Mistake(
        _b_side(lambda run: (run["alpha"] / run["r"]) ** (0.5 if run["rslora"] else 1)), _by(alpha=4, rate_B=1 / 2)
    ),
    "the scale is turned over": _Mistake(_b_side(lambda run: 1 / _scale(run)), _by(alpha=2, rate_B=2)),
    "rsLoRA is forgotten": _Mistake(_b_side(lambda run: run["alpha"] / run["r"]), _by(rslora=1)),
    "α is forgotten": _Mistake(_b_side(lambda run: 1.0), _by(alpha=4)),
    "A's start is forgotten": _Mistake(lambda run: (run["rate_A"], _scale(run) * run["rate_B"]), _by(start=2)),
    "A's start is forgotten beside A's rate": _Mistake(
        lambda run: (run["rate_A"], _key(run)[1]), _by(start=2, alpha=1 / 2)
    ),
    "A's start is forgotten beside B's rate": _Mistake(
        lambda run: (_key(run)[0], _scale(run) * run["rate_B"]), _by(start=2, rate_A=2)
    ),
    "A's rate is multiplied by its start": _Mistake(
        lambda run: (run["rate_A"] * run["start"], _key(run)[1]), _by(start=2, rate_A=1 / 2, alpha=1 / 2)
    ),
    "B's rate is divided by A's start": _Mistake(
        lambda run: (_key(run)[0], _scale(run) / run["start"] * run["rate_B"]), _by(start=2, rate_A=2, alpha=2)
    ),
    "A's and B's rates are swapped": _Mistake(
        lambda run: (run["rate_B"] / run["start"], _scale(run) * run["start"] * run["rate_A"]),
        _by(start=2, rate_B=2, alpha=1 / 2),
    ),
    "the rates go with the squares, as under SGD": _Mistake(
        lambda run: (run["rate_A"] / run["start"] ** 2, (_scale(run) * run["start"]) ** 2 * run["rate_B"]),
        _by(start=2, rate_A=4, alpha=1 / 2),
    ),
    "only the ratio of the rates is looked at, beside the scale": _Mistake(
        lambda run: (_scale(run), run["rate_A"] / run["rate_B"]), _by(rate_A=2, rate_B=2)
    ),
    "one number in place of two": _Mistake(lambda run: (math.prod(_key(run)),), _by(rate_A=2, rate_B=1 / 2)),
    "B's rate is not looked at": _Mistake(lambda run: _key(run)[:1], _by(rate_B=4)),
    "A's rate is not looked at": _Mistake(lambda run: _key(run)[1:], _by(rate_A=2)),
    "only the scale is looked at": _Mistake(lambda run: (_scale(run),), _by(rate_A=4, rate_B=2, start=2)),
}


def _equal_pairs(runs: Sequence[Run], key: _Key) -> set[Pair]:
    keys = [key(run) for run in runs]
    return {(i, j) for i, j in itertools.combinations(range(len(runs)), 2) if all(map(math.isclose, keys[i], keys[j]))}


def _near_pairs(runs: Sequence[Run], least: float) -> set[Pair]:
    keys = [_key(run) for run in runs]
    return {
        (i, j)
        for i, j in itertools.combinations(range(len(runs)), 2)
        if all(abs(x - y) < least for x, y in zip(keys[i], keys[j]))
    }


def _places(order: list[int], one: int, other: int) -> Pair:
    first, second = sorted((order.index(one), order.index(other)))
    return first, second


def _before(one: Pair, other: Pair) -> bool:
    """In whatever order the pairs are gone through."""
    return one[0] < other[0] and one[1] < other[1]


def five_runs(mistake: str, early: bool, draw: torch.Generator) -> tuple[list[Run], Pair]:
    """Five runs of which two are one, and where these stand. Two others are one only to who makes this mistake.

    `early`: whether these others stand before the pair that is right, so that the first pair to agree is theirs; else the last is.
    """

    def power(low: int, high: int) -> float:
        return 2.0 ** int(torch.randint(low, high + 1, (1,), generator=draw))

    def some(r: int) -> Run:
        return {
            "alpha": 8 * power(-1, 4), "r": r, "rslora": power(0, 1) > 1, "start": power(-2, 2),
            "rate_A": 1e-3 * power(-2, 4), "rate_B": 1e-3 * power(-2, 4),
        }  # fmt: skip

    key, change = _MISTAKES[mistake]
    while True:
        r = (4, 16, 64)[int(torch.randint(3, (1,), generator=draw))]
        one, mistaken, alone = some(r), some(r), some(r)
        p, q = power(1, 2), power(-2, -1)
        other = _changed(one, {"start": p, "rate_A": p, "rate_B": q, "alpha": 1 / (p * q)})
        if power(0, 1) > 1:
            other = _other_rule(other, -1 if other["rslora"] else 1)
        order = torch.randperm(5, generator=draw).tolist()
        right, trap = _places(order, 0, 1), _places(order, 2, 3)
        if not (_before(trap, right) if early else _before(right, trap)):
            continue
        runs = [[one, other, mistaken, change(mistaken), alone][i] for i in order]
        # numbers this large survive a comparison to six digits behind the point
        if min(number for run in runs for number in _key(run)) < 2e-4 or _equal_pairs(runs, _key) != {right}:
            continue
        if trap in (seen := _equal_pairs(runs, key)) and seen <= {trap, right}:
            return runs, right


class _Case(NamedTuple):
    runs: list[Run]
    right: Pair
    said: Pair | None  # by the learner; None where no pair was found


def judge_pairs(function: Callable[..., Any], draw: torch.Generator) -> None:
    """A learner's `find_pair(runs)` on two cases for every mistake. Raises: Wrong, NotAttempted."""
    cases: list[_Case] = []
    faults: list[Wrong] = []  # in the function itself, which may have only found no pair
    for mistake, early in itertools.product(_MISTAKES, (True, False)):
        runs, right = five_runs(mistake, early, draw)
        said = None
        try:
            said = _pair(attempt(function, [dict(run) for run in runs]))
        except Wrong as wrong:
            if wrong.bug not in ("it raises an error", "nothing is returned"):
                raise
            faults.append(wrong)
        cases.append(_Case(runs, right, said))
    if any(case.said != case.right for case in cases):
        raise _named(cases, faults)


def _pair(got: Any) -> Pair:
    got = sorted(got) if isinstance(got, set | frozenset) and len(got) == 2 else got
    first, second = (as_whole(each, "a position") for each in as_parts(got, ("first", "second"), "`find_pair`"))
    if first == second:
        raise Wrong("a run, and itself", f"you say {first} and {second}")
    return min(first, second), max(first, second)


def _named(cases: Sequence[_Case], faults: Sequence[Wrong]) -> Wrong:
    """What explains all that was said; a coincidence in one case is no explanation."""
    every = [case.said for case in cases]
    if len(faults) == len(cases):
        found_none = all(isinstance(fault.__cause__, StopIteration) for fault in faults)
        if faults[0].bug == "nothing is returned":
            return Wrong(
                faults[0].bug,
                "`find_pair` returned None for any five runs: is a `return` missing, or do no two of them ever agree?",
            )
        return Wrong("no pair is found", _none(cases)) if found_none else faults[0]
    if None not in every and len(set(every)) == 1:
        return Wrong("one answer for any five runs", f"you say {every[0]}, whatever the runs are")
    if all(said == (right[0] + 1, right[1] + 1) for _, right, said in cases):
        return Wrong("counted from 1", f"you say {every[0]}; positions are counted from 0")
    for said in every:
        if said and not 0 <= said[0] < said[1] < 5:
            return Wrong("no position", f"you say {said}; there are five runs, 0 to 4")
    raised = [fault for fault in faults if fault.bug == "it raises an error"]
    wrong = next((case for case in cases if case.said not in (None, case.right)), None)
    if wrong is None:
        errors = [fault for fault in raised if not isinstance(fault.__cause__, StopIteration)]
        return errors[0] if errors else Wrong("no pair is found", _none(cases))
    explained = [mistake for mistake in _MISTAKES if _explains(cases, mistake)]
    if not explained and _too_wide(cases):
        explained = ["the tolerance is too wide"]
    if not explained and raised and not isinstance(raised[0].__cause__, StopIteration | IndexError):
        return raised[0]
    return Wrong(explained[0] if explained else "another pair", f"these two are not the same run: {_told(wrong)}")


def _explains(cases: Sequence[_Case], mistake: str) -> bool:
    """Whether a pair was said that is one to who makes this mistake, wherever there is one."""
    seen = ((said, _equal_pairs(runs, _MISTAKES[mistake].key)) for runs, _, said in cases)
    return all(said in pairs for said, pairs in seen if pairs)


def _too_wide(cases: Sequence[_Case]) -> bool:
    return any(all(case.said in _near_pairs(case.runs, least) for case in cases) for least in (1e-4, 1e-3, 2e-3, 1e-2))


def _none(cases: Sequence[_Case]) -> str:
    missed = next(case for case in cases if case.said is None)
    five = "; ".join(_line(missed.runs[i], i) for i in range(5))
    return f"two of the five are always the same run, and `find_pair` returned no pair for these: {five}"


def _told(case: _Case) -> str:
    assert case.said is not None
    return "; ".join(_line(case.runs[i], i) for i in case.said)


def _line(run: Run, place: int) -> str:
    knobs = (f"{name} {value if isinstance(value, bool) else format(value, 'g')}" for name, value in run.items())
    return f"{place}: {', '.join(knobs)}"
