"""Chapter 05's first run on all 300 test rows: the untrained model, and eight steps at three learning rates with three seeds.

    python benchmarks/first_run.py

Each measurement is stored as soon as it is made; started again, the command makes what is missing.
"""

import time
from functools import partial

import torch

from lora_edu import Trainer, inject, load_base
from lora_edu.adapters import fingerprint, unload
from lora_edu.course.first_run import LORA, SEEDS, train_config
from lora_edu.data import collate, encode_rows
from lora_edu.errors import CheckpointError
from lora_edu.evaluation import generate, mean_nll
from lora_edu.experiments import environment, store, stored
from lora_edu.tasks import get_task
from lora_edu.training import causal_lm_loss

NAME, COMMAND = "first_run", "python benchmarks/first_run.py"
RATES = (1e-4, 1e-3, 1e-2)
ASKED = 1e-3  # the learning rate whose runs are asked for answers too; the others for their loss


def main() -> None:
    model, tokenizer = load_base()
    task = get_task("iso_dates")
    rows = task.splits()
    train, test = encode_rows(rows.train, tokenizer), encode_rows(rows.test, tokenizer)
    pad = partial(collate, pad_token_id=tokenizer.pad_token_id)
    about = {"command": COMMAND, "fingerprint": fingerprint(model), "rates": RATES, "seeds": SEEDS, **environment()}
    try:
        found = stored(NAME)
        done = dict(found.tensors) if found.about["fingerprint"] == about["fingerprint"] else {}
    except CheckpointError:
        done = {}

    def measure(key: str, answers: bool) -> None:
        """(300, 2) sums of nats and tokens a row, and where asked for (300,): is the answer exactly right?"""
        done[f"{key} loss"] = torch.tensor(mean_nll(model, test).values, dtype=torch.float32)
        if answers:
            outputs = generate(model, tokenizer, rows.test, max_new_tokens=task.max_new_tokens)
            done[f"{key} exact"] = torch.tensor(task.score(outputs, rows.test)["exact match"].values).bool()
        store(NAME, done, about)
        loss = done[f"{key} loss"].sum(dim=0)
        print(f"{key}: {loss[0] / loss[1]:.4f} nats a token, {time.process_time():.0f} s of CPU so far", flush=True)

    if "untrained loss" not in done:
        measure("untrained", answers=True)
    for rate in RATES:
        for seed in SEEDS:
            key = f"lr {rate:g} seed {seed}"
            if f"{key} loss" in done:
                continue
            torch.manual_seed(seed)
            inject(model, LORA)
            Trainer(model, train, causal_lm_loss, train_config(rate, seed), collate=pad, progress=False).train()
            measure(key, answers=rate == ASKED)
            unload(model)


if __name__ == "__main__":
    main()
