"""Chapter 05's first run. Nine runs (eight steps, three learning rates, three seeds) on the 100 validation rows, by which the rate is
chosen; then the untrained model, and the three runs at the chosen rate only, on the 300 test rows.

    python benchmarks/first_run.py

Each measurement is stored as soon as it is made; started again, the command makes what is missing.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from lora_edu import Trainer, inject, load_base
from lora_edu.adapters import fingerprint, unload
from lora_edu.course.first_run import LORA, SEEDS, train_config
from lora_edu.data import Row, collate, encode_rows
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
    train = encode_rows(rows.train, tokenizer)
    pad = partial(collate, pad_token_id=tokenizer.pad_token_id)
    about: dict[str, Any] = {"command": COMMAND, "fingerprint": fingerprint(model), "rates": RATES, "seeds": SEEDS}
    try:
        found = stored(NAME)
        done = dict(found.tensors) if found.about["fingerprint"] == about["fingerprint"] else {}
    except CheckpointError:
        done = {}

    def keep(key: str, value: torch.Tensor) -> None:
        done[key] = value
        store(NAME, done, about | environment())
        print(f"{key}: mean {value.double().mean():.4f}, {time.process_time():.0f} s of CPU so far", flush=True)

    def losses(key: str, part: Sequence[Row]) -> None:
        """(rows, 2): sums of nats, and tokens."""
        keep(key, torch.tensor(mean_nll(model, encode_rows(part, tokenizer)).values, dtype=torch.float32))

    def answers(key: str) -> None:
        """(300,): is the answer to a test row exactly right?"""
        outputs = generate(model, tokenizer, rows.test, max_new_tokens=task.max_new_tokens)
        keep(key, torch.tensor(task.score(outputs, rows.test)["exact match"].values).bool())

    @contextmanager
    def trained(rate: float, seed: int) -> Iterator[None]:
        torch.manual_seed(seed)
        inject(model, LORA)
        Trainer(model, train, causal_lm_loss, train_config(rate, seed), collate=pad, progress=False).train()
        yield
        unload(model)

    for rate in RATES:
        for seed in SEEDS:
            if (key := f"lr {rate:g} seed {seed} valid loss") not in done:
                with trained(rate, seed):
                    losses(key, rows.valid)
    means = {
        rate: sum(done[f"lr {rate:g} seed {seed} valid loss"][:, 0].sum().item() for seed in SEEDS) for rate in RATES
    }
    about["chosen"] = chosen = min(means, key=means.__getitem__)
    print(f"chosen on the validation rows: {chosen:g}")

    if "untrained valid loss" not in done:
        losses("untrained valid loss", rows.valid)
    if "untrained exact" not in done:
        losses("untrained loss", rows.test)
        answers("untrained exact")
    for seed in SEEDS:
        if (key := f"lr {chosen:g} seed {seed}") + " exact" not in done:
            with trained(chosen, seed):
                losses(f"{key} loss", rows.test)
                answers(f"{key} exact")
    for key in [key for key in done if key.startswith("lr ") and not key.endswith("valid loss")]:
        if not key.startswith(f"lr {chosen:g} "):
            del done[key]  # another rate's runs on the test rows: nobody needs to look there
    store(NAME, done, about | environment())


if __name__ == "__main__":
    main()
