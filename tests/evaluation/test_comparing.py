"""Several models and several seeds: Holm's correction, reports side by side, and intervals that count seeds."""

import json

import numpy as np
import pytest
from scipy.stats import t as student

from lora_edu.data import Row
from lora_edu.errors import DataError
from lora_edu.evaluation import Report, Score, compare, gain_over_seeds, holm, share, sign_test

ROWS = [Row.chat(f"question {n}", "yes") for n in range(20)]


def report(right, losses=None, rows=ROWS):
    hits = [n < right for n in range(len(rows))]
    scores = {"right": share(hits)}
    if losses is not None:
        scores["loss"] = Score(np.array(losses, dtype=float))
    return Report("a task", "test", "right", list(rows), ["yes" if hit else "no" for hit in hits], scores)


def test_holm_by_hand():
    """Holm 1979: .01·4, .02·3 = .06, .03·2 = .06, and the largest is at least what stands before it."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == [] and holm([0.2]) == [0.2]


def test_holm_keeps_false_findings_rare_where_plain_p_values_do_not():
    p = np.random.default_rng(0).uniform(size=(4000, 8))
    assert np.mean((p < 0.05).any(axis=1)) > 0.3
    assert np.mean([min(holm(row)) < 0.05 for row in p.tolist()]) == pytest.approx(0.05, abs=0.01)


def test_every_model_against_one_in_every_metric():
    losses = np.linspace(1, 2, 20)
    found = compare({"base": report(4, losses), "a": report(12, losses - 0.5), "b": report(5, losses)})
    assert [(line.model, line.metric) for line in found.lines] == [
        ("a", "right"),
        ("a", "loss"),
        ("b", "right"),
        ("b", "loss"),
    ]
    first = found.lines[0]
    assert first.gain.interval.value == pytest.approx(0.4) and first.gain.p == sign_test(8, 0)
    assert [line.holm for line in found.lines] == pytest.approx(holm([line.gain.p for line in found.lines]))
    assert first.holm == pytest.approx(3 * first.gain.p if first.gain.p > 2 / 1001 else 4 * first.gain.p)
    assert found.lines[1].gain.interval.value == pytest.approx(-0.5)
    text = str(found)
    assert "Gains over base" in text and "loss (lower is better)" in text and "p of 4" in text
    assert found._repr_html_().count("<tr>") == 5
    stored = json.loads(json.dumps(found.to_dict()))
    assert stored["gains"][0]["value"] == pytest.approx(0.4) and stored["against"] == "base"
    only = compare({"base": report(4, losses), "a": report(12)}, against="a", metrics=["right"])
    assert [(line.model, line.gain.interval.value) for line in only.lines] == [("base", pytest.approx(-0.4))]


@pytest.mark.parametrize(
    "ask, words",
    [
        (lambda: compare({"a": report(1)}), "two reports"),
        (lambda: compare({"a": report(1), "b": report(2)}, against="c"), "no report 'c' among a, b"),
        (lambda: compare({"a": report(1), "b": report(2)}, metrics=["loss"]), "both have right"),
        (lambda: compare({"a": report(1), "b": report(2, rows=ROWS[::-1])}), "same rows"),
    ],
)
def test_what_cannot_be_compared_is_named(ask, words):
    with pytest.raises(DataError, match=words):
        ask()


# --- seeds


def played(draw, gain, seed_sd, row_sd=1.0, rows=60, seeds=3):
    """Two recipes on the same rows: a row is hard for all, a seed is good or bad on all rows, and there is noise in both."""
    hard = draw.normal(0, row_sd, rows)
    taste = draw.normal(0, 0.5, rows)  # rows on which the second recipe does better than on others
    make = lambda level, more: Score(hard + more + level + draw.normal(0, seed_sd) + draw.normal(0, 0.3, rows))  # noqa: E731
    return [make(0.0, 0.0) for _ in range(seeds)], [make(gain, taste) for _ in range(seeds)]


def mixed_bootstrap(before, after, draw, n=300):
    """What gain_over_seeds does not do: redraw seeds as rows are redrawn."""
    a, b = (np.stack([run.values for run in recipe]) for recipe in (before, after))
    gains = []
    for _ in range(n):
        rows = draw.integers(a.shape[1], size=a.shape[1])
        gains.append(
            np.mean(b[draw.integers(len(b), size=len(b))][:, rows])
            - np.mean(a[draw.integers(len(a), size=len(a))][:, rows])
        )
    return np.quantile(gains, (0.025, 0.975))


def test_the_interval_over_seeds_holds_what_it_promises_and_a_mixed_bootstrap_does_not():
    draw = np.random.default_rng(0)
    ours, mixed, rows_alone = [], [], []
    for _ in range(300):
        before, after = played(draw, 0.3, seed_sd=0.3)
        low, high = gain_over_seeds(before, after, n=200).interval[1:]
        ours.append(low <= 0.3 <= high)
        low, high = mixed_bootstrap(before, after, draw)
        mixed.append(low <= 0.3 <= high)
        single = np.sort(
            [np.mean((after[0].values - before[0].values)[draw.integers(60, size=60)]) for _ in range(200)]
        )
        rows_alone.append(single[5] <= 0.3 <= single[-5])
    assert np.mean(ours) > 0.925
    assert np.mean(mixed) < 0.91 and np.mean(rows_alone) < 0.6, (
        "one run of each, its rows redrawn, knows nothing of seeds"
    )


def test_the_two_parts_of_the_error_are_the_rows_and_the_seeds():
    draw = np.random.default_rng(1)
    noisy_seeds = gain_over_seeds(*played(draw, 0.3, seed_sd=1.0, rows=400))
    many_alike = gain_over_seeds(*played(draw, 0.3, seed_sd=0.001, rows=40))
    assert noisy_seeds.seed_error > 5 * noisy_seeds.row_error and many_alike.row_error > many_alike.seed_error
    base = Score(np.zeros(50))
    one = gain_over_seeds([base], [Score(np.full(50, level)) for level in (1.0, 1.2, 1.4)])
    assert one.row_error < 1e-12 and one.seed_error == pytest.approx(0.2 / 3**0.5)
    half = 4.30265 * 0.2 / 3**0.5  # t of two degrees of freedom
    assert one.interval == pytest.approx((1.2, 1.2 - half, 1.2 + half), rel=1e-4)
    assert one.p == pytest.approx(2 * student.sf(1.2 / (0.2 / 3**0.5), 2), rel=1e-6)
    assert "seeds 0.12" in str(one)


def test_seeds_that_cannot_be_counted_are_named():
    same = Score(np.arange(5.0))
    with pytest.raises(DataError, match="two seeds or more"):
        gain_over_seeds([same], [same])
    with pytest.raises(DataError, match="same rows"):
        gain_over_seeds([same], [same, Score(np.arange(4.0))])
    with pytest.raises(DataError, match="same rows"):
        gain_over_seeds([Score(np.arange(4.0))], [same, same])
    assert gain_over_seeds([same], [same, same]).p == 1
