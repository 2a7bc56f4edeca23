"""The neighbours' race is made in two stages, as it should be; and what its stored results say for chapter 12."""

import pytest

from lora_edu.course.sweeps import neighbours, neighbours_digits, neighbours_pilot
from lora_edu.course.sweeps.neighbours_pilot import METHODS, RATES
from lora_edu.experiments import stored, table


def curve(found, metric, **axes):
    """{rate: mean over the seeds}."""
    rates = [cell["learning_rate"] for cell in found.cells if all(cell[key] == value for key, value in axes.items())]
    return dict(zip(rates, found.where(metric, **axes).mean(1).tolist(), strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_each_method_has_its_best_rate_inside_its_row_and_the_second_stage_takes_it(name):
    losses = curve(table("neighbours_pilot"), "valid", method=name)
    assert sorted(losses) == list(RATES[name])
    best = min(losses, key=losses.get)
    assert RATES[name][0] < best < RATES[name][-1] and neighbours.CHOSEN[name] == best
    if name in neighbours.BELOW:
        assert RATES[name][RATES[name].index(best) - 1] == neighbours.BELOW[name]


def test_every_run_is_stored_and_the_stages_share_no_seed():
    for sweep in (neighbours_pilot, neighbours, neighbours_digits):
        found = table(sweep.SWEEP.name)
        assert bool(found.done.all()) and len(found.cells) == len(sweep.SWEEP.cells)
    assert not set(neighbours.SWEEP.seeds) & set(neighbours_pilot.SWEEP.seeds) and len(neighbours.SWEEP.seeds) == 3


def test_full_fine_tuning_is_ahead_of_lora_in_every_pair_and_with_less_loss_on_prose():
    """On this task, after 16 steps, at rates half a decade apart, three seeds."""
    race = table("neighbours")
    full, lora = (
        {m: race.where(m, method=n)[0] for m in ("test", "general")}
        for n in ("full fine-tuning", "LoRA, r = 8, all-linear")
    )
    assert all(bool((full[m] < lora[m]).all()) for m in full)
    prompt = race.where("test", method="prompt, 20 tokens")[0]
    others = [race.where("test", method=n)[0] for n in METHODS if n != "prompt, 20 tokens"]
    assert all(bool((prompt > other).all()) for other in others)


def test_on_the_digits_rank_one_is_far_behind_from_nothing_and_a_low_rank_behind_on_the_reader():
    digits = table("neighbours_digits")

    def at_best(base, method):
        losses = curve(digits, "valid_loss", base=base, method=method)
        return digits.where("test_loss", base=base, method=method, learning_rate=min(losses, key=losses.get))[0]

    far = at_best("untrained", "LoRA, r = 1").mean() / at_best("untrained", "full fine-tuning").mean()
    assert far > 5 and far > at_best("a reader", "LoRA, r = 1").mean() / at_best("a reader", "full fine-tuning").mean()
    for rank in (1, 4):
        assert at_best("a reader", f"LoRA, r = {rank}").min() > at_best("a reader", "full fine-tuning").max()


def test_a_step_of_full_fine_tuning_takes_more_than_twice_loras_and_a_prompt_pays_by_its_length():
    tensors, about = stored("neighbour_costs")
    step = dict(zip(about["names"], tensors["step"][:, 0].tolist()))
    assert 2 < step["full fine-tuning"] / step["LoRA, r = 8, all-linear"] < 4
    assert step["prompt, 20 tokens"] < step["prompt, 100 tokens"]
