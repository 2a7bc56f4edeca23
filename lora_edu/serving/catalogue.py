"""What is served: the base and its adapters, which engine answers for each and why, and what a name such as `kjv@0.5` means. Chapter 15."""

import copy
import hashlib
import math
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_edu.adapters.folder import WEIGHTS
from lora_edu.data.rows import Message
from lora_edu.data.templates import prompt_ids
from lora_edu.errors import AdapterError, CheckpointError, DataError, LoRAEduError, ServingError, shown
from lora_edu.serving.asked import Asked, Refused
from lora_edu.serving.engine import Engine, Question
from lora_edu.serving.limits import Limits
from lora_edu.serving.torch_engine import TorchEngine


@dataclass(frozen=True)
class Served:
    """One model that answers: the base (no folder), or an adapter on it."""

    name: str
    engine: str
    why: str = ""  # why this engine, or why its rows are answered apart; "" where there is nothing to say
    folder: Path | None = None
    system: str = ""
    sha256: str = ""  # of the adapter's weights as they were read
    created: int = field(default_factory=lambda: int(time.time()))

    def card(self) -> dict[str, Any]:
        """As /v1/models shows it."""
        card = {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "lora-edu",
            "engine": self.engine,
        }
        if self.folder is not None:
            card |= {"adapter": True, "dial": f"{self.name}@0.5", "sha256": self.sha256}
        return card | ({"note": self.why} if self.why else {})


class Catalogue:
    """The base `base_name`, its adapters, and the engines that answer.

    torch     answers whatever `llama` does not; it also reads every adapter first, with all checks of `load`.
    llama     the llama.cpp engine, or None; `why_torch` says why there is none.
    allowed   the folder from which adapters may be loaded while the server runs; None allows none.
    system_of what an adapter's folder says of the system message that it was trained with.
    """

    def __init__(
        self,
        base_name: str,
        torch: TorchEngine,
        llama: Any = None,
        why_torch: str = "",
        allowed: Path | None = None,
        system: str | None = None,
        system_of: Callable[[Path], str | None] = lambda folder: None,
    ) -> None:
        self.torch, self.llama = torch, llama
        self.limits: Limits = torch.limits
        self.base = Served(base_name, (llama or torch).name, why_torch, system=system or "")
        self.allowed = allowed.resolve() if allowed else None
        self._system, self._system_of = system, system_of
        self._tokenizer = copy.deepcopy(torch.tokenizer)  # its own: the engine decodes with the other in another thread
        self._encoding, self._changing = threading.Lock(), threading.Lock()
        self._served: dict[str, Served] = {}
        self._scratch = tempfile.TemporaryDirectory(prefix="lora-edu-serve-")
        self.longest = _longest(torch.model, self.limits)

    # -- what there is ------------------------------------------------------------------------------------------------
    @property
    def engines(self) -> list[Engine]:
        return [engine for engine in (self.llama, self.torch) if engine is not None]

    def all(self) -> list[Served]:
        """The base, then its adapters."""
        return [self.base, *self._served.values()]

    def find(self, model: str) -> tuple[Served, float]:
        """(who, dial) that a request's `model` names: the base, an adapter, or `adapter@dial`. Raises Refused (404, 400)."""
        if model == self.base.name:
            return self.base, 1.0
        name, at, text = model.partition("@") if model not in self._served else (model, "", "")
        found = self._served.get(name)
        if found is None:
            if at and name == self.base.name:
                raise Refused(400, f"{name} is the base, which has no dial: name an adapter, as in NAME@0.5", "model")
            raise Refused(
                404, f"there is no model {shown(model, 80)}: /v1/models lists what there is", "model", "model_not_found"
            )
        if not at:
            return found, 1.0
        try:
            dial = float(text)
        except ValueError:
            dial = math.nan
        if not abs(dial) <= self.limits.dial:
            raise Refused(
                400, f"{shown(text, 40)} is no dial: a number from {-self.limits.dial:g} to {self.limits.dial:g}, as in {name}@0.5", "model"
            )  # fmt: skip
        return found, dial

    def question(self, asked: Asked) -> tuple[Served, Engine, Question]:
        """Who answers, by which engine, and what it is asked: with the system message that the adapter was trained with, where the request
        has none. Raises Refused."""
        served, dial = self.find(asked.model)
        messages = list(asked.messages)
        if messages[0]["role"] != "system":
            opening: Message = {"role": "system", "content": served.system}
            messages.insert(0, opening)
        try:
            with self._encoding:  # a tokenizer is told in place how to treat special tokens
                prompt = prompt_ids(messages, self._tokenizer)
        except DataError as error:
            raise Refused(400, str(error), "messages") from None
        wanted = asked.max_tokens or max(1, min(self.limits.default_tokens, self.longest - len(prompt)))
        if len(prompt) + wanted > self.longest:
            raise Refused(
                400,
                f"{len(prompt)} tokens of prompt and {wanted} of answer are more than the {self.longest} that fit: "
                "shorten the messages, or ask for fewer with max_tokens",
                "messages",
                "context_length_exceeded",
            )
        question = Question(
            tuple(prompt), served.name if served.folder else None, dial, wanted, asked.temperature, asked.top_p, asked.seed,
            asked.stop, self.limits.seconds,
        )  # fmt: skip
        return served, self.llama if served.engine != self.torch.name else self.torch, question

    # -- what changes it ----------------------------------------------------------------------------------------------
    def inside(self, folder: str) -> Path:
        """The folder, if it may be loaded from while the server runs. Raises Refused (403)."""
        if self.allowed is None:
            raise Refused(403, "this server loads no adapters while it runs: start it with --folder FOLDER", "folder")
        try:
            path = (self.allowed / folder).resolve()
        except (OSError, ValueError, RuntimeError):  # a name with a zero byte, a circle of links
            path = Path("/")
        if path == self.allowed or not path.is_relative_to(self.allowed):
            raise Refused(403, f"{shown(folder, 80)} is not inside the folder that this server may load from", "folder")
        return path

    def add(self, name: str, folder: Path) -> Served:
        """Serve the adapter in `folder` as `name`. Raises LoRAEduError, with everything as it was."""
        with self._changing:
            if name == self.base.name or name in self._served:
                raise AdapterError(f"{name!r} is served already: choose another name, or unload it first")
            if "@" in name:
                raise AdapterError(f"{name!r} cannot name an adapter: what follows @ is its dial")
            if len(self._served) >= self.limits.adapters:
                raise ServingError(
                    f"{self.limits.adapters} adapters are served, which is as many as may: unload one first"
                )
            alone, engine = self.torch.add(name, folder), self.torch.name
            why = f"answered in batches of its own: {alone}" if alone else ""
            try:
                weights = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
                if self.llama is not None:
                    why, engine = self._to_llama(name)
            except BaseException as error:
                self.torch.remove(name)
                if isinstance(error, OSError):
                    raise CheckpointError(f"{folder} cannot be read: {error.strerror}") from error
                raise
            system = self._system if self._system is not None else self._system_of(folder)
            served = Served(name, engine, why, folder, system or "", weights)
            self._served = {**self._served, name: served}
            return served

    def _to_llama(self, name: str) -> tuple[str, str]:
        """(why not llama.cpp, or "", the engine that answers) after llama.cpp was given the adapter, where it can have it."""
        path = Path(self._scratch.name) / f"{name}.gguf"
        try:
            self.torch.work(lambda model: _write_adapter(model, path, name))
        except LoRAEduError as error:
            return f"answered by torch, because GGUF cannot express it: {error}", self.torch.name
        self.llama.add(name, path)
        return "", self.llama.name

    def remove(self, name: str) -> None:
        """Serve the adapter no more; questions that were taken for it are answered first. Raises Refused (404)."""
        with self._changing:
            if (served := self._served.get(name)) is None:
                raise Refused(404, f"there is no adapter {shown(name, 80)}", "name", "model_not_found")
            self._served = {key: value for key, value in self._served.items() if key != name}
            if self.llama is not None and served.engine == self.llama.name:
                self.llama.remove(name)
            self.torch.remove(name)

    def close(self, seconds: float) -> None:
        """Answer what was taken, for `seconds` at most, and end the engines."""
        threads = [threading.Thread(target=engine.close, args=(seconds,)) for engine in self.engines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._scratch.cleanup()


def _write_adapter(model: Any, path: Path, name: str) -> None:
    from lora_edu.serving.gguf_adapter import write_adapter_gguf

    write_adapter_gguf(model, path, name)


def _longest(model: Any, limits: Limits) -> int:
    """Tokens of prompt and answer that fit: the server's limit, or the model's positions where those are fewer."""
    own = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return min(limits.context, own) if isinstance(own, int) and own > 0 else limits.context
