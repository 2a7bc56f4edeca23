"""The ledger on the real model: predicted against measured, full fine-tuning and LoRA.

    OMP_NUM_THREADS=1 python benchmarks/memory.py

The default model, 4 rows of 128 tokens, a quarter of them answers. Measured is what autograd saves in a real forward pass.
"""

import torch
from common import write

from lora_edu.adapters import LoRAConfig, inject, unload
from lora_edu.models import load_base
from lora_edu.training.memory import measure_memory, predict_memory

ROWS, LENGTH = 4, 128
ADAPTERS = {
    "all-linear r=8": LoRAConfig(r=8),
    "q,v r=8": LoRAConfig(r=8, target_modules=["q_proj", "v_proj"]),
    "all-linear r=8, dropout": LoRAConfig(r=8, lora_dropout=0.05),
}
SETTINGS = {"fp32": {}, "bf16 autocast": {"autocast": True}, "checkpointing": {"gradient_checkpointing": True}}


def main() -> None:
    model = load_base(device="cpu").model
    ids = torch.randint(100, 40_000, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    result: dict[str, dict] = {}
    for padded in (False, True):
        labels, mask = ids.clone(), torch.ones_like(ids)
        labels[:, : LENGTH - LENGTH // 4] = -100
        if padded:
            labels[0, -16:], mask[0, -16:] = -100, 0
        batch = {"input_ids": ids, "labels": labels, "attention_mask": mask}
        answers = int((labels[:, 1:] != -100).sum())
        for adapter, config in {"full fine-tuning": None, **ADAPTERS}.items():
            model.requires_grad_(True) if config is None else inject(model, config)
            for setting, how in SETTINGS.items():
                found = measure_memory(model, batch, **how)
                worked_out = predict_memory(model, ROWS, LENGTH, answer_tokens=answers, padded=padded, **how)
                exact = all(
                    getattr(found, entry) == getattr(worked_out, entry)
                    for entry in ("weights", "gradients", "optimizer", "parameters", "trainable", "file")
                )
                error = worked_out.activations / found.activations - 1
                name = f"{adapter}, {setting}{', padded' if padded else ''}"
                result[name] = {
                    "measured": found.activations,
                    "predicted": worked_out.activations,
                    "relative_error": error,
                    "other_entries_exact": exact,
                    **{entry: getattr(found, entry) for entry in ("weights", "gradients", "optimizer", "file")},
                }
                print(
                    f"{name:48} activations {found.activations / 1e6:8.1f} MB, predicted {error:+.2%}, others exact: {exact}"
                )
            if config is not None:
                unload(model)
    write("memory", {"rows": ROWS, "length": LENGTH, "result": result})


if __name__ == "__main__":
    main()
