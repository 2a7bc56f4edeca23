"""Rows → chat template → tokens with the prompt masked → batches (chapter 05).

A row is a conversation whose last message is the answer to be learnt. The model's own chat template turns it into
tokens; the prompt's tokens must be an exact prefix of the whole conversation's, and that prefix is what the labels
mask. Labels therefore come from *structure*. Masking by value (`labels[ids == pad] = -100`) looks the same until the
padding token is also the end-of-answer token, as it is in the default model: then the model never learns to stop.
"""

import csv
import io
import json
import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, TypeVar

import torch
from torch import Tensor

from lora_edu.errors import DataError
from lora_edu.losses import IGNORE

PLAIN_TEMPLATE = (
    "{% for m in messages %}{% if m['content'] %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
"""For a base model whose tokenizer has no chat template: `tokenizer.chat_template = PLAIN_TEMPLATE`."""

T = TypeVar("T")


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


class Example(NamedTuple):
    """Token ids of one row and their labels: -100 on the prompt, not shifted (the loss shifts)."""

    input_ids: list[int]
    labels: list[int]


class Splits(NamedTuple):
    train: list[Row]
    valid: list[Row]
    test: list[Row]


# --- reading ---------------------------------------------------------------------------------------------------------


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
    _raise(faults)
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


def _raise(faults: list[str], shown: int = 50) -> None:
    if faults:
        more = [f"… and {len(faults) - shown} more"] if len(faults) > shown else []
        lines = "\n  ".join(faults[:shown] + more)
        raise DataError(f"{len(faults)} fault{'s' * (len(faults) > 1)} in the data:\n  {lines}")


# --- tokens ----------------------------------------------------------------------------------------------------------


def render(messages: Sequence[Message], tokenizer: Any, *, for_answer: bool = False) -> str:
    """The conversation as the model's template writes it; `for_answer` opens the assistant's turn.

    Raises `DataError` if there is no template or it refuses the conversation.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            "the tokenizer has no chat template; set tokenizer.chat_template (lora_edu.data.PLAIN_TEMPLATE is a plain one)"
        )
    from jinja2 import TemplateError

    turns = [dict(message) for message in messages]
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=for_answer)
    except TemplateError as error:
        if turns and turns[0] == {"role": "system", "content": ""}:  # no system role here: an empty one may go
            return render(messages[1:], tokenizer, for_answer=for_answer)
        raise DataError(f"the model's chat template refuses this conversation: {error}") from None


def prompt_ids(messages: Sequence[Message], tokenizer: Any) -> list[int]:
    """Token ids of everything before the answer, the assistant's turn opened: what generation starts from."""
    return _ids(render(messages, tokenizer, for_answer=True), tokenizer)


def encode(row: Row, tokenizer: Any, max_length: int = 512) -> Example:
    """One row as token ids and labels: -100 on the prompt, the ids on the answer *and on the token that ends it*.

    Raises `DataError` if the prompt's tokens are no prefix of the whole, if the text holds one of the model's special
    tokens, or if the row is longer than `max_length` (nothing is cut in silence). Chapter 05.
    """
    content = "\n".join(m["content"] for m in row.messages)
    planted = [token for token in tokenizer.all_special_tokens if token in content]
    if planted:
        raise DataError(f"the text holds the model's special token {planted[0]!r}: remove it or write it differently")
    if row.is_text:
        ids = list(tokenizer(row.answer)["input_ids"])
        example = Example(ids, list(ids))
    else:
        prompt = prompt_ids(row.messages[:-1], tokenizer)
        whole = _ids(render(row.messages, tokenizer), tokenizer)
        if whole[: len(prompt)] != prompt:
            raise DataError(
                "the chat template's prompt is not a prefix of the whole conversation, so the prompt cannot be masked; "
                "use a template that writes the same tokens with and without the answer"
            )
        answer = whole[len(prompt) :]
        special = set(tokenizer.all_special_ids)
        while answer and answer[-1] not in special and not tokenizer.decode([answer[-1]]).strip():
            answer.pop()  # the newline between turns: the model has stopped before it
        if not answer or answer[-1] not in special:
            answer.append(tokenizer.eos_token_id)
        example = Example(prompt + answer, [IGNORE] * len(prompt) + answer)
    if len(example.input_ids) > max_length:
        raise DataError(f"{len(example.input_ids)} tokens, more than max_length = {max_length}: shorten it or raise it")
    return example


def encode_rows(rows: Sequence[Row], tokenizer: Any, max_length: int = 512) -> list[Example]:
    """`encode` for every row; all faults are reported at once, in one `DataError`, before anything trains."""
    examples, faults = [], []
    for number, row in enumerate(rows, 1):
        try:
            examples.append(encode(row, tokenizer, max_length))
        except DataError as error:
            faults.append(f"{row.where or f'row {number}'}: {error}")
    _raise(faults)
    return examples


def collate(examples: Sequence[Example], pad_token_id: int) -> dict[str, Tensor]:
    """A right-padded batch: input_ids, attention_mask and labels, each int64 (B, T). Padding is known by position."""
    longest = max(len(example.input_ids) for example in examples)
    ids = torch.full((len(examples), longest), pad_token_id)  # (B, T)
    labels = torch.full_like(ids, IGNORE)
    mask = torch.zeros_like(ids)
    for i, example in enumerate(examples):
        length = len(example.input_ids)
        ids[i, :length] = torch.tensor(example.input_ids)
        labels[i, :length] = torch.tensor(example.labels)
        mask[i, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _ids(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])  # the template writes the special tokens


# --- splitting and mixing --------------------------------------------------------------------------------------------


def normalise(text: str) -> str:
    """Lower case, one space between words, no punctuation: two inputs that differ in less are the same input."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded)) or folded.strip()


def input_key(row: Row) -> str:
    """What `split` keeps on one side: the user's turns, normalised (the whole text of a plain row)."""
    return normalise(
        row.answer if row.is_text else "\n".join(m["content"] for m in row.messages if m["role"] == "user")
    )


def split(
    rows: Sequence[Row],
    valid: float | int = 0.1,
    test: float | int = 0.1,
    seed: int = 0,
    key: Callable[[Row], str] = input_key,
) -> Splits:
    """Split by a hash of the input, so that the same input (the same `key`) is never on two sides.

    `valid` and `test` are both shares (floats: a row keeps its side when others are added) or both counts (ints: at
    least so many). The result does not depend on the order of `rows`, except among rows with the same key; each part
    comes in hash order, so any beginning of it is a fair sample. Raises `DataError` if a part would be empty.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)

    def place(name: str) -> float:
        return int.from_bytes(sha256(f"{seed}\0{name}".encode()).digest()[:8]) / 2**64

    parts = Splits([], [], [])
    shares = isinstance(valid, float) and isinstance(test, float)
    if min(valid, test) < 0 or (isinstance(valid, float) != isinstance(test, float)):
        raise DataError("valid and test must be two shares (0.1) or two counts (100), none below 0")
    for name in sorted(groups, key=lambda name: (place(name), name)):
        if place(name) < test if shares else len(parts.test) < test:
            part = parts.test
        elif place(name) < test + valid if shares else len(parts.valid) < valid:
            part = parts.valid
        else:
            part = parts.train
        part.extend(groups[name])
    for wanted, part, title in ((1, parts.train, "train"), (valid, parts.valid, "valid"), (test, parts.test, "test")):
        if wanted and not part:
            raise DataError(f"{len(rows)} rows with {len(groups)} different inputs leave nothing for {title}")
    return parts


def mix(rows: Sequence[T], replay: Sequence[T], share: float, seed: int = 0) -> list[T]:
    """`rows` and as many of `replay` as make up `share` of the result, shuffled (replay is the cure of chapter 13).

    Replay rows repeat, each about equally often, when there are too few of them.
    """
    if not 0 <= share < 1 or (share and not replay):
        raise DataError(f"share must be from 0 to below 1, with rows to replay; got {share} and {len(replay)} rows")
    wanted = round(len(rows) * share / (1 - share))
    order = random.Random(seed)
    drawn: list[T] = []
    while len(drawn) < wanted:
        drawn += order.sample(list(replay), min(len(replay), wanted - len(drawn)))
    mixed = [*rows, *drawn]
    order.shuffle(mixed)
    return mixed
