"""Three adapters on one base, alone and added up: `python benchmarks/three_adapters.py`. Chapter 07.

Sentiment, intents and reminders, all on q_proj and v_proj at r = 4, three seeds. For every seed: each adapter on its own task
and on the two others, the sum of each pair on the tasks of both, and how far their updates and their subspaces overlap. Losses (nats an
answer token) and scores are those of the first 24 validation rows of each task; nothing is chosen by them here, the mixer's grid is
another file. The sentences of the films are fetched once (`lora-edu fetch sentiment`); only losses and scores of them are kept.

Stored in lora_edu/experiments/stored: the adapters of seed 0 in three_adapters/NAME, their factors rounded to bf16 *before* anything is
measured, and three_adapters.json. `--seed 1` makes one seed again; `--quick` is a rehearsal that stores nothing.
"""

import argparse
import itertools
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lora_edu.adapters import (
    LoRAConfig,
    adapter_parameters,
    combine,
    fingerprint,
    inject,
    lora_layers,
    mean_cosine,
    overlap,
    remove_adapter,
    save,
    set_adapter,
    unload,
)
from lora_edu.data import collate, encode_rows
from lora_edu.evaluation import generate, mean_nll
from lora_edu.experiments import environment
from lora_edu.experiments.stored_results import FOLDER
from lora_edu.models import load_base
from lora_edu.tasks import get_task
from lora_edu.training import TrainConfig, Trainer, causal_lm_loss

NAMES = ("sentiment", "intents", "reminders")
SEEDS = (0, 1, 2)
ROWS = 24
LORA = LoRAConfig(r=4, lora_alpha=8, target_modules=("q_proj", "v_proj"))
TRAIN = {  # what each task needs: sixty steps at 2e-3 leave intents at a third of 24 validation rows
    "sentiment": TrainConfig(learning_rate=2e-3, batch_size=4, max_steps=60, warmup_ratio=0.05),
    "intents": get_task("intents").recipe.train,
    "reminders": get_task("reminders").recipe.train,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, action="append", help="this seed only; the others keep what is stored")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp()) if options.quick else FOLDER
    model, tokenizer = load_base(device="cpu")
    about = {"command": "python benchmarks/three_adapters.py", "fingerprint": fingerprint(model), "rows": ROWS}
    about |= {"lora": LORA.to_dict(), "train": {name: settings.to_dict() for name, settings in TRAIN.items()}}
    path = folder / "three_adapters.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    runs = found["runs"] if about.items() <= found.get("about", {}).items() else {}
    base = {name: measured(model, tokenizer, name, options.quick) for name in NAMES}
    for seed in options.seed or (SEEDS[:1] if options.quick else SEEDS):
        runs[str(seed)] = run(model, tokenizer, seed, folder, options.quick)
        result = {"about": about | environment(), "base": base, "runs": dict(sorted(runs.items()))}
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")  # after each: a stop costs one seed
    print("stored in", folder.name)


def run(model: Any, tokenizer: Any, seed: int, folder: Path, quick: bool) -> dict[str, Any]:
    """One seed: three adapters trained, alone and in pairs. The model is left as it was."""
    began = time.process_time()
    losses = {name: train(model, tokenizer, name, seed, quick) for name in NAMES}
    for name in NAMES if seed == SEEDS[0] else ():
        save(model, folder / "three_adapters", name)
        halve(folder / "three_adapters" / name / "adapter_model.safetensors")
    alone, sums, overlaps = {}, {}, {}
    for name in NAMES:
        set_adapter(model, name)
        alone[name] = {task: measured(model, tokenizer, task, quick) for task in NAMES}
        print(seed, name, alone[name], flush=True)
    for pair in itertools.combinations(NAMES, 2):
        key = " + ".join(pair)
        combine(model, dict.fromkeys(pair, 1.0), "both")
        set_adapter(model, "both")
        sums[key] = {task: measured(model, tokenizer, task, quick) for task in pair}
        overlaps[key] = overlapping(model, *pair)
        remove_adapter(model, "both")
        print(seed, key, sums[key], overlaps[key], flush=True)
    unload(model)
    cost = round(time.process_time() - began)
    return {"alone": alone, "sums": sums, "overlap": overlaps, "losses": losses, "cpu_seconds": cost}


def train(model: Any, tokenizer: Any, name: str, seed: int, quick: bool) -> list[float]:
    """Inject and train one adapter, and round its factors to bf16: what is measured is what is stored."""
    if lora_layers(model):
        set_adapter(model, None)
    own = len(NAMES) * seed + NAMES.index(name)  # no two adapters start from the same A
    torch.manual_seed(own)
    inject(model, LORA, name)
    settings = TrainConfig(
        **(TRAIN[name].to_dict() | {"seed": own} | ({"max_steps": 2, "warmup_ratio": 0} if quick else {}))
    )
    rows = encode_rows(get_task(name).splits().train, tokenizer)
    pad = partial(collate, pad_token_id=tokenizer.pad_token_id)
    history = Trainer(model, rows, causal_lm_loss, settings, collate=pad, progress=False).train()
    with torch.no_grad():
        for factor in adapter_parameters(model, name).values():
            factor.copy_(factor.bfloat16())
            factor.requires_grad_(False)
    print(seed, name, [round(loss, 2) for loss in history.losses[::10]], flush=True)
    return [round(loss, 4) for loss in history.losses]


def measured(model: Any, tokenizer: Any, name: str, quick: bool) -> dict[str, float]:
    """Loss and score on the task's first validation rows."""
    task = get_task(name)
    rows = task.splits().valid[: 2 if quick else ROWS]
    loss = mean_nll(model, encode_rows(rows, tokenizer)).value
    outputs = generate(model, tokenizer, rows, task.max_new_tokens, batch_size=ROWS)
    return {"loss": round(loss, 4), "score": round(task.score(outputs, rows)[task.metric].value, 4)}


def overlapping(model: Any, first: str, second: str) -> dict[str, float]:
    """Of two adapters: the cosine of their updates, all layers as one vector, and the mean over the layers of what they share in
    reading and in writing (`overlap`; 1: the same subspace; r/n: two random ones).
    """
    found = overlap(model, first, second)
    reads, writes = (
        sum(getattr(each, f"shared_{what}") for each in found.values()) / len(found) for what in ("reads", "writes")
    )
    return {"cosine": round(mean_cosine(found), 4), "reads": round(reads, 4), "writes": round(writes, 4)}


def halve(path: Path) -> None:
    """The same file with its factors in bf16; they were rounded already, so nothing is lost."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    halves = {key: tensor.bfloat16() for key, tensor in tensors.items()}
    assert all(torch.equal(halves[key].float(), tensor) for key, tensor in tensors.items())
    save_file(halves, path, metadata)


if __name__ == "__main__":
    main()
