"""What chapter 08 says of its stored tables, asserted from them: a table that is made anew takes the sentences with it, or fails here."""

import itertools
import math

import pytest
import torch

from lora_edu.course.sweeps.two_rates import A_RATES, B_RATES
from lora_edu.experiments import table

RANKS = (1, 2, 4, 8, 16, 64)
ADAM = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
SGD = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
RULES = ("α/r", "α/√r", "one s")
GUESS = math.log(10)
AFTER = {8: "valid_loss_8", 32: "valid_loss_32", 126: "valid_loss"}


def losses(metric, r, rate, rule="α/r", optimiser="Adam"):
    return table("rates_ranks").where(metric, optimiser=optimiser, rule=rule, r=r, learning_rate=rate)[0]  # (seeds,)


def mean(metric, r, rate, rule="α/r", optimiser="Adam"):
    value = losses(metric, r, rate, rule, optimiser).mean().item()
    return value if math.isfinite(value) else math.inf


def best_rate(r, rule="α/r", optimiser="Adam"):
    return min(ADAM if optimiser == "Adam" else SGD, key=lambda rate: mean("valid_loss", r, rate, rule, optimiser))


def best_point(r):
    return min(((best_rate(r, rule), rule) for rule in RULES), key=lambda point: mean("valid_loss", r, *point))


def gains(metric, eight, sixty_four):
    return losses(metric, 8, *eight) - losses(metric, 64, *sixty_four)  # (seeds,)


def end(x, y):
    return table("two_rates").where("valid_loss_126", rate_A=x, rate_B=y)[0]  # (seeds,)


def at_end(x, y):
    value = end(x, y).mean().item()
    return value if math.isfinite(value) else math.inf


def diagonal(s):
    return [(x, y) for x, y in itertools.product(A_RATES, B_RATES) if abs(math.log(y / x / s)) < 0.2]


# --- section 3: the map ------------------------------------------------------------------------------------------------


def test_the_lowest_mean_of_the_map():
    assert min(itertools.product(A_RATES, B_RATES), key=lambda at: at_end(*at)) == (3e-3, 3e-2)


def test_the_valley_is_bent_from_s_of_a_third_to_a_thousand():
    best = {s: min(at_end(*at) for at in diagonal(s)) for s in (0.01, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)}
    assert all(0.145 < best[s] < 0.295 for s in best if s >= 0.3)
    assert max(best[s] for s in best if s >= 0.3) < 2 * min(best.values())  # "less than a factor of two"
    column = [at_end(1e-3, y) for y in B_RATES]
    assert (round(column[0], 2), round(min(column), 2)) == (1.52, 0.18) and column[-1] > 1
    assert best[0.01] > 0.295 and best[0.1] > 0.295  # and below it, it does get worse


def test_along_as_rate():
    good = [at_end(x, 3e-2) for x in A_RATES]
    assert max(good[:5]) < 2 * min(good) and A_RATES[4] / A_RATES[0] == pytest.approx(100)  # "less than a doubling"
    assert min(good[5:]) > 1.5  # "above, the run breaks down"
    low = [at_end(x, 3e-3) for x in A_RATES]
    assert low[:6] == sorted(low[:6], reverse=True) and low[0] > 3 * low[5]  # "a higher A rate makes up for part of it"
    assert min(low) > 2 * min(good)


# --- section 4: the early steps ----------------------------------------------------------------------------------------


def spread(rate, step):
    means = [mean(AFTER[step], r, rate) for r in RANKS]
    return max(means) / min(means)


def test_the_first_eight_steps_hardly_know_the_rank_and_how_soon_ranks_part():
    assert all(spread(rate, 8) < 1.08 for rate in (1e-3, 3e-3, 1e-2))
    assert spread(1e-3, 126) < 1.15 and spread(3e-3, 32) < 1.05 < 2 < spread(3e-3, 126) and spread(1e-2, 32) > 1.5
    four = [mean("valid_loss", r, 3e-3) for r in (1, 4, 16, 64)]
    assert four[0] > 2 * four[-1]  # "Rank 1 ends at twice the loss of rank 64"


# --- section 5: rate × rank --------------------------------------------------------------------------------------------


def test_best_rates_under_each_rule():
    assert [best_rate(r) for r in RANKS] == [3e-3, 1e-2, 1e-2, 1e-2, 1e-2, 1e-2]
    assert [best_rate(r, "α/√r") for r in RANKS] == [1e-2, 1e-2, 1e-2, 1e-2, 1e-2, 3e-3]
    assert [best_rate(r, "one s") for r in RANKS] == [1e-2, 1e-2, 1e-2, 1e-2, 3e-3, 3e-3]
    for rule in RULES[1:]:  # rank 1 is an exception of s = 16
        assert mean("valid_loss", 1, best_rate(1, rule), rule) < mean("valid_loss", 1, best_rate(1))


def test_at_a_rate_of_three_hundredths_every_rank_stands_near_a_guess():
    assert all(0.8 * GUESS < mean("valid_loss", r, 3e-2) < 1.1 * GUESS for r in RANKS)
    assert all(mean("valid_loss", r, rate) > 0.8 * GUESS for r in RANKS for rate in ADAM[5:])  # "nothing is low there"
    seeds = losses("valid_loss", 1, 1e-2)
    assert seeds.max() > 2.5 * seeds.min()  # "its three seeds lie far apart"


def test_nothing_keeps_the_old_skill():
    assert all(mean("upright_loss", r, 1e-2) > 4 * GUESS for r in RANKS)  # "many times a guess's"
    for r in RANKS:
        assert 0.65 * GUESS < mean("upright_loss", r, 1e-3) == min(mean("upright_loss", r, rate) for rate in ADAM)
        assert 1.1 < mean("valid_loss", r, 1e-3) < 0.6 * GUESS  # "half learnt"


# --- section 6: r = 64 against r = 8 -----------------------------------------------------------------------------------


def test_the_gain_on_the_diagonal_and_at_each_ranks_own_point():
    on_line = gains("test_loss", (1e-2, "α/r"), (1e-2, "α/r"))
    errors = on_line.mean() / (on_line.std() / 3**0.5)
    assert bool((on_line > 0).all()) and 1.8 < errors < 2.5  # "three of three, by about two errors"
    assert best_point(8) == (1e-2, "one s") and best_point(64) == (3e-3, "one s")
    own = gains("test_loss", best_point(8), best_point(64))
    assert 0.2 < own.mean() / on_line.mean() < 0.4 and int((own < 0).sum()) == 1  # "a third of that, one seed against"
    for points in (((1e-2, "α/r"),) * 2, (best_point(8), best_point(64))):
        on_valid = gains("valid_loss", *points)
        assert bool((on_valid > 0).all()) and 0.09 < on_valid.mean() < 0.15  # "by much the same gain"


def test_rank_one_is_behind_at_its_own_best_rate_under_every_rule():
    for rule in RULES:
        ends = [mean("valid_loss", r, best_rate(r, rule), rule) for r in RANKS]
        assert ends[0] == max(ends) and sorted(ends)[-2] < ends[0]


# --- optional ----------------------------------------------------------------------------------------------------------


def test_under_sgd_the_best_rate_rises_and_is_the_last_before_it_breaks():
    for rule, times in (("α/r", 100), ("α/√r", 10)):
        best = [best_rate(r, rule, "SGD") for r in RANKS]
        assert best == sorted(best) and best[-1] / best[0] == pytest.approx(times)
        for r, rate in zip(RANKS, best):
            finite = [other for other in SGD if math.isfinite(mean("valid_loss", r, other, rule, "SGD"))]
            assert rate == max(finite)
    at_64 = {rule: mean("test_loss", 64, best_rate(64, rule, "SGD"), rule, "SGD") for rule in ("α/r", "α/√r")}
    assert at_64["α/√r"] < at_64["α/r"]


def test_under_adam_one_rule_keeps_the_best_rate_from_rank_two_on():
    moves = {rule: len({best_rate(r, rule) for r in RANKS[1:]}) for rule in RULES}
    assert moves["α/r"] == 1 < min(moves["α/√r"], moves["one s"])


def test_one_cut_finds_the_grids_rank():
    at_one = {r: mean("valid_loss", r, best_rate(8)) for r in RANKS}
    whole = {r: mean("valid_loss", r, best_rate(r)) for r in RANKS}
    assert min(at_one, key=at_one.get) == min(whole, key=whole.get) == 64


def test_a_diverged_run_is_nobodys_best():
    assert torch.isnan(table("rates_ranks").metrics["valid_loss"]).any() and math.isinf(
        mean("valid_loss", 64, 3.0, "α/√r", "SGD")
    )
