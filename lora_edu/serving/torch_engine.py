"""The torch engine: any model that transformers loads, rows of several adapters and dials in one batch. Chapter 15.

One thread owns the model. It takes what waits, the oldest first, as one batch (left-padded, with a cache of keys and values), decodes all
of it a token at a time, lets finished rows leave, and takes the next batch when the last row is done. Rows of plain LoRA share a batch by
`adapters_per_row`; an adapter that is more than that is switched on for a batch of its own.
"""

import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from lora_edu.adapters.finding import adapter_names, state_of
from lora_edu.adapters.folder import opened, read_config
from lora_edu.adapters.injection import remove_adapter
from lora_edu.adapters.save_load import load
from lora_edu.adapters.switching import set_adapter, set_scale
from lora_edu.errors import AdapterError, CheckpointError, ServingError, told
from lora_edu.models.modules import forward_takes, unwrap
from lora_edu.serving.decoding import Chooser, TextStream
from lora_edu.serving.engine import CLOSING, Finish, Line, Piece, Question, Ticket
from lora_edu.serving.limits import Limits
from lora_edu.serving.per_row import adapters_per_row, why_alone

T = TypeVar("T")
log = logging.getLogger("lora_edu.serving")


class TorchEngine:
    """Answers with a transformers model in this process. `submit`, `add`, `remove` and `work` may be called from any thread."""

    name = "torch"

    def __init__(self, model: Any, tokenizer: Any, limits: Limits | None = None, any_base: bool = False) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.limits = limits or Limits()
        self.any_base = any_base
        self.alone: dict[str, str] = {}  # {adapter: why its rows cannot share a batch}
        self.batches: list[int] = []  # rows of each batch that was begun, the last thousand
        self._line = Line(self.limits.queue)
        self._known: dict[
            str, Any
        ] = {}  # {adapter: its configuration}: who asks does not look into a model that may be changing
        self._jobs: list[tuple[Callable[[Any], Any], str | None, Future[Any]]] = []
        self._ended = False
        configured = getattr(model.generation_config, "eos_token_id", None)
        stops = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
        self._stops = stops - {None}
        self._takes = {key for key in ("position_ids", "logits_to_keep") if forward_takes(model, key)}
        for name in adapter_names(model):
            self._know(name)
        self._thread = threading.Thread(target=self._serve, name="torch-engine", daemon=True)
        self._thread.start()

    # -- from any thread ----------------------------------------------------------------------------------------------
    def submit(self, question: Question, deliver: Callable[[Piece], None]) -> Ticket:
        """Take a question. Raises AdapterError for an adapter that is not there or a dial that it cannot take, BusyError, ServingError."""
        name = question.adapter
        if name is not None:
            if (config := self._known.get(name)) is None:
                raise AdapterError(f"there is no adapter {name!r} here")
            if config.virtual and question.dial not in (0, 1):
                raise AdapterError(f"{name} has no dial, because it is no change of a weight: 0 (off) or 1 (on)")
        if not question.prompt:
            raise AdapterError("an empty prompt: there is nothing to answer")
        return self._line.join(Ticket(question, deliver))

    def counts(self) -> tuple[int, int]:
        """(questions that wait, questions that are being answered)."""
        return self._line.count()

    def work(self, job: Callable[[Any], T], without: str | None = None) -> T:
        """job(model) in the engine's thread, between two batches; once no question for the adapter `without` is left. Waits for it."""
        future: Future[T] = Future()
        with self._line.change:
            if self._line.closing:
                raise ServingError(CLOSING)
            self._jobs.append((job, without, future))
            self._line.change.notify_all()
        return future.result()

    def add(self, name: str, folder: str | Path) -> str | None:
        """Load the adapter in `folder` as `name`. Returns why its rows are answered in batches of their own, or None.

        Raises CheckpointError or AdapterError, with everything as it was, for a folder that is damaged, does not fit this model, was
        trained on another base (unless `any_base`), or would change the base for the others.
        """
        self.work(lambda model: self._add(model, name, Path(folder)))
        return self.alone.get(name)

    def remove(self, name: str) -> None:
        """Take the adapter out, after the last question that was taken for it. Raises AdapterError where there is none."""

        if self._known.pop(name, None) is None:  # from here on no question for it is taken
            raise AdapterError(f"there is no adapter {name!r} here")

        def job(model: Any) -> None:
            remove_adapter(model, name)
            self.alone.pop(name, None)

        self.work(job, without=name)

    def close(self, seconds: float = 0.0) -> None:
        """Take no more, answer what was taken, and after `seconds` send the rest away. The thread ends."""
        self._line.close(seconds)
        with self._line.change:
            self._ended = True
            self._line.change.notify_all()
        self._thread.join(timeout=30)

    # -- the engine's thread ------------------------------------------------------------------------------------------
    def _serve(self) -> None:
        while True:
            self._line.sweep()
            with self._line.change:
                job, batch = self._next_job(), []
                if job is None:
                    batch = self._next_batch()
                if job is None and not batch:
                    if self._ended:
                        break
                    self._line.change.wait(0.2 if self._line.waiting else 5.0)
                    continue
            if job is not None:
                _run(*job, self.model)
            else:
                self._answer(batch)
        for _, _, future in self._jobs:
            future.set_exception(ServingError(CLOSING))

    def _next_job(self) -> tuple[Callable[[Any], Any], Future[Any]] | None:
        for i, (job, without, future) in enumerate(self._jobs):
            if without is None or not self._line.wants(without):
                del self._jobs[i]
                return job, future
        return None

    def _next_batch(self) -> list[Ticket]:
        """The oldest question, and those of the others that can share a batch with it."""
        line = self._line
        if not line.waiting:
            return []
        kind = self._kind(line.waiting[0].question)
        batch = [t for t in line.waiting if self._kind(t.question) == kind][: self.limits.batch]
        line.waiting = [t for t in line.waiting if t not in batch]
        line.running.update(batch)
        return batch

    def _kind(self, question: Question) -> tuple[str, float] | None:
        """None for what may share a batch; else what must be equal."""
        return (question.adapter, question.dial) if question.adapter in self.alone else None

    def _answer(self, batch: Sequence[Ticket]) -> None:
        self.batches = [*self.batches[-999:], len(batch)]
        rows = [_Answering(ticket, self.tokenizer) for ticket in batch]
        try:
            with torch.no_grad(), self._speaking([t.question for t in batch]) as keep:
                self._decode(rows, keep)
        except Exception as error:  # out of memory, a model's own fault: it costs this batch, not the server
            log.error("a batch of %d failed: %s", len(rows), type(error).__name__)
            for row in rows:
                if not row.done:
                    text = (
                        told(error)
                        if isinstance(error, AdapterError)
                        else f"the engine failed ({type(error).__name__})"
                    )
                    row.done = True
                    self._line.done(row.ticket, Piece("", row.tokens, "error", text))

    @contextmanager
    def _speaking(self, questions: Sequence[Question]) -> Iterator[Callable[[Sequence[int]], None]]:
        """Within the block the rows of a batch are answered by their adapters; yields what to tell when rows leave."""
        kind = self._kind(questions[0])
        if kind is None:
            with adapters_per_row(self.model, [(q.adapter, q.dial) for q in questions]) as batch:
                yield batch.keep
            return
        name, dial = kind
        state = state_of(self.model)
        before = state.active
        try:
            set_adapter(self.model, name)
            set_scale(self.model, dial)
            yield lambda rows: None
        finally:
            state.active = before

    def _decode(self, rows: "list[_Answering]", keep: Callable[[Sequence[int]], None]) -> None:
        """Answer all rows, a token of each at a time."""
        device = self.model.device
        longest = max(len(row.prompt) for row in rows)
        ids = torch.zeros(
            len(rows), longest, dtype=torch.long
        )  # (B, T), padded on the left: all answers begin in one column
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, longest - len(row.prompt) :] = torch.tensor(row.prompt)
            mask[i, longest - len(row.prompt) :] = 1
        ids, mask = ids.to(device), mask.to(device)
        positions = (mask.cumsum(-1) - 1).clamp(
            min=0
        )  # (B, T): a row's first token stands at 0, wherever its padding ends
        cache = None
        while True:
            logits, cache = self._forward(ids, mask, positions, cache)
            chosen = [row.choose(logits[i]) for i, row in enumerate(rows)]
            for row, token in zip(rows, chosen):
                if (last := row.push(token, self._stops)) is not None:
                    self._line.done(row.ticket, last)
            stay = [i for i, row in enumerate(rows) if not row.done]
            if not stay:
                return
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            positions = positions[:, -1:] + 1
            ids = torch.tensor(chosen, device=device)[:, None]  # (B, 1)
            if len(stay) < len(rows) and hasattr(cache, "batch_select_indices"):
                index = torch.tensor(stay, device=device)
                cache.batch_select_indices(index)
                ids, mask, positions, rows = ids[index], mask[index], positions[index], [rows[i] for i in stay]
                keep(stay)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """(logits of each row's next token (B, V), the cache with these tokens in it)."""
        more = {"position_ids": positions, "logits_to_keep": 1}
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **{key: value for key, value in more.items() if key in self._takes},
        )
        if getattr(out, "past_key_values", None) is None:
            raise AdapterError(f"{type(unwrap(self.model)).__name__} keeps no keys and values: it cannot be served")
        return out.logits[:, -1], out.past_key_values

    # -- adapters -----------------------------------------------------------------------------------------------------
    def _add(self, model: Any, name: str, folder: Path) -> None:
        config = read_config(folder)
        if config.changes_base:
            raise AdapterError(
                f"{folder} holds {type(config).__name__}, which changes the base's own weights: others could not be served beside it. "
                "Merge it (lora-edu merge) and serve the result with --model"
            )
        with opened(folder) as file:
            if "base_rows" in file.metadata:
                raise AdapterError(
                    f"the adapter in {folder} brings the rows of new tokens, which would change the base for all: merge it, and serve that"
                )
        before = dict(state_of(model).active) if adapter_names(model) else {}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load(model, folder, name)
        state = state_of(model)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        foreign = [str(w.message) for w in caught if "trained on a base" in str(w.message)]
        state.active = before
        if foreign and not self.any_base:
            remove_adapter(model, name)
            raise CheckpointError(f"{foreign[0]} Start the server with --any-base to serve it all the same.")
        self._know(name)

    def _know(self, name: str) -> None:
        self._known[name] = state_of(self.model).configs[name]
        self.alone.pop(name, None)
        if reason := why_alone(self.model, name) or self._refused(self.model, name):
            self.alone[name] = reason

    def _refused(self, model: Any, name: str) -> str | None:
        """Why the model itself cannot tell the rows of a batch apart, found by trying; None if it can."""
        ids = torch.zeros(2, 3, dtype=torch.long, device=model.device)
        try:
            with torch.no_grad(), adapters_per_row(model, [(name, 1.0), (None, 1.0)]):
                model(input_ids=ids)
        except AdapterError as error:
            return str(error)
        return None


class _Answering:
    """One row of the running batch."""

    def __init__(self, ticket: Ticket, tokenizer: Any) -> None:
        self.ticket, self.prompt = ticket, ticket.question.prompt
        self.choose = Chooser(ticket.question)
        self.text = TextStream(tokenizer, ticket.question.stop)
        self.tokens, self.done = 0, False

    def push(self, token: int, stops: set[int]) -> Piece | None:
        """Take the row's next token, sending what is certain; the last piece when the answer ends with it."""
        if self.done:
            return None
        finish: Finish | None = None
        text = ""
        if self.ticket.cancelled:
            finish = "cancelled"
        elif token in stops:
            finish = "stop"
        else:
            self.tokens += 1
            text = self.text.push(token)
            if self.text.stopped:
                finish = "stop"
            elif self.ticket.late:
                finish = "timeout"
            elif self.tokens >= self.ticket.question.max_tokens:
                finish = "length"
        if finish is None:
            if text:
                self.ticket.deliver(Piece(text, self.tokens))
            return None
        self.done = True
        text += self.text.finish()
        return Piece(text, self.tokens, "stop" if self.text.stopped else finish)


def _run(job: Callable[[Any], Any], future: "Future[Any]", model: Any) -> None:
    try:
        future.set_result(job(model))
    except BaseException as error:
        future.set_exception(error)
