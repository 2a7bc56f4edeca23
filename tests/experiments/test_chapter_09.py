"""What chapter 09 says of its stored results, asserted from them; and that the two stages of its comparison are what they should be."""

import pytest
import torch

from lora_edu.course.sweeps import places, places_pilot, rows_and_rank
from lora_edu.course.sweeps.places_pilot import CHOOSING_ROWS, PLACES, loss_and_exact
from lora_edu.data.examples import Example, collate
from lora_edu.experiments import Choice, table
from lora_edu.experiments.choices import ALL_LINEAR, budget
from lora_edu.tasks.digits import load_digits

NAMES = {place: name for name, place in PLACES.items()}
EQUAL = [name for name in PLACES if name != "attention, r = 8"]


@pytest.fixture(scope="module")
def tried():
    """name: {rate: validation loss of the pilot}."""
    found, losses = table("places_pilot"), {name: {} for name in PLACES}
    assert bool(found.done.all()) and found.seeds == [0]
    for cell, (loss,) in zip(found.cells, found.metrics["valid"].tolist()):
        losses[NAMES[Choice.of_cell(cell)]][cell["learning_rate"]] = loss
    return losses


def test_five_places_are_equal_in_parameters_and_one_in_rank():
    own = budget(ALL_LINEAR).parameters
    assert all(abs(budget(PLACES[name]).parameters / own - 1) < 0.013 for name in EQUAL)
    small = PLACES["attention, r = 8"]
    assert small.r == ALL_LINEAR.r and 0.3 < budget(small).parameters / own < 0.4


def test_each_place_has_its_best_rate_inside_its_row_and_the_second_stage_takes_it(tried):
    for name, losses in tried.items():
        rates = sorted(losses)
        best = min(rates, key=losses.get)
        assert rates[0] < best < rates[-1], name
        assert places.CHOSEN[name] == best, name


def test_the_second_stage_shares_neither_seeds_nor_rows_with_the_pilot():
    assert not set(places.SWEEP.seeds) & set(places_pilot.SWEEP.seeds) and len(places.SWEEP.seeds) == 5
    assert places.SWEEP.settings["judging_rows"] == 64 and CHOOSING_ROWS == 40
    assert {Choice.of_cell(cell) for cell in places.SWEEP.cells} == set(PLACES.values())


def test_at_one_rate_the_last_ten_layers_are_last_and_at_four_times_that_rate_first(tried):
    assert max(EQUAL, key=lambda name: tried[name][1e-3]) == "last ten layers"
    assert min(EQUAL, key=lambda name: tried[name][4e-3]) == "last ten layers"


def test_in_the_pilot_rates_move_the_loss_more_than_places_do(tried):
    rates = (1e-3, 2e-3, 4e-3, 8e-3)
    by_rate = [max(tried[n][x] for x in rates) / min(tried[n][x] for x in rates) for n in EQUAL]
    by_place = [max(tried[n][x] for n in EQUAL) / min(tried[n][x] for n in EQUAL) for x in rates]
    assert min(by_rate) > max(by_place)
    best = [min(tried[name].values()) for name in EQUAL]
    assert 1.3 < max(best) / min(best) < 1.45


@pytest.fixture(scope="module")
def judged():
    """name: (seeds,) test losses of the second stage."""
    found = table("places")
    assert bool(found.done.all()) and found.seeds == [1, 2, 3, 4, 5]
    return {NAMES[Choice.of_cell(cell)]: losses for cell, losses in zip(found.cells, found.metrics["test"])}


def gain(ahead, behind):
    """What the one gains over the other, and half the 95 % interval of five pairs."""
    pairs = behind - ahead
    return float(pairs.mean()), float(2.776 * pairs.std() / 5**0.5)


def test_of_all_places_only_the_last_ten_layers_are_told_from_all_linear(judged):
    told = {name: gain(losses, judged["all-linear"]) for name, losses in judged.items() if name != "all-linear"}
    assert [name for name, (mean, half) in told.items() if abs(mean) > half] == ["last ten layers"]
    mean, half = told.pop("last ten layers")
    assert mean + half < 0 and int((judged["last ten layers"] > judged["all-linear"]).sum()) == 4
    assert all(0.015 < half < 0.021 and 0 < mean < 0.009 for mean, half in told.values())


def test_places_in_all_layers_differ_less_than_the_rates_did(judged, tried):
    means = {name: float(judged[name].mean()) for name in EQUAL}
    ten = means.pop("last ten layers")
    assert max(means.values()) / min(means.values()) < 1.25 and 1.6 < ten / means["all-linear"] < 1.7


class Spelling(torch.nn.Module):
    """Answers 5 after anything, with a confidence that is known."""

    def forward(self, input_ids, attention_mask, use_cache, logits_to_keep):
        logits = torch.zeros(*input_ids.shape, 10)
        logits[..., 5] = 3.0
        return type("Out", (), {"logits": logits[:, logits_to_keep]})


def test_an_answer_counts_as_exact_only_where_every_token_of_it_is_the_likeliest():
    right = Example([1, 2, 5, 5], [-100, -100, 5, 5])
    half = Example([1, 2, 3, 5, 4], [-100, -100, -100, 5, 4])
    loss, exact = loss_and_exact(Spelling(), [right, half], pad_token_id=0)
    sure, other = torch.zeros(10).index_fill(0, torch.tensor(5), 3.0).log_softmax(0)[[5, 4]].neg().tolist()
    assert exact == 0.5 and loss == pytest.approx((3 * sure + other) / 4, rel=1e-5)
    assert collate([right, half], 0)["labels"].shape == (2, 5)


# -- rows, wrong labels and rank ---------------------------------------------------------------------------------------


def test_drawn_rows_are_nested_and_as_many_labels_wrong_as_said():
    turned = load_digits(turned=True)
    few, many = (rows_and_rank.drawn(3, n, 0.0) for n in (50, 200))
    assert torch.equal(few.x_train, many.x_train[:50]) and torch.equal(few.y_train, many.y_train[:50])
    spoilt = rows_and_rank.drawn(3, 200, 0.2)
    assert torch.equal(spoilt.x_train, many.x_train) and int((spoilt.y_train != many.y_train).sum()) == 40
    assert torch.equal(spoilt.y_valid, turned.y_valid) and torch.equal(load_digits(turned=True).y_train, turned.y_train)
