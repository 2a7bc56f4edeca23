"""One conversation as a row, and rows from JSON, JSONL and CSV files, with every fault reported at once (chapter 05)."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from lora_edu.errors import DataError


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
                raise DataError(f"a message needs 'role' and 'content', this one is {_short(message)}")
            if message["role"] not in ("system", "user", "assistant"):
                raise DataError(f"unknown role {message['role']!r} (system, user and assistant are known)")
            if not isinstance(message["content"], str):
                raise DataError(
                    f"the {message['role']}'s content is {type(message['content']).__name__}, text is needed"
                )
            if message["role"] != "system" and not message["content"].strip():
                raise DataError(f"the {message['role']}'s text is empty")
        turns = [m["role"] for m in self.messages if m["role"] != "system"]
        if not turns or turns[-1] != "assistant":
            raise DataError("the last message must be the assistant's answer")
        if any(m["role"] == "system" for m in self.messages[1:]):
            raise DataError("a system message must come first, and only once")
        if len(self.messages) > 1 and turns != ["user", "assistant"] * (len(turns) // 2):
            raise DataError(f"user and assistant must take turns, these are {', '.join(turns)}")

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


def read_rows(path: str | Path, system: str | None = "") -> list[Row]:
    """Read .json, .jsonl or .csv rows; `system` is given to rows that bring no system message of their own.

    Three forms: alpaca (`instruction`, optional `input`, `output`, optional `system`), chat (`messages`), and plain
    `text`. Other keys are kept in `Row.meta`. Raises one `DataError` that lists every bad row with file and number.
    """
    path = Path(path)
    readers = {".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: I read .json, .jsonl and .csv, not {path.suffix or 'a file without an ending'}")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    rows, faults = [], []
    for number, record in readers[path.suffix.lower()](path.name, path.read_bytes()):
        where = f"{path.name}, row {number}"
        try:
            rows.append(_row(record, system, where))
        except DataError as error:
            faults.append(f"{where}: {error}")
    if not rows and not faults:
        faults.append(f"{path.name}: the file holds no rows")
    raise_faults(faults)
    return rows


def _row(record: Any, system: str | None, where: str) -> Row:
    if isinstance(record, DataError):
        raise record
    if not isinstance(record, dict):
        raise DataError(f"a row must be an object with named fields, this is {_short(record)}")
    forms = [name for name in ("messages", "instruction", "text") if record.get(name) is not None]
    if len(forms) != 1:
        raise DataError(
            f"a row needs one of 'messages', 'instruction' (with 'output') or 'text'; it has {list(record)}"
        )
    if forms == ["messages"]:
        messages = record["messages"]
        if not isinstance(messages, list) or len(messages) < 2:
            raise DataError("'messages' must be a list that holds a question and its answer")
        if system is not None and not (isinstance(messages[0], dict) and messages[0].get("role") == "system"):
            messages = [{"role": "system", "content": system}, *messages]
        used, row_messages = {"messages"}, tuple(messages)
    elif forms == ["text"]:
        used, row_messages = {"text"}, ({"role": "assistant", "content": record["text"]},)
    else:
        used = {"instruction", "input", "output", "system"}
        fields = {name: record.get(name) for name in used}
        for name, value in fields.items():
            if not isinstance(value, str) and not (value is None and name in ("input", "system")):
                raise DataError(f"'{name}' is {'missing' if value is None else type(value).__name__}, text is needed")
        prompt = f"{fields['instruction']}\n\n{fields['input'] or ''}".strip()
        own = fields["system"] if fields["system"] is not None else system
        turns = [] if own is None else [{"role": "system", "content": own}]
        row_messages = (*turns, {"role": "user", "content": prompt}, {"role": "assistant", "content": fields["output"]})
    return Row(row_messages, where, {k: v for k, v in record.items() if k not in used})


def _decode(name: str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"not UTF-8 at line {line} of {name} (byte 0x{raw[error.start]:02x}); save the file as UTF-8"
        ) from None


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return DataError(f"not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})")
    except RecursionError:
        return DataError("not usable JSON: nested too deeply")


def _read_json(name: str, raw: bytes) -> Iterable[tuple[int, Any]]:
    content = _parse(_decode(name, raw))
    if isinstance(content, DataError):
        raise DataError(f"{name}: {content}")
    if not isinstance(content, list):
        raise DataError(f"{name}: the file must hold a list of rows (one object a line belongs into a .jsonl file)")
    return enumerate(content, 1)


def _read_jsonl(name: str, raw: bytes) -> Iterable[tuple[int, Any]]:
    for number, line in enumerate(raw.split(b"\n"), 1):  # the row number is the line number, as an editor shows it
        try:
            text = _decode(name, line)
        except DataError:
            yield number, DataError("not UTF-8; save the file as UTF-8")
            continue
        if text.strip():
            yield number, _parse(text)


def _read_csv(name: str, raw: bytes) -> Iterable[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(_decode(name, raw), newline=""), strict=True)
    number = 0
    try:
        for number, record in enumerate(reader, 1):
            if None in record or None in record.values():
                yield number, DataError(f"the header has {len(reader.fieldnames or [])} columns, this row has not")
            else:
                cells = {k: v for k, v in record.items() if not (k in ("input", "system") and v == "")}
                yield number, cells
    except csv.Error as error:
        yield number + 1, DataError(f"not valid CSV: {error} (line {reader.line_num})")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def raise_faults(faults: list[str], shown: int = 50) -> None:
    """One `DataError` that lists all `faults` (the first `shown` of them), if there are any."""
    if faults:
        more = [f"… and {len(faults) - shown} more"] if len(faults) > shown else []
        lines = "\n  ".join(faults[:shown] + more)
        raise DataError(f"{len(faults)} fault{'s' * (len(faults) > 1)} in the data:\n  {lines}")
