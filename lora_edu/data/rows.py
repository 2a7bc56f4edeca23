"""One conversation as a row (chapter 05)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from lora_edu.errors import DataError, cut, shown


class Message(TypedDict):
    role: str  # "system", "user" or "assistant"
    content: str


@dataclass(frozen=True)
class Row:
    """One conversation; the last message is the assistant's answer, the only part that is learnt (chapter 05).

    A row of a single assistant message is plain text: no template, every token is learnt. `where` names the file and
    row for error messages; `meta` keeps whatever else the row came with. Raises `DataError` if the turns make no sense.
    """

    messages: tuple[Message, ...]
    where: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for message in self.messages:
            if not isinstance(message, dict) or not {"role", "content"} <= set(message):
                raise DataError(f"a message needs 'role' and 'content', this one is {shown(message, 80)}")
            if message["role"] not in ("system", "user", "assistant"):
                raise DataError(f"unknown role {shown(message['role'], 60)} (system, user and assistant are known)")
            if not isinstance(message["content"], str):
                raise DataError(
                    f"the {message['role']}'s content is {type(message['content']).__name__}, text is needed"
                )
            check_text(message["content"], message["role"])
            if message["role"] != "system" and not message["content"].strip():
                raise DataError(f"the {message['role']}'s text is empty")
        turns = [m["role"] for m in self.messages if m["role"] != "system"]
        if not turns or turns[-1] != "assistant":
            raise DataError("the last message must be the assistant's answer")
        if any(m["role"] == "system" for m in self.messages[1:]):
            raise DataError("a system message must come first, and only once")
        if len(self.messages) > 1 and turns != ["user", "assistant"] * (len(turns) // 2):
            raise DataError(f"user and assistant must take turns, these are {cut(', '.join(turns))}")

    @classmethod
    def chat(cls, prompt: str, answer: str, system: str | None = "", where: str = "", **meta: Any) -> "Row":
        """One question and its answer. `system=""` is an empty system turn, None the template's own default."""
        turns: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        turns += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        return cls(tuple(turns), where, meta)

    @classmethod
    def text(cls, text: str, where: str = "", **meta: Any) -> "Row":
        """Plain text without a prompt: a passage for perplexity, or for replay."""
        return cls(({"role": "assistant", "content": text},), where, meta)

    @property
    def is_text(self) -> bool:
        return len(self.messages) == 1

    @property
    def prompt(self) -> str:
        """The last user message ("" for plain text)."""
        return "" if self.is_text else self.messages[-2]["content"]

    @property
    def answer(self) -> str:
        return self.messages[-1]["content"]


def check_text(text: str, role: str) -> None:
    """Raises `DataError` for half of a surrogate pair: a character that was cut in two, which no tokenizer can read."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"the {role}'s text holds half of a character, {text[error.start]!r}, at position {error.start}: it was cut inside an emoji, "
            "or escaped wrongly; write the file again as UTF-8"
        ) from None


def raise_faults(faults: list[str], shown: int = 50) -> None:
    """One `DataError` that lists all `faults` (the first `shown` of them), if there are any."""
    if faults:
        more = [f"… and {len(faults) - shown} more"] if len(faults) > shown else []
        lines = "\n  ".join(faults[:shown] + more)
        raise DataError(f"{len(faults)} fault{'s' * (len(faults) > 1)} in the data:\n  {lines}")
