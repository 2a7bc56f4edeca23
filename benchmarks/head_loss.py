"""The head and its loss at answer positions: all logits at once against chunks of them, over chunk sizes and sequence lengths.

    OMP_NUM_THREADS=1 python benchmarks/head_loss.py

A head of the default model's shape (49,152 × 576), frozen; forward and backward to its input. CPU seconds, variants interleaved,
and the transient memory peak. `64 MiB` is what `causal_lm_loss` takes.
"""

import argparse

import torch
import torch.nn.functional as F
from common import interleaved, ratios, transient_peak, write

from lora_edu.training import losses

VOCABULARY, WIDTH = 49_152, 576
CHUNKS_MIB = (6, 24, 64, 192)


def make_steps(tokens, dtype):
    """{name: one forward and backward pass} for `tokens` answer tokens."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(VOCABULARY, WIDTH, generator=generator) * 0.02
    hidden = torch.randn(tokens, WIDTH, generator=generator).requires_grad_(True)
    targets = torch.randint(0, VOCABULARY, (tokens,), generator=generator)

    def plain():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            logits = F.linear(hidden, W)
        F.cross_entropy(logits.float(), targets, reduction="sum").backward()
        hidden.grad = None

    def chunked(mib):
        def step():
            losses.CHUNK_BYTES = mib * 2**20
            losses._ChunkedLoss.apply(hidden, W, targets, dtype).backward()
            hidden.grad = None

        return step

    sizes = [mib for mib in CHUNKS_MIB if mib * 2**20 < tokens * VOCABULARY * 4] or CHUNKS_MIB[:1]
    return {"all at once": plain, **{f"{mib} MiB": chunked(mib) for mib in sizes}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    result = {}
    for name, dtype in (("fp32", None), ("bf16", torch.bfloat16)):
        for tokens in (128, 512, 2048):
            steps = make_steps(tokens, dtype)
            table = ratios(interleaved(steps, rounds), "all at once")
            for variant, step in steps.items():
                table[variant]["peak_mib"] = transient_peak(step) / 2**20
                row = table[variant]
                print(
                    f"{name} {tokens:5} tokens  {variant:<12}{row['seconds']:7.3f} s  × {row['ratio']:.3f}  {row['peak_mib']:7.0f} MiB"
                )
            result[f"{name}, {tokens} tokens"] = table
    write("head_loss", {"vocabulary": VOCABULARY, "width": WIDTH, "rounds": rounds, "result": result})


if __name__ == "__main__":
    main()
