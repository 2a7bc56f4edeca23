"""The grader's side of a student's process: start it, ask it, and say how it ended."""

import contextlib
import getpass
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import psutil
import torch

import lora_edu
from lora_edu.course.classroom.confine import SHIELDS, Limits
from lora_edu.course.classroom.crossing import CannotCross, encode
from lora_edu.course.classroom.roster import ClassroomError
from lora_edu.course.classroom.wire import Silence, receive, send
from lora_edu.course.open_parts import Wrong
from lora_edu.models.cache import cache_dir

HANGS, LEAVES, DIES, MEMORY, OUTPUT, FORGES = (
    "it does not come to an end",
    "it ends the program",
    "it crashes Python",
    "it takes too much memory",
    "it prints or writes too much",
    "what it says to the grader is no message",
)
_START = "import socket, sys; sys.path[:0] = [sys.argv[2]]; from lora_edu.course.classroom.pupil import nursery; nursery(socket.socket(fileno=int(sys.argv[1])))"
_KEPT = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "LD_LIBRARY_PATH")  # of the teacher's environment


class Gone(BaseException):
    """The process is no more, or too late; nothing that it is asked will be answered."""


class Nursery:
    """One Python that has everything imported, and forks a confined process for each answer."""

    def __init__(self, limits: Limits, hidden: Sequence[Path] = ()) -> None:
        self.limits, self.hidden = limits, [path.resolve() for path in hidden]
        self.line, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | {
            "LORA_EDU_CACHE": str(cache_dir()), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "LORA_EDU_PROGRESS": "off", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1",
        }  # fmt: skip
        home = str(Path(lora_edu.__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", _START, str(theirs.fileno()), home],
            pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL, cwd="/", start_new_session=True,
        )  # fmt: skip
        theirs.close()

    def pupil(self) -> "Pupil":
        return Pupil(self)

    def close(self) -> None:
        self.line.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Pupil:
    """One process with one answer. A context: left, everything that it was or started is gone, and its folder with it."""

    def __init__(self, nursery: Nursery) -> None:
        self.nursery, self.ended = nursery, ""  # how it ended, once it has
        self.shields: list[str] = []
        self.answers: list[dict[str, Any]] = []
        self.overran = ""  # what it took too much of, and was refused
        self.cannot_ask = ""  # what of the grader's own values does not cross

    def __enter__(self) -> "Pupil":
        limits = self.nursery.limits
        self._folder = tempfile.TemporaryDirectory(prefix="answer-", ignore_cleanup_errors=True)
        os.chmod(self._folder.name, 0o711)
        own = Path(self._folder.name, "own")
        own.mkdir()
        self._printed = os.open(Path(self._folder.name, "printed"), os.O_RDWR | os.O_CREAT, 0o600)
        self.wire, theirs = socket.socketpair()
        job = encode((str(own), asdict(limits), [str(path) for path in self.nursery.hidden]))
        try:
            socket.send_fds(self.nursery.line, [job], [theirs.fileno(), self._printed])
            theirs.close()
            self.pid = int.from_bytes(self.nursery.line.recv(8, socket.MSG_WAITALL), "big")
        except OSError:
            self.pid = 0
        if not self.pid:
            raise RuntimeError("the grader's own process could not be started; its message stands above")
        self.deadline = time.monotonic() + limits.seconds
        return self

    def load(self, code: str) -> str:
        """Run the answer's code. "" when it ran, and `answers` says what it handed in; else what it raised."""
        try:
            reply = self._ask(None)
        except Gone:
            os.lseek(self._printed, 0, os.SEEK_SET)
            printed = os.read(self._printed, 2_000).decode(errors="replace").strip() or "it says nothing"
            raise ClassroomError(f"the process that runs an answer could not be set up: {printed}") from None
        if reply.get("blind"):
            raise ClassroomError(
                f"a process that gives up the rights of {getpass.getuser()} cannot read {reply['blind'][0]}: grade as an ordinary user, "
                "or let others read that folder"
            )
        shields = reply.get("shields")
        self.shields = [name for name in SHIELDS if name in shields] if isinstance(shields, list) else []
        said = self._ask(code)
        if "error" in said:
            self.overran = _overrun(str(said.get("said")), str(said["error"]))
            return str(said.get("said", said["error"]))[:500]
        answers = said.get("answers")
        self.answers = [each for each in answers if isinstance(each, dict)] if isinstance(answers, list) else []
        return ""

    def _ask(self, question: Any) -> dict[str, Any]:
        """Send (but None), and what comes back. Raises Gone, and CannotCross where the question is no plain data."""
        try:
            if question is not None:
                self.wire.settimeout(max(self.deadline - time.monotonic(), 0.01))
                send(self.wire, question)
        except Silence as silence:
            self._lost(HANGS if silence.late else "")
        try:
            reply = receive(self.wire, self.deadline)
        except Silence as silence:
            self._lost(HANGS if silence.late else "")
        except CannotCross:
            self._lost(FORGES)
        if not isinstance(reply, dict):
            self._lost(FORGES)
        return reply

    def _lost(self, why: str) -> NoReturn:
        self.ended = self.ended or why or self._how_it_ended()
        raise Gone(self.ended)

    def check(self, question: dict[str, Any]) -> dict[str, Any]:
        """Let the process check its own answer."""
        return self._ask(question)

    def call(self, number: int, values: tuple[Any, ...]) -> Any:
        """What the answer's function returns for `values`, or raises; what it changed in `values` is changed here."""
        try:
            reply = self._ask({"call": number, "with": values})
        except CannotCross as error:
            self.cannot_ask = str(error)
            raise
        if "error" in reply:
            name, text = str(reply["error"]), str(reply.get("said", ""))
            self.overran = self.overran or _overrun(text, name)
            raise _raised(name, text)
        if "changed" in reply:
            _write_back(list(values), list(reply["changed"]) if isinstance(reply["changed"], tuple) else [])
        return reply.get("value")

    def _how_it_ended(self) -> str:
        code = os.waitstatus_to_exitcode(self._reap(patience=1.0))
        number = -code if code < 0 else code - 128
        if number == signal.SIGXCPU:
            return HANGS
        if number == signal.SIGKILL:
            return MEMORY  # the system's own hand: the grader waits for it here
        return (
            DIES if number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL) else LEAVES
        )

    def _reap(self, patience: float = 0.0) -> int:
        """Its exit status; after `patience` seconds, or at once, it is killed with all that it started."""
        line = self.nursery.line
        try:
            line.settimeout(patience or 0.001)
            status = line.recv(8)
        except TimeoutError:
            self._kill()
            line.settimeout(None)
            status = line.recv(8)
        line.settimeout(None)
        self.pid = 0
        return int.from_bytes(status, "big")

    def _kill(self) -> None:
        with contextlib.suppress(psutil.Error):
            first = psutil.Process(self.pid)
            for process in [*first.children(recursive=True), first]:
                with contextlib.suppress(psutil.Error):
                    process.kill()

    def __exit__(self, *_: object) -> None:
        if self.pid:
            self._kill()
            self._reap()
        self.wire.close()
        os.close(self._printed)
        self._folder.cleanup()


def _raised(name: str, said: str) -> BaseException:
    """The error that a function raised over there, as one that has happened here."""
    known: dict[str, type[BaseException]] = {
        "NotImplementedError": NotImplementedError, "RecursionError": RecursionError, "SystemExit": SystemExit,
    }  # fmt: skip
    text = said.removeprefix(f"{name}: ")[:500]
    kind = known.get(name) or type(name if name.isidentifier() and len(name) < 60 else "Error", (Exception,), {})
    return kind(text)


def _overrun(text: str, name: str) -> str:
    """Which limit an error speaks of; "" for any other."""
    if name == "MemoryError" or "can't allocate memory" in text or "not enough memory" in text:
        return MEMORY
    return OUTPUT if name == "OSError" and ("File too large" in text or "No space left" in text) else ""


def _write_back(mine: list[Any], theirs: list[Any]) -> None:
    """Change the values here as they were changed over there. Raises Wrong where they have become other things."""
    if len(mine) != len(theirs):
        raise Wrong("an input is changed in place", "it does not have the length it was given with")
    for value, after in zip(mine, theirs):
        if isinstance(value, torch.Tensor | np.ndarray) and getattr(after, "shape", None) == value.shape:
            value[...] = after
        elif isinstance(value, list) and isinstance(after, list):
            value[:] = after
        elif isinstance(value, dict) and isinstance(after, dict):
            value.clear()
            value.update(after)
        elif isinstance(value, tuple) and isinstance(after, tuple):
            _write_back(list(value), list(after))
        elif isinstance(value, set) and isinstance(after, set):
            value.clear()
            value.update(after)


class Remote:
    """A student's function, for a checker: called here, it runs in the student's process."""

    def __init__(self, pupil: Pupil, number: int, name: str) -> None:
        self._pupil, self._number = pupil, number
        self.__name__ = name if name.isidentifier() else "answer"

    def __call__(self, *values: Any) -> Any:
        return self._pupil.call(self._number, values)
