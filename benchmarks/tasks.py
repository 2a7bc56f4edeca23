"""Measure a task's recipe on the default model: `python benchmarks/tasks.py kjv [--limit 100] [--seed 0]`.

Test score before and after training with its baselines, what became of general knowledge, CPU and wall seconds of the
training, and the answers to the task's samples. One seed, unless you run more: quote it so.
"""

import argparse
import time
from dataclasses import asdict, replace
from functools import partial

import torch
from common import write

from lora_edu.adapters import fingerprint, inject
from lora_edu.data import collate, encode_rows
from lora_edu.evaluation import Report, evaluate, generate
from lora_edu.models import DEFAULT_MODEL, load_base
from lora_edu.tasks import TASKS, get_task
from lora_edu.training import Trainer, causal_lm_loss


def rounded(report: Report) -> dict:
    """`Report.to_dict` with figures of four digits."""

    def each(value):
        if isinstance(value, dict):
            return {key: each(item) for key, item in value.items()}
        if isinstance(value, list):
            return [each(item) for item in value]
        return float(f"{value:.4g}") if isinstance(value, float) else value

    return each(report.to_dict())


def measure(name: str, limit: int | None, seed: int) -> dict:
    task, general = get_task(name), get_task("general")
    model, tokenizer = load_base()
    result = {"base": DEFAULT_MODEL, "fingerprint": fingerprint(model), "task": name, "title": task.title, "seed": seed}
    result |= {"before": rounded(evaluate(model, tokenizer, task, limit=limit))}
    result |= {"general_before": rounded(evaluate(model, tokenizer, general))}
    samples = [task.ask(sample) for sample in task.samples]
    said_before = generate(model, tokenizer, samples, task.max_new_tokens)

    torch.manual_seed(seed)
    inject(model, task.recipe.lora)
    examples = encode_rows(task.splits().train, tokenizer)
    settings = replace(task.recipe.train, seed=seed)
    trainer = Trainer(
        model, examples, causal_lm_loss, settings, collate=partial(collate, pad_token_id=tokenizer.pad_token_id)
    )
    cpu, wall = time.process_time(), time.perf_counter()
    history = trainer.train()
    result["training"] = {
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "precision": trainer.precision,
        "steps": len(history.steps),
        "answer_tokens": sum(step["tokens"] for step in history.steps),
        "loss_of_first_and_last_step": [round(history.steps[i]["loss"], 3) for i in (0, -1)],
        "lora": task.recipe.lora.to_dict(),
        "train": asdict(settings),
    }
    after, general_after = evaluate(model, tokenizer, task, limit=limit), evaluate(model, tokenizer, general)
    print(after, general_after, sep="\n")
    result |= {"after": rounded(after), "general_after": rounded(general_after)}
    if name == "identity":
        result["name_leaks_into_trivia"] = round(task.says_name(general_after.outputs).value, 3)
    said = generate(model, tokenizer, samples, task.max_new_tokens)
    result["samples"] = [
        {"input": sample, "before": before, "after": now}
        for sample, before, now in zip(task.samples, said_before, said)
    ]
    return result


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("task", choices=list(TASKS))
    arguments.add_argument("--limit", type=int, help="score so many test rows (all without it)")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    write(f"task_{options.task}", measure(options.task, options.limit, options.seed))
