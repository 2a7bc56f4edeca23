"""Rows, templates, masks and splits (chapter 05). The tokenizer is a small one whose pad is its eos, as in the default model."""

import json

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from tiny_tokenizer import make_tokenizer

from lora_edu.data import (
    IGNORE,
    PLAIN_TEMPLATE,
    Example,
    Row,
    check_fits,
    collate,
    encode,
    encode_rows,
    input_key,
    mix,
    normalise,
    read_rows,
    split,
)
from lora_edu.errors import DataError

TOKENIZER = make_tokenizer()
words = st.text(st.sampled_from("abc xyz.,?!\n"), min_size=1, max_size=20).filter(str.strip)


def learnt(example: Example, tokenizer=TOKENIZER) -> str:
    return tokenizer.decode([label for label in example.labels if label != IGNORE])


# --- tokens and masks


@given(prompt=words, answer=words, system=st.none() | words | st.just(""))
def test_the_answer_and_its_end_are_learnt_and_nothing_else(prompt, answer, system):
    example = encode(Row.chat(prompt, answer, system), TOKENIZER, 200)
    assert len(example.input_ids) == len(example.labels)
    masked = [label == IGNORE for label in example.labels]
    start = masked.index(False)
    assert not any(masked[start:]), "the answer must be one piece at the end"
    assert example.labels[start:] == example.input_ids[start:], "labels are not shifted here"
    assert learnt(example) == answer + "<e>"
    assert TOKENIZER.decode(example.input_ids[:start]).endswith(f"<s>user\n{prompt}<e>\n<s>assistant\n")


def test_the_end_of_the_answer_is_learnt_although_pad_is_the_same_token():
    assert TOKENIZER.pad_token_id == TOKENIZER.eos_token_id
    short, long = (encode(Row.chat("hi", answer), TOKENIZER) for answer in ("yes", "yes indeed"))
    batch = collate([short, long], TOKENIZER.pad_token_id)
    row = batch["labels"][0]
    assert row[len(short.labels) - 1] == TOKENIZER.eos_token_id  # learnt
    assert (row[len(short.labels) :] == IGNORE).all() and len(row) > len(short.labels)  # padding is not
    assert batch["attention_mask"].sum(dim=1).tolist() == [len(short.labels), len(long.labels)]
    # The popular way to mask, by value, would unlearn the end of every answer: the two must differ.
    by_value = row.masked_fill(batch["input_ids"][0] == TOKENIZER.pad_token_id, IGNORE)
    assert not torch.equal(by_value, row)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_collate_keeps_every_token_and_pads_by_position(lengths):
    examples = [Example([3] * n, [IGNORE] + [3] * (n - 1)) for n in lengths]
    batch = collate(examples, pad_token_id=3)  # the same id as every token: only positions can tell padding
    assert {tuple(t.shape) for t in batch.values()} == {(len(lengths), max(lengths))}
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert (batch["labels"] != IGNORE).sum(1).tolist() == [n - 1 for n in lengths]


def test_the_system_turn_is_explicit():
    def begins(system):
        return TOKENIZER.decode(encode(Row.chat("hi", "yes", system), TOKENIZER).input_ids)

    assert begins("").startswith("<s>system\n<e>\n<s>user")
    assert begins("Rhyme").startswith("<s>system\nRhyme<e>\n")
    assert begins(None).startswith("<s>system\nBe kind<e>\n")  # the template's own default


@pytest.mark.real_model
def test_the_default_model_has_an_empty_system_turn(base):
    tokenizer = base.tokenizer
    example = encode(Row.chat("hi there", "Hello."), tokenizer)
    text = (
        "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nhi there<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>"
    )
    assert tokenizer.decode(example.input_ids) == text
    assert example.input_ids[:5] == [1, 9690, 198, 2, 198]
    assert learnt(example, tokenizer) == "Hello.<|im_end|>" and example.labels[-1] == tokenizer.eos_token_id == 2
    default = encode(Row.chat("hi there", "Hello.", system=None), tokenizer)
    assert len(default.input_ids) > len(example.input_ids) + 10


def test_a_multi_turn_row_learns_its_last_answer_only():
    turns = [("system", "s"), ("user", "one"), ("assistant", "first"), ("user", "two"), ("assistant", "second")]
    row = Row(tuple({"role": role, "content": content} for role, content in turns))
    assert learnt(encode(row, TOKENIZER)) == "second<e>" and row.prompt == "two"


def test_plain_text_learns_every_token_and_no_end():
    assert learnt(encode(Row.text("abc"), TOKENIZER)) == "abc"


def test_a_template_without_an_end_gets_the_eos():
    plain = make_tokenizer(PLAIN_TEMPLATE)
    example = encode(Row.chat("hi", "yes"), plain)
    assert plain.decode(example.input_ids) == "user:\nhi\nassistant:\nyes<e>"
    assert learnt(example, plain) == "yes<e>"


def test_a_template_that_refuses_a_system_turn_loses_an_empty_one_but_no_words():
    strict = make_tokenizer(
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "<s>{{ m['role'] }}\n{{ m['content'] }}<e>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
    )
    assert strict.decode(encode(Row.chat("hi", "yes", ""), strict).input_ids).startswith("<s>user")
    with pytest.raises(DataError, match="no system role"):
        encode(Row.chat("hi", "yes", "Rhyme"), strict)


def test_a_template_that_rewrites_its_prompt_is_refused():
    turncoat = make_tokenizer(
        "{% if add_generation_prompt %}Q: {% else %}Chat: {% endif %}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    with pytest.raises(DataError, match="not a prefix"):
        encode(Row.chat("hi", "yes"), turncoat)


def test_no_template_says_what_to_do():
    with pytest.raises(DataError, match="PLAIN_TEMPLATE"):
        encode(Row.chat("hi", "yes"), make_tokenizer(None))


def test_all_faulty_rows_are_reported_at_once_with_file_and_row():
    rows = [Row.chat("hi", "yes"), Row.chat("h" * 90, "yes", where="a.csv, row 7"), Row.chat("hi", "<e> then more")]
    with pytest.raises(DataError) as caught:
        encode_rows(rows, TOKENIZER, max_length=60)
    message = str(caught.value)
    assert "2 faults" in message and "a.csv, row 7: " in message and "max_length = 60" in message
    assert "row 3: " in message and "special token '<e>'" in message


def test_rows_that_do_not_fit_the_model_are_named_before_anything_trains(tiny_llama):
    from transformers import GPT2Config, GPT2LMHeadModel

    fine, beyond, long = Example([1, 31], [1, 31]), Example([1, 32], [1, 32]), Example([1] * 9, [1] * 9)
    check_fits([fine, long], tiny_llama)  # positions that rotate have no table
    with pytest.raises(DataError, match="row 2: token 32, and the model's table has 32 rows"):
        check_fits([fine, beyond], tiny_llama)
    learnt = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(DataError, match="row 2: 9 tokens, and the model knows 8 positions"):
        check_fits([fine, long], learnt)
    check_fits([{"pixels": 1}], tiny_llama)  # other examples are not ours to judge


def test_positions_are_counted_behind_the_padding_token_s_own():
    from transformers import RobertaConfig, RobertaForCausalLM

    sizes = dict(vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    model = RobertaForCausalLM(RobertaConfig(**sizes, max_position_embeddings=10, pad_token_id=1, is_decoder=True))
    check_fits([Example([5] * 8, [5] * 8)], model)
    with pytest.raises(DataError, match="row 1: 9 tokens, and the model knows 8 positions"):
        check_fits([Example([5] * 9, [5] * 9)], model)
    model(torch.tensor([[5] * 8]))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.tensor([[5] * 9]))


# --- files


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


ALPACA = {"instruction": "Add", "input": "1 and 2", "output": "3"}
CHAT = {"messages": [{"role": "user", "content": "Add\n\n1 and 2"}, {"role": "assistant", "content": "3"}]}


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ("json", json.dumps([ALPACA])),
        ("json", json.dumps([CHAT])),
        ("jsonl", json.dumps(ALPACA) + "\n"),
        ("jsonl", json.dumps(CHAT)),
        ("csv", "instruction,input,output\nAdd,1 and 2,3\n"),
    ],
)
def test_every_form_gives_the_same_row(tmp_path, form, content):
    (row,) = read_rows(write(tmp_path, f"rows.{form}", content))
    assert row.messages == Row.chat("Add\n\n1 and 2", "3", "").messages
    assert row.where == f"rows.{form}, row 1"


def test_a_rows_own_system_message_wins_and_other_keys_are_kept(tmp_path):
    path = write(tmp_path, "rows.jsonl", json.dumps(ALPACA | {"system": "Rhyme", "id": 7}) + "\n" + json.dumps(CHAT))
    own, default = read_rows(path, system="Be brief")
    assert own.messages[0]["content"] == "Rhyme" and own.meta == {"id": 7}
    assert default.messages[0] == {"role": "system", "content": "Be brief"}
    assert read_rows(path, system=None)[1].messages[0]["role"] == "user"


def test_a_spreadsheets_csv_is_read(tmp_path):
    content = '\ufeffinstruction,input,output\r\n"Say ""hi"",\nplease",,Grüße\r\n'
    (row,) = read_rows(write(tmp_path, "rows.csv", content))
    assert row.prompt == 'Say "hi",\nplease' and row.answer == "Grüße"


def test_every_fault_of_a_file_is_reported_with_its_row(tmp_path):
    lines = [
        json.dumps(ALPACA),
        "",
        "{broken",
        "[1, 2]",
        json.dumps({"instruction": "Add", "output": 3}),
        json.dumps({"instruction": "Add"}),
        json.dumps({"instruction": "Add", "output": " "}),
        json.dumps({"question": "?"}),
        json.dumps({"messages": [{"role": "user", "content": "x"}]}),
        json.dumps({"messages": [{"role": "robot", "content": "x"}, {"role": "assistant", "content": "y"}]}),
        json.dumps({"messages": ["x", "y"]}),
    ]
    path = write(tmp_path, "rows.jsonl", "\n".join(lines).encode() + b'\n{"instruction": "caf\xe9", "output": "x"}')
    with pytest.raises(DataError) as caught:
        read_rows(path)
    faults = str(caught.value).splitlines()
    assert faults[0].startswith("10 faults")
    for line, words in zip(
        faults[1:],
        ["row 3: not valid JSON", "row 4: a row must be an object", "row 5: 'output' is int", "row 6: 'output' is missing",
         "row 7: the assistant's text is empty", "row 8: a row needs one of", "row 9: 'messages' must be a list",
         "row 10: unknown role 'robot'", "row 11: a message needs", "row 12: not UTF-8"],
    ):  # fmt: skip
        assert f"rows.jsonl, {words}" in line


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", b'{"instruction": "x"}', "must hold a list"),
        ("a.json", b"[1,", "not valid JSON"),
        ("a.json", "[]", "holds no rows"),
        ("a.json", '[{"instruction": "é"}]'.encode("latin-1"), "not UTF-8 at line 1"),
        ("a.csv", "instruction,output\nAdd\n", "row 1: the header has 2 columns"),
        ("a.csv", "instruction,output\nAdd,1,2\n", "row 1: the header has 2 columns"),
        ("a.csv", 'instruction,output\nAdd,"1\n', "not valid CSV"),
        ("a.csv", "frage,antwort\nAdd,3\n", "row 1: a row needs one of"),
        ("a.csv", "instruction,output\nAdd,3\n".encode("utf-16"), "not UTF-8"),
        ("a.txt", "x", "not .txt"),
    ],
)
def test_unusable_files_say_why(tmp_path, name, content, words):
    with pytest.raises(DataError, match=words.replace(".", r"\.")):
        read_rows(write(tmp_path, name, content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv: there is no such file"):
        read_rows(tmp_path / "nowhere.csv")


def test_a_row_must_make_sense():
    user, assistant, system = ({"role": r, "content": "x"} for r in ("user", "assistant", "system"))
    for turns in [
        (),
        (user,),
        (user, user, assistant),
        (assistant, assistant),
        (user, system, assistant),
        (system, assistant),
    ]:
        with pytest.raises(DataError):
            Row(turns)


# --- splits


inputs = st.lists(st.text(st.sampled_from("abC ?"), min_size=1, max_size=4).filter(str.strip), min_size=30, max_size=80)


@given(inputs=inputs, seed=st.integers(0, 5), counts=st.booleans(), order=st.randoms())
@settings(max_examples=50)
def test_no_input_is_on_two_sides_and_the_order_of_rows_does_not_matter(inputs, seed, counts, order):
    rows = [Row.chat(text, f"answer {i}") for i, text in enumerate(inputs)]
    sizes = (3, 5) if counts else (0.2, 0.3)
    try:
        parts = split(rows, *sizes, seed=seed)
    except DataError:
        reject()  # too few different inputs for these sizes; were every draw refused, hypothesis would complain
    keys = [{input_key(row) for row in part} for part in parts]
    assert not (keys[0] & keys[1] or keys[0] & keys[2] or keys[1] & keys[2])
    assert sorted(r.answer for part in parts for r in part) == sorted(r.answer for r in rows)
    shuffled = order.sample(rows, len(rows))
    assert [sorted(r.answer for r in p) for p in split(shuffled, *sizes, seed=seed)] == [
        sorted(r.answer for r in p) for p in parts
    ]


def test_the_same_input_in_another_spelling_stays_on_its_side():
    rows = [Row.chat(text, "x") for i in range(200) for text in (f"Who is number {i}?", f"who  is NUMBER {i}")]
    for part in split(rows, 0.2, 0.2):
        numbers = [row.prompt.lower().split()[3].rstrip("?") for row in part]
        assert all(numbers.count(n) == 2 for n in numbers)
    assert normalise("Ｗho is\tTHAT?!") == "who is that" and normalise("?!") == "?!"


def test_a_row_keeps_its_side_when_others_are_added():
    rows = [Row.chat(f"question {i}", "x") for i in range(400)]
    few, many = split(rows[:200], 0.1, 0.2), split(rows, 0.1, 0.2)
    for part, larger in zip(few, many):
        assert {r.prompt for r in part} <= {r.prompt for r in larger}
    assert 50 < len(many.test) < 110
    assert {r.prompt for r in split(rows, 0.1, 0.2, seed=1).test} != {r.prompt for r in many.test}


def test_counts_are_met_and_other_keys_can_be_kept_together():
    rows = [Row.chat(f"question {i}", str(i % 50)) for i in range(200)]
    parts = split(rows, 20, 40, key=lambda row: row.answer)
    assert [len(part) for part in parts] == [140, 20, 40]
    assert not {r.answer for r in parts.train} & {r.answer for r in parts.test}


@pytest.mark.parametrize("sizes", [(100, 100), (1, 0.5), (-1, 5), (0.5, 0.5)])
def test_impossible_splits_are_refused(sizes):
    with pytest.raises(DataError):
        split([Row.chat(f"question {i}", "x") for i in range(100)], *sizes)


def test_mix_reaches_its_share_and_repeats_evenly():
    mixed = mix(list(range(90)), ["a", "b", "c", "d"], share=0.1)
    assert len(mixed) == 100 and sorted(x for x in mixed if isinstance(x, int)) == list(range(90))
    assert sorted(mixed.count(x) for x in "abcd") == [2, 2, 3, 3]
    assert mixed == mix(list(range(90)), ["a", "b", "c", "d"], share=0.1) != sorted(mixed, key=str)
    with pytest.raises(DataError):
        mix([1], [], share=0.5)
