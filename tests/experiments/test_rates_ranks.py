"""What the stored grids of chapter 08 must hold before a sentence may lean on them."""

import pytest
import torch

from lora_edu.course.sweeps.rates_ranks import MEET, RANKS, RATES, SWEEP
from lora_edu.experiments import table


def mean_over_seeds(values):
    """(cells,); infinite where a seed diverged: such a rate is nobody's best."""
    means = values.mean(1)
    return torch.where(means.isfinite(), means, torch.inf)


def inside(losses):
    """Whether the lowest of a row of losses has a neighbour on either side."""
    return 0 < int(torch.as_tensor(losses).argmin()) < len(losses) - 1


def test_a_lowest_value_at_either_end_is_not_inside():
    assert inside([2.0, 1.0, 3.0]) and not inside([1.0, 2.0, 3.0]) and not inside([3.0, 2.0, 1.0])


@pytest.mark.parametrize("optimiser, rule", RATES)
def test_no_best_rate_lies_at_an_edge(optimiser, rule):
    found = table("rates_ranks")
    for r in RANKS:
        assert inside(mean_over_seeds(found.where("valid_loss", optimiser=optimiser, rule=rule, r=r))), (rule, r)


def test_three_seeds_everywhere_and_the_rules_are_one_where_they_meet():
    """At r = 4 all rules give the same scale, so what is stored there is the same run."""
    found = table("rates_ranks")
    assert bool(found.done.all()) and found.seeds == [0, 1, 2] and len(found.cells) == len(SWEEP.cells)
    for optimiser in ("Adam", "SGD"):
        first, *others = (
            found.where("valid_loss", optimiser=optimiser, rule=rule, r=MEET).nan_to_num(99)
            for named, rule in RATES
            if named == optimiser
        )
        assert others and all(torch.equal(other, first) for other in others) and (first != 99).any()


def test_the_lowest_loss_of_the_two_rates_lies_inside_their_grid():
    found = table("two_rates")
    assert bool(found.done.all()) and found.seeds == [0, 1, 2]
    losses = mean_over_seeds(found.metrics["valid_loss_126"]).reshape(7, 7)  # (A's rates, B's)
    assert inside(losses.amin(1)) and inside(losses.amin(0))
