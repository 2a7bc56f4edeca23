"""What a server asks of an engine, and what an engine gives back: one small interface, two engines behind it. Chapter 15.

An engine takes prompts as token ids. What a user wrote became ids by the model's own tokenizer, in which no text turns into a special
token (`data.templates.prompt_ids`), so that no engine can read the end of a turn out of a question.
"""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from lora_edu.errors import BusyError, ServingError

Finish = Literal["stop", "length", "cancelled", "timeout", "error"]


@dataclass(frozen=True)
class Question:
    """One prompt, who answers it and how. `adapter` None is the base; `dial` multiplies ΔW; temperature 0 takes the likeliest token."""

    prompt: tuple[int, ...]
    adapter: str | None = None
    dial: float = 1.0
    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    seconds: float = 120.0  # from here to the last token, waiting included


@dataclass(frozen=True)
class Piece:
    """A part of an answer. The last one says with `finish` why there is no more, and for "error" what happened."""

    text: str
    tokens: int  # of the answer so far
    finish: Finish | None = None
    error: str = ""


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    text: str
    tokens: int
    finish: Finish
    error: str = ""


@dataclass(eq=False)
class Ticket:
    """A question that an engine has taken, and where its pieces go. `deliver` is called in a thread of the engine's, and must not wait."""

    question: Question
    deliver: Callable[[Piece], None]
    came: float = field(default_factory=time.monotonic)
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Nobody waits for the answer any more: the engine drops it at its next token."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def late(self) -> bool:
        """Whether its time is up."""
        return time.monotonic() - self.came > self.question.seconds


class Engine(Protocol):
    """What answers questions. Everything here may be called from any thread."""

    name: str

    def submit(self, question: Question, deliver: Callable[[Piece], None]) -> Ticket:
        """Take a question. Raises BusyError where the queue is full, ServingError once the engine closes."""

    def counts(self) -> tuple[int, int]:
        """(questions that wait, questions that are being answered)."""

    def close(self, seconds: float) -> None:
        """Take no more, answer what was taken, and after `seconds` say to the rest that the server is closing."""


def ask(engine: Engine, question: Question) -> Answer:
    """The whole answer, when it is there. For tests, benchmarks and the chapter; the server does not wait so."""
    pieces: queue.SimpleQueue[Piece] = queue.SimpleQueue()
    engine.submit(question, pieces.put)
    text = ""
    while True:
        piece = pieces.get()
        text += piece.text
        if piece.finish is not None:
            return Answer(text, piece.tokens, piece.finish, piece.error)


CLOSING = "the server is closing: ask again when it is back"


class Line:
    """The questions that wait for an engine, first come first served, and the count of those that are being answered."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.waiting: list[Ticket] = []
        self.running: set[Ticket] = set()
        self.closing = False
        self.change = threading.Condition()

    def join(self, ticket: Ticket) -> Ticket:
        """Raises BusyError where as many wait as may, ServingError once the engine closes."""
        with self.change:
            if self.closing:
                raise ServingError(CLOSING)
            if len(self.waiting) >= self.longest:
                raise BusyError(f"{len(self.waiting)} questions wait already, which is as many as may: ask again later")
            self.waiting.append(ticket)
            self.change.notify_all()
        return ticket

    def done(self, ticket: Ticket, piece: Piece) -> None:
        """Give the last piece."""
        with self.change:
            self.running.discard(ticket)
            self.change.notify_all()
        ticket.deliver(piece)

    def count(self) -> tuple[int, int]:
        with self.change:
            return len(self.waiting), len(self.running)

    def wants(self, adapter: str) -> bool:
        """Whether a question for this adapter waits or is being answered. Call it with `change` held."""
        return any(t.question.adapter == adapter for t in (*self.waiting, *self.running))

    def sweep(self) -> None:
        """Send away who waits in vain: cancelled, or out of time. Call it without `change` held."""
        with self.change:
            gone = [t for t in self.waiting if t.cancelled or t.late]
            self.waiting = [t for t in self.waiting if not (t.cancelled or t.late)]
        for ticket in gone:
            ticket.deliver(Piece("", 0, "cancelled" if ticket.cancelled else "timeout"))

    def close(self, seconds: float) -> None:
        """Let nobody join, wait until all are answered, and after `seconds` send away those that still wait and cancel the rest."""
        end = time.monotonic() + seconds
        with self.change:
            self.closing = True
            self.change.notify_all()
            while (self.waiting or self.running) and (left := end - time.monotonic()) > 0:
                self.change.wait(min(left, 0.5))
            gone, self.waiting = self.waiting, []
            for ticket in self.running:
                ticket.cancel()
        for ticket in gone:
            ticket.deliver(Piece("", 0, "error", CLOSING))
