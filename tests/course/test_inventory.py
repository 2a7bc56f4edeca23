"""The concept inventory: fair questions, each shown by the course; two sittings, nothing told after the first, a gain after the second."""

import json
from collections import Counter

import nbformat
import pytest
from helpers import NOTEBOOKS

from lora_edu.course import forget, inventory, progress, store
from lora_edu.course.chapters import CHAPTERS
from lora_edu.course.concepts import CONCEPTS
from lora_edu.course.exercises import ExerciseError
from lora_edu.course.lawbook.runner import LAWS
from lora_edu.course.museum import catalogue, ledger
from lora_edu.course.sittings import UNSURE, gain

ITEMS = [concept.item for concept in CONCEPTS]
RIGHT = "".join(letter for item in ITEMS for letter, option in item.shuffled() if option.right)
WRONG = "".join(next(letter for letter, option in item.shuffled() if not option.right) for item in ITEMS)


# The questions ---------------------------------------------------------------------------------------------------------
def test_fifteen_questions_of_four_options():
    assert len(ITEMS) == 15 == len({item.id for item in ITEMS})
    assert all(len(item.options) == 4 and all(option.why for option in item.options) for item in ITEMS)


def test_the_right_letter_is_no_guess():
    counts = Counter(RIGHT)
    assert set(counts) == set("abcd") and max(counts.values()) <= 5 and min(counts.values()) >= 3, counts


def test_no_length_gives_the_right_option_away():
    places = Counter()
    for item in ITEMS:
        lengths = sorted(len(option.text) for option in item.options)
        [right] = [len(option.text) for option in item.options if option.right]
        places["longest"] += right == lengths[-1]
        places["shortest"] += right == lengths[0]
        assert lengths[-1] <= 1.45 * lengths[0], item.id
    assert max(places.values()) <= 5, places


@pytest.mark.parametrize("concept", CONCEPTS, ids=lambda concept: concept.item.id)
def test_the_right_answer_is_shown_where_it_says(concept):
    if concept.chapter not in CHAPTERS:
        pytest.fail(f"there is no chapter {concept.chapter}")
    assert list(NOTEBOOKS.glob(f"{concept.chapter}_*.ipynb")), "its chapter has no page"
    kind, _, name = concept.shown_by.partition(" ")
    if kind == "law":
        assert int(name) in LAWS
    elif kind == "exhibit":
        assert name in catalogue()
    else:
        chapter, _, cell = concept.shown_by.partition(":")
        [page] = NOTEBOOKS.glob(f"{chapter}_*.ipynb")
        assert cell in {each.id for each in nbformat.read(page, as_version=4).cells if each.cell_type == "code"}
    rows = {row.id: row for row in ledger()}
    assert all(rows[row].verdict != "correct" for row in concept.rows)


def test_most_wrong_options_are_of_the_ledger():
    assert sum(bool(concept.rows) for concept in CONCEPTS) >= 12


# Two sittings ----------------------------------------------------------------------------------------------------------
def tells(card) -> bool:
    """Whether it says why an option is right or wrong."""
    return any(option.why in text for item in ITEMS for option in item.options for text in (str(card), card.html))


def test_the_page_asks_and_tells_nothing():
    for sitting in ("before", "after"):
        card = inventory(sitting)
        for item in ITEMS:
            assert item.text in str(card) and all(option.text in str(card) for option in item.options)
        assert not tells(card) and "<details>" not in card.html
        assert str(inventory(sitting)) == str(card)


def test_first_sitting_then_second_and_the_gain(own_progress):
    first = inventory("before", RIGHT[:4] + WRONG[4:14] + "-")
    assert "Handed in: 15" in str(first) and not tells(first) and first.form() is None
    assert str(inventory("before", RIGHT)) == str(first)  # what is handed in stays
    assert not tells(inventory("after"))
    second = inventory("after", RIGHT[:12] + WRONG[12:14] + "-")
    assert "Before: 4 of 15 right. After: 12 of 15." in str(second)
    assert "Of the 11 that were open you closed 8: a normalised gain of 0.73." in str(second)
    assert tells(second) and second.html.count("<details>") == 15
    wrong = next(option for letter, option in ITEMS[12].shuffled() if letter == WRONG[12])
    assert wrong.why in str(second)
    kept = json.loads((own_progress / "progress.json").read_text("utf-8"))["forms"]
    assert kept["inventory-before"]["answers"][ITEMS[14].id] == UNSURE
    assert forget("inventory") == "Forgotten: 2 entries." and "1. " in str(inventory("after"))
    assert "inventory" not in str(progress())


def test_gain():
    assert gain(5, 10, 15) == 0.5 and gain(0, 15, 15) == 1 and gain(5, 5, 15) == 0
    assert gain(15, 15, 15) is None and gain(6, 5, 15) is None
    inventory("before", RIGHT)
    assert "Nothing was left to gain" in str(inventory("after", RIGHT))
    forget("inventory")
    inventory("before", RIGHT)
    assert "fewer than before" in str(inventory("after", WRONG))


def test_the_second_sitting_ends_the_first():
    assert "There was no first sitting" in str(inventory("after", RIGHT))
    late = inventory("before", WRONG)
    assert (
        "the first one is over" in str(late) and late.form() is None and store.get("forms", "inventory-before") is None
    )


def test_the_form():
    card = inventory("before")
    card.form()
    choices = list(card.choices.values())
    choices[0].value = UNSURE
    again = inventory("before")
    again.form()  # after a restart
    assert [choice.value for choice in again.choices.values()] == [UNSURE, *[None] * 14]
    card.button.click()
    assert (
        "Still open: questions 2, 3, 4" in card.status.value and not store.get("forms", "inventory-before")["handed_in"]
    )
    for choice, item in zip(choices, ITEMS):
        choice.value = next(option.text for option in item.options if option.right)
    card.button.click()
    assert "Handed in" in card.status.value and all(each.disabled for each in (*choices, card.button))
    choices[1].value = UNSURE  # was on the screen when the button was pressed, and comes late
    entry = store.get("forms", "inventory-before")
    assert entry["handed_in"] and entry["answers"][ITEMS[1].id] == UNSURE
    again.choices[ITEMS[2].id].value = UNSURE  # an older page: too late
    assert store.get("forms", "inventory-before") == entry
    last = inventory("after")
    last.form()
    for choice, item in zip(last.choices.values(), ITEMS):
        choice.value = next(option.text for option in item.options if option.right)
    last.button.click()
    assert "Before: 14 of 15 right. After: 15 of 15." in last.status.value


@pytest.mark.parametrize(
    "entry",
    [{}, {"answers": 3, "handed_in": True}, {"answers": {"inventory.bet": "gone", "x": "y"}, "handed_in": True}],
)
def test_answers_that_fit_no_question_are_left_out(entry):
    store.put("forms", "inventory-before", entry)
    assert str(inventory("before")) and str(inventory("after", RIGHT))


def test_what_cannot_be_handed_in_is_named():
    for sitting, letters, said in (
        ("middle", None, "before, after"),
        ("before", "abc", "15 letters"),
        ("before", "z" * 15, "question 1 has no option 'z'"),
    ):
        with pytest.raises(ExerciseError, match=said):
            inventory(sitting, letters)
    assert store.get("forms", "inventory-before") is None
