"""What AdapterMixer shows, measured: `python benchmarks/adapter_mixer.py`. Two stored adapters, four weights each, three methods. Chapter 07.

The adapters intents and reminders of three_adapters.py (seed 0). At every pair of weights: the loss and the score of both tasks on the first
20 validation rows of each, and an answer to a question of each that is in no data. Where one weight is 0, "linear" is what "cat" is, and is
not measured twice. For each method the pair is chosen whose worse task keeps the largest share of its adapter's own score (then the lower
sum of losses); the test rows, 40 of each task, are asked once: of the base, of each adapter, of the plain sum and of what was chosen.

Stored in lora_edu/experiments/stored/adapter_mixer.json. `--quick` is a rehearsal that stores nothing.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from lora_edu.adapters import adapter_names, combine, fingerprint, load, remove_adapter, set_adapter
from lora_edu.data import encode_rows
from lora_edu.evaluation import generate, mean_nll
from lora_edu.experiments.stored_results import FOLDER
from lora_edu.models import load_base
from lora_edu.tasks import get_task
from lora_edu.widgets import MixerData

ADAPTERS = ("intents", "reminders")
SCORES = ["share of right labels", "share of right objects"]
WEIGHTS = (0, 0.4, 0.7, 1)
METHODS: dict[str, dict[str, Any]] = {"cat": {}, "linear": {}, "ties_svd": {"rank": 8, "density": 0.5}}
ASKED = ("Make it a bit brighter on the balcony", "Remind Zelda to fold the laundry on Friday.")
ROWS, TEST_ROWS = 20, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    weights = (0, 1) if quick else WEIGHTS
    model, tokenizer = load_base(device="cpu")
    for name in ADAPTERS:
        load(model, FOLDER / "three_adapters" / name, name)
    tasks = [get_task(name) for name in ADAPTERS]
    prompts = [task.ask(text) for task, text in zip(tasks, ASKED)]

    def measured(split: str, rows: int) -> list[dict[str, float]]:
        found = []
        for task in tasks:
            asked = getattr(task.splits(), split)[: 2 if quick else rows]
            outputs = generate(model, tokenizer, asked, task.max_new_tokens, batch_size=32)
            score = task.score(outputs, asked)[task.metric]
            loss = mean_nll(model, encode_rows(asked, tokenizer)).value
            found.append(
                {"score": score.value, "loss": loss, "low": score.interval().low, "high": score.interval().high}
            )
        return [{key: round(value, 4) for key, value in each.items()} for each in found]

    def mixed(method: str, first: float, second: float) -> None:
        if {first, second} == {0}:
            return set_adapter(model, None)
        options = METHODS[method]
        combine(model, dict(zip(ADAPTERS, (first, second))), "mixed", method=method, **options)
        set_adapter(model, "mixed")

    def done() -> None:
        set_adapter(model, None)
        if "mixed" in adapter_names(model):
            remove_adapter(model, "mixed")

    tables: dict[str, Any] = {}
    answers: dict[str, Any] = {}
    for method in METHODS:
        tables[method] = [[None] * len(weights) for _ in weights]
        answers[method] = [[None] * len(weights) for _ in weights]
        for i, first in enumerate(weights):
            for j, second in enumerate(weights):
                same = (method == "linear" and 0 in (first, second)) or (method != "cat" and {first, second} == {0})
                if same:
                    tables[method][i][j], answers[method][i][j] = tables["cat"][i][j], answers["cat"][i][j]
                    continue
                began = time.process_time()
                mixed(method, first, second)
                tables[method][i][j] = [[each["score"], each["loss"]] for each in measured("valid", ROWS)]
                answers[method][i][j] = [
                    generate(model, tokenizer, [prompt], task.max_new_tokens)[0] for prompt, task in zip(prompts, tasks)
                ]
                done()
                took = time.process_time() - began
                print(method, first, second, tables[method][i][j], answers[method][i][j], f"{took:.0f} s", flush=True)

    chosen = {"base": ("cat", 0, 0), **dict(zip(ADAPTERS, (("cat", 1, 0), ("cat", 0, 1)))), "cat 1, 1": ("cat", 1, 1)}
    for method, table in tables.items():
        alone = [table_of(tables["cat"], weights, (1, 0))[0][0], table_of(tables["cat"], weights, (0, 1))[1][0]]
        at = {(a, b): table_of(table, weights, (a, b)) for a in weights for b in weights}
        best = max(at, key=lambda pair: (kept(at[pair], alone), -sum(loss for _, loss in at[pair])))
        chosen[f"{method} {best[0]:g}, {best[1]:g}"] = (method, *best)
    test = {}
    for name, (method, first, second) in chosen.items():
        mixed(method, first, second)
        test[name] = measured("test", TEST_ROWS)
        done()
        print("test", name, test[name], flush=True)
    data = MixerData(
        adapters=list(ADAPTERS), scores=SCORES, weights=list(weights), methods=tables, prompts=prompts, answers=answers,
        rows=ROWS, test=test, base=fingerprint(model), made_by="python benchmarks/adapter_mixer.py",
    )  # fmt: skip
    folder = Path(tempfile.mkdtemp()) if quick else FOLDER
    data.write(folder / "adapter_mixer.json")
    print("stored in", folder.name)


def table_of(table: list[list[Any]], weights: tuple[float, ...], pair: tuple[float, float]) -> Any:
    return table[weights.index(pair[0])][weights.index(pair[1])]


def kept(cells: list[list[float]], alone: list[float]) -> float:
    """The share of its adapter's own score that the worse of the two tasks keeps."""
    return min(cell[0] / own if own else 0.0 for cell, own in zip(cells, alone))


if __name__ == "__main__":
    main()
