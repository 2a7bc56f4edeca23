"""What the stored sweep `capacity` must hold before a sentence may lean on it."""

from lora_edu.experiments import bits_each, capacities, table
from lora_edu.experiments.capacity import FULL


def test_the_headline_stands_on_three_whole_seeds():
    found = table("capacity")
    held = capacities()
    assert bool(found.done.all()) and found.seeds == [0, 1, 2] and all(len(each.bits) == 3 for each in held)
    assert all(bool((each.bits > 0).all()) for each in held)
    each = bits_each(held)
    assert 1 < each.least < each.mean < each.most < 4
    by_rank = {each.r: each for each in held if (each.optimiser, each.width, each.alphabet) == ("Adam", 16, 2)}
    assert list(by_rank) == [1, 2, 4, 8, 16, FULL]
    # the numbers of A and B are no measure at the full rank, the free ones are
    assert float(by_rank[16].per_number.max()) < float(by_rank[FULL].per_number.min())
    # and no rank was done after 500 steps
    assert all(float(a.bits.mean()) < float(b.bits.mean()) for a, b in zip(capacities(500), held))
