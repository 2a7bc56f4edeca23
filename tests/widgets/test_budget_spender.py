"""BudgetSpender shows what the budget pays, and losses of nothing else than what was measured and is paid."""

import pytest
import torch
from every_widget import neighbours_race

from lora_edu.errors import DataError
from lora_edu.experiments import Table
from lora_edu.plots import BLUE
from lora_edu.plots.primitives import Dot
from lora_edu.widgets import BudgetSpender
from lora_edu.widgets.budget_spender import BUDGETS, SHOWN


def dots(widget):
    return [item for item in widget.canvas().items if isinstance(item, Dot) and item.fill == BLUE]


def test_only_what_is_paid_shows_a_loss():
    widget = BudgetSpender(neighbours_race())
    seen = []
    for budget in BUDGETS:
        widget.controls["budget"].value = budget
        seen.append(len(dots(widget)))
        for each in widget.compute(widget.state):
            assert 4 * each.numbers <= budget and (each.losses is None or each.measured <= each.size)
    assert seen[0] == 0 and seen == sorted(seen) and seen[-1] == 6 * 3  # the bottleneck is missing in the invented race
    assert not widget.errors


def test_a_larger_size_shows_the_loss_of_the_measured_one_and_says_so():
    widget = BudgetSpender(neighbours_race())
    widget.controls["budget"].value = 230_400
    assert "prefix 5 tokens, 100 % of it, loss 2;" in widget.canvas().alt
    widget.controls["budget"].value = 10_000_000
    assert "prefix 217 tokens, 100 % of it, loss 2 at 5 tokens;" in widget.canvas().alt
    assert "norms' weights as it is, 1.4 % of it, not measured" in widget.canvas().alt
    assert "full fine-tuning nothing" in widget.canvas().alt
    widget.controls["shown"].value = list(SHOWN)[1]
    assert "prefix 217 tokens, 100 % of it, loss 4.2 at 5 tokens;" in widget.canvas().alt


def test_another_table_is_refused():
    race = neighbours_race()
    with pytest.raises(DataError):
        BudgetSpender(Table(race.cells, race.seeds, {"test": race.metrics["test"]}, race.cpu_seconds, {}))
    with pytest.raises(DataError):
        BudgetSpender(Table([{"r": 1}], [0], race.metrics, torch.ones(1, 1), {}))
