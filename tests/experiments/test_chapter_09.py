"""What chapter 09 says of its stored results, asserted from them; and that the two stages of its comparison are what they should be."""

import math

import pytest
import torch

from lora_edu.course.checks.ch09_budget import Case, as_runs, best_buy
from lora_edu.course.sweeps import places, places_pilot, rows_and_rank
from lora_edu.course.sweeps.places_pilot import CHOOSING_ROWS, PLACES, loss_and_exact
from lora_edu.data.examples import Example, collate
from lora_edu.experiments import Choice, bits_each, capacities, free_parameters, table
from lora_edu.experiments.capacity import free_in_model
from lora_edu.experiments.choices import ALL_LINEAR, NOTHING, budget
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
    inner = rates[:3]  # the outermost rate decides that
    by_rate = [max(tried[n][x] for x in inner) / min(tried[n][x] for x in inner) for n in EQUAL]
    assert round(max(by_rate), 1) == 2.9 and round(max(by_place), 1) == 2.8
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


def test_at_half_the_rate_the_last_ten_layers_are_no_longer_told_from_all_linear(judged):
    found = table("places_last_ten")
    assert bool(found.done.all()) and found.seeds == [1, 2, 3, 4, 5]
    half_rate = found.metrics["test"][0]
    mean, half = gain(half_rate, judged["all-linear"])
    assert mean < 0 < mean + half and 1.3 < float(half_rate.mean() / judged["all-linear"].mean()) < 1.36
    mean, half = gain(half_rate, judged["last ten layers"])
    assert 0.0155 < mean < 0.0165 and 0.019 < half < 0.0205 and int((half_rate < judged["last ten layers"]).sum()) == 4
    others = [name for name in judged if name not in ("all-linear", "last ten layers")]
    assert all(gain(half_rate, judged[name])[0] < -gain(half_rate, judged[name])[1] for name in others)
    means = [float(judged[name].mean()) for name in EQUAL if name != "last ten layers"]
    ten = float(judged["last ten layers"].mean())
    assert [round(x / min(means), 1) for x in (max(means), ten, float(half_rate.mean()))] == [1.2, 2.0, 1.6]


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


def test_an_adapter_holds_two_bits_and_more_for_each_free_number():
    bits = bits_each(filled := capacities())
    assert 2.2 < bits.mean < 2.6 and all(1.9 < float(each.per_free.mean()) < 2.7 for each in filled)
    assert sum(not each.inside for each in filled) > len(filled) / 2  # so the text calls it no bound
    small, high = (next(each for each in filled if each.r == r) for r in (2, 16))
    assert high.numbers == 2 * high.free and float(high.per_number.mean()) < 0.6 * float(small.per_number.mean())


def test_four_hundred_dates_take_less_than_a_hundredth_of_rank_1():
    base = float(table("targets_grid").where("loss", **NOTHING.cell())[0, 0]) / math.log(2)
    assert 400 * 11 * base < 0.01 * bits_each(capacities()).mean * free_in_model("smollm2-135m", "all-linear", 1)


def test_held_bits_go_from_two_to_two_point_six_and_still_grow():
    filled = capacities()
    means = {(each.optimiser, each.width, each.alphabet, each.r): float(each.per_free.mean()) for each in filled}
    assert min(means.values()) >= 1.95 and max(means.values()) < 2.65
    own = {r: means["Adam", 16, 2, r] for r in (1, 2, 4, 8, 16, "full")}
    assert own[1] == min(own.values()) and own[16] > own["full"]
    assert all(float(each.per_free.mean()) < means[each.optimiser, each.width, each.alphabet, each.r] for each in capacities(2000))


# -- rows, wrong labels and rank ---------------------------------------------------------------------------------------


def test_drawn_rows_are_nested_and_as_many_labels_wrong_as_said():
    turned = load_digits(turned=True)
    few, many = (rows_and_rank.drawn(3, n, 0.0) for n in (50, 200))
    assert torch.equal(few.x_train, many.x_train[:50]) and torch.equal(few.y_train, many.y_train[:50])
    spoilt = rows_and_rank.drawn(3, 200, 0.2)
    assert torch.equal(spoilt.x_train, many.x_train) and int((spoilt.y_train != many.y_train).sum()) == 40
    assert torch.equal(spoilt.y_valid, turned.y_valid) and torch.equal(load_digits(turned=True).y_train, turned.y_train)


@pytest.fixture(scope="module")
def digits():
    found = table("rows_and_rank")
    assert bool(found.done.all()) and found.seeds == [0, 1, 2, 3] and len(found.cells) == len(rows_and_rank.SWEEP.cells)
    return found


def at_best(digits, rows, wrong, r, length="192 steps"):
    """(seeds,) test losses of a plan at the rate that validation chose, which has a worse neighbour on either side."""
    kept = [
        i
        for i, cell in enumerate(digits.cells)
        if (cell["length"], cell["rows"], cell["wrong"], cell["r"]) == (length, rows, wrong, r)
    ]
    means = digits.metrics["valid_loss"][kept].mean(1).nan_to_num(math.inf)
    best = int(means.argmin())
    assert 0 < best < len(kept) - 1, (rows, wrong, r, length)
    return digits.metrics["test_loss"][kept[best]]


def paired(ahead, behind):
    pairs = behind - ahead
    return float(pairs.mean()), float(3.182 * pairs.std() / 2)


def test_no_plan_has_its_best_rate_at_an_edge(digits):
    plans = {(cell["rows"], cell["wrong"], cell["r"], cell["length"]) for cell in digits.cells}
    assert len(plans) == 35 and all(len(at_best(digits, *plan)) == 4 for plan in plans)


def test_at_rank_1_cleaning_gains_and_neither_rows_nor_rank_are_shown_to(digits):
    first = at_best(digits, 100, 0.2, 1)
    mean, half = paired(at_best(digits, 100, 0.0, 1), first)
    assert (round(mean, 2), round(half, 2)) == (0.37, 0.23)
    for plan in ((200, 0.2, 1), (100, 0.2, 8)):
        mean, half = paired(at_best(digits, *plan), first)
        assert abs(mean) < half and (mean < 0) == (plan[2] == 8)


def test_cleaning_is_not_settled_to_beat_more_rows_and_stands_out_most_at_rank_1(digits):
    mean, half = paired(at_best(digits, 100, 0.0, 1), at_best(digits, 200, 0.2, 1))
    assert (round(mean, 2), round(half, 2)) == (0.26, 0.28)
    ahead = [float(at_best(digits, 200, 0.2, r).mean() - at_best(digits, 100, 0.0, r).mean()) for r in (1, 2, 8)]
    assert ahead[0] > ahead[2] > ahead[1] > 0
    assert paired(at_best(digits, 200, 0.2, 8), at_best(digits, 200, 0.2, 1))[0] > 0  # with 200 dirty rows the rank gains


def test_four_hundred_labels_fill_a_third_of_rank_1_on_the_digits():
    free = sum(free_parameters(*shape, 1) for shape in ((64, 256), (256, 256), (256, 256), (256, 10)))
    assert 0.3 < 400 * math.log2(10) / (bits_each(capacities()).mean * free) < 0.37


def test_with_clean_rows_a_rank_may_bring_more_than_rows(digits):
    few, many, high = (float(at_best(digits, *plan).mean()) for plan in ((200, 0.0, 1), (400, 0.0, 1), (200, 0.0, 8)))
    assert [round(loss, 2) for loss in (few, many, high)] == [0.72, 0.68, 0.45]


def test_rank_8_is_ahead_at_every_number_of_clean_rows_and_shown_to_be_at_200_and_400(digits):
    gains = {n: paired(at_best(digits, n, 0.0, 8), at_best(digits, n, 0.0, 1)) for n in rows_and_rank.ROWS}
    assert all(mean > 0 for mean, _ in gains.values())
    assert [n for n, (mean, half) in gains.items() if mean > half] == [200, 400]
    assert all(float(at_best(digits, 25, 0.0, r, "12 passes").mean()) > 2.1 for r in (1, 8))


def test_what_is_bought_follows_the_prices(digits):
    kept = [i for i, cell in enumerate(digits.cells) if cell["length"] == "192 steps"]
    runs = as_runs(
        [digits.cells[i] for i in kept], digits.metrics["valid_loss"][kept], digits.metrics["test_loss"][kept]
    )

    def bought(check, rank, money):
        run = runs[best_buy(Case(runs, money, {"row": 2, "check": check, "rank": rank}))]
        return run["rows"], run["checked"], run["r"]

    budgets = (300, 600, 1200)
    assert [bought(1, 0, money) for money in budgets] == [(100, True, 8), (200, True, 8), (400, True, 8)]
    assert [bought(6, 0, money) for money in budgets] == [(100, False, 2), (200, False, 8), (100, True, 8)]
    assert [bought(1, 60, money)[2] for money in budgets] == [2, 1, 8]
