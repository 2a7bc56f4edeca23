"""Chapter 14's checkers take right answers in any style, and name wrong ones beyond those of `answers_14`."""

import math
from fractions import Fraction

import numpy as np
import pytest
from answers_14 import (
    by_a_straight_line,
    by_redrawing,
    by_score,
    by_sign_test,
    by_the_interval,
    choose,
    half_at_most,
    per_process,
    says_nothing,
    stumbles,
    verdict,
    weights,
)
from kit import ask


def one_process_gathers_nothing(w, g, o, a, gathered, processes, shards):
    return per_process(w, g, o, a, gathered if processes > 1 else 0, processes, shards)


@pytest.mark.parametrize(
    "id, answer",
    [
        ("14.1", lambda need, rows, room: [*choose(need, rows, room)[:2], np.bool_(choose(need, rows, room)[2])]),
        ("14.2", by_sign_test),
        ("14.2", by_the_interval),
        ("14.3", one_process_gathers_nothing),
        ("14.3", lambda *figures: Fraction(per_process(*map(Fraction, figures[:-1]), figures[-1]))),
        ("14.3", lambda *figures: math.ceil(per_process(*figures))),
        ("14.4", lambda counts: np.array(weights(counts))),
        ("14.4", lambda counts: tuple(weights(counts))),
    ],
)
def test_a_right_answer_in_another_style_passes(id, answer):
    assert (result := ask(id, answer)).passed, str(result)


def by_halving(need, rows, room):
    """Never a third of the rows."""
    for checkpointed in (False, True):
        size = rows
        while size >= 1:
            if rows % size == 0 and need(size, checkpointed) <= room:
                return size, rows // size, checkpointed
            size //= 2
    raise ValueError("nothing fits")


def next_lower(need, rows, room):
    """Never the largest that fits, unless it is one row."""
    size, _, checkpointed = choose(need, rows, room)
    lower = max((each for each in range(1, size) if rows % each == 0), default=size)
    return lower, rows // lower, checkpointed


def turned_round(need, rows, room):
    return tuple(reversed(choose(need, rows, room)))


@pytest.mark.parametrize(
    "id, answer, bug",
    [
        ("14.1", by_halving, "fewer rows at once"),
        ("14.1", turned_round, "in another order"),
        ("14.1", half_at_most, "fewer rows at once"),
        ("14.1", by_a_straight_line, "does not fit"),
        ("14.1", says_nothing, "nothing is said"),
        ("14.2", lambda before, after: verdict(sorted(before), sorted(after)), "totals"),
        ("14.2", by_redrawing, "four coins"),
        ("14.2", lambda before, after: verdict(before, after, 0.04), "more is asked for"),
        ("14.2", lambda before, after: verdict(before, after, 0.0502), "less is asked for"),
        ("14.2", by_score, "four coins"),
        ("14.1", next_lower, "fewer rows at once"),
    ],
)
def test_more_wrong_answers_are_named(id, answer, bug):
    assert bug in (ask(id, answer).bug or "it passes")


def test_an_error_that_was_no_refusal_is_passed_on():
    result = ask("14.1", stumbles)
    assert result.bug == "refused, although something fits" or "just enough" in result.bug
    assert "it raised: max()" in result.message


def test_the_unequal_shares_are_shown_on_one_gradient():
    said = ask("14.4", lambda counts: [count / sum(counts) for count in counts]).message
    assert (
        "The average is 1/N of the wanted gradient" in said
        and "the average would be 0.375; but 12 of all 16 tokens are 0.75" in said
    )


def test_the_last_hint_of_the_verdict_runs():
    from lora_edu.course.exercises import find

    lines = find("14.2").hints[-1].split("`")[1::2]
    names = {"before": [0, 1, 0, 0] * 6, "after": [1, 1, 1, 0] * 6}
    exec("\n".join(lines[:2]), names)
    assert names["p"] == 2**-11 and eval(lines[-1], names) == 0.5
