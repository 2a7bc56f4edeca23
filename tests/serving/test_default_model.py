"""The real model: fp32 base with adapter, and merged, answer letter for letter in llama.cpp, on sixty prompts. A test of the export, no measure of quality."""

import pytest

from lora_edu.adapters import load, merge, unload
from lora_edu.data.templates import prompt_ids
from lora_edu.evaluation import generate
from lora_edu.experiments.stored_results import FOLDER
from lora_edu.models import load_base
from lora_edu.serving import LlamaCpp, verify_tokens, write_adapter_gguf, write_gguf
from lora_edu.tasks import get_task

NEW = 12


@pytest.mark.real_model
@pytest.mark.slow
def test_fp32_files_answer_letter_for_letter(tmp_path):
    model, tokenizer = load_base(device="cpu")
    load(model, FOLDER / "kjv_adapter")
    rows = sorted(get_task("kjv").splits().valid, key=lambda row: len(row.meta["input"]))[:60]
    ids = [prompt_ids(list(row.messages[:-1]), tokenizer) for row in rows]
    expected = generate(model, tokenizer, rows, max_new_tokens=NEW)

    def said(path, adapters=()):
        with LlamaCpp(path, adapters, context=256) as engine:
            return [tokenizer.decode(engine.greedy(each, NEW), skip_special_tokens=True).strip() for each in ids]

    base = write_gguf(model, tokenizer, tmp_path / "base.gguf", base_only=True, verify=False)
    assert verify_tokens(base, tokenizer) > 100
    adapter = write_adapter_gguf(model, tmp_path / "adapter.gguf")
    assert said(base, [(adapter, 1.0)]) == expected
    assert sum(a != b for a, b in zip(said(base), expected)) > 30  # without the adapter most are others
    base.unlink()
    merge(model, keep_base=False)
    unload(model)
    assert said(write_gguf(model, tokenizer, tmp_path / "merged.gguf", verify=False)) == expected
