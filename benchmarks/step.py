"""What one training step costs: ours against PEFT and against the limit. All-linear r = 8 on the default model, 512 tokens.

    OMP_NUM_THREADS=1 python benchmarks/step.py            # fp32 and bf16, 7 rounds
    OMP_NUM_THREADS=1 python benchmarks/step.py --precision fp32      # on a CPU without bf16 of its own

`ours` is the fast path of lora_edu/adapters/fused.py; `ours, plain` the layer as chapter 03 writes it; `ours, our loss` the fast path with
`causal_lm_loss` as the trainer has it, where the others take the model's own loss. The limit is the least that
any adapter method must pay: the frozen base's forward and its backward to the inputs, without any adapter or optimiser.
Times are CPU seconds, variants interleaved; memory is the transient peak above weights and optimiser state.
"""

import argparse
import copy

import peft
import torch
from common import interleaved, ratios, transient_peak, write

from lora_edu.adapters import LoRAConfig, fused, inject
from lora_edu.models import load_base
from lora_edu.training import causal_lm_loss

BATCH, LENGTH = 4, 128


def make_step(model, ids, dtype, train_inputs=False, own_loss=False):
    """One step as a function: forward, loss, backward, AdamW on what trains (for the limit: gradients to the inputs)."""
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=1e-4) if params else None
    embed = model.get_input_embeddings()

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
            if train_inputs:
                x = embed(ids).detach().requires_grad_(True)  # (B, T, d): the backward pass reaches down to here
                loss = model(inputs_embeds=x, labels=ids, use_cache=False).loss
            elif own_loss:
                loss = causal_lm_loss(model, {"input_ids": ids, "labels": ids}).total / (BATCH * (LENGTH - 1))
            else:
                loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def on(fast, step):
    """The step with the fast path on, or off."""

    def switched():
        with fused.switched(fast):
            step()

    return switched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=("fp32", "bf16"))
    parser.add_argument("--quick", action="store_true", help="two rounds: does it run at all?")
    options = parser.parse_args()
    base = load_base().model.train()
    frozen = copy.deepcopy(base).requires_grad_(False)
    ours = inject(copy.deepcopy(base), LoRAConfig(r=8, lora_alpha=16, lora_dropout=options.dropout))
    theirs = peft.get_peft_model(
        base,
        peft.LoraConfig(
            r=8, lora_alpha=16, lora_dropout=options.dropout, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    ids = torch.randint(100, 40_000, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    tables = {}
    for dtype in options.precision:
        step = make_step(ours, ids, dtype)
        steps = {
            "limit": make_step(frozen, ids, dtype, train_inputs=True),
            "peft": make_step(theirs, ids, dtype),
            "ours": on(True, step),
            "ours, plain": on(False, step),
            "ours, our loss": on(True, make_step(ours, ids, dtype, own_loss=True)),
        }
        seconds = interleaved(steps, 2 if options.quick else options.rounds)
        table = ratios(seconds, "limit")
        for name, versus_peft in ratios(seconds, "peft").items():
            table[name]["ratio_to_peft"] = versus_peft["ratio"]
        peaks = {name: transient_peak(step) for name, step in steps.items()}
        for name, peak in peaks.items():
            table[name] |= {"peak_mib": peak / 2**20, "peak_ratio": peak / peaks["limit"]}
        tables[dtype] = table
        print(f"\n{dtype}: {BATCH} × {LENGTH} tokens   s/step  ×limit  ×PEFT   peak MiB  ×limit")
        for name, row in table.items():
            print(
                f"  {name:<24}{row['seconds']:8.2f}{row['ratio']:8.3f}{row['ratio_to_peft']:7.3f}{row['peak_mib']:11.0f}{row['peak_ratio']:8.2f}"
            )
    if not options.quick:
        write(
            "_".join(
                [
                    "step",
                    *(options.precision if len(options.precision) == 1 else ()),
                    *(["dropout"] if options.dropout else ()),
                ]
            ),
            {
                "own_bf16": torch.ops.mkldnn._is_mkldnn_bf16_supported(),
                "tokens": BATCH * LENGTH,
                "dropout": options.dropout,
                "tables": tables,
            },
        )


if __name__ == "__main__":
    main()
