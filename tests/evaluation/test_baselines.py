"""Answers that need no training, against what the split itself says."""

import pytest

from lora_edu.data import Row
from lora_edu.errors import DataError
from lora_edu.evaluation import accuracy, copied, guessing_rate, majority, majority_rate, nearest_answers
from lora_edu.tasks import get_task

TRAIN = [Row.chat(q, a) for q, a in [("turn on the lamp", "on"), ("turn it off", "off"), ("lamp on please", "on")]]
ROWS = [Row.chat(q, a, source="here") for q, a in [("turn off the lamp", "off"), ("the lamp on", "on"), ("Ω", "on")]]


def test_the_majority_and_guessing_at_the_training_shares():
    assert majority(TRAIN, ROWS) == ["on"] * 3 and majority_rate(TRAIN, ROWS) == pytest.approx(2 / 3)
    assert guessing_rate(TRAIN, ROWS) == pytest.approx(2 / 3 * 2 / 3 + 1 / 3 * 1 / 3)
    assert copied(ROWS)[0] == "turn off the lamp" and copied([Row.chat("As JSON: x", "y", input="x")]) == ["x"]


def test_the_nearest_row_answers_where_one_is_near():
    assert nearest_answers(TRAIN, ROWS) == ["on", "on", ""]
    assert nearest_answers(TRAIN, TRAIN) == [row.answer for row in TRAIN]


def test_a_majority_is_a_rate_that_a_task_must_beat():
    splits = get_task("intents").splits()
    rate = majority_rate(splits.train, splits.test)
    assert rate == accuracy(majority(splits.train, splits.test), [row.answer for row in splits.test]).value
    assert 0.05 < guessing_rate(splits.train, splits.test) < 0.6


@pytest.mark.parametrize("baseline", [majority, nearest_answers, guessing_rate, majority_rate])
def test_no_training_rows_no_baseline(baseline):
    with pytest.raises(DataError, match="training rows"):
        baseline([], ROWS)
