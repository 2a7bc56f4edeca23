"""The llama.cpp engine: a model and adapters in GGUF files, by `xllamacpp`, in this process. Chapter 15.

Each request carries how loud every adapter speaks in it: the dial costs nothing to turn. llama.cpp puts requests into one batch only where
these agree. It learns of adapters when it starts, so one that comes or goes later restarts it: the questions that wait stay in line, those
under way are finished first, and what was served before is served again if the new start fails.
"""

import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lora_edu.errors import AdapterError, ServingError, told
from lora_edu.serving.engine import CLOSING, Finish, Line, Piece, Question, Ticket
from lora_edu.serving.limits import Limits

log = logging.getLogger("lora_edu.serving")


class LlamaEngine:
    """Answers from a GGUF file. `slots` questions are answered at the same time, with `threads` threads."""

    name = "llama.cpp"

    def __init__(
        self,
        model: Path,
        adapters: Mapping[str, Path] | None = None,
        limits: Limits | None = None,
        threads: int = 1,
        slots: int = 4,
    ) -> None:
        self.limits = limits or Limits()
        self._model, self._threads, self._slots = Path(model), threads, slots
        self._adapters = dict(adapters or {})
        self._line = Line(self.limits.queue)
        self._paused = self._ended = False
        self._changing = threading.Lock()
        self._server = self._start(self._adapters)
        self._workers = [threading.Thread(target=self._serve, name=f"llama-{i}", daemon=True) for i in range(slots)]
        for worker in self._workers:
            worker.start()

    def _start(self, adapters: Mapping[str, Path]) -> Any:
        import xllamacpp

        params: Any = xllamacpp.CommonParams()
        params.model.path = str(self._model)
        params.n_ctx, params.n_parallel = self.limits.context * self._slots, self._slots
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self._threads
        params.warmup = params.fit_params = params.ui = False
        params.verbosity = 0
        # In full precision, as torch computes: with what it does otherwise (float16 here and there) near ties come out differently.
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.endpoint_slots = params.endpoint_props = False
        params.api_keys = [secrets.token_hex(32)]  # it listens on a port of its own, which nobody needs
        described = []
        for path in adapters.values():
            info = xllamacpp.CommonAdapterLoraInfo()
            info.path, info.scale = str(path), 0.0
            described.append(info)
        params.lora_adapters = described
        try:
            return xllamacpp.Server(params)
        except Exception as error:
            raise ServingError(
                f"llama.cpp cannot start with {self._model.name} and {len(described)} adapters: {told(error)}"
            ) from error

    # -- from any thread ----------------------------------------------------------------------------------------------
    def submit(self, question: Question, deliver: Callable[[Piece], None]) -> Ticket:
        """Take a question. Raises AdapterError for an adapter that is not there, BusyError, ServingError."""
        if question.adapter is not None and question.adapter not in self._adapters:
            raise AdapterError(f"there is no adapter {question.adapter!r} here")
        if not question.prompt:
            raise AdapterError("an empty prompt: there is nothing to answer")
        return self._line.join(Ticket(question, deliver))

    def counts(self) -> tuple[int, int]:
        """(questions that wait, questions that are being answered)."""
        return self._line.count()

    def add(self, name: str, path: Path) -> None:
        """Serve the adapter in this GGUF file too. Raises ServingError, with everything as it was, where llama.cpp does not take it."""
        self._restart(lambda held: {**held, name: Path(path)})

    def remove(self, name: str) -> None:
        """Forget the adapter, after the last question that was taken for it."""
        with self._line.change:
            while self._line.wants(name) and not self._line.closing:
                self._line.change.wait(0.2)
        self._restart(lambda held: {key: path for key, path in held.items() if key != name})

    def close(self, seconds: float = 0.0) -> None:
        """Take no more, answer what was taken, and after `seconds` send the rest away."""
        self._line.close(seconds)
        with self._line.change:
            self._ended = True
            self._line.change.notify_all()
        for worker in self._workers:
            worker.join(timeout=30)
        self._server = None

    def _restart(self, change: Callable[[dict[str, Path]], dict[str, Path]]) -> None:
        with self._changing:
            with self._line.change:
                if self._line.closing:
                    raise ServingError(CLOSING)
                self._paused = True
                while self._line.running:
                    self._line.change.wait(0.2)
            try:
                wanted = change(self._adapters)
                server = self._start(wanted)  # the old one stands until the new one does
                self._adapters, self._server = wanted, server
            finally:
                with self._line.change:
                    self._paused = False
                    self._line.change.notify_all()

    # -- the workers --------------------------------------------------------------------------------------------------
    def _serve(self) -> None:
        while True:
            self._line.sweep()
            with self._line.change:
                if self._ended:
                    return
                if self._paused or not self._line.waiting:
                    self._line.change.wait(0.2 if self._line.waiting else 5.0)
                    continue
                ticket = self._line.waiting.pop(0)
                self._line.running.add(ticket)
            last = Piece("", 0, "error", "the engine failed")
            try:
                last = self._answer(ticket)
            except Exception as error:  # it costs this answer, not the server
                log.error("an answer failed: %s", type(error).__name__)
                last = Piece("", 0, "error", f"the engine failed ({type(error).__name__})")
            finally:
                self._line.done(ticket, last)

    def _answer(self, ticket: Ticket) -> Piece:
        """Answer one question, sending its pieces; the last one."""
        q = ticket.question
        wanted = {
            "prompt": list(q.prompt),
            "max_tokens": q.max_tokens,
            "temperature": q.temperature,
            "top_p": q.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "seed": -1 if q.seed is None else q.seed % 2**32,
            "stop": list(q.stop),
            "stream": True,
            "stream_options": {"include_usage": True},
            "lora": [{"id": i, "scale": q.dial if name == q.adapter else 0.0} for i, name in enumerate(self._adapters)],
        }
        tokens, finish, error = 0, None, ""

        def take(chunk: Any) -> bool:
            """One event of the stream; True ends it."""
            nonlocal tokens, finish, error
            if "error" in chunk:
                finish, error = "error", "llama.cpp refused the question"
                return True
            if usage := chunk.get("usage"):
                tokens = usage["completion_tokens"]
            for choice in chunk.get("choices", ()):
                if text := choice.get("text"):
                    tokens += not usage
                    ticket.deliver(Piece(text, tokens))
                finish = choice.get("finish_reason") or finish
            if finish is None and (ticket.cancelled or ticket.late):
                finish = "cancelled" if ticket.cancelled else "timeout"
            return finish in ("cancelled", "timeout")

        self._server.handle_completions(wanted, take)
        ended: Finish = finish if finish is not None else "error"  # type: ignore[assignment]
        return Piece("", tokens, ended, error or ("the engine broke the answer off" if ended == "error" else ""))
