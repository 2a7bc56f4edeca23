"""What the dial of chapter 00 shows, measured: `python benchmarks/dial.py`. Eleven scales of a King James adapter, about twelve CPU minutes.

A small adapter (q_proj and v_proj, r = 8, 1.9 MB) is trained on the King James task. At each scale: its answers to a few sentences
of ours, the share of answers that say thou, thee, thy, thine or ye, and the loss on King James rows and on general passages, each on
validation rows and on test rows, neither of which any training sees. What each passage adds is kept too, for intervals.
The dial's curves are those of the validation rows: a reader who chooses by them may still score on the test rows.
Stored in lora_edu/experiments/stored: kjv_adapter/, dial.json and dial_table.json. `--quick` is a rehearsal that stores nothing;
`--passages` measures the passages alone again, with the stored adapter (two CPU minutes).
"""

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from lora_edu.adapters import LoRAConfig, fingerprint, inject, load, save, set_scale
from lora_edu.data import collate, encode_rows
from lora_edu.evaluation import generate, mean_nll
from lora_edu.experiments import environment
from lora_edu.experiments.stored_results import FOLDER
from lora_edu.models import load_base
from lora_edu.tasks import get_task
from lora_edu.training import TrainConfig, Trainer, causal_lm_loss
from lora_edu.widgets import DialData

SCALES = (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
LORA = LoRAConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
TRAIN = TrainConfig(learning_rate=2e-3, batch_size=8, max_steps=80, warmup_ratio=0.05)
CURVES = {"style_loss": "King James verses", "general_loss": "general passages"}  # of the validation rows
SPLITS = ("valid", "test")
ROWS = 60  # King James rows in each of validation and test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--passages", action="store_true")
    options = parser.parse_args()
    model, tokenizer = load_base(device="cpu")
    if options.passages:
        load(model, FOLDER / "kjv_adapter")
        table, dial = json.loads((FOLDER / "dial_table.json").read_text("utf-8")), DialData.read(FOLDER / "dial.json")
        if table["about"]["fingerprint"] != fingerprint(model):
            parser.error("the stored adapter belongs to another base model: run without --passages")
        about, verses, answers = table["about"], {name: table[name] for name in SPLITS}, dial.answers
    else:
        about, verses, answers = train_and_ask(model, tokenizer, options.quick)
    texts = general_passages(tokenizer)
    about["passages"] = {name: len(each) for name, each in texts.items()}
    nats: dict[str, list[Any]] = {name: [] for name in SPLITS}  # a list a scale, (nats, tokens) a passage
    for place, scale in enumerate(row["dial"] for row in verses["valid"]):
        set_scale(model, scale)
        for name, examples in texts.items():
            score = mean_nll(model, examples)
            verses[name][place]["general_loss"] = round(score.value, 4)
            nats[name].append(score.values.round(3).tolist())
        print(scale, *(f"{name} {rows[place]}" for name, rows in verses.items()), answers[place][0][:60], flush=True)
    folder = Path(tempfile.mkdtemp()) if options.quick else FOLDER
    if not options.passages:
        set_scale(model, 1.0)
        save(model, folder / "kjv_adapter")
    write(folder, about, verses, nats, answers)
    print("stored in", folder.name)


def general_passages(tokenizer: Any) -> dict[str, list[Any]]:
    """Passages that no training sees, by split, as examples."""
    splits = get_task("general").splits()
    return {name: encode_rows([row for row in getattr(splits, name) if row.is_text], tokenizer) for name in SPLITS}


def train_and_ask(
    model: Any, tokenizer: Any, quick: bool
) -> tuple[dict[str, Any], dict[str, list[dict[str, float]]], list[list[str]]]:
    """Where the figures come from, style and loss on verses for each split and scale, and the answers at each scale."""
    kjv = get_task("kjv")
    inject(model, LORA)
    steps = 2 if quick else TRAIN.max_steps
    trainer = Trainer(
        model, encode_rows(kjv.splits().train, tokenizer), causal_lm_loss, TrainConfig(**(TRAIN.to_dict() | {"max_steps": steps})),
        collate=partial(collate, pad_token_id=tokenizer.pad_token_id),
    )  # fmt: skip
    losses = trainer.train().losses
    rows = 2 if quick else ROWS
    table: dict[str, list[dict[str, float]]] = {name: [] for name in SPLITS}
    answers = []
    for scale in SCALES[::5] if quick else SCALES:
        set_scale(model, scale)
        answers.append(generate(model, tokenizer, [kjv.ask(s) for s in kjv.samples], kjv.max_new_tokens))
        for name, found in table.items():
            verses = getattr(kjv.splits(), name)[:rows]
            outputs = generate(model, tokenizer, verses, kjv.max_new_tokens)
            found.append(
                {
                    "dial": scale,
                    "style": round(kjv.score(outputs, verses)["archaic"].value, 4),
                    "style_loss": round(mean_nll(model, encode_rows(verses, tokenizer)).value, 4),
                }
            )
    about = {"command": "python benchmarks/dial.py", "fingerprint": fingerprint(model), "precision": trainer.precision}
    about |= {"king_james_rows": rows, "train": TRAIN.to_dict(), "losses": [round(loss, 4) for loss in losses]}
    return about | environment(), table, answers


def write(
    folder: Path,
    about: dict[str, Any],
    table: dict[str, list[dict[str, float]]],
    nats: dict[str, list[Any]],
    answers: list[list[str]],
) -> None:
    """dial.json, what the widget shows, and dial_table.json, what section 4 chooses from."""
    DialData(
        scales=[row["dial"] for row in table["valid"]],
        prompts=list(get_task("kjv").samples),
        answers=answers,
        curves={words: [row[key] for row in table["valid"]] for key, words in CURVES.items()},
        base=about["fingerprint"],
        made_by=about["command"],
    ).write(folder / "dial.json")
    text = json.dumps({"about": about, **table}, indent=1)[:-2] + f',\n "passages": {json.dumps(nats)}\n}}\n'
    (folder / "dial_table.json").write_text(text, encoding="utf-8")  # the long lists on one line


if __name__ == "__main__":
    main()
