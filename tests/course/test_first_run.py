"""Chapter 05's stored first run: whole, of the rows that the chapter names, and true where it is measured again."""

import pytest
import torch

from lora_edu.adapters import fingerprint
from lora_edu.course.first_run import SEEDS, STEPS, train_config
from lora_edu.data import encode_rows
from lora_edu.evaluation import mean_nll
from lora_edu.experiments import stored
from lora_edu.tasks import get_task
from lora_edu.training import step_rows, total_steps

RATES = (1e-4, 1e-3, 1e-2)
RUNS = ["untrained", *(f"lr {rate:g} seed {seed}" for rate in RATES for seed in SEEDS)]


def mean_loss(tensors, rate):
    sums = [tensors[f"lr {rate:g} seed {seed} valid"].double().sum(0) for seed in SEEDS]
    return sum(float(nats / tokens) for nats, tokens in sums)


def test_every_run_is_stored_on_the_100_validation_rows_that_choose():
    tensors, about = stored("first_run")
    of_runs = {f"{run} valid": tensors[f"{run} valid"] for run in RUNS}
    assert all(sums.shape == (100, 2) and sums.isfinite().all() for sums in of_runs.values())
    assert all((sums[:, 1] == 11).all() for sums in of_runs.values())  # ten characters and the end
    assert about["command"] == "python benchmarks/first_run.py"
    assert (tuple(about["rates"]), tuple(about["seeds"])) == (RATES, SEEDS)


def test_only_the_chosen_rate_was_asked_the_300_test_rows():
    tensors, about = stored("first_run")
    assert about["chosen"] == min(RATES, key=lambda rate: mean_loss(tensors, rate))
    assert min(RATES) < about["chosen"] < max(RATES)  # a best rate at the edge is no best rate
    judged = ["untrained", *(f"lr {about['chosen']:g} seed {seed}" for seed in SEEDS)]
    assert {key for key in tensors if not key.endswith(" valid")} == {
        f"{run} {part}" for run in judged for part in ("loss", "exact")
    }
    assert all(tensors[f"{run} loss"].shape == (300, 2) and tensors[f"{run} loss"].isfinite().all() for run in judged)
    assert all((tensors[f"{run} loss"][:, 1] == 11).all() for run in judged)
    assert all(
        tensors[f"{run} exact"].shape == (300,) and tensors[f"{run} exact"].dtype == torch.bool for run in judged
    )


def test_the_run_sees_four_rows_a_step_at_one_rate():
    config = train_config()
    assert total_steps(400, config) == STEPS and config.scheduler == "constant"
    assert [len(rows) for rows in step_rows(400, 0, config)] == [4]


@pytest.mark.real_model
def test_the_stored_loss_of_the_untrained_model_is_the_one_measured_now(base):
    tensors, about = stored("first_run")
    assert about["fingerprint"] == fingerprint(base.model)
    rows = get_task("iso_dates").splits().test[-2:]
    now = torch.tensor(mean_nll(base.model, encode_rows(rows, base.tokenizer)).values)
    torch.testing.assert_close(now.float(), tensors["untrained loss"][-2:], rtol=0, atol=0.01)
