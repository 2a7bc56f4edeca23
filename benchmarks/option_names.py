"""The options of two trainers by their own names, read from their wheels without installing or running them.

    pip download --no-deps trl llamafactory --dest WHEELS
    python benchmarks/option_names.py WHEELS

They do not install beside this course's packages. Each option is a field of a dataclass, so the source is enough: it is parsed, not imported.
Stored in lora_edu/experiments/stored/option_names.json; chapter 15 holds its table of names against it. What both take over from transformers
(TrainingArguments) is not in it: transformers is installed, and read where it is needed.
"""

import argparse
import ast
import json
import zipfile
from datetime import UTC, datetime
from pathlib import Path

from lora_edu.experiments.stored_results import FOLDER
from lora_edu.files import write_whole

READ = {  # package → files whose dataclasses are options of a run
    "trl": ("trl/trainer/sft_config.py", "trl/trainer/base_config.py", "trl/trainer/model_config.py"),
    "llamafactory": tuple(f"llamafactory/hparams/{name}_args.py" for name in ("data", "finetuning", "model", "training")),
}  # fmt: skip


def options(source: str) -> list[str]:
    """The annotated fields of all classes of a file."""
    classes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    fields = [part.target for node in classes for part in node.body if isinstance(part, ast.AnnAssign)]
    return [field.id for field in fields if isinstance(field, ast.Name)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path)
    folder = parser.parse_args().wheels
    found = {}
    for package, files in READ.items():
        (wheel,) = folder.glob(f"{package}-*.whl")
        with zipfile.ZipFile(wheel) as opened:
            names = {name for file in files for name in options(opened.read(file).decode("utf-8"))}
        found[package] = {"version": wheel.name.split("-")[1], "options": sorted(names)}
        print(f"{package} {found[package]['version']}: {len(names)} options")
    about = {
        "command": "python benchmarks/option_names.py WHEELS",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    write_whole(FOLDER / "option_names.json", json.dumps({"about": about, "packages": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
