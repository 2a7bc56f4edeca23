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
ASKED = ["untrained", *(f"lr 0.001 seed {seed}" for seed in SEEDS)]  # these were asked for answers, too
RUNS = ["untrained", *(f"lr {rate:g} seed {seed}" for rate in RATES for seed in SEEDS)]


def test_every_run_is_stored_on_all_300_rows():
    tensors, about = stored("first_run")
    assert set(tensors) == {f"{run} loss" for run in RUNS} | {f"{run} exact" for run in ASKED}
    assert all(tensors[f"{run} loss"].shape == (300, 2) and tensors[f"{run} loss"].isfinite().all() for run in RUNS)
    assert all(tensors[f"{run} exact"].shape == (300,) and tensors[f"{run} exact"].dtype == torch.bool for run in ASKED)
    assert all((tensors[f"{run} loss"][:, 1] == 11).all() for run in RUNS)  # ten characters and the end
    assert about["command"] == "python benchmarks/first_run.py"
    assert (tuple(about["rates"]), tuple(about["seeds"])) == (RATES, SEEDS)


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
