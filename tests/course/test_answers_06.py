"""Chapter 06's checkers take right answers in any style, and name wrong ones beyond those of `answers_06`."""

import math
import re
import tracemalloc

import answers_06 as answers
import pytest
from answers_06 import as_numpy, as_tensors, by_rows, leaks_by, leaks_where, starting_at, where_to_stop, without_a_sign
from kit import ask

from lora_edu.data import normalise


@pytest.mark.parametrize(
    "id, answer",
    [
        ("06.1", as_numpy),
        ("06.1", as_tensors),
        ("06.1", starting_at(math.inf)),
        ("06.1", answers.with_a_counter),
        ("06.2", without_a_sign),
        ("06.2", by_rows),
        ("06.2", answers.in_numpy),
        ("06.2", answers.of_small_traces),
        ("06.2", answers.by_qr),
        ("06.2", answers.by_qr_in_numpy),
        ("06.2", answers.by_qr_of_scipy),
        ("06.2", answers.by_einsum),
        ("06.2", answers.by_einsum_of_small),
        ("06.2", answers.by_singular_values),
        ("06.2", answers.by_rows_in_numpy),
        ("06.2", answers.in_lists),
        ("06.3", leaks_by(normalise)),
    ],
)
def test_a_right_answer_in_another_style_passes(id, answer):
    assert (result := ask(id, answer)).passed, str(result)


@pytest.mark.parametrize(
    "id, answer, bug",
    [
        ("06.1", starting_at(10.0), "another step"),
        ("06.1", answers.variant(answers.with_a_counter, how="falls"), "patience starts anew"),
        ("06.1", answers.variant(answers.with_a_counter, how="equal passes"), "an equal value"),
        ("06.1", answers.only_clear_falls(1e-6), "a small fall"),
        ("06.1", answers.only_clear_falls(0.05), "a small fall"),
        ("06.3", leaks_by(lambda text: text.lower().strip()), "spaces still count"),
        ("06.1", lambda losses, patience: (where_to_stop(losses, patience)[0], 0.5), "not two indices"),
        ("06.2", answers.built_in_numpy, "the big matrix is built"),
        ("06.2", answers.built_and_wrapped, "the big matrix is built"),
        ("06.2", answers.built_in_lists, "the big matrix is built"),
        ("06.2", answers.two_blocks_in_numpy, "a large part of it is built"),
        ("06.3", leaks_where(lambda a, b: b.startswith(a)), "a part of a text"),
    ],
)
def test_more_wrong_answers_are_named(id, answer, bug):
    assert bug in (ask(id, answer).bug or "it passes")


def test_a_product_is_seen_while_somebody_else_traces_memory_and_he_may_go_on():
    tracemalloc.start()
    try:
        assert ask("06.2", answers.in_numpy).passed
        assert ask("06.2", answers.built_in_numpy).bug == "the big matrix is built"
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()


def test_what_a_message_shows_is_what_was_missed_and_a_page_does_not_swallow_its_spaces():
    said = ask("06.3", leaks_by(lambda text: text.lower().strip())).message
    assert "'Who␣␣wrote Emma?' is a twin of a training text and was not found (␣ is a space)" in said


def test_the_losses_of_a_message_are_short():
    assert not re.search(r"\d\.\d{9,}", ask("06.1", lambda losses, patience: (0, 0)).message)
