"""What the dial of chapter 00 shows, measured: `python benchmarks/dial.py`. Eleven scales of a King James adapter, about twelve CPU minutes.

A small adapter (q_proj and v_proj, r = 8, 1.9 MB) is trained on the King James task. At each scale: its answers to a few sentences
of ours, the share of answers that say thou, thee, thy or ye, and the loss on King James rows and on general passages, each on
validation rows and on test rows. Stored in lora_edu/experiments/stored: kjv_adapter/, dial.json and dial_table.json. `--quick` is a rehearsal that stores nothing.
"""

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path

from lora_edu.adapters import LoRAConfig, fingerprint, inject, save, set_scale
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
CURVES = {"style_loss": "King James verses", "general_loss": "general passages"}  # of the test rows
ROWS = 60  # King James rows in each of validation and test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    kjv, general = get_task("kjv"), get_task("general")
    model, tokenizer = load_base(device="cpu")
    inject(model, LORA)
    steps = 2 if quick else TRAIN.max_steps
    trainer = Trainer(
        model, encode_rows(kjv.splits().train, tokenizer), causal_lm_loss, TrainConfig(**(TRAIN.to_dict() | {"max_steps": steps})),
        collate=partial(collate, pad_token_id=tokenizer.pad_token_id),
    )  # fmt: skip
    losses = trainer.train().losses

    rows = 2 if quick else ROWS
    splits = {
        "valid": (kjv.splits().valid[:rows], general.splits().train),
        "test": (kjv.splits().test[:rows], general.splits().test),
    }
    passages = {name: encode_rows([r for r in texts if r.is_text], tokenizer) for name, (_, texts) in splits.items()}
    table: dict[str, list[dict[str, float]]] = {"valid": [], "test": []}
    answers = []
    for scale in SCALES[::5] if quick else SCALES:
        set_scale(model, scale)
        answers.append(generate(model, tokenizer, [kjv.ask(s) for s in kjv.samples], kjv.max_new_tokens))
        for name, (verses, _) in splits.items():
            outputs = generate(model, tokenizer, verses, kjv.max_new_tokens)
            table[name].append(
                {
                    "dial": scale,
                    "style": round(kjv.score(outputs, verses)["archaic"].value, 4),
                    "style_loss": round(mean_nll(model, encode_rows(verses, tokenizer)).value, 4),
                    "general_loss": round(mean_nll(model, passages[name]).value, 4),
                }
            )
        print(scale, *(f"{name} {rows[-1]}" for name, rows in table.items()), answers[-1][0], flush=True)
    set_scale(model, 1.0)
    folder = Path(tempfile.mkdtemp()) if quick else FOLDER
    save(model, folder / "kjv_adapter")
    about = {"command": "python benchmarks/dial.py", "fingerprint": fingerprint(model), "precision": trainer.precision}
    about |= {"king_james_rows": rows, "passages": {name: len(each) for name, each in passages.items()}}
    about |= {"train": TRAIN.to_dict(), "losses": [round(loss, 4) for loss in losses], **environment()}
    DialData(
        scales=[row["dial"] for row in table["test"]],
        prompts=list(kjv.samples),
        answers=answers,
        curves={words: [row[key] for row in table["test"]] for key, words in CURVES.items()},
        base=about["fingerprint"],
        made_by=about["command"],
    ).write(folder / "dial.json")
    (folder / "dial_table.json").write_text(json.dumps({"about": about, **table}, indent=1) + "\n", encoding="utf-8")
    print("stored in", folder.name)


if __name__ == "__main__":
    main()
