"""One line a chapter: every exercise's checker knows the solution, the stub, and four or more planted bugs by their names.

A chapter's file `answers_NN.py` holds `ANSWERS = {"NN.1": Answers(solution, stub, bugs={"name of the bug": wrong answer, …}), …}`.
An answer of several objects is a tuple marked with `Several`.
"""

from dataclasses import dataclass
from typing import Any

from lora_edu.course.exercises import Result, check


class Several(tuple):
    """Several objects that `check` takes one after another."""


@dataclass(frozen=True)
class Answers:
    solution: Any
    stub: Any
    bugs: dict[str, Any]


def ask(id: str, answer: Any) -> Result:
    return check(id, *answer) if isinstance(answer, Several) else check(id, answer)


def prove(id: str, answers: Answers) -> None:
    """The solution passes, the stub is not attempted, each bug is rejected by its own name. Raises AssertionError that says which is not."""
    solved = ask(id, answers.solution)
    assert solved.passed, f"the solution of {id} is rejected: {solved}"
    stub = ask(id, answers.stub)
    assert stub.status == "not attempted", f"the stub of {id} is not recognised: {stub}"
    assert len(answers.bugs) >= 4, f"{id} has {len(answers.bugs)} planted bugs and needs four"
    said = {}
    for name, wrong in answers.bugs.items():
        result = ask(id, wrong)
        assert result.status == "wrong", f"{id} lets {name!r} pass: {result}"
        assert result.bug is not None and name in result.bug, f"{id} takes {name!r} for {result.bug!r}: {result}"
        said[result.bug] = name
    assert len(said) == len(answers.bugs), f"{id} says the same of two bugs"
