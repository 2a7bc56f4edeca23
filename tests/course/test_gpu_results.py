"""What the chapter shows of a GPU, on a result that is plainly made up, and where there is none."""

import json

import pytest

from lora_edu.course.gpu_results import gpu_report, gpu_results, result, results_folder
from lora_edu.errors import DataError

ROW = {"method": "LoRA r = 8", "option": "plain", "seconds": 0.5, "tokens_per_s": 2048.0, "peak_bytes": 4e9}
INTERVAL = {"value": 0.5, "low": 0.25, "high": 0.75}
MADE_UP = {
    "command": "python benchmarks/gpu.py --seeds 1", "device": "Imaginary GPU", "quick": False, "cuda": "99.9",
    "versions": {"torch": "0.0.0"}, "date": "1900-01-01", "ceilings": {"matrix_tflops": 1.0, "copy_gb_per_s": 1.0},
    "checks": [{"check": "loss, fp32", "error": 1e-7, "bound": 1e-5, "passed": True}],
    "speed": [
        {"method": "limit", **{k: v for k, v in ROW.items() if k != "method"}},
        ROW | {"ledger_bytes": 4.2e9, "share_of_matrix_rate": 0.31},
        {"method": "full fine-tuning", "option": "plain", "failed": "out of memory: made up"},
    ],
    "quality": [{
        "method": "LoRA r = 8", "seed": 0, "learning_rate": 1e-3, "at_edge": False, "training_seconds": 12.3,
        "exact_match": INTERVAL, "general_nll": {"value": 2.5, "low": 2.4, "high": 2.6},
    }],
    "widths": {"7B": [ROW]},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A repository with one made-up GPU, a quick run, a CPU, and a result of something else."""
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    for name, content in {
        "imaginary_gpu": MADE_UP,
        "imaginary_gpu_quick": MADE_UP | {"quick": True},
        "cpu": MADE_UP | {"device": "cpu"},
        "step": {"tables": {"fp32": 1}},
    }.items():
        (results / f"{name}.json").write_text(json.dumps(content))
    return results


def test_where_no_gpu_was_measured_it_says_so(tmp_path):
    card = gpu_report(tmp_path)
    assert str(card).startswith("Not measured yet") and "python benchmarks/gpu.py" in card._repr_html_()
    assert gpu_results(tmp_path) == []


def test_a_measured_gpu_is_shown_with_its_label(folder):
    [found] = gpu_results(folder)
    assert found.label == (
        "Imaginary GPU, CUDA 99.9; torch 0.0.0; 1900-01-01; made by `python benchmarks/gpu.py --seeds 1`"
    )
    text = str(gpu_report(folder))
    assert found.label in text and "not measured" not in text.lower()
    for line in (
        "loss, fp32 1.0e-07 1e-05 yes",
        "limit plain 500.0 2,048 – 4.00 – –",
        "LoRA r = 8 plain 500.0 2,048 31% 4.00 4.20 1.05",
        "full fine-tuning plain out of memory – – – – –",
        "LoRA r = 8 0.001 0 0.500 [0.250, 0.750] 2.500 [2.400, 2.600] 12",
    ):
        assert line in " ".join(text.split()), line
    html = gpu_report(folder)._repr_html_()
    assert html.count("<table>") == html.count("<caption") == len(found.tables()) == 4 and "Layers of 7B width" in html


def test_its_picture_names_the_device_and_leaves_out_what_failed(folder):
    picture = gpu_results(folder)[0].picture()
    assert "Imaginary GPU" in picture.alt and "LoRA r = 8 2,048 tokens a second" in picture.alt
    assert "full fine-tuning" not in picture.alt and picture.png.startswith(b"\x89PNG")


def test_a_check_that_failed_is_loud(folder):
    wrong = [{"check": "loss, fp32", "error": 1.0, "bound": 1e-5, "passed": False}]
    (folder / "imaginary_gpu.json").write_text(json.dumps(MADE_UP | {"checks": wrong}))
    assert "1.0e+00 1e-05 NO" in " ".join(str(gpu_report(folder)).split())


def test_results_lie_beside_the_notebooks(folder, tmp_path, monkeypatch):
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    monkeypatch.chdir(notebooks)
    assert results_folder() == folder
    assert result("step") == {"tables": {"fp32": 1}} and result("never") is None


def test_elsewhere_they_are_the_modules_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = results_folder()
    assert found is not None and (found / "step.json").is_file()


def test_a_damaged_result_is_named(folder):
    (folder / "step.json").write_text("{")
    with pytest.raises(DataError, match=r"step\.json is damaged"):
        result("step", folder)
