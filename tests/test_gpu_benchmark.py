"""`benchmarks/gpu.py` walks its whole road on a CPU, in small; and its checks stop a device that computes wrongly."""

import math
import os
import subprocess
import sys

import pytest
from conftest import make_tiny_llama
from helpers import ROOT
from tiny_tokenizer import make_tokenizer

BENCHMARKS = ROOT / "benchmarks"


@pytest.mark.slow
def test_every_part_runs_on_a_cpu_and_nothing_is_stored(tmp_path):
    """On a small random model: a CPU without bf16 of its own would need minutes for the real one's head."""
    shape = {"vocab_size": 120, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4}
    make_tiny_llama(**shape, max_position_embeddings=512).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (BENCHMARKS / "results").iterdir()}
    command = [sys.executable, BENCHMARKS / "gpu.py", "--device", "cpu", "--quick", "--model", tmp_path]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count(" ok\n") == 7 and "WRONG" not in done.stdout
    for part in ("matrix_tflops", "a step of", "steps on dates", "layers of 1B width", "layers of 7B width"):
        assert part in done.stdout
    for method in ("limit", "full fine-tuning", "LoRA r = 8", "LoRA r = 64", "PEFT r = 8"):
        assert done.stdout.count(f"  {method}") >= 3
    assert {path: path.stat().st_mtime_ns for path in (BENCHMARKS / "results").iterdir()} == before


@pytest.mark.parametrize("wrong", [float("nan"), 1.5])
def test_a_wrong_number_never_passes(monkeypatch, wrong):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import torch
    from gpu_checks import _row

    true = torch.ones(3, dtype=torch.float64)
    assert _row("right", true.float(), true, 1e-3)["passed"]
    assert not _row("wrong", torch.tensor([1.0, wrong, 1.0]), true, 1e-3)["passed"]


@pytest.mark.parametrize("best", [1e-5, 3e-5, 1e-3, 0.2])
def test_a_rate_is_chosen_inside_its_grid_or_the_edge_is_said(monkeypatch, best):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from gpu import MOST_RATES, best_rate

    asked = []

    def loss_at(rate):
        asked.append(rate)
        return float("nan") if rate > 0.5 else math.log(rate / best) ** 2

    rate, tried = best_rate(loss_at, (3e-4, 1e-3, 3e-3))
    assert len(set(asked)) == len(asked) == len(tried) <= MOST_RATES and rate == min(tried, key=tried.get)
    assert min(tried) < rate < max(tried) or len(tried) == MOST_RATES
    assert best_rate(loss_at, (1e-3,)) == (1e-3, {1e-3: loss_at(1e-3)}), "a rehearsal looks for nothing"
