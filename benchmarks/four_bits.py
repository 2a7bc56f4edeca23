"""What four bits cost and save on the real model: bytes held, the process's memory, CPU time of a LoRA step.

    OMP_NUM_THREADS=1 python benchmarks/four_bits.py

The default model, 4 rows of 64 tokens, LoRA r = 8 on all linear layers. The memory of a process is the anonymous memory of
a fresh one that holds the base and does nothing else (Linux alone says it); steps are interleaved, in CPU seconds, as ratios to the dense base's.
"""

import subprocess
import sys

import torch
from common import interleaved, ratios, write

from lora_edu.adapters import LoRAConfig, fused, inject
from lora_edu.models import load_base
from lora_edu.models.quantized import Quantization, quantize

ROWS, LENGTH, ROUNDS = 4, 64, 3
# Copied out of the file that it was mapped from: pages of a file count for whoever else maps it, too.
HOLDING = """
import ctypes, gc, re, sys
from lora_edu.models import load_base
import lora_edu.models.quantized.conversion
model = load_base(device="cpu", bits=4 if sys.argv[1] == "4" else None).model
for p in model.parameters():
    p.data = p.data.clone()
gc.collect()
ctypes.CDLL(None).malloc_trim(0)
print(1024 * int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]))
"""


def main() -> None:
    held = {
        bits: int(subprocess.check_output([sys.executable, "-c", HOLDING, bits]).split()[-1]) for bits in ("32", "4")
    }
    dense = load_base(device="cpu").model
    packed = load_base(device="cpu").model
    report = quantize(packed, Quantization())
    print(
        f"{report}\nanonymous memory of a process: dense {held['32'] / 1e6:.0f} MB, four bits {held['4'] / 1e6:.0f} MB"
    )
    ids = torch.randint(100, 40_000, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    for model in (dense, packed):
        inject(model, LoRAConfig(r=8))

    def step(model, fast: bool) -> None:
        with fused.switched(fast):
            model(input_ids=ids, labels=ids).loss.backward()
        model.zero_grad()

    variants = {
        "dense, fast path": lambda: step(dense, True),
        "dense, plain path": lambda: step(dense, False),
        "four bits": lambda: step(packed, True),
    }
    seconds = interleaved(variants, ROUNDS)
    table = ratios(seconds, "dense, fast path")
    print(*(f"{name:20} {row}" for name, row in table.items()), sep="\n")
    write(
        "four_bits",
        {
            "bits": report.bits, "weights": report.parameters, "before": report.before, "after": report.after,
            "process_bytes": held, "rows": ROWS, "length": LENGTH, "rounds": ROUNDS, "steps": table,
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
