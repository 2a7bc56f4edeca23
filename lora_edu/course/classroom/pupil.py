"""The side that runs a student's code: a nursery that forks one confined process for each answer.

What is heavy is imported once, before any answer is there; each process starts from that. It says what kind of answer it holds and calls
it when it is asked to; it does not say whether the answer is right, but for the few that only their own process can look at.
"""

import importlib
import inspect
import linecache
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_edu.course import cases, exercises
from lora_edu.course.classroom.confine import Limits, confine
from lora_edu.course.classroom.crossing import CannotCross, decode, encode
from lora_edu.course.classroom.untouched import changed, look
from lora_edu.course.classroom.wire import Silence, receive, send
from lora_edu.errors import told

# Imported once for all answers; the first also because torch puts wrappers in the place of some of its own when it is imported late.
_HEAVY = (
    "torch._dynamo",
    "matplotlib.pyplot",
    "lora_edu.plots",
    "lora_edu.adapters.injection",
    "lora_edu.training.trainer",
    "lora_edu.widgets",
)


def nursery(line: socket.socket) -> None:
    """Answer the grader on `line` until it hangs up: for each job one process. Runs in a Python of its own, started by the grader."""
    torch.set_num_threads(1)
    for name in _HEAVY:
        importlib.import_module(name)
    exercises.exercises()
    while True:
        try:
            parts, fds, _, _ = socket.recv_fds(line, 1 << 20, 2)
        except OSError:
            return
        if not parts:
            return
        folder, limits, hidden = _job(parts)
        if (child := os.fork()) == 0:
            line.close()
            _grow(socket.socket(fileno=fds[0]), fds[1], folder, limits, hidden)
        for fd in fds:
            os.close(fd)
        line.sendall(child.to_bytes(8, "big"))
        _, status = os.waitpid(child, 0)
        line.sendall(status.to_bytes(8, "big"))


def _job(message: bytes) -> tuple[Path, Limits, tuple[Path, ...]]:
    """A job of the grader's own: where to run, within which limits, what not to see."""
    folder, limits, hidden = decode(message)
    return Path(folder), Limits(**limits), tuple(map(Path, hidden))


def _grow(wire: socket.socket, output: int, folder: Path, limits: Limits, hidden: tuple[Path, ...]) -> None:
    """The life of one answer's process."""
    try:
        null = os.open(os.devnull, os.O_RDONLY)
        for fd, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(fd, target)
        os.closerange(3, wire.fileno())
        os.closerange(wire.fileno() + 1, 256)
        shields = confine(folder, limits, hidden)
        read = (inspect.__file__, __file__)  # what is imported later lies beside these
        send(wire, {"shields": shields, "blind": [path for path in read if not os.access(path, os.R_OK)]})
        _serve(wire, receive(wire))
    except (Silence, CannotCross):
        pass
    except BaseException as error:
        print(told(error), file=sys.stderr, flush=True)
        os._exit(3)
    sys.stdout.flush()
    os._exit(0)


def _serve(wire: socket.socket, code: str) -> None:
    """Run the answer's code, say what it handed in, then do as asked."""
    before = look()
    os.register_at_fork(after_in_child=wire.close)  # what it starts is not heard
    handed: list[tuple[Any, ...]] = []

    def hand_in(_exercise: str, *answers: Any) -> None:
        handed.append(answers)

    name = "<answer>"
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    names: dict[str, Any] = {"__name__": "__main__", "hand_in": hand_in}
    try:
        exec(compile(code, name, "exec"), names)
    except BaseException as error:
        send(wire, {"error": type(error).__name__, "said": told(error)})
        return
    answers = handed[-1] if handed else ()
    send(wire, {"answers": [_kind(each) for each in answers]})
    while True:
        match receive(wire):
            case {"call": number, "with": values}:
                send(wire, _call(answers[number], values))
            case {"check": exercise, "seats": seats, "nonce": nonce}:
                decoy = _check(exercise, tuple(map(_decoy, answers)), seats[0])
                said = [_check(exercise, answers, seat) for seat in seats]
                send(wire, {"nonce": nonce, "decoy": decoy, "said": said, "touched": changed(before)})
            case _:
                return


def _kind(answer: Any) -> dict[str, Any]:
    """What the grader is told of an answer; a value goes whole, of anything else its kind and name."""
    name = str(getattr(answer, "__name__", type(answer).__name__))[:80]
    if inspect.isclass(answer):
        return {"kind": "class", "name": name, "open": exercises.is_blank(answer)}
    if isinstance(answer, nn.Module) or callable(answer):
        return {"kind": "function", "name": name, "open": exercises.is_blank(answer)}
    try:
        encode(answer)
    except CannotCross as error:
        return {"kind": "other", "name": str(error)}
    return {"kind": "value", "value": answer}


def _call(function: Callable[..., Any], values: tuple[Any, ...]) -> dict[str, Any]:
    before = encode(values)
    try:
        value = function(*values)
    except BaseException as error:
        return {"error": type(error).__name__, "said": told(error)}
    reply = {"value": value}
    try:
        encode(value)
    except CannotCross as error:
        return {
            "error": "TypeError",
            "said": f"it returned {error}, which is no plain number, tensor, text, list or table of those",
        }
    if encode(values) != before:
        reply["changed"] = values
    return reply


def _decoy(answer: Any) -> Any:
    """Something of the same kind that is certainly wrong: a check that lets it pass has been tampered with."""

    class Decoy(nn.Linear):
        def __init__(self, *_: Any) -> None:
            super().__init__(1, 1)

    return Decoy if inspect.isclass(answer) else (lambda *_: 0) if callable(answer) else "decoy"


def _check(exercise: str, answers: tuple[Any, ...], seat: str) -> dict[str, Any]:
    with cases.seated(seat):
        result = exercises.check(exercise, *answers)
    return {"status": result.status, "bug": result.bug, "message": result.message}


if __name__ == "__main__":
    nursery(socket.socket(fileno=int(sys.argv[1])))
