"""The neighbours' race is made in two stages, as it should be; and what its stored results say for chapter 12."""

import pytest
from scipy.stats import t as student

from lora_edu.adapters import trainable_count
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


def test_a_third_of_the_rate_spares_the_prose():
    race = table("neighbours")
    for name, rate in neighbours.BELOW.items():
        task, prose = (
            [float(race.where(m, method=name, learning_rate=each).mean()) for each in (neighbours.CHOSEN[name], rate)]
            for m in ("test", "general")
        )
        assert task[0] < task[1] and prose[1] < 5.2 and prose[0] > prose[1] + 2.5


def test_on_the_digits_every_rank_is_behind_from_nothing_and_ia3_ahead_of_rank_one_with_fewer_numbers():
    digits = table("neighbours_digits")

    def at_best(base, method, metric="test_loss"):
        losses = curve(digits, "valid_loss", base=base, method=method)
        best = min(losses, key=losses.get)
        rates = sorted(losses)
        edge = best in (rates[0], rates[-1])
        return digits.where(metric, base=base, method=method, learning_rate=best)[0], edge

    edges = {(b, m) for b in neighbours_digits.BASES for m in neighbours_digits.METHODS if at_best(b, m)[1]}
    assert edges == {("untrained", "BitFit"), ("untrained", "bottleneck, m = 8")}
    full = at_best("untrained", "full fine-tuning")[0]
    for r in neighbours_digits.RANKS:
        assert at_best("untrained", f"LoRA, r = {r}")[0].min() > full.max()
    assert float(at_best("untrained", "LoRA, r = 64")[0].mean() / full.mean()) < 2
    numbers = {
        m: trainable_count(neighbours_digits.reader(), neighbours_digits.METHODS[m]) for m in ("IA³", "LoRA, r = 1")
    }
    assert numbers["IA³"] < numbers["LoRA, r = 1"]
    for base in neighbours_digits.BASES:
        assert at_best(base, "IA³")[0].max() < at_best(base, "LoRA, r = 1")[0].min()
    gap = [float(at_best("a reader", m)[0].mean()) for m in ("LoRA, r = 1", "full fine-tuning")]
    for r in (4, 16, 64):
        assert gap[0] - float(at_best("a reader", f"LoRA, r = {r}")[0].mean()) > 0.5 * (gap[0] - gap[1])
    for method in ("LoRA, r = 4", "LoRA, r = 64", "full fine-tuning"):
        assert at_best("a reader", method, "upright")[0].mean() < 0.3


def test_what_three_pairs_tell_one_by_one_and_what_six_looks_leave_of_it():
    race = table("neighbours")
    loss = {name: race.where("test", method=name)[0] for name in METHODS}

    def told(ahead, behind, looks=1):
        pairs = loss[behind] - loss[ahead]
        half = student.ppf(1 - 0.025 / looks, len(pairs) - 1) * float(pairs.std()) / len(pairs) ** 0.5
        return abs(float(pairs.mean())) > half

    mine, eight, full = "LoRA, r = 1, q and v", "LoRA, r = 8, all-linear", "full fine-tuning"
    others = [name for name in METHODS if name != mine]
    assert {name for name in others if told(name, mine)} == {"prompt, 20 tokens", eight, full}
    assert not any(told(name, mine, looks=6) for name in others) and not told(full, eight)
    for name, rate in neighbours.BELOW.items():
        lost = race.where("test", method=name, learning_rate=rate).mean() - loss[name].mean()
        saved = (
            race.where("general", method=name)[0].mean() - race.where("general", method=name, learning_rate=rate).mean()
        )
        assert 0 < lost < loss[name].max() - loss[name].min() and saved > 2.9


def test_at_rank_16_the_reader_s_seeds_overlap_with_full_fine_tuning_s_and_at_no_other_rank():
    digits = table("neighbours_digits")

    def at_best(method):
        losses = curve(digits, "valid_loss", base="a reader", method=method)
        return digits.where("test_loss", base="a reader", method=method, learning_rate=min(losses, key=losses.get))[0]

    overlap = [
        r for r in neighbours_digits.RANKS if at_best(f"LoRA, r = {r}").min() < at_best("full fine-tuning").max()
    ]
    assert overlap == [16]
