"""Rows from JSON, JSONL and CSV files, with every fault reported at once. Chapter 05."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lora_edu.data.forms import row_of
from lora_edu.data.rows import Row, raise_faults
from lora_edu.errors import DataError, shown


def read_rows(path: str | Path, system: str | None = "") -> list[Row]:
    """Read .json, .jsonl or .csv rows; `system` is given to rows that bring no system message of their own.

    Forms: chat (`messages` of role and content, or `conversations` of from and value, as ShareGPT writes them), `prompt` and
    `completion` (texts, or lists of messages), alpaca (`instruction`, optional `input`, `output`), and plain `text`; a column
    `system` goes with any of the first three. Other keys are kept in `Row.meta`. Raises one `DataError` that lists every bad row
    with file and number.
    """
    path = Path(path)
    readers = {".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv}
    if path.is_dir():
        raise DataError(f"{path} is a folder: give the file of rows in it")
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: I read .json, .jsonl and .csv, not {path.suffix or 'a file without an ending'}")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    rows, faults = [], []
    for number, record in readers[path.suffix.lower()](path.name, raw):
        where = f"{path.name}, row {number}"
        try:
            if isinstance(record, DataError):
                raise record
            rows.append(row_of(record, system, where))
        except DataError as error:
            faults.append(f"{where}: {error}")
    if not rows and not faults:
        faults.append(f"{path.name}: the file holds no rows")
    raise_faults(faults)
    return rows


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
    except ValueError:  # the one other: Python reads no number of more than 4,300 digits
        return DataError("not usable JSON: a number of thousands of digits; write it as text")
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
        header = reader.fieldnames or []
        if len(header) == 1 and (other := next((mark for mark in (";", "\t", "|") if mark in header[0]), None)):
            raise DataError(
                f"{name}: the header is one column, {shown(header[0], 80)}: its columns are separated by {other!r}; save it with commas"
            )
        for number, record in enumerate(reader, 1):
            if None in record or None in record.values():
                yield number, DataError(f"the header has {len(reader.fieldnames or [])} columns, this row has not")
            else:
                cells = {k: v for k, v in record.items() if not (k in ("input", "system") and v == "")}
                yield number, cells
    except csv.Error as error:
        yield number + 1, DataError(f"not valid CSV: {error} (line {reader.line_num})")
