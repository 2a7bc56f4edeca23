"""A kit of chapter 17 from its raw text to its report, as a learner would go through it: `python benchmarks/capstone.py languages`.

Rows without an answer are left out (a learner labels them), the decision is left to the reader, and the sheets are as they come. One seed.
Writes benchmarks/results/capstone_KIT.json. About five minutes on one idle core.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lora_edu.cli.project import graded
from lora_edu.course.kits import raw_rows, start_kit
from lora_edu.data import Row, mask_personal, normalise, split

RESULTS = Path(__file__).parent / "results"
PARTS = {"extractor": (30, 60)}  # validation and test rows: of eight sources shares might leave nothing


def prepare(kit: str, folder: Path) -> None:
    """Steps 3 to 5 of the protocol: doubles, personal data, a split by source."""
    seen, rows = set(), []
    for raw in raw_rows(kit):
        text = mask_personal(raw["text"]).strip()
        if raw["answer"] and normalise(text) not in seen:
            seen.add(normalise(text))
            rows.append(Row.chat(text, raw["answer"], source=raw["source"]))
    for name, part in split(rows, *PARTS.get(kit, (0.15, 0.25)), key=lambda row: row.meta["source"])._asdict().items():
        lines = [{"prompt": r.messages[1]["content"], "completion": r.answer, "source": r.meta["source"]} for r in part]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")


def main(kit: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / kit
        start_kit(kit, folder)
        prepare(kit, folder)
        evaluated = "eval adapter --data test.jsonl --against-base --general --report answers.html --out eval.json"
        seconds = {}
        for command in ("train --config config.yaml", evaluated):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "lora_edu", *command.split()], cwd=folder, check=True)
            seconds[command.split()[0]] = round(time.perf_counter() - began)
        found = graded(folder)
        measured = json.loads((folder / "eval.json").read_text("utf-8"))
        for model in measured["models"].values():
            for score in model["scores"].values():
                del score["values"]
        kept = {
            "kit": kit,
            "command": f"python benchmarks/capstone.py {kit}",
            "seed": 0,
            "seconds": seconds,
            "measured": measured,
            "without a model": {name: each._asdict() for name, each in next(iter(found.intervals.values())).items()},
            "graded": [[item.name, item.status, item.said] for item in found.items],
        }
        (RESULTS / f"capstone_{kit}.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", "utf-8")
        print(found)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "languages")
