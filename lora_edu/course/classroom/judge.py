"""One answer's verdict: the checkers run here, in the grader, and ask the student's process for values and nothing else.

An answer that is data comes over whole. A function is called over there with the cases that the checker draws here, and what it returns
is plain data. So a student's code can patch, replace and rewrite whatever it reaches, and none of it decides. Where that cannot be (an
answer that is a class; cases that are models) its own process runs the check, and the verdict says so.
"""

import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import nbformat

from lora_edu.course import cases
from lora_edu.course.classroom.answer_cells import program
from lora_edu.course.classroom.pupils import FORGES, Gone, Nursery, Pupil, Remote
from lora_edu.course.classroom.suspects import suspects
from lora_edu.course.exercises import check
from lora_edu.errors import cut

HELD_BACK = 3  # checks with cases that no student has seen
GRADER, ITSELF = "the grader", "its own process"
# What only the process of the answer can look at, by exercise. A checker whose cases are models or functions is found out when it asks.
INSIDE = {
    "02.1": "looks at which tensors get a gradient",
    "03.1": "the answer is a class",
    "06.2": "counts the numbers that are made on the way",
    "08.1": "the answer hands back the very tensors it was given",
    "16.1": "the answer is a class",
    "17.1": "the answer is a whole page of functions",
    "17.2": "the answer is a whole page of functions",
    "17.3": "the answer is a whole page of functions",
}
TAMPERED = "it changes what checks it"
_STATUSES = ("passed", "wrong", "not attempted")
_CHECKS_LAST = 60  # seconds, for a checker whom a value keeps busy


@dataclass(frozen=True)
class Verdict:
    """What became of one answer. `status`: passed, wrong, not attempted, missing, or stopped (`bug` says by what)."""

    exercise: str
    status: str
    bug: str = ""
    message: str = ""
    held_back: int = 0  # of HELD_BACK checks on unseen cases, how many it passed
    judged_by: str = GRADER
    look_at: tuple[str, ...] = ()  # what a teacher may want to read for themselves
    shields: tuple[str, ...] | None = field(default=None, compare=False)  # the walls it had; None: nothing was run

    @property
    def solved(self) -> bool:
        """The student's own cases and all those held back."""
        return self.status == "passed" and self.held_back == HELD_BACK


def judge(notebook: nbformat.NotebookNode, exercise: str, nursery: Nursery, secret: str) -> Verdict:
    """Run one answer of a notebook and check it; `secret` is what the held-back cases are drawn from."""
    try:
        code = program(notebook, exercise)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Verdict(exercise, "stopped", "its code is no Python", cut(str(error)))
    if code is None:
        return Verdict(exercise, "missing", message="no cell of the page checks it")
    seats = [str(notebook.metadata.get("lora_edu", {}).get("seat", "")) or f"{secret} own"]
    seats += [f"{secret} {exercise} {n}" for n in range(HELD_BACK)]
    look_at = suspects(code)
    with nursery.pupil() as pupil:
        try:
            if raised := pupil.load(code):
                bug = pupil.overran or "its code does not run"
                return Verdict(exercise, "stopped", bug, cut(raised), look_at=look_at, shields=tuple(pupil.shields))
            inside = exercise in INSIDE
            results = [] if inside else _outside(pupil, exercise, seats)
            if pupil.cannot_ask:
                inside, results = True, []
            if inside:
                results = _inside(pupil, exercise, seats)
        except Gone:
            inside, results = False, []
        shields = tuple(pupil.shields)
        if pupil.ended:
            return Verdict(exercise, "stopped", pupil.ended, "", look_at=look_at, shields=shields)
    first = results[0]
    failed = first if first["status"] != "passed" else next((r for r in results if r["status"] != "passed"), first)
    held_back = sum(r["status"] == "passed" for r in results[1:])
    message = (
        failed["message"]
        if first["status"] != "passed" or failed is first
        else f"On cases held back: {failed['message']}"
    )
    return Verdict(
        exercise,
        first["status"],
        failed["bug"] or "",
        message,
        held_back,
        ITSELF if inside else GRADER,
        look_at,
        shields,
    )


def _outside(pupil: Pupil, exercise: str, seats: list[str]) -> list[dict[str, Any]]:
    """The check on the cases of each seat, run here. Ends early where the first says enough."""
    answers = []
    for number, each in enumerate(pupil.answers):
        if each.get("kind") == "value":
            answers.append(each.get("value"))
        elif each.get("open") is True:
            answers.append(...)
        else:
            answers.append(Remote(pupil, number, str(each.get("name", ""))))
    results: list[dict[str, Any]] = []
    for seat in seats:
        with cases.seated(seat), _no_longer_than(_CHECKS_LAST):
            result = check(exercise, *answers)
        if pupil.ended:
            raise Gone(pupil.ended)
        bug = pupil.overran if pupil.overran and result.status == "wrong" else result.bug
        results.append({"status": result.status, "bug": bug, "message": result.message})
        if pupil.cannot_ask or results[0]["status"] == "not attempted":
            break
    return results


def _inside(pupil: Pupil, exercise: str, seats: list[str]) -> list[dict[str, Any]]:
    """The same, run by the answer's own process: its word, with what can be seen of tampering."""
    nonce = secrets.token_hex(16)  # made after its code was loaded
    reply = pupil.check({"check": exercise, "seats": seats, "nonce": nonce})
    said, decoy = reply.get("said"), reply.get("decoy")
    sound = reply.get("nonce") == nonce and isinstance(said, list) and len(said) == len(seats)
    if not sound or not all(_is_result(each) for each in [decoy, *said]):  # type: ignore[misc]
        pupil.ended = FORGES
        raise Gone(FORGES)
    touched = [str(name)[:80] for name in reply.get("touched") or ()]
    if touched or decoy["status"] == "passed":  # type: ignore[index]
        pupil.ended = TAMPERED + (f": {', '.join(touched)}" if touched else ": a wrong answer passes in its process")
        raise Gone(pupil.ended)
    return said  # type: ignore[return-value]


def _is_result(each: Any) -> bool:
    return (
        isinstance(each, dict)
        and each.get("status") in _STATUSES
        and isinstance(each.get("message"), str)
        and isinstance(each.get("bug"), str | None)
    )


@contextmanager
def _no_longer_than(seconds: int) -> Iterator[None]:
    """Inside, a checker that a value keeps busy for too long is stopped; only the main thread can be."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeoutError("the check took too long with this answer")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
