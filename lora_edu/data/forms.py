"""One record of a file as a row: the forms in which other tools write conversations. Chapter 05."""

from collections.abc import Mapping
from typing import Any

from lora_edu.data.rows import Row
from lora_edu.errors import DataError, shown

# How other tools call who speaks (ShareGPT's "from") and the columns of a question and its answer.
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
_QUESTIONS = (
    "question",
    "query",
    "input",
    "source",
    "user",
    "human",
    "q",
    "problem",
    "instructions",
    "prompts",
    "prompt",
    "instruction",
)
_ANSWERS = (
    "answer",
    "response",
    "output",
    "target",
    "reply",
    "assistant",
    "a",
    "solution",
    "chosen",
    "answers",
    "label",
    "completion",
)


def row_of(record: Any, system: str | None, where: str) -> Row:
    """The row that a record holds; `system` is given to one without a system message of its own. Raises `DataError`."""
    if not isinstance(record, dict):
        raise DataError(f"a row must be an object with named fields, this is {shown(record, 80)}")
    given = {name: value for name, value in record.items() if value is not None}
    forms = [form for form in _FORMS if set(form) <= set(given)]
    if len(forms) > 1 and len(chats := [form for form in forms if form[0] in ("messages", "conversations")]) == 1:
        forms = chats  # a whole conversation, with its beginning repeated as a prompt beside it
    if len(forms) != 1:
        raise DataError(_which_form(given, [form[0] for form in forms]))
    form = forms[0]
    messages = _FORMS[form](given)
    used = {*form, "system"} | ({"input", "output"} if form[0] == "instruction" else set())
    if form == ("text",):
        used.remove("system")
    elif not (messages and isinstance(messages[0], Mapping) and messages[0].get("role") == "system"):
        own = _text(given, "system") if "system" in given else system
        messages = messages if own is None else [{"role": "system", "content": own}, *messages]
    elif "system" in given:
        raise DataError("the row has a system message and a column 'system': keep one")
    return Row(tuple(messages), where, {k: v for k, v in record.items() if k not in used})


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise DataError(f"'{name}' is {'missing' if value is None else type(value).__name__}, text is needed")
    return value


def _alpaca(record: Mapping[str, Any]) -> list[Any]:
    question = f"{_text(record, 'instruction')}\n\n{_text(record, 'input') if 'input' in record else ''}".strip()
    return [{"role": "user", "content": question}, {"role": "assistant", "content": _text(record, "output")}]


def _prompt_completion(record: Mapping[str, Any]) -> list[Any]:
    messages: list[Any] = []
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        value = record[name]
        messages += (
            map(_message, value) if isinstance(value, list) else [{"role": role, "content": _text(record, name)}]
        )
    return messages


def _conversation(name: str) -> Any:
    def read(record: Mapping[str, Any]) -> list[Any]:
        turns = record[name]
        if not isinstance(turns, list) or len(turns) < 2:
            raise DataError(f"'{name}' must be a list that holds a question and its answer")
        return [_message(turn) for turn in turns]

    return read


def _message(turn: Any) -> Any:
    """ShareGPT's {"from": "human", "value": …} as a message; anything else as it is, for `Row` to judge."""
    if not isinstance(turn, dict) or not {"from", "value"} <= set(turn) or "role" in turn:
        return turn
    speaker = turn["from"]
    return {"role": _ROLES.get(speaker, speaker) if isinstance(speaker, str) else speaker, "content": turn["value"]}


_FORMS: dict[tuple[str, ...], Any] = {
    ("messages",): _conversation("messages"),
    ("conversations",): _conversation("conversations"),
    ("prompt", "completion"): _prompt_completion,
    ("instruction",): _alpaca,
    ("text",): lambda record: [{"role": "assistant", "content": record["text"]}],
}


def _which_form(record: Mapping[str, Any], found: list[str]) -> str:
    names = shown(list(record), 120)
    if found:
        return f"a row must have one form; this one has {' and '.join(map(repr, found))} (its columns: {names}). Drop or rename one"
    lower = {name.lower(): name for name in record if isinstance(name, str)}
    question = next((lower[name] for name in _QUESTIONS if name in lower), None)
    answer = next((lower[name] for name in _ANSWERS if name in lower and lower[name] != question), None)
    if question and answer:
        old = ((question, "prompt"), (answer, "completion"))
        remedy = "Rename " + " and ".join(f"{shown(a, 40)} to '{b}'" for a, b in old if a != b)
    else:
        remedy = "Rename the question's column to 'prompt' and the answer's to 'completion'"
    return (
        "a row needs one of 'messages', 'conversations', 'prompt' (with 'completion'), 'instruction' (with 'output') or 'text'; "
        f"it has {names}. {remedy}"
    )
