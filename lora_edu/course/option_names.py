"""One setting, four names: what a run's options are called here, in PEFT, in TRL and in LLaMA-Factory. Chapter 15.

The table is held against the packages themselves: PEFT's and transformers' options are read from what is installed, those of TRL and
LLaMA-Factory from a dated list (`benchmarks/option_names.py` makes it). A name that is in none of these lists is an error, in a test.
"""

import json
from typing import NamedTuple

from lora_edu.experiments.stored_results import FOLDER


class Setting(NamedTuple):
    """`means`, and the option's name in each place; "" where that place has no such option."""

    means: str
    here: str
    peft: str
    trl: str
    llamafactory: str


SETTINGS = (
    Setting("rank", "r", "r", "lora_r", "lora_rank"),
    Setting("α", "lora_alpha", "lora_alpha", "lora_alpha", "lora_alpha"),
    Setting("dropout", "lora_dropout", "lora_dropout", "lora_dropout", "lora_dropout"),
    Setting("which modules", "target_modules", "target_modules", "lora_target_modules", "lora_target"),
    Setting("trained in full", "modules_to_save", "modules_to_save", "lora_modules_to_save", "additional_target"),
    Setting("scale α/√r", "use_rslora", "use_rslora", "use_rslora", "use_rslora"),
    Setting("other ranks on some", "rank_pattern", "rank_pattern", "", ""),
    Setting("DoRA", "variant", "use_dora", "use_dora", "use_dora"),
    Setting("PiSSA", "variant", "init_lora_weights", "", "pissa_init"),
    Setting("LoRA+", "loraplus_lr_ratio", "", "", "loraplus_lr_ratio"),
    Setting("learning rate", "learning_rate", "", "learning_rate", "learning_rate"),
    Setting("rows at once", "batch_size", "", "per_device_train_batch_size", "per_device_train_batch_size"),
    Setting(
        "batches a step",
        "gradient_accumulation_steps",
        "",
        "gradient_accumulation_steps",
        "gradient_accumulation_steps",
    ),
    Setting("passes", "epochs", "", "num_train_epochs", "num_train_epochs"),
    Setting("schedule", "scheduler", "", "lr_scheduler_type", "lr_scheduler_type"),
    Setting("longest row", "max_length", "", "max_length", "cutoff_len"),
    Setting("base in four bits", "bits", "", "load_in_4bit", "quantization_bit"),
)


class Listed(NamedTuple):
    """A package's options as they were read: its version, the day, the names."""

    version: str
    date: str
    options: frozenset[str]


def listed(package: str) -> Listed:
    """The stored list of "trl" or "llamafactory". What these take from transformers' TrainingArguments is not in it."""
    content = json.loads((FOLDER / "option_names.json").read_text("utf-8"))
    found = content["packages"][package]
    return Listed(found["version"], content["about"]["date"], frozenset(found["options"]))
