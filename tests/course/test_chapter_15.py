"""Chapter 15 quotes two stored measurements in its sentences: what it says is what they hold."""

import json

import nbformat
import pytest
from helpers import NOTEBOOKS, ROOT

from lora_edu.experiments.stored_results import FOLDER


@pytest.fixture(scope="module")
def text():
    cells = nbformat.read(NOTEBOOKS / "15_ship_it.ipynb", as_version=4).cells
    return {cell.id: " ".join(cell.source.split()) for cell in cells if cell.cell_type == "markdown"}


def test_what_it_says_of_exports(text):
    exports = {e["name"]: e for e in json.loads((FOLDER / "exports.json").read_text("utf-8"))["exports"]}
    four, forgotten = (exports[n] for n in ("GGUF q4_0 merged", "exhibit: the same update as rsLoRA, √r forgotten"))
    said = f"Q4_0 costs {four['loss'][0]:.2f} nats a token on these verses; the forgotten √r cost {forgotten['loss'][0]:.2f}"
    assert said in text["15-s2-end"] and all(e["within"] for n, e in exports.items() if n.startswith("GGUF"))
    assert all(not e["within"] for n, e in exports.items() if n.startswith("exhibit"))


def test_what_it_says_of_engines(text):
    stored = json.loads((ROOT / "benchmarks" / "results" / "serving.json").read_text("utf-8"))
    ways = stored["ways"]
    mixed, apart, llama = (ways[name] for name in ("torch, mixed", "torch, by adapter", "llama.cpp"))
    for said in (
        f"took {mixed['ratio']:.2f} of the CPU time of one question at a time ({mixed['ratio_min']:.2f} to {mixed['ratio_max']:.2f} in the rounds)",
        f"Batches of one adapter each took {apart['ratio']:.2f}",
        f"only questions with the same adapters into one batch, {llama['ratio']:.2f}",
    ):
        assert said in text["15-rows-end"], said
    assert stored["questions"] == mixed["equal answers"] == 16 and llama["equal answers"] == 15
