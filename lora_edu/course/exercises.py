"""Exercises: a header, a checker that names the bug, hints in steps.

A chapter's exercises live in `checks/chNN.py`: a function per exercise under `@register(...)`. The checker receives what the learner
wrote, tries it on random inputs, and raises `Wrong(bug, detail)`; returning without a complaint means solved.
"""

import dis
import importlib
import inspect
import math
import pkgutil
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lora_edu.course import store
from lora_edu.course.card import SIGNS, Card, inline, sentence
from lora_edu.errors import LoRAEduError


class ExerciseError(LoRAEduError, ValueError):
    """An exercise or quiz that does not exist, or one that is described twice."""


class Wrong(Exception):
    """What is wrong with an answer: `bug`, its short name, and `detail`, a sentence with what was measured."""

    def __init__(self, bug: str, detail: str) -> None:
        super().__init__(bug, detail)
        self.bug, self.detail = bug, detail


class NotAttempted(Exception):
    """The answer is still the stub."""


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
    """Random numbers for a checker: new ones for a learner, the same ones on every run of a test."""
    return torch.Generator().manual_seed(0 if store.is_off() else secrets.randbits(31))


def is_stub(function: Any) -> bool:
    """True for a body of `...`, `pass` or a docstring alone."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return False
    idle = ("RESUME", "LOAD_CONST", "RETURN", "NOP", "POP_TOP", "CACHE", "COPY_FREE_VARS")
    steps = list(dis.get_instructions(code))
    constants = [step.argval for step in steps if step.opname in ("LOAD_CONST", "RETURN_CONST")]
    return all(step.opname.startswith(idle) for step in steps) and all(c is None or c is ... for c in constants)


def lacks_forward(layer_class: type[nn.Module]) -> bool:
    return layer_class.forward is nn.Module.forward or is_stub(layer_class.forward)


def is_blank(value: Any) -> bool:
    """True where an answer, or any part of it, was left open: None, `...`, a stub; a class where `__init__` does nothing either."""
    if value is None or value is ... or value is NotImplemented:
        return True
    if isinstance(value, dict):
        return any(map(is_blank, value.values()))
    if isinstance(value, list | tuple | set):
        return any(map(is_blank, value))
    if inspect.isclass(value) and issubclass(value, nn.Module):
        written = getattr(value.__init__, "__code__", None)
        idle = value.__init__ is nn.Module.__init__ or (written and set(written.co_names) <= {"super", "__init__"})
        return bool(idle) and lacks_forward(value)
    return inspect.isfunction(value) and is_stub(value)


MOST_SHOWN = 200  # characters of one argument in a message


def shapes(values: tuple[Any, ...]) -> str:
    def short(value: Any) -> str:
        if isinstance(value, torch.Tensor):
            return str(tuple(value.shape))
        if isinstance(value, nn.Module):
            return type(value).__name__
        if inspect.isroutine(value):
            return value.__name__
        text = repr(value)
        return text if len(text) <= MOST_SHOWN else f"a {type(value).__name__}"

    return ", ".join(map(short, values))


def attempt(function: Any, *values: Any) -> Any:
    """Call a learner's function on copies of `values`; what goes wrong becomes a sentence.

    Raises: NotAttempted for a stub's answer; Wrong when it raises, returns nothing, or changes its inputs in place.
    """
    name = getattr(function, "__name__", type(function).__name__)
    if not callable(function):
        raise Wrong(
            "not a function", f"hand over the function itself, without calling it; this is {type(function).__name__}"
        )
    copies = tuple(value.clone() if isinstance(value, torch.Tensor) else value for value in values)
    try:
        result = function(*copies)
    except NotImplementedError:
        raise NotAttempted from None
    except Exception as error:
        if "ellipsis" in str(error):
            raise NotAttempted from None
        raise Wrong(
            "it raises an error",
            f"`{name}` raised {type(error).__name__}: {error}. It was called with {shapes(values)}",
        ) from error
    if (result is not None and is_blank(result)) or (result is None and is_stub(function)):
        raise NotAttempted
    if result is None:
        raise Wrong(
            "nothing is returned", f"`{name}` returned None: is a `return` missing? It was called with {shapes(values)}"
        )
    for before, after in zip(values, copies):
        if isinstance(before, torch.Tensor) and not torch.equal(before, after):
            raise Wrong(
                "an input is changed in place",
                f"`{name}` changed the tensor of shape {tuple(before.shape)} it was given",
            )
    return result


def as_tensor(value: Any, like: torch.Tensor, what: str) -> torch.Tensor:
    """`value` as a detached tensor of `like`'s shape and dtype. Raises Wrong("wrong shape") or Wrong("not a tensor")."""
    if not isinstance(value, torch.Tensor):
        raise Wrong(
            "not a tensor", f"{what} is {type(value).__name__}, and should be a tensor of shape {tuple(like.shape)}"
        )
    if value.shape != like.shape:
        raise Wrong("wrong shape", f"{what} has shape {tuple(value.shape)} and should have {tuple(like.shape)}")
    return value.detach().to(like.dtype)


def as_number(value: Any, what: str) -> Any:
    """`value` as a plain number, also from NumPy or a tensor of one element. Raises Wrong("not a number"), also for nan and inf."""
    if isinstance(shape := getattr(value, "shape", None), tuple) and math.prod(shape) == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Wrong("not a number", f"{what} returned {type(value).__name__}, and should return a number")
    if not math.isfinite(value):
        raise Wrong("not a number", f"{what} returned {value}")
    return value


def close(got: torch.Tensor, want: torch.Tensor, rtol: float = 1e-4) -> bool:
    """True when the two differ by less than `rtol` of what is wanted, in norm."""
    return got.shape == want.shape and bool((got - want).norm() <= rtol * want.norm() + 1e-12)


class Result(Card):
    """What `check` found. `status`: "passed", "wrong" or "not attempted"; `bug`: the bug's name or None."""

    def __init__(self, exercise: Exercise, status: str, message: str, bug: str | None = None) -> None:
        self.id, self.status, self.bug, self.message = exercise.id, status, bug, message
        kind = {"passed": "right", "wrong": "wrong"}.get(status, "open")
        head = {"passed": "solved", "wrong": "not yet"}.get(status, status)
        super().__init__(
            f"{SIGNS[kind]} Exercise {exercise.id}: {head}. {message}",
            f"<b>{SIGNS[kind]} Exercise {exercise.id}: {head}.</b> {inline(message)}",
            kind,
        )

    @property
    def passed(self) -> bool:
        return self.status == "passed"


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
        if any(map(is_blank, answers)):
            raise NotAttempted
        exercise.checker(*answers)
        result = Result(exercise, "passed", exercise.shows)
    except NotAttempted:
        result = Result(exercise, "not attempted", f"Fill in `{exercise.wants}` and run the cell again.")
    except Wrong as wrong:
        message = f'{sentence(wrong.bug)} {sentence(wrong.detail)} (`hint("{id}")` helps.)'
        result = Result(exercise, "wrong", message, wrong.bug)
    except Exception as error:  # an answer of a kind that the checker did not foresee must not stop the notebook
        message = f"The check met {type(error).__name__}: {error}. It wants `{exercise.wants}`: {exercise.task}"
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
        return Card(
            f"· No more hints. The answer is in the notebook of chapter {id[:2]} in `solutions`, beside this one."
        )
    rest = len(this.hints) - step
    more = f" ({rest} more: run the cell again.)" if rest else " (This was the last one; after it, the solution.)"
    return Card(f"Hint {step} of {len(this.hints)}: {this.hints[step - 1]}{more}")
