"""llama.cpp in this process (the package xllamacpp), as much of it as a check of an export needs. Chapter 15.

One thread, one conversation at a time, keys and values in float32, and no flash attention, which rounds to float16 on the way here: log
probabilities then agree with transformers' to 1e-6 on a float32 file (with it to 1e-3), and what differs is the file's doing.
"""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

from lora_edu.errors import ExportError

_ALL = 1_000_000  # more tokens than any vocabulary has
_FORCED = 1e4  # a bias that makes a token certain to be taken; reported probabilities are those before it


def available() -> bool:
    """Whether xllamacpp is installed."""
    return importlib.util.find_spec("xllamacpp") is not None


class LlamaCpp:
    """A GGUF model, with adapters or without, that answers by token numbers. A context manager: `with LlamaCpp(path) as engine:`.

    adapters: (path of a GGUF adapter, scale) each. context: tokens of prompt and answer together. Raises ExportError where llama.cpp
    is not installed, or does not take a file.
    """

    def __init__(
        self, model: str | Path, adapters: Sequence[tuple[str | Path, float]] = (), context: int = 512, threads: int = 1
    ) -> None:
        if not available():
            raise ExportError("llama.cpp is not installed here: pip install 'lora-edu[serve]' (the package xllamacpp)")
        import xllamacpp

        for path in (model, *(path for path, _ in adapters)):
            if not Path(path).is_file():
                raise ExportError(f"there is no file {path}")
        params: Any = xllamacpp.CommonParams()
        params.model.path = str(model)
        params.lora_adapters = [_adapter(xllamacpp, path, scale) for path, scale in adapters]
        params.n_ctx = context
        params.n_parallel = 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.warmup = params.fit_params = False
        params.verbosity = 0
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        try:
            self._server: Any = xllamacpp.Server(params)
        except Exception as error:  # its binding raises plain ones
            raise ExportError(
                f"llama.cpp does not take {model}{' with its adapters' if adapters else ''}: {error}"
            ) from error
        self._open = build_opener(ProxyHandler({}))  # it is on this machine, whatever proxy is set

    def __enter__(self) -> "LlamaCpp":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server and give its memory back."""
        self._server = None

    def tokens(self, text: str) -> list[int]:
        """llama.cpp's tokens of `text`: special ones recognised, none added."""
        answer = self._ask("/tokenize", {"content": text, "add_special": False, "parse_special": True})
        return [int(number) for number in answer["tokens"]]

    def greedy(self, ids: Sequence[int], new_tokens: int) -> list[int]:
        """The likeliest continuation of the tokens `ids`, at most `new_tokens` long; an end-of-text token ends it and is left out."""
        answer = self._ask(
            "/completion", {"prompt": list(ids), "n_predict": new_tokens, "temperature": 0, "return_tokens": True}
        )
        found = [int(number) for number in answer["tokens"]]
        return found[:-1] if answer["stop_type"] == "eos" else found

    def next_logprobs(self, ids: Sequence[int], target: int, top: int) -> tuple[float, list[tuple[int, float]]]:
        """After the tokens `ids`: log p of the token `target`, and the `top` likeliest as (token, log p)."""
        if (
            found := self._forced(ids, target, top)
        ) is None:  # no character ends with it, and then nothing is reported of it
            found = self._forced(ids, self.tokens("a")[0], _ALL)
            assert found is not None
            every = found[1]
            return next(value for number, value in every if number == target), every[:top]
        return found

    def _forced(self, ids: Sequence[int], token: int, top: int) -> tuple[float, list[tuple[int, float]]] | None:
        """log p of `token`, which is made to follow, and of the `top` likeliest; None where it ends in the middle of a character."""
        asked = {
            "prompt": list(ids),
            "n_predict": 1,
            "temperature": 0,
            "n_probs": top,
            "logit_bias": [[token, _FORCED]],
        }
        reported = self._ask("/completion", asked).get("completion_probabilities")
        if not reported:
            return None
        if reported[0]["id"] != token:
            raise ExportError(f"llama.cpp did not take the token {token} that it was made to take")
        likeliest = [(int(each["id"]), float(each["logprob"])) for each in reported[0]["top_logprobs"]]
        return float(reported[0]["logprob"]), likeliest

    def _ask(self, where: str, content: dict[str, Any]) -> Any:
        request = Request(
            self._server.listening_address + where, json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        with self._open.open(request) as answer:
            return json.load(answer)


def _adapter(xllamacpp: Any, path: str | Path, scale: float) -> Any:
    info = xllamacpp.CommonAdapterLoraInfo()
    info.path, info.scale = str(path), scale
    return info
