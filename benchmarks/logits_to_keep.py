"""What asking for logits at answer positions only saves: CPU time and transient memory of one training step.

    OMP_NUM_THREADS=1 python benchmarks/logits_to_keep.py

The default model, all-linear r = 8, 4 rows of 128 tokens, of which a share is answers (spread over the end of each row), fp32 and bf16
autocast. One step is forward, loss, backward and AdamW; "all" computes logits at every position and masks them in the loss, as
a model called with `labels` does. CPU seconds, interleaved; memory is the transient peak above weights and optimiser state.
"""

import argparse

import torch
import torch.nn.functional as F
from common import interleaved, ratios, transient_peak, write

from lora_edu.adapters import LoRAConfig, inject
from lora_edu.models import load_base
from lora_edu.training import causal_lm_loss

ROWS, LENGTH = 4, 128


def full_loss(model, batch):
    """The same loss from all logits."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten(), reduction="sum")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    model = inject(load_base(device="cpu").model, LoRAConfig(r=8, lora_alpha=16)).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    ids = torch.randint(100, 40_000, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))

    def step_of(loss_fn, batch, bf16):
        def step():
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = loss_fn(batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    result: dict[str, dict] = {}
    for share in (0.1, 0.25, 0.5):
        labels = ids.clone()
        labels[:, : LENGTH - round(share * LENGTH)] = -100
        batch = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
        ours, full = causal_lm_loss(model, batch).total.item(), full_loss(model, batch).item()
        assert abs(ours / full - 1) < 1e-4, (ours, full)
        for precision in ("fp32", "bf16"):
            variants = {
                "all": step_of(lambda b: full_loss(model, b), batch, precision == "bf16"),
                "answers": step_of(lambda b: causal_lm_loss(model, b).total, batch, precision == "bf16"),
            }
            table = ratios(interleaved(variants, rounds), to="all")
            for name, step in variants.items():
                table[name]["transient_peak_bytes"] = transient_peak(step)
            key = f"{precision}, {share:.0%} answers"
            result[key] = table
            saved, memory = (
                1 - table["answers"]["ratio"],
                1 - table["answers"]["transient_peak_bytes"] / table["all"]["transient_peak_bytes"],
            )
            print(f"{key:22} saves {saved:6.1%} of CPU time, {memory:6.1%} of the transient memory")
    write("logits_to_keep", {"rows": ROWS, "length": LENGTH, "rounds": rounds, "result": result})


if __name__ == "__main__":
    main()
