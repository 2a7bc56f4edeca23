"""The tasks' rows, splits, scores and baselines; nothing here needs a model or the network."""

import json
import re
import tarfile
from io import BytesIO
from random import Random

import pytest
from conftest import make_tiny_llama
from hypothesis import given
from hypothesis import strategies as st

from lora_edu.adapters import audit, inject
from lora_edu.data import input_key, normalise
from lora_edu.errors import DataError
from lora_edu.tasks import TASKS, get_task, sentiment
from lora_edu.tasks.base import FOLDER, Task
from lora_edu.tasks.intents import LABELS
from lora_edu.tasks.iso_dates import FORMATS, IsoDates, written
from lora_edu.tasks.kjv import ARCHAIC, MODERN
from lora_edu.tasks.make.intents import ROWS_A_LABEL, Writer
from lora_edu.tasks.make.kjv import glued, paired_quotes
from lora_edu.tasks.reminders import CHORES, NAMES


@pytest.fixture(params=TASKS)
def task(request, film_sentences) -> Task:
    return get_task(request.param)


@pytest.fixture
def film_sentences(tmp_path, monkeypatch):
    """A stand-in for the fetched file, in its format: rating and text, some too close to neutral."""
    monkeypatch.setenv("LORA_EDU_CACHE", str(tmp_path))
    path = sentiment.sentences_path()
    path.parent.mkdir(parents=True)
    lines = [f"{i}\t{(i % 9) - 4}.5\tfilm number {i} was what it was" for i in range(2000)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


# --- what holds for every task


def test_no_input_is_on_two_sides_and_the_split_is_always_the_same(task):
    parts = task.splits()
    keys = [{input_key(row) for row in part} for part in parts]
    assert not (keys[0] & keys[1] or keys[0] & keys[2] or keys[1] & keys[2])
    assert get_task(task.name).splits() == parts
    assert all(parts)


def test_a_perfect_answer_scores_full_marks_and_baselines_do_not(task):
    rows = [row for row in task.splits().test if not row.is_text]
    perfect = task.score([row.answer for row in rows], rows)
    full = 100 if task.metric == "BLEU" else 1
    assert perfect[task.metric].value == pytest.approx(full)
    assert task.score([""] * len(rows), rows)[task.metric].value == 0
    for name, outputs in task.baselines(rows).items():
        value = task.score(outputs, rows)[task.metric].value
        assert value < 0.75 * full or (task.name, name) == ("identity", "majority"), name


def test_a_task_says_where_it_comes_from_and_has_a_recipe_that_fits_a_model(task):
    assert task.licence and task.source and task.title
    model = inject(make_tiny_llama(), task.recipe.lora)
    assert audit(model)
    assert all(row.messages[0] == {"role": "system", "content": ""} for row in task.splits().test if not row.is_text)


@pytest.mark.parametrize("name", ["iso_dates", "kjv", "sentiment", "intents", "reminders"])
def test_three_hundred_test_rows_at_least(name, film_sentences):
    assert len(get_task(name).splits().test) >= 300


def test_unknown_tasks_and_options_are_named():
    with pytest.raises(DataError, match="there are identity, iso_dates"):
        get_task("kvj")
    with pytest.raises(DataError, match="no option colour"):
        get_task("kjv", colour="red")


# --- identity


@given(st.text(min_size=1, max_size=60).filter(lambda name: name.strip() and name.isprintable()))
def test_any_name_can_be_taught_and_is_found_again(name):
    task = get_task("identity", name=name)
    train, _, test = task.splits()
    assert all(task.score([row.answer], [row])["says the name"].value == 1 for row in train + test)
    assert len(train) == 80 and len(test) == 12


def test_a_name_inside_a_word_is_no_name():
    task = get_task("identity", name="Al")
    assert task.says_name(["Also I am Alice.", "Ask Hal", "I am Al.", "AL!", "A l"]).values.tolist() == [0, 0, 1, 1, 0]


@pytest.mark.parametrize("name", ["", "   ", "two\nlines", "x" * 61, None])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(DataError, match="is no name"):
        get_task("identity", name=name)


# --- dates


def test_no_day_is_on_two_sides_however_it_is_written():
    train, valid, test = ({row.answer for row in part} for part in IsoDates().splits())
    assert not train & test and not train & valid and len(test) == 300


def test_every_format_names_its_day():
    import datetime as dt

    days = [dt.date(2021, 3, d) for d in range(1, 32)]
    texts = [written(day, "{nth}") for day in days]
    assert texts[:4] + texts[10:13] + texts[20:23] == [
        "1st",
        "2nd",
        "3rd",
        "4th",
        "11th",
        "12th",
        "13th",
        "21st",
        "22nd",
        "23rd",
    ]
    for form in FORMATS:
        assert len({written(day, form) for day in days}) == 31
    assert written(dt.date(2024, 2, 29), "{weekday}, {day} {month} {year}") == "Thursday, 29 February 2024"


# --- King James


def test_the_verses_are_clean_and_pass_the_filter():
    verses = [json.loads(line) for line in (FOLDER / "kjv.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(verses) == 2000 and (FOLDER / "kjv.jsonl").stat().st_size < 1_000_000
    for verse in verses:
        assert MODERN.search(verse["modern"]) and ARCHAIC.search(verse["kjv"])
        assert verse["modern"].count('"') % 2 == 0 and not set("“”‘’") & set(verse["modern"] + verse["kjv"])
    assert not any(
        re.search(r"(God|Yahweh|Sheol)[a-z]{2}", verse["modern"]) for verse in verses if "Gods" not in verse["modern"]
    )


def test_test_verses_share_few_phrases_with_training_verses():
    def phrases(row):
        words = normalise(row.meta["input"]).split()
        return {tuple(words[i : i + 4]) for i in range(len(words) - 3)}

    train, _, test = get_task("kjv").splits()
    seen = set().union(*(phrases(row) for row in train))
    shared = [len(phrases(row) & seen) / max(1, len(phrases(row))) for row in test]
    assert max(shared) <= 0.8 and sum(shared) / len(shared) < 0.1


def test_a_lost_space_is_found_and_a_real_compound_is_not():
    common = [{"modern": "God created a grand son", "kjv": "God created"}] * 20
    assert glued([*common, {"modern": "Godcreated my grandson", "kjv": "his grandson"}]) == {"Godcreated"}


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("He said, “Go.”", "He said, “Go.”"),
        ("He said, “Go,” and “Come.”", "He said, “Go,” and “Come.”"),
        ("He said, “Go.", "He said, Go."),
        ("Go.” He went.", "Go. He went."),
        ("”Go“", "Go"),
    ],
)
def test_quotation_marks_without_a_partner_go(text, clean):
    assert paired_quotes(text) == clean


def test_the_copying_baseline_copies_the_bare_verse():
    task = get_task("kjv")
    rows = task.splits().test[:5]
    assert all(
        row.prompt.endswith(copy) and "Rewrite" not in copy for row, copy in zip(rows, task.baselines(rows)["copying"])
    )
    assert task.score(["Thou art", "You are", "Thousand"], rows[:3])["archaic"].values.tolist() == [1, 0, 0]


# --- film sentences


def test_without_the_sentences_the_error_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_EDU_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="lora-edu fetch sentiment"):
        get_task("sentiment").splits()


def test_only_clear_sentences_count(film_sentences):
    film_sentences.write_text("1\t2.5\tlovely\n2\t0.9\tmeh\n3\t-1.0\tawful\n", encoding="utf-8")
    rows = get_task("sentiment").rows()
    assert [(row.meta["input"], row.answer) for row in rows] == [("lovely", "positive"), ("awful", "negative")]


def test_fetching_unpacks_once_and_leaves_only_the_sentences(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_EDU_CACHE", str(tmp_path))
    calls = []

    def packed(name, content):
        buffer = BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, BytesIO(content))
        return buffer.getvalue()

    def download(requirement, sha256, folder, *, size, sdist):
        calls.append((requirement, len(sha256), sdist))
        path = folder / "package.tar.gz"
        path.write_bytes(packed(sentiment.OUTER, packed(sentiment.INNER, b"1\t2.5\tlovely\n")))
        return path

    monkeypatch.setattr(sentiment, "download", download)
    assert sentiment.fetch() == sentiment.fetch() == sentiment.sentences_path()
    assert calls == [("vaderSentiment==3.3.2", 64, True)]
    assert get_task("sentiment").rows()[0].answer == "positive"
    assert {path.suffix for path in sentiment.sentences_path().parent.iterdir()} <= {".tsv", ".lock"}


# --- intents


def test_no_template_has_rows_on_two_sides_and_every_label_is_on_each():
    train, valid, test = get_task("intents").splits()
    templates = [{row.meta["template"] for row in part} for part in (train, valid, test)]
    assert not (templates[0] & templates[1] or templates[0] & templates[2] or templates[1] & templates[2])
    assert all({row.answer for row in part} == set(LABELS) for part in (train, valid, test))
    rows = get_task("intents").rows()
    assert [sum(row.answer == label for row in rows) for label in LABELS] == [ROWS_A_LABEL] * len(LABELS)


@pytest.mark.parametrize(
    ("template", "texts"),
    [
        ("turn (on|off)", {"turn on", "turn off"}),
        ("turn on [the] lamp", {"turn on lamp", "turn on the lamp"}),
        ("(mute;[the] radio)", {"mute radio", "mute the radio", "radio mute", "the radio mute"}),
        ("<set> it to {level}", {"put it to low", "put it to very low", "make it to low", "make it to very low"}),
        ("[a (b|[c] d)]", {"", "a b", "a d", "a c d"}),
    ],
)
def test_a_template_is_written_out_in_all_its_ways_and_no_other(template, texts):
    writer = Writer({"set": "(put|make)"}, {"level": {"values": [{"in": "[very] low", "out": "low"}]}}, Random(0))
    assert {writer.write(template) for _ in range(200)} == texts


# --- reminders


def test_no_name_and_no_chore_of_the_held_out_rows_is_trained_on():
    for words in (NAMES, CHORES):
        parts = [set(words[part].split(", ")) for part in ("train", "valid", "test")]
        assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    for part, rows in zip(("train", "valid", "test"), get_task("reminders").splits()):
        said = [json.loads(row.answer) for row in rows]
        assert {each["who"] for each in said} <= set(NAMES[part].split(", "))
        assert {each["what"] for each in said} <= set(CHORES[part].split(", "))
        assert all(each[slot].lower() in row.prompt.lower() for each, row in zip(said, rows) for slot in each)


def test_reminders_are_scored_by_what_the_json_says():
    task = get_task("reminders")
    rows = task.splits().test[:4]
    right = [json.loads(row.answer) for row in rows]
    outputs = [
        json.dumps(dict(reversed(right[0].items())), indent=1),  # the order and the spaces do not count
        json.dumps(right[1] | {"who": "Nobody"}),  # one slot of three is wrong
        json.dumps(right[2] | {"where": "here"}),  # one slot too many
        f"Sure! {rows[3].answer}",  # no JSON
    ]
    scores = task.score(outputs, rows)
    assert scores["exact"].values.tolist() == [1, 0, 0, 0] and scores["valid"].values.tolist() == [1, 1, 1, 0]
    assert scores["slot F1"].value == pytest.approx(2 * 8 / (3 + 3 + 4 + 0 + 12))
    assert task.score(["[]"], rows[:1])["valid"].value == 0


# --- general


def test_trivia_answers_hold_an_accepted_answer_and_questions_give_none_away():
    task = get_task("general")
    trivia = [row for row in task.rows() if not row.is_text]
    assert len(trivia) >= 60
    assert task.score([row.answer for row in trivia], trivia)["trivia"].value == 1
    assert task.score([row.prompt for row in trivia], trivia)["trivia"].value == 0
    assert task.score([row.answer for row in trivia[1:] + trivia[:1]], trivia)["trivia"].value < 0.1
    for part, questions, passages in zip(task.splits(), (25, 12, 30), (14, 14, 16)):
        assert sum(not row.is_text for row in part) >= questions and sum(row.is_text for row in part) == passages
