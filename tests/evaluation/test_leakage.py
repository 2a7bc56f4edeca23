"""Rows that another split has seen: planted ones are found, each as its own kind, and clean splits have none."""

import random

import pytest

from lora_edu.data import Row, Splits, split
from lora_edu.data.splits import normalise
from lora_edu.errors import DataError
from lora_edu.evaluation import leaks, split_leaks
from lora_edu.evaluation.leakage import Index, ngrams
from lora_edu.tasks import get_task


def rows(*questions, **meta):
    return [Row.chat(question, "an answer", **meta) for question in questions]


TRAIN = rows("What is the capital of France?", "How many legs has a spider?", "Who painted the Mona Lisa, and when?")


def test_each_kind_is_found_and_only_the_worst_is_told():
    here = rows(
        "What is the name of the longest river?",
        "what is  the capital of FRANCE",
        "Who painted the Mona Lisa, and when then?",
        "How many legs has a spider?",
    )
    found = leaks(here, TRAIN, names=("test", "train"))
    assert [(leak.kind, leak.here, leak.there) for leak in found] == [
        ("exact", 3, 1),
        ("normalised", 1, 0),
        ("near", 2, 2),
    ]
    assert found.share == 0.75 and found.counts() == {"exact": 1, "normalised": 1, "near": 1, "same source": 0}
    assert 0.7 <= found[2].alike < 1 and leaks(here, TRAIN, near=1.0).counts()["near"] == 0
    assert "3 of 4 rows of test leak from train: 1 exact, 1 normalised, 1 near" in str(found)
    assert "Mona Lisa, and when then?" in found._repr_html_()
    assert str(leaks(here[:1], TRAIN)) == "0 of 1 rows of these rows leak from those rows: none found"


def test_rows_of_one_source_leak_however_they_are_worded():
    train, here = rows("aaaaaa", source="page 1") + rows("bbbbbb", source="page 2"), rows("cccccc", source="page 2")
    assert leaks(here, train) == []
    (leak,) = leaks(here, train, source="source")
    assert (leak.kind, leak.there, leak.alike) == ("same source", 1, 0.0)
    assert leaks(here, train, source=lambda row: row.meta["source"]) == [leak]
    with pytest.raises(DataError, match="row 1 has no 'page' in its meta \\(source\\)"):
        leaks(here, train, source="page")
    with pytest.raises(DataError, match="near=0"):
        leaks(here, train, near=0)


def test_the_index_finds_what_comparing_with_each_finds():
    draw = random.Random(0)
    texts = ["".join(draw.choices("ab ", k=draw.randrange(1, 14))) for _ in range(60)]
    index = Index(texts[:40])
    for text in texts[40:]:
        grams = ngrams(text)
        alike = [len(grams & ngrams(other)) / len(grams | ngrams(other)) for other in texts[:40]]
        found = index.nearest(text)
        assert found == ((alike.index(max(alike)), max(alike)) if max(alike) else None)


def test_the_courses_own_splits_share_no_input_and_no_template():
    for name in ("kjv", "intents"):
        counts = [found.counts() for found in split_leaks(get_task(name).splits()).values()]
        assert len(counts) == 3 and all(each["exact"] == each["normalised"] == 0 for each in counts)
    found = split_leaks(get_task("intents").splits(), source="template")
    assert all(each.counts()["same source"] == 0 for each in found.values())


def test_a_split_at_random_leaks_what_the_split_by_template_does_not():
    """The same rows, cut by the hash of the input: templates stand on both sides."""
    task = get_task("intents")
    at_random = split(task.rows(), 100, 300)
    found = split_leaks(at_random, source="template")["test from train"]
    assert found.share > 0.4 and len({normalise(row.prompt) for row in at_random.test}) == len(at_random.test)


def test_plain_texts_are_compared_whole_and_empty_parts_are_left_out():
    text = Row.text("A passage about whales, which breathe air.")
    assert [leak.kind for leak in leaks([text], [text])] == ["exact"]
    assert split_leaks(Splits([text], [], [text])).keys() == {"test from train"}
