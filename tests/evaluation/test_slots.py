"""Answers with parts: read, counted, and the same figure as scikit-learn's over (slot, value) pairs."""

import json
import random

import pytest
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from lora_edu.errors import DataError
from lora_edu.evaluation import json_slots, pair_slots, readable, slot_f1


def test_slot_f1_is_the_micro_f1_of_slot_and_value():
    draw = random.Random(0)
    made = [[{key: draw.choice("xyz") for key in "abc" if draw.random() < 0.7} for _ in range(40)] for _ in range(2)]
    outputs, references = ([json.dumps(row) for row in rows] for rows in made)
    binary = MultiLabelBinarizer().fit([row.items() for rows in made for row in rows])
    guess, truth = (binary.transform([row.items() for row in rows]) for rows in made)
    assert slot_f1(outputs, references).value == pytest.approx(f1_score(truth, guess, average="micro"))


def test_what_cannot_be_read_is_missed_and_counted():
    wanted = ['{"who": "Ada", "when": "noon"}'] * 3
    outputs = ['{"when": "noon", "who": "Ada"}', '{"who": "Ada", "where": "here"}', "Ada at noon"]
    score = slot_f1(outputs, wanted)
    assert score.values.tolist() == [[2, 2, 2], [1, 2, 2], [0, 0, 2]]
    assert score.value == pytest.approx(2 * 3 / (4 + 6)) and readable(outputs).values.tolist() == [1, 1, 0]
    low, high = score.interval()[1:]
    assert low < score.value < high
    assert slot_f1(["[1]"], ['{"a": null}']).value == 0, "a missing slot is not a slot that is null"
    assert slot_f1(["{}"], ["{}"]).value == 1


def test_pairs_on_lines_or_with_commas_are_read_too():
    assert (
        pair_slots("who = Ada\nwhen: at noon")
        == {"who": "Ada", "when": "at noon"}
        == pair_slots("who=Ada; when=at noon")
    )
    assert pair_slots("at 12:30") == {"at 12": "30"} and pair_slots("Ada") is None and pair_slots("") is None
    assert slot_f1(["who=Ada, when=noon"], ["when: noon\nwho: Ada"], pair_slots).value == 1
    assert json_slots("[" * 100_000) is None, "too deep to be read"


def test_a_reference_without_slots_is_named():
    with pytest.raises(DataError, match="reference of row 2"):
        slot_f1(["{}", "{}"], ["{}", "none"])
