"""What an adapter can hold: the count of its numbers, the bits of labels, and how the stored sweep is read."""

import math

import pytest
import torch

from lora_edu.errors import CheckpointError, ConfigError
from lora_edu.experiments import Table, capacities, free_parameters, grid, memorised_bits
from lora_edu.experiments.capacity import FULL, PLACES


@pytest.mark.parametrize("n_in, n_out, r", [(5, 4, 1), (5, 4, 2), (3, 7, 3), (4, 4, 4), (4, 5, 6)])
def test_free_numbers_are_the_directions_in_which_the_update_can_move(n_in, n_out, r):
    """The rank of the Jacobian of (A, B) → BA at a random place."""
    draw = torch.Generator().manual_seed(0)
    A, B = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((r, n_in), (n_out, r)))
    parts = torch.autograd.functional.jacobian(lambda A, B: (B @ A).flatten(), (A, B))
    jacobian = torch.cat([part.flatten(1) for part in parts], 1)  # (out·in, numbers)
    assert int(torch.linalg.matrix_rank(jacobian)) == free_parameters(n_in, n_out, r) <= r * (n_in + n_out)


def test_bits_are_what_the_labels_take_without_the_net_less_what_they_take_with_it():
    sure = torch.tensor([0.25, 0.5, 1.0]).log().neg()  # 2 bits, 1 bit and none
    assert float(memorised_bits(sure, 4)) == pytest.approx(3 * 2 - 3)
    assert float(memorised_bits(torch.full((7,), math.log(10)), 10)) == pytest.approx(0, abs=1e-5)
    assert float(memorised_bits(torch.full((2,), 5.0), 2)) < 0
    assert memorised_bits(torch.zeros(3, 8), 2).tolist() == [8, 8, 8]


@pytest.mark.parametrize("seed", [1, 2])
def test_the_measure_reads_two_bits_a_weight_where_that_is_known(seed):
    """One threshold unit of n weights learns random labels of about 2n rows whole, and not of many more (Cover 1965): 2 bits a weight."""
    n, held = 60, {}
    for fill in (1.5, 2, 3):
        draw, rows = torch.Generator().manual_seed(seed), round(fill * n)
        x = torch.randn(rows, n, generator=draw, dtype=torch.float64)
        y = torch.randint(2, (rows,), generator=draw).double()
        w = torch.zeros(n, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [w], max_iter=2000, max_eval=4000, line_search_fn="strong_wolfe", tolerance_change=1e-12
        )

        def losses(x=x, y=y, w=w):
            return torch.nn.functional.binary_cross_entropy_with_logits(x @ w, y, reduction="none")

        def total(losses=losses, optimizer=optimizer):
            optimizer.zero_grad()
            (found := losses().sum()).backward()
            return found

        optimizer.step(total)
        held[fill] = float(memorised_bits(losses().detach(), 2)) / n
    assert held[1.5] == pytest.approx(1.5, abs=0.02) and held[2] == pytest.approx(2, abs=0.02) and held[3] < 1.2


def sweep_table(**changes) -> Table:
    """Invented bits of two ranks and the full matrices at three numbers of rows; the third seed lacks a run."""
    cells = [
        {"optimiser": "Adam", "width": 16, "alphabet": 2} | cell for cell in grid(r=(1, 16, FULL), rows=(100, 200, 300))
    ]
    shape, names = (len(cells), 3), [f"{place}_{steps}" for place in PLACES for steps in (500, 4000)]
    metrics = {name: torch.zeros(shape, dtype=torch.float64) for name in names}
    for i in range(len(cells)):
        metrics["middle_4000"][i] = torch.tensor([90.0, 110.0, 999.0]) + (10 if i % 3 == 1 else 0)
        metrics["high_500"][i] = 50.0
    metrics["low_4000"][0] = torch.tensor([300.0, 0.0, 0.0])  # the best seed of a worse setting
    seconds = torch.ones(shape, dtype=torch.float64)
    seconds[-1, 2] = math.nan
    about = {"settings": {"rates": {"Adam": [0.01, 0.03, 0.1]}}} | changes
    return Table(cells, [0, 1, 2], metrics, seconds, about)


def test_the_most_is_chosen_by_the_mean_over_whole_seeds():
    one, high, full = capacities(found=sweep_table())
    assert (one.r, one.rows, one.rate, one.inside, one.steps) == (
        1,
        100,
        0.01,
        False,
        4000,
    )  # 150 beats 110 in the mean
    assert (high.rows, high.rate, high.inside) == (200, 0.03, True) and high.bits.tolist() == [100, 120]
    assert (high.numbers, high.free, full.numbers, full.free) == (3 * 512, 3 * 256, 768, 768)
    assert high.per_free.tolist() == pytest.approx([100 / 768, 120 / 768])
    assert high.per_number.tolist() == pytest.approx([100 / 1536, 120 / 1536])
    early = capacities(500, sweep_table())
    assert [each.rate for each in early] == [0.1, 0.1, 0.1]


def test_steps_that_were_not_stored_and_a_sweep_without_a_whole_seed_are_refused():
    with pytest.raises(ConfigError, match="500, 4000"):
        capacities(1000, sweep_table())
    empty = sweep_table()
    empty.cpu_seconds[0] = math.nan
    with pytest.raises(CheckpointError, match="lora-edu sweep capacity"):
        capacities(found=empty)
