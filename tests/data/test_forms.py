"""Rows as other tools write them, and files that are not quite rows: read, or told how to become readable."""

import json

import pytest

from lora_edu.data import Row, read_rows
from lora_edu.errors import DataError


def write(folder, name, *records):
    path = folder / name
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return path


WANTED = Row.chat("Add 1 and 2", "3", "Be brief").messages
SYSTEM, USER, ANSWER = WANTED


@pytest.mark.parametrize(
    "record",
    [
        {"conversations": [{"from": "system", "value": "Be brief"}, {"from": "human", "value": "Add 1 and 2"}, {"from": "gpt", "value": "3"}]},
        {"conversations": [{"from": "human", "value": "Add 1 and 2"}, {"from": "gpt", "value": "3"}], "system": "Be brief"},
        {"conversations": [{"role": "user", "content": "Add 1 and 2"}, {"role": "assistant", "content": "3"}]},
        {"messages": [{"from": "user", "value": "Add 1 and 2"}, {"from": "assistant", "value": "3"}]},
        {"prompt": "Add 1 and 2", "completion": "3"},
        {"prompt": [SYSTEM, USER], "completion": [ANSWER]},
        {"prompt": [USER], "completion": "3", "system": "Be brief"},
        {"instruction": "Add 1 and 2", "output": "3"},
        {"messages": [USER, ANSWER], "prompt": "Add 1 and 2", "completion": "3"},
    ],
)  # fmt: skip
def test_other_tools_rows_are_the_same_row(tmp_path, record):
    (row,) = read_rows(write(tmp_path, "rows.jsonl", record | {"id": 7}), system="Be brief")
    assert row.messages == WANTED and row.meta["id"] == 7


def test_prompt_and_completion_come_from_a_table_too(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt,completion\nAdd 1 and 2,3\n")
    assert read_rows(tmp_path / "rows.csv", system="Be brief")[0].messages == WANTED


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"question": "a", "answer": "b"}, "Rename 'question' to 'prompt' and 'answer' to 'completion'"),
        ({"Prompt": "a", "Response": "b"}, "Rename 'Prompt' to 'prompt' and 'Response' to 'completion'"),
        ({"prompt": "a", "chosen": "b"}, "Rename 'chosen' to 'completion'$"),
        ({"frage": "a", "antwort": "b"}, r"it has \['frage', 'antwort'\]\. Rename the question's column to 'prompt'"),
        ({"text": "a", "instruction": "b", "output": "c"}, "one form; this one has 'instruction' and 'text'"),
        ({"prompt": 5, "completion": "b"}, "'prompt' is int, text is needed"),
        ({"prompt": "a", "completion": "b", "system": 5}, "'system' is int"),
        ({"prompt": [SYSTEM, USER], "completion": "3", "system": "x"}, "keep one"),
        ({"conversations": []}, "'conversations' must be a list"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "tool", "value": "b"}]}, "unknown role 'tool'"),
        ({"conversations": [{"from": ["x"], "value": "a"}, {"from": 5, "value": "b"}]}, "unknown role"),
        ({"conversations": ["a", "b"]}, "a message needs 'role' and 'content'"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "human", "value": "b"}]}, "last message must be the assistant's"),
        ({"prompt": "half \ud83d", "completion": "b"}, "half of a character"),
    ],
)  # fmt: skip
def test_a_row_of_no_form_is_told_how_to_become_one(tmp_path, record, words):
    with pytest.raises(DataError, match="row 1: ") as caught:
        read_rows(write(tmp_path, "rows.jsonl", record))
    with pytest.raises(DataError, match=words):
        raise caught.value


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_columns_that_are_not_separated_by_commas_are_noticed_once(tmp_path, mark):
    (tmp_path / "rows.csv").write_text(f"prompt{mark}completion\n" + f"a{mark}b\n" * 30)
    with pytest.raises(DataError, match=r"separated by .*save it with commas") as caught:
        read_rows(tmp_path / "rows.csv")
    assert len(str(caught.value)) < 200


def test_a_folder_is_told_so(tmp_path):
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(DataError, match=r"rows\.jsonl is a folder"):
        read_rows(tmp_path / "rows.jsonl")


HUGE = "x" * 300_000


@pytest.mark.parametrize(
    "record",
    [
        HUGE, [HUGE], {HUGE: 1}, {"text": [HUGE]}, {"messages": [HUGE, HUGE]}, {"messages": [{"role": HUGE, "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"conversations": [{"from": HUGE, "value": "a"}] * 3}, {"messages": [{HUGE: HUGE}] * 3}, dict.fromkeys(map(str, range(20_000))) | {"question": HUGE},
    ],
    ids=range(9),
)  # fmt: skip
def test_no_message_is_as_long_as_the_row(tmp_path, record):
    with pytest.raises(DataError) as caught:
        read_rows(write(tmp_path, "rows.jsonl", *[record] * 60))
    assert len(str(caught.value)) < 40_000  # 50 faults of a few hundred characters


def test_a_number_of_thousands_of_digits_is_a_fault_of_its_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "ab"}\n{"text": ' + "9" * 5000 + "}\n")
    with pytest.raises(DataError, match="row 2: not usable JSON: a number"):
        read_rows(path)
