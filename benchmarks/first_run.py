"""Chapter 05's first run: eight steps at three learning rates with three seeds, chosen among on validation rows and judged on test rows.

    python benchmarks/first_run.py

The 100 validation rows choose the rate (the lowest mean loss of three seeds); the 300 test rows are read for the untrained model and
for the three runs at that rate, and for no other. Each measurement is stored as soon as it is made; started again, the command makes
what is missing.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch

from lora_edu import Trainer, inject, load_base
from lora_edu.adapters import fingerprint, unload
from lora_edu.course.first_run import LORA, SEEDS, train_config
from lora_edu.data import Example, collate, encode_rows
from lora_edu.errors import CheckpointError
from lora_edu.evaluation import generate, mean_nll
from lora_edu.experiments import environment, store, stored
from lora_edu.tasks import get_task
from lora_edu.training import causal_lm_loss

NAME, COMMAND = "first_run", "python benchmarks/first_run.py"
RATES = (1e-4, 1e-3, 1e-2)


def main() -> None:
    model, tokenizer = load_base()
    task = get_task("iso_dates")
    rows = task.splits()
    train, valid, test = (encode_rows(part, tokenizer) for part in (rows.train, rows.valid, rows.test))
    about = {"command": COMMAND, "fingerprint": fingerprint(model), "rates": RATES, "seeds": SEEDS, "chosen": None}
    about |= environment()
    runs = {rate: [f"lr {rate:g} seed {seed}" for seed in SEEDS] for rate in RATES}
    done = found_with(about["fingerprint"])

    def keep(key: str, examples: Sequence[Example]) -> None:
        """(rows, 2): sums of nats and tokens a row."""
        done[key] = torch.tensor(mean_nll(model, examples).values, dtype=torch.float32)
        print(f"{key}: {nats(done[key]):.4f} nats a token, {time.process_time():.0f} s of CPU so far", flush=True)
        store(NAME, done, about)

    def judge(run: str) -> None:
        """On the test rows: the loss, and (300,), is the answer exactly right?"""
        outputs = generate(model, tokenizer, rows.test, max_new_tokens=task.max_new_tokens)
        done[f"{run} exact"] = torch.tensor(task.score(outputs, rows.test)["exact match"].values).bool()
        keep(f"{run} loss", test)

    @contextmanager
    def trained(rate: float, seed: int) -> Iterator[None]:
        pad = partial(collate, pad_token_id=tokenizer.pad_token_id)
        torch.manual_seed(seed)
        inject(model, LORA)
        Trainer(model, train, causal_lm_loss, train_config(rate, seed), collate=pad, progress=False).train()
        yield
        unload(model)

    if "untrained loss" not in done:
        judge("untrained")
    if "untrained valid" not in done:
        keep("untrained valid", valid)
    for rate in RATES:
        for seed, run in zip(SEEDS, runs[rate]):
            if f"{run} valid" not in done:
                with trained(rate, seed):
                    keep(f"{run} valid", valid)
    best = min(RATES, key=lambda rate: sum(nats(done[f"{run} valid"]) for run in runs[rate]))
    for seed, run in zip(SEEDS, runs[best]):
        if f"{run} loss" not in done:
            with trained(best, seed):
                judge(run)
    judged = {f"{run} {part}" for run in ("untrained", *runs[best]) for part in ("loss", "exact")}
    chosen_on = {key for key in done if key.endswith(" valid")}
    store(NAME, {key: done[key] for key in sorted(judged | chosen_on)}, about | {"chosen": best})


def nats(sums: torch.Tensor) -> float:
    """Nats a token of (rows, 2), sums and tokens."""
    total, tokens = sums.double().sum(dim=0).tolist()
    return total / tokens


def found_with(model: str) -> dict[str, torch.Tensor]:
    """What is stored of this base model; of the runs only what this command made, so that one code made what chooses and what judges."""
    try:
        tensors, about = stored(NAME)
    except CheckpointError:
        return {}
    if about["fingerprint"] != model:
        return {}
    return {key: value for key, value in tensors.items() if "chosen" in about or key.startswith("untrained")}


if __name__ == "__main__":
    main()
