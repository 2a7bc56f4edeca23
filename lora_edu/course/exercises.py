"""Exercises: a header, a checker that names the bug, hints in steps.

A chapter's exercises live in `checks/chNN.py`: a function per exercise under `@register(...)`. The checker receives what the learner
wrote, tries it on random inputs, and raises `Wrong(bug, detail)`; returning without a complaint means solved.
"""

import importlib
import inspect
import os
import pkgutil
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lora_edu.course import cases, store
from lora_edu.course.card import SIGNS, Card, inline, sentence
from lora_edu.course.open_parts import (
    MOST_NAMED,
    NotAttempted,
    Wrong,
    gaps,
    is_blank,
    is_stub,
    lacks_forward,
    open_in,
    parts_of,
)
from lora_edu.course.values import (
    apart,
    as_list,
    as_number,
    as_numbers,
    as_parts,
    as_tensor,
    as_truth,
    as_whole,
    close,
    kind,
    named,
    same,
)
from lora_edu.errors import LoRAEduError, cut, shown, told, without_addresses

__all__ = [  # what a checker needs, from one place
    "Exercise", "ExerciseError", "NotAttempted", "Result", "Wrong", "apart", "as_list", "as_number", "as_numbers", "as_parts", "as_tensor",
    "as_truth", "as_whole", "attempt", "check", "close", "exercise", "exercises", "find", "gaps", "generator", "hint", "is_blank", "is_stub",
    "kind", "lacks_forward", "named", "register", "same", "shown", "told",
]  # fmt: skip


class ExerciseError(LoRAEduError, ValueError):
    """An exercise or quiz that does not exist, or one that is described twice."""


@dataclass(frozen=True)
class Exercise:
    """One exercise. `wants` names the learner's object(s) as the notebook does; `shows` is said when it is solved."""

    id: str
    title: str
    stars: int  # difficulty, 1 to 3
    minutes: int
    task: str
    wants: str
    shows: str
    hints: tuple[str, ...]
    checker: Callable[..., None]


_registry: dict[str, Exercise] = {}


def register(
    id: str, *, title: str, stars: int, minutes: int, task: str, wants: str, shows: str, hints: tuple[str, ...]
):
    """Decorator that makes a checker function the exercise `id` ("03.2": chapter, number)."""

    def keep(checker: Callable[..., None]) -> Callable[..., None]:
        known = _registry.get(id)
        if known and known.checker.__module__ != checker.__module__:
            raise ExerciseError(f"exercise {id} is described in {known.checker.__module__} and in {checker.__module__}")
        _registry[id] = Exercise(id, title, stars, minutes, task, wants, shows, hints, checker)
        return checker

    return keep


def exercises() -> dict[str, Exercise]:
    """All exercises by id, in order."""
    from lora_edu.course import checks

    for module in pkgutil.iter_modules(checks.__path__, f"{checks.__name__}."):
        importlib.import_module(module.name)
    return dict(sorted(_registry.items()))


def find(id: str) -> Exercise:
    """The exercise, or an ExerciseError that lists those there are."""
    every = exercises()
    if id not in every:
        raise ExerciseError(f"there is no exercise {id!r}; there are {', '.join(every)}")
    return every[id]


def generator() -> torch.Generator:
    """Random numbers for a checker: new ones for a learner, their own for a seat, the same ones on every run of a test."""
    number = cases.drawn()
    if number is None:
        number = 0 if store.is_off() else secrets.randbits(31)
    return torch.Generator().manual_seed(number)


def shapes(values: tuple[Any, ...]) -> str:
    def short(value: Any) -> str:
        if isinstance(value, torch.Tensor):
            return str(tuple(value.shape))
        if isinstance(value, nn.Module):
            return type(value).__name__
        if inspect.isroutine(value):
            return value.__name__
        text = shown(value, 500)
        return text if len(text) <= 200 else f"a {type(value).__name__}"

    return ", ".join(map(short, values))


class _Ended(BaseException):
    """Raised in place of ending the kernel."""


@contextmanager
def _nobody_leaves() -> Iterator[None]:
    """Inside, `os._exit` and `os.abort` raise: a kernel that is gone says nothing about an answer."""

    def stay(*_: Any) -> None:
        raise _Ended

    kept = os._exit, os.abort
    os._exit = os.abort = stay  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit, os.abort = kept


def attempt(function: Any, *values: Any) -> Any:
    """Call a learner's function on copies of `values`; what goes wrong becomes a sentence. Only Ctrl-C passes.

    Raises: NotAttempted for a stub's answer; Wrong when it raises, ends the program, returns nothing, or changes a tensor in place.
    """
    name = getattr(function, "__name__", type(function).__name__)
    if not callable(function):
        raise Wrong("not a function", f"hand over the function itself, without calling it; this is {kind(function)}")
    copies = tuple(value.clone() if isinstance(value, torch.Tensor) else value for value in values)
    called = f"It was called with {shapes(values)}"
    try:
        with _nobody_leaves():
            result = function(*copies)
    except KeyboardInterrupt:
        raise
    except NotImplementedError:
        raise NotAttempted from None
    except (SystemExit, _Ended):
        raise Wrong(
            "it ends the program", f"`{name}` calls `exit`; a function hands back its answer by `return`. {called}"
        ) from None
    except RecursionError as error:
        raise Wrong(
            "it calls itself without an end", f"`{name}` went on calling until Python stopped it. {called}"
        ) from error
    except BaseException as error:
        if "ellipsis" in told(error):
            raise NotAttempted from None
        raise Wrong("it raises an error", f"`{name}` raised {told(error)}. {called}") from error
    if result is None and not is_stub(function):
        raise Wrong("nothing is returned", f"`{name}` returned None: is a `return` missing? {called}")
    if left := open_in(result, "it"):
        raise NotAttempted(*(_returned(name, place.removeprefix("it")) for place in left))
    for before, after in zip(values, copies):
        if isinstance(before, torch.Tensor) and not _unchanged(before, after):
            raise Wrong(
                "an input is changed in place",
                f"`{name}` changed the tensor of shape {tuple(before.shape)} it was given",
            )
    return result


def _unchanged(before: torch.Tensor, after: torch.Tensor) -> bool:
    """The same entries; one that is not a number equals itself here."""
    if torch.equal(before, after) or not before.is_floating_point():
        return torch.equal(before, after)
    return before.shape == after.shape and torch.allclose(before, after, rtol=0, atol=0, equal_nan=True)


class Result(Card):
    """What `check` found. `status`: "passed", "wrong" or "not attempted"; `bug`: the bug's name or None."""

    def __init__(
        self, exercise: Exercise, status: str, message: str, bug: str | None = None, head: str | None = None
    ) -> None:
        self.id, self.status, self.bug, self.message = exercise.id, status, bug, message
        kind = {"passed": "right", "wrong": "wrong"}.get(status, "open")
        head = head or {"passed": "solved", "wrong": "not yet"}.get(status, status)
        super().__init__(
            f"{SIGNS[kind]} Exercise {exercise.id}: {head}. {message}",
            f"<b>{SIGNS[kind]} Exercise {exercise.id}: {head}.</b> {inline(message)}",
            kind,
        )

    @property
    def passed(self) -> bool:
        return self.status == "passed"


_ORDINALS = ("first", "second", "third", "fourth")
MOST_SAID = 1_000  # characters of what a checker says


def _listed(places: Sequence[str]) -> str:
    rest = len(places) - MOST_NAMED
    return ", ".join(places[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _returned(name: str, place: str) -> str:
    """A place of what a function returns, in words: "[0]" is the first value."""
    if place in (spots := [f"[{i}]" for i in range(len(_ORDINALS))]):
        return f"the {_ORDINALS[spots.index(place)]} value that `{name}` returns"
    return f"`{place}` of what `{name}` returns" if place else f"what `{name}` returns"


def _open(exercise: Exercise, answers: Sequence[Any], parts: Sequence[str]) -> "Result":
    """An answer in which something is open: which part, if another was filled in."""
    found = [gaps(answer) for answer in answers]
    lines = [line for places, _ in found for line in places]
    if lines and any(filled for _, filled in found):
        parts = lines
    elif found and all(places for places, _ in found):  # nothing but `...` was ever written
        parts = ()
    if parts:
        names = parts if parts is lines else [part if "`" in part else f"`{part}`" for part in parts]
        return Result(exercise, "not attempted", f"Still open: {_listed(names)}.", head="not finished")
    return Result(exercise, "not attempted", f"Fill in `{exercise.wants}` and run the cell again.")


def check(id: str, *answers: Any) -> Result:
    """Check what you wrote for an exercise: not attempted, solved, or the name of what is wrong with it.

    Never raises for a wrong answer, so "Restart and run all" goes on. Raises: ExerciseError for an unknown id.
    """
    exercise = find(id)
    try:
        inspect.signature(exercise.checker).bind(*answers)
    except TypeError:
        return Result(exercise, "wrong", f'Call it as `check("{id}", {exercise.wants})`.', "wrong call")
    try:
        left = [place for name, answer in zip(exercise.wants.split(", "), answers) for place in open_in(answer, name)]
        if left:
            raise NotAttempted(*(left if len(left) < sum(map(parts_of, answers)) else ()))
        with cases.drawing_for(id):
            exercise.checker(*answers)
        result = Result(exercise, "passed", exercise.shows)
    except KeyboardInterrupt:
        raise
    except NotAttempted as open_:
        result = _open(exercise, answers, open_.args)
    except Wrong as wrong:
        message = (
            f'{sentence(wrong.bug)} {cut(without_addresses(sentence(wrong.detail)), MOST_SAID)} (`hint("{id}")` helps.)'
        )
        if lines := [line for answer in answers for line in gaps(answer)[0]]:
            message += f" Still open: {_listed(lines)}."
        result = Result(exercise, "wrong", message, wrong.bug)
    except BaseException as error:  # an answer of a kind that the checker did not foresee must not stop the notebook
        message = f"The check met {told(error)}. It wants `{exercise.wants}`: {exercise.task}"
        result = Result(exercise, "wrong", message, "not the kind of answer asked for")
    if result.status != "not attempted":
        before = store.get("exercises", id) or {"solved": False, "tries": 0}
        store.put("exercises", id, {"solved": before["solved"] or result.passed, "tries": before["tries"] + 1})
    return result


def exercise(id: str) -> Card:
    """The exercise's header: what to do, how hard it is, how long it takes."""
    this = find(id)
    stars = "★" * this.stars + "☆" * (3 - this.stars)
    head = f"Exercise {this.id}: {this.title}"
    meta = f"{stars} · about {this.minutes} minutes"
    todo = f'Check it with `check("{this.id}", {this.wants})`; stuck: `hint("{this.id}")`.'
    text = f"{head} ({meta})\n{this.task}\n{todo}"
    return Card(
        text, f"<b>{inline(head)}</b> <span>{meta}</span><br>{inline(this.task)}<br><i>{inline(todo)}</i>", "ask"
    )


_given: dict[str, int] = {}


def hint(id: str) -> Card:
    """The next hint of an exercise; after the last one, where its solution is. The first call only counts them.

    So a reader who runs the page cell by cell is told nothing unasked.
    """
    this = find(id)
    step = _given[id] = min(_given.get(id, -1) + 1, len(this.hints) + 1)
    if step == 0:
        return Card(f"{len(this.hints)} hints wait: run this cell again for the first.")
    if step > len(this.hints):
        where = f"The answer is in the notebook of chapter {id[:2]} in `solutions`, beside this one."
        return Card(f"· No more hints. {'Your teacher has the answer.' if cases.has_seat() else where}")
    rest = len(this.hints) - step
    more = f" ({rest} more: run the cell again.)" if rest else " (This was the last one; after it, the solution.)"
    return Card(f"Hint {step} of {len(this.hints)}: {this.hints[step - 1]}{more}")
