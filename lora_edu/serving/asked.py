"""What a request to /v1/chat/completions asks for: read, checked, and refused in OpenAI's own form of errors. Chapter 15."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from lora_edu.data.rows import Message
from lora_edu.errors import cut, shown
from lora_edu.serving.limits import Limits


class Refused(Exception):
    """A request that is not answered: the HTTP status and what OpenAI's clients read of an error."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """The error object."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Asked:
    """A request that is well formed."""

    model: str
    messages: tuple[Message, ...]
    max_tokens: int | None
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    stream: bool
    with_usage: bool


# What changes nothing here: notes for whoever keeps records, and hints for OpenAI's own machines.
_IGNORED = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "parallel_tool_calls",
    "reasoning_effort", "verbosity",
}  # fmt: skip
# What would change the answer and is not done here, and the values that ask for nothing.
_NOTHING: dict[str, tuple[Any, ...]] = {
    "n": (1,), "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],), "function_call": ("none", "auto"), "logprobs": (False,),
    "top_logprobs": (0,), "logit_bias": ({},), "presence_penalty": (0,), "frequency_penalty": (0,), "response_format": ({"type": "text"},),
    "modalities": (["text"],), "audio": (), "prediction": (), "web_search_options": (), "moderation": (),
}  # fmt: skip
_KNOWN = {
    "model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "stream", "stream_options",
}  # fmt: skip


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object that a request's body is. Raises Refused (400) for anything else."""
    try:
        content = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError
        raise Refused(400, f"the body is no JSON: {cut(str(error), 120)}") from None
    if not isinstance(content, dict):
        raise Refused(400, 'the body must be a JSON object, {"model": …, "messages": […]}')
    return content


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def read(content: Mapping[str, Any], limits: Limits) -> Asked:
    """The request in `content`. Raises Refused (400) that names the parameter."""
    for key, value in content.items():
        if key in _NOTHING:
            if value is not None and not any(_equal(value, nothing) for nothing in _NOTHING[key]):
                raise Refused(400, f"{key} is not supported here: leave it out", key, "unsupported_parameter")
        elif key not in _KNOWN | _IGNORED:
            raise Refused(
                400, f"Unrecognized request argument supplied: {cut(key, 60)}", cut(key, 60), "unknown_parameter"
            )
    model = content.get("model")
    if not isinstance(model, str) or not model:
        raise Refused(400, "model must name what answers, as /v1/models lists it", "model")
    stream = _truth(content, "stream")
    options = content.get("stream_options")
    if options is not None and not (
        stream and isinstance(options, dict) and set(options) <= {"include_usage", "include_obfuscation"}
    ):
        raise Refused(400, 'stream_options goes with stream, and is {"include_usage": true} or false', "stream_options")
    return Asked(
        model=model,
        messages=_messages(content.get("messages")),
        max_tokens=_max_tokens(content, limits),
        temperature=_number(content, "temperature", 0, 2, 1.0),
        top_p=_number(content, "top_p", 0, 1, 1.0),
        seed=_whole(content, "seed", -(2**63), 2**63 - 1),
        stop=_stop(content.get("stop")),
        stream=stream,
        with_usage=_truth(options or {}, "include_usage"),
    )


def _equal(value: Any, nothing: Any) -> bool:
    return isinstance(value, bool) == isinstance(nothing, bool) and value == nothing


def _messages(given: Any) -> tuple[Message, ...]:
    if not isinstance(given, list) or not given:
        raise Refused(400, "messages must be a list of at least one message", "messages")
    messages: list[Message] = []
    for i, message in enumerate(given):
        at = f"messages[{i}]"
        if not isinstance(message, dict):
            raise Refused(400, f"{at} must be an object with role and content", at)
        role = {"developer": "system"}.get(str(message.get("role")), message.get("role"))
        if role not in ("system", "user", "assistant"):
            raise Refused(
                400, f"{at}.role is {shown(role, 40)}: system, developer, user and assistant are known", f"{at}.role"
            )
        if role == "system" and i:
            raise Refused(400, f"{at}: a system message must come first, and only once", f"{at}.role")
        if more := [key for key in message if key not in ("role", "content", "name", "refusal") and message[key]]:
            raise Refused(
                400,
                f"{at}.{cut(more[0], 40)} is not supported here",
                f"{at}.{cut(more[0], 40)}",
                "unsupported_parameter",
            )
        messages.append({"role": role, "content": _text(message.get("content"), f"{at}.content")})
    if messages[-1]["role"] != "user":
        raise Refused(400, "the last message must be the user's: that is the one which is answered", "messages")
    return tuple(messages)


def _text(content: Any, at: str) -> str:
    """A message's text: a string, or a list of parts that are text."""
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise Refused(400, f"{at} must be text: no other kind of part is understood here", at)
        return "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise Refused(400, f"{at} must be text", at)
    return content


def _max_tokens(content: Mapping[str, Any], limits: Limits) -> int | None:
    found = [
        n
        for key in ("max_completion_tokens", "max_tokens")
        if (n := _whole(content, key, 1, limits.answer_tokens)) is not None
    ]
    return min(found, default=None)


def _stop(given: Any) -> tuple[str, ...]:
    stop = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(stop, list) or len(stop) > 4 or not all(isinstance(s, str) and 0 < len(s) <= 200 for s in stop):
        raise Refused(400, "stop must be a text, or up to four of them, of 1 to 200 characters each", "stop")
    return tuple(stop)


def _truth(content: Mapping[str, Any], key: str) -> bool:
    value = content.get(key)
    if value is not None and not isinstance(value, bool):
        raise Refused(400, f"{key} must be true or false", key)
    return bool(value)


def _number(content: Mapping[str, Any], key: str, low: float, high: float, otherwise: float) -> float:
    value = content.get(key)
    if value is None:
        return otherwise
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high or (isinstance(value, float) and not math.isfinite(value)):
        raise Refused(400, f"{key} must be a number from {low:g} to {high:g}, not {shown(value, 40)}", key)
    return float(value)


def _whole(content: Mapping[str, Any], key: str, low: int, high: int) -> int | None:
    value = content.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise Refused(400, f"{key} must be a whole number from {low} to {high}, not {shown(value, 40)}", key)
    return value
