"""Many processes: two of them (gloo, on the CPU) against one, with DDP and with FSDP2. `run_processes.py` is what they run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import run_processes
import torch
from helpers import TESTS
from run_processes import At, adapted, terminate, trainer, words_of
from safetensors.torch import load_file
from toy_runs import farthest

from lora_edu.adapters import adapter_parameters
from lora_edu.adapters import save_load as checkpoint
from lora_edu.training.memory import ledger as memory

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="signals and fork as they are on Linux and macOS"),
]
each_way = pytest.mark.parametrize("way", run_processes.WAYS)
# Two processes add up the same numbers in another order; in fp32, over 6 steps, that was seen to make less than a tenth of this.
CLOSE = 1e-5


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The folder in which two processes have done everything, and one process its part."""
    folder = tmp_path_factory.mktemp("processes")
    for way in run_processes.WAYS:
        words_of(trainer("ddp", folder / f"begun {way}", At(3, terminate, process=0)).train)
    script, environment = str(TESTS / "run_processes.py"), os.environ | {"OMP_NUM_THREADS": "1"}
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        script,
        str(folder),
    ]
    ended = subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=600)
    (folder / "launcher.txt").write_text(f"{ended.returncode}\n{ended.stdout}\n{ended.stderr}")
    assert (folder / "killed.0.json").exists(), ended.stderr
    subprocess.run([sys.executable, script, str(folder)], env=environment, check=True, timeout=300)
    return folder


def of(runs: Path, name: str, process: int = 0) -> dict:
    return json.loads((runs / f"{name}.{process}.json").read_text())


def weights(runs: Path, name: str, process: int = 0) -> dict[str, torch.Tensor]:
    return load_file(runs / f"{name}.{process}.safetensors")


def alone(*callbacks, folder: Path | None = None, resume: bool = False, **config):
    run = trainer("ddp", folder, *callbacks, **config)
    run.resume() if resume else run.train()
    return run, {name: p.detach() for name, p in run.parameters.items()}


def losses(steps: list[dict]) -> list[float]:
    return [record["loss"] for record in steps]


@pytest.mark.parametrize("way", [*run_processes.WAYS, "accelerate"])
def test_two_processes_train_as_one(runs, way):
    run, expected = alone()
    two = of(runs, f"whole {way}")
    assert two["steps"] == of(runs, f"whole {way}", 1)["steps"]
    assert (
        [record["tokens"] for record in two["steps"]]
        == [record["tokens"] for record in run.history.steps]
        == [40, 5] * 3
    )
    for key in ("loss", "grad_norm"):
        assert [r[key] for r in two["steps"]] == pytest.approx([r[key] for r in run.history.steps], rel=CLOSE)
    assert losses(two["evaluations"]) == pytest.approx(losses(run.history.evaluations), rel=CLOSE)
    found = weights(runs, f"whole {way}")
    assert farthest(found, weights(runs, f"whole {way}", 1)) == 0
    assert farthest(found, expected) < 1e-4 and all(tensor.any() for tensor in found.values())


def test_accelerates_own_sharding_is_used_or_refused(runs):
    """On GPUs its FSDP2; on a CPU it would be DDP without a word."""
    assert of(runs, "whole accelerate")["wrapped"] == "FSDPLlamaForCausalLM"
    assert "accelerate shards on GPUs only: on CPUs call torch's fully_shard" in of(runs, "refused")["words"]


def test_every_row_is_seen_once_an_epoch_whatever_divides(runs):
    tallies = of(runs, "rows")
    assert len(tallies) == 7 and of(runs, "rows", 1) == tallies
    for name, seen in tallies.items():
        assert len(seen) == int(name.split()[0]) and seen == pytest.approx([2.0] * len(seen)), name


@each_way
def test_an_interrupted_run_is_bit_equal_and_one_processs_signal_stops_both(runs, way):
    for process in (0, 1):
        interrupted = of(runs, f"interrupted {way}", process)
        assert interrupted["words"].startswith("Stopped after step 3 and saved")
        assert interrupted["steps"] == of(runs, f"dropout {way}", process)["steps"]
        assert farthest(weights(runs, f"interrupted {way}", process), weights(runs, f"dropout {way}", process)) == 0
    assert losses(interrupted["steps"])[1:] != pytest.approx(losses(of(runs, f"whole {way}")["steps"])[1:], rel=1e-3)
    state = load_file(runs / f"interrupted {way}" / "step-00000003" / "tensors.safetensors")
    assert not torch.equal(state["rng/0/cpu"], state["rng/1/cpu"]), "both drop out the same"


@each_way
def test_one_process_goes_on_with_what_two_have_begun(runs, way):
    run, expected = alone()
    resumed, found = alone(folder=runs / f"later {way}", resume=True)
    assert losses(resumed.history.steps) == pytest.approx(losses(run.history.steps), rel=1e-4)
    assert farthest(found, expected) < 1e-4


@each_way
def test_two_processes_go_on_with_what_one_has_begun(runs, way):
    run, expected = alone()
    resumed = of(runs, f"begun {way}")
    assert losses(resumed["steps"]) == pytest.approx(losses(run.history.steps), rel=1e-4) and len(resumed["steps"]) == 6
    assert farthest(weights(runs, f"begun {way}"), expected) < 1e-4


@each_way
def test_one_adapter_is_gathered_and_saved_once(runs, way):
    """keep_best: what is saved are the best weights, not those that the last evaluation has left gathered."""
    assert [of(runs, f"adapter {way}", process)["written"] for process in (0, 1)] == [1, 0]
    assert of(runs, f"adapter {way}")["best"]["step"] == 3, "the last evaluation was the best: nothing was put back"
    _, best = alone(**run_processes.BEST)
    loaded = checkpoint.load(run_processes.make_tiny_llama(), runs / f"adapter {way}")
    found = {name: p.detach() for name, p in adapter_parameters(loaded).items()}
    assert farthest(found, weights(runs, f"adapter {way}")) == 0
    assert farthest(found, best) < 1e-4 and len(found) == 14


def test_fsdp_shards_every_weight_and_moment(runs):
    """What accelerate makes of its FSDP setting on a CPU would fail here: it is DDP."""
    zero, one = (of(runs, "shards", process) for process in (0, 1))
    assert zero["sharded"] and zero["moments"] and zero["wrapped"] == "FSDPLlamaForCausalLM"
    assert zero["numbers"] == sum(p.numel() for p in adapted().parameters()) == zero["here"] + one["here"]
    assert max(zero["here"], one["here"]) < 0.52 * zero["numbers"]


def test_what_a_process_keeps_is_what_the_ledger_says(runs):
    model = adapted()
    ledger = memory.sharded(memory.predict_memory(model, 2, 7), model, processes=2)
    found = of(runs, "shards")
    assert found["weights"] + found["gradients"] == ledger.weights + ledger.gradients - ledger.gathered
    assert found["optimizer"] == ledger.optimizer


def test_lora_sends_its_gradients_once_a_step_and_fsdp_the_base_as_well(runs):
    counted, model = of(runs, "volume"), adapted()
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    assert counted["adapters"] == {"summed": trained}
    assert counted["all"] == {"summed": sum(p.nbytes for p in run_processes.make_tiny_llama().parameters())}

    def padded(parameters) -> int:  # to rows that two processes can share
        return sum(-(-p.shape[0] // 2) * 2 * p.nbytes // p.shape[0] for p in parameters)

    everything, blocks = padded(model.parameters()), padded(model.model.layers.parameters())
    assert counted["sharded"] == {
        "gathered": 2 * (everything + blocks),  # two micro-batches: forward, and the blocks once more on the way back
        "scattered": 2 * padded(p for p in model.parameters() if p.requires_grad),
    }


def test_progress_and_warnings_come_from_one_process(runs):
    printed = of(runs, "progress")["printed"]
    assert "training: 100%" in printed and "2 trainable parameters are zero" in printed
    assert of(runs, "progress", 1)["printed"] == ""


@each_way
def test_a_bad_row_of_one_process_is_named_by_both(runs, way):
    zero, one = (of(runs, f"nan {way}", process) for process in (0, 1))
    assert zero == one
    assert "Stopped at step 1: the loss is not a finite number" in zero["words"]
    assert f"the data: row {zero['row']} give it alone" in zero["words"]


def test_a_callback_in_one_process_stops_both(runs):
    for process in (0, 1):
        stopped = of(runs, "stopped", process)
        assert len(stopped["steps"]) == 2 and stopped["stopped"] == "process 1 has seen enough"


def test_a_full_disk_is_known_to_both_and_ends_no_run(runs):
    for process in (0, 1):
        full = of(runs, "full", process)
        assert full["stopped"] == "finished" and full["words"].startswith(
            "The disk is full. The checkpoint step-00000006 needs"
        )
    assert [path.name for path in (runs / "full").iterdir() if path.is_dir()] == ["step-00000002"]
    resumed, _ = alone(folder=runs / "full", resume=True, save_every=2)
    assert losses(resumed.history.steps) == pytest.approx(losses(of(runs, "full")["steps"]), rel=1e-4)


def test_a_killed_process_ends_the_run_at_once_and_nothing_else_is_lost(runs):
    killed, launcher = of(runs, "killed"), (runs / "launcher.txt").read_text()
    assert killed["words"].startswith("Step 4 broke off because another process of this run has ended")
    assert f"The newest checkpoint is {runs / 'killed' / 'step-00000002'}" in killed["words"]
    assert killed["words"] in launcher and launcher[0] != "0" and not (runs / "killed.1.json").exists()
    assert json.loads((runs / "ends.json").read_text())["after the kill"] == [0, 0]
    assert farthest(weights(runs, "after the kill"), weights(runs, "dropout ddp")) == 0


def test_a_process_that_stands_still_is_given_up(runs):
    stuck = of(runs, "stuck")["words"]
    assert stuck.startswith("Step 3 broke off because another process of this run has ended or not answered")
    assert "No checkpoint was written" in stuck


def test_memory_that_one_process_lacks_ends_both_and_each_says_its_part(runs):
    zero, one = (of(runs, "memory", process)["words"] for process in (0, 1))
    assert json.loads((runs / "ends.json").read_text())["memory"] == [0, 0]
    assert one.startswith("Out of memory in step 3. By the ledger a step with 2 rows of 7 tokens needs")
    assert zero.startswith("Step 3 broke off because another process of this run has ended")
    assert all(f"The newest checkpoint is {runs / 'memory' / 'step-00000002'}" in words for words in (zero, one))


def test_the_command_line_with_two_processes_speaks_and_writes_once(tmp_path):
    """`accelerate launch -m lora_edu train`: the adapter is the one that a single process trains."""
    from command_line import ROWS, TRAIN, write_tiny_model

    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, ROWS)))
    command = [
        "lora_edu",
        *TRAIN,
        "--data",
        str(data),
        "--model",
        str(write_tiny_model(tmp_path / "model")),
        "--epochs",
        "2",
    ]
    launch = [
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
    ]
    launch += ["--dynamo_backend", "no", "--main_process_port", str(run_processes.free_port()), "-m"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    adapters = []
    for name, started_by in (("one", []), ("two", launch)):
        ended = subprocess.run(
            [sys.executable, "-m", *started_by, *command, "--out", str(tmp_path / name)],
            env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.count("rows to train on") == ended.stdout.count("The adapter is in") == 1
        assert ended.stderr.count("0/4 [00:00<?") == 1, "one bar"
        adapters.append(load_file(tmp_path / name / checkpoint.WEIGHTS))
    assert farthest(*adapters) < 1e-4 and any(tensor.any() for name, tensor in adapters[0].items() if "lora_B" in name)


def test_sigterm_is_the_callers_again_after_a_run(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    words = words_of(trainer("ddp", tmp_path, At(2, terminate, process=0)).train)
    assert words.startswith("Stopped after step 2 and saved") and signal.getsignal(signal.SIGTERM) is before
