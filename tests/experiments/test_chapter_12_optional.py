"""Chapter 12's optional sweeps: rates chosen inside their rows, on seeds of their own; and what their stored results say."""

import pytest
import torch

from lora_edu.course.sweeps import bandit, bandit_pilot, letters
from lora_edu.course.sweeps.bandit_pilot import DRAWS, reward_loss
from lora_edu.experiments import table


def best_place(rows):
    """Where the mean over the seeds (columns) is highest; a run that ran away counts as nothing."""
    return int(rows.nan_to_num(0.0).mean(1).argmax())


@pytest.mark.parametrize(("signal", "method"), bandit_pilot.RATES)
def test_each_signal_and_method_has_its_best_rate_inside_its_row_and_the_comparison_takes_it(signal, method):
    rates = bandit_pilot.RATES[signal, method]
    place = best_place(table("bandit_pilot").where("valid_reward", signal=signal, method=method))
    assert 0 < place < len(rates) - 1 and bandit.CHOSEN[signal, method] == rates[place]


@pytest.mark.parametrize("way", letters.RATES)
def test_each_way_to_letters_has_its_best_rate_inside_its_row(way):
    assert 0 < best_place(table("letters").where("valid", way=way)) < len(letters.RATES[way]) - 1


def test_every_run_is_stored_and_the_comparison_shares_no_seed_with_its_pilot():
    for sweep in (bandit.SWEEP, bandit_pilot.SWEEP, letters.SWEEP):
        found = table(sweep.name)
        assert bool(found.done.all()) and len(found.cells) == len(sweep.cells)
    assert not set(bandit.SWEEP.seeds) & set(bandit_pilot.SWEEP.seeds) and len(bandit.SWEEP.seeds) >= 5


def test_the_policy_gradient_is_that_of_the_expected_reward():
    """On many copies of one digit the mean of the sampled gradients is −(1 − 1/DRAWS) times the gradient of p(right answer)."""
    torch.manual_seed(0)
    row, n = torch.randn(5, dtype=torch.float64), 200_000
    logits = row.repeat(n, 1).requires_grad_(True)
    reward_loss(logits, torch.full((n,), 3), torch.Generator().manual_seed(0)).backward()
    one = row.clone().requires_grad_(True)
    one.softmax(0)[3].backward()
    expected = -(1 - 1 / DRAWS) * one.grad
    assert torch.allclose(logits.grad.sum(0), expected, atol=2e-3) and expected.abs().max() > 0.02


def test_on_letters_everything_is_ahead_of_lora_and_lora_with_the_head_of_nothing_pretrained_in_the_mean():
    found = table("letters")

    def at_best(way):
        return found.where("test", way=way)[best_place(found.where("valid", way=way))]

    everything, untrained = at_best(letters.EVERYTHING), at_best(letters.UNTRAINED)
    eight = at_best("LoRA, r = 8, and the head")
    assert everything.min() > max(at_best(way).max() for way in letters.RATES if way != letters.EVERYTHING)
    assert eight.min() > untrained.max() and eight.min() > at_best(letters.ALONE).max()


def test_with_one_bit_and_adam_the_seeds_of_rank_one_and_full_training_overlap_and_with_the_label_or_sgd_not():
    found = table("bandit")

    def share(signal, method):
        return found.where("test", signal=signal, method=method)[0]  # (6,)

    one, full = (share("one bit", name) for name in ("LoRA, r = 1", "full training"))
    assert full.min() < one.mean() and one.max() > full.mean()
    assert max(one.std(), full.std()) > 5 * share("the label", "full training").std()
    for signal in ("the label", "one bit, SGD"):
        assert share(signal, "LoRA, r = 1").max() < share(signal, "full training").min()
