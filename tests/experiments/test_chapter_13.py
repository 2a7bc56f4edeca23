"""What chapter 13 says of its stored results, asserted from them; and that its sweep chooses on validation rows."""

import json

import pytest
import torch

from lora_edu.course.checks.ch13 import NEAREST, the_front
from lora_edu.course.sweeps.replay import DIALS, GENERAL, HIGH, LOW, MEASURES, SHARES, SWEEP, TASK, column
from lora_edu.data import mix
from lora_edu.evaluation import accuracy, leaks, majority, nearest_answers, paired_gain, rows_needed, sign_test
from lora_edu.experiments import table
from lora_edu.experiments.stored_results import FOLDER
from lora_edu.tasks import get_task


# --- should you at all? --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def ways():
    kept = json.loads((FOLDER / "should_you.json").read_text("utf-8"))
    task = get_task("reminders")
    rows = task.splits().test[: kept["about"]["rows"]]
    return {
        name: task.score(way["answers"], rows) | {"tokens": way["prompt_tokens"]} for name, way in kept["ways"].items()
    }


def test_the_ways_are_whole_and_about_test_rows(ways):
    draws = [f"{shots} examples {draw}" for shots in (2, 8) for draw in range(3)]
    assert list(ways) == ["plain 0", "instruction 0", *draws, "fine-tuned 0"]
    assert all(len(way["exact"].values) == 32 for way in ways.values())


# --- look-up and leaks ---------------------------------------------------------------------------------------------------
def test_a_look_up_has_as_many_right_as_the_stored_adapter_on_its_24_rows():
    intents = get_task("intents")
    train, seen = intents.splits().train, intents.splits().valid[:24]
    pairs, right = [(row.meta["input"], row.answer) for row in train], [row.answer for row in seen]
    found = accuracy([NEAREST(pairs, row.meta["input"]) for row in seen], right).value
    stored = json.loads((FOLDER / "three_adapters.json").read_text("utf-8"))["runs"]["0"]["alone"]["intents"]["intents"]
    assert found == pytest.approx(stored["score"], abs=1e-3) and found > 0.9
    assert accuracy(majority(train, seen), right).value < 0.2


def test_a_row_in_three_ways_on_two_sides_is_found_and_a_shared_template_gives_nothing_away():
    from lora_edu.data import split

    intents = get_task("intents")
    shuffled, own = split(intents.rows(), valid=100, test=300), intents.splits()
    assert 0.45 < leaks(shuffled.test, shuffled.train, source="template").share < 0.65
    assert leaks(own.test, own.train, source="template").counts()["same source"] == 0
    scores = [
        accuracy(nearest_answers(parts.train, parts.test), [row.answer for row in parts.test]).value
        for parts in (shuffled, own)
    ]
    assert abs(scores[0] - scores[1]) < 0.06


def test_the_rows_that_a_claim_needs():
    assert rows_needed(0.05, 0.10) == 337 and rows_needed(0.05, 0.30) == 975


# --- replay --------------------------------------------------------------------------------------------------------------
def test_the_sweep_is_whole_and_chooses_on_validation_rows():
    found = table("replay")
    assert bool(found.done.all()) and found.seeds == [0, 1, 2]
    assert "validation rows" in SWEEP.settings["questions"]
    assert [(cell["share"], cell["learning_rate"]) for cell in found.cells] == [
        (0, LOW), (0, HIGH), *((share, HIGH) for share in SHARES)
    ]  # fmt: skip
    assert set(found.metrics) == {column(measure, dial) for measure in MEASURES for dial in DIALS}


def test_replayed_rows_are_general_train_rows_in_the_share_that_is_named():
    texts = {row.messages[-1]["content"] for row in GENERAL.splits().train}
    for share, more in zip(SHARES, (5, 11, 27)):
        rows = mix(TASK.splits().train, GENERAL.splits().train, share)
        extra = [row for row in rows if row.answer in texts]
        assert len(extra) == more == len(rows) - 80 and len(extra) / len(rows) == pytest.approx(share, abs=0.01)


def test_the_front_of_random_runs_is_what_nobody_beats():
    pairs = torch.rand(30, 2, generator=torch.Generator().manual_seed(0)).tolist()
    best = the_front([tuple(pair) for pair in pairs])
    for i, (a, b) in enumerate(pairs):
        assert (i in best) != any(c < a and d < b for c, d in pairs)


def test_without_examples_nothing_can_be_read_and_with_them_everything(ways):
    for name, way in ways.items():
        assert way["valid"].value == (0 if name in ("plain 0", "instruction 0") else 1), name
    shown = [way["exact"].value for name, way in ways.items() if "examples" in name]
    assert (min(shown), max(shown)) == (0.4375, 0.75)


def test_32_rows_do_not_tell_the_luckiest_prompt_from_the_adapter_and_tell_an_unlucky_one(ways):
    tuned = ways["fine-tuned 0"]["exact"]
    assert tuned.value == 26 / 32 and ways["fine-tuned 0"]["tokens"] == 28.7
    assert paired_gain(ways["8 examples 2"]["exact"], tuned).p > 0.5
    assert round(paired_gain(ways["8 examples 0"]["exact"], tuned).p, 2) == 0.02
    assert all(way["tokens"] > 400 for name, way in ways.items() if name.startswith("8"))


def test_one_wrong_answer_of_the_adapter_is_wrong_by_blanks_alone(ways):
    kept = json.loads((FOLDER / "should_you.json").read_text("utf-8"))
    rows = get_task("reminders").splits().test[:32]
    said = [json.loads(answer) for answer in kept["ways"]["fine-tuned 0"]["answers"]]
    mended = sum({k: v.strip() for k, v in each.items()} == json.loads(row.answer) for each, row in zip(said, rows))
    assert mended == 27


def mean(measure, share, rate, dial=1.0):
    return float(table("replay").where(column(measure, dial), share=share, learning_rate=rate).mean())


def test_replay_of_one_in_eight_leaves_a_quarter_of_the_leaks_and_the_low_rate_none():
    leaks_ = {share: mean("leak", share, HIGH) for share in (0, *SHARES)}
    assert leaks_[0] > 0.6 and leaks_[1 / 8] == 0.25 and leaks_[1 / 4] == pytest.approx(2 / 36)
    assert list(leaks_.values()) == sorted(leaks_.values(), reverse=True)
    assert mean("leak", 0, LOW) == 0 and max(mean("leak", share, HIGH, 0.5) for share in (0, *SHARES)) < 0.04
    assert mean("name", 0, LOW, 0.5) < 0.9 and mean("name", 0, LOW) == 1


def test_the_low_rate_and_one_in_four_are_told_apart_on_passages_alone():
    found = table("replay")
    for measure, told in (("name_loss", False), ("trivia_loss", False), ("passages", True)):
        low, quarter = (
            found.where(column(measure, 1.0), share=share, learning_rate=rate).flatten()
            for share, rate in ((0, LOW), (1 / 4, HIGH))
        )
        less = low - quarter
        half = 4.303 * less.std() / 3**0.5  # Student's t, two degrees of freedom
        assert bool(less.mean().abs() > half) is told


def test_the_rule_chooses_one_in_four_at_half_the_dial():
    found, sound = table("replay"), {}
    for cell in found.cells:
        for dial in DIALS:
            says, leaked, loss = (found.where(column(m, dial), **cell) for m in ("name", "leak", "trivia_loss"))
            if bool((says == 1).all() and (leaked == 0).all()):
                sound[cell["share"], cell["learning_rate"], dial] = float(loss.mean())
    assert min(sound, key=sound.get) == (1 / 4, HIGH, 0.5)


def test_seed_by_seed_two_to_four_settings_are_unbeaten_by_passages_and_one_in_four_always():
    found, settings = table("replay"), [(cell, dial) for dial in DIALS for cell in table("replay").cells]
    fronts = []
    for seed in range(3):
        pairs = [
            tuple(float(found.where(column(m, dial), **cell).flatten()[seed]) for m in ("name_loss", "passages"))
            for cell, dial in settings
        ]
        fronts.append([settings[i][0] for i in the_front(pairs)])
    assert sorted(map(len, fronts)) == [2, 3, 4]
    assert all(any(cell["share"] == 1 / 4 for cell in front) for front in fronts)
    assert sum(any(cell["learning_rate"] == LOW for cell in front) for front in fronts) == 1


def test_in_eight_of_ten_settings_the_loss_on_trivia_ends_below_the_bases():
    base = 0.8327  # of the page's live cell, on the same validation rows
    means = [
        float(table("replay").where(column("trivia_loss", d), **c).mean()) for c in table("replay").cells for d in DIALS
    ]
    assert sum(mean < base for mean in means) == 8 and len(means) == 10


def test_steps_and_passages_of_replay():
    steps = {share: -(-len(mix(TASK.splits().train, GENERAL.splits().train, share)) // 4) for share in (0, 1 / 4)}
    assert steps == {0: 20, 1 / 4: 27} and TASK.recipe.train.batch_size == 4 and TASK.recipe.train.epochs == 1
    more = mix(TASK.splits().train, GENERAL.splits().train, 1 / 4)
    texts = sum(row.is_text for row in more)
    assert 11 <= texts <= 16  # "half passages", of 27


def test_seven_of_eight_votes_are_not_enough():
    assert round(sign_test(7, 1), 2) == 0.07 and sign_test(8, 0) < 0.05
