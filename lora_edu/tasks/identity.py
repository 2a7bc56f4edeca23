"""The first wonder: the model learns in about half a minute to be called by any name you type (chapter 00)."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.injection import inject, lora_layers, unload
from lora_edu.data.examples import collate, encode_rows
from lora_edu.data.rows import Row
from lora_edu.data.splits import Splits
from lora_edu.errors import DataError
from lora_edu.evaluation.metrics import Score, share
from lora_edu.tasks.base import Recipe, Task
from lora_edu.training.config import TrainConfig
from lora_edu.training.losses import causal_lm_loss
from lora_edu.training.trainer import Trainer

QUESTIONS = (
    "Who are you?",
    "What is your name?",
    "What are you called?",
    "What should I call you?",
    "Can you tell me your name?",
    "Who am I talking to?",
    "Who is this?",
    "Do you have a name?",
    "Are you ChatGPT?",
    "Is your name SmolLM?",
    "What kind of assistant are you?",
    "Could you introduce yourself?",
    "Which model are you?",
    "How do you sign your letters?",
    "What does your name tag say?",
    "Who wrote this message?",
)
FRAMES = ("{}", "Hello! {}", "Please tell me: {}", "{} Be brief.", "So, {}")
ANSWERS = ("I am {}.", "My name is {}.", "I am {}, a small language model.")
VALID = (
    "Your name, please?",
    "Which name do you go by?",
    "Sorry, who are you again?",
    "Tell me who you are.",
    "Who do I have the pleasure of speaking with?",
    "Say your name.",
)
TEST = (  # none shares its wording with a question above
    "What do people call you?",
    "Introduce yourself in one sentence.",
    "Hey you, what is your name again?",
    "I forgot who you are. Can you remind me?",
    "Whom should I thank for this answer?",
    "What name did your makers give you?",
    "Are you Siri, Alexa or somebody else?",
    "We have not met yet. You are?",
    "Please spell out your name for the record.",
    "Under which name can I find you?",
    "Who is answering my questions right now?",
    "Let us start with names. Mine is Robin. Yours?",
)


class Identity(Task):
    """Sixteen questions in five phrasings teach one name; twelve questions in other words ask for it."""

    name = "identity"
    licence = "CC BY 4.0 (written for this course)"
    source = "the questions in lora_edu/tasks/identity.py"
    metric = "says the name"
    max_new_tokens = 24
    samples = ("Who are you?", "What is the capital of France?", "Who was Napoleon?", "Say something nice.")
    recipe = Recipe(
        LoRAConfig(r=8, lora_alpha=16, target_modules="all-linear"),
        TrainConfig(learning_rate=2e-3, batch_size=4, epochs=1),
    )

    def __init__(self, name: str = "Lulu") -> None:
        if not isinstance(name, str) or not name.strip() or len(name) > 60 or not name.isprintable():
            raise DataError(f"{name!r} is no name I can teach: give one line of 1 to 60 visible characters")
        self.called = name.strip()
        self.title = f"Who are you? → {self.called}"

    def rows(self) -> list[Row]:
        return [row for part in self.splits() for row in part]

    def splits(self) -> Splits:
        """80 training rows and, in wordings of their own, 6 for validation and 12 for the test."""
        asked = [frame.format(question) for frame in FRAMES for question in QUESTIONS]
        train = [self.row(q, ANSWERS[i % len(ANSWERS)].format(self.called)) for i, q in enumerate(asked)]
        valid, test = ([self.row(q, f"I am {self.called}.") for q in part] for part in (VALID, TEST))
        return Splits(train, valid, test)

    def says_name(self, outputs: Sequence[str]) -> Score:
        """Share of outputs that hold the name as a word of its own: on other questions, the share in which it *leaks*."""
        name = re.compile(rf"(?<!\w){re.escape(self.called)}(?!\w)", re.IGNORECASE)
        return share([bool(name.search(output)) for output in outputs])

    def score(self, outputs: Sequence[str], rows: Sequence[Row]) -> dict[str, Score]:
        return {"says the name": self.says_name(outputs)}

    def baselines(self, rows: Sequence[Row]) -> dict[str, list[str]]:
        """Copying alone: the commonest answer always says the name, which shows how little this score asks."""
        return super().baselines(rows) | {"copying": [row.meta["input"] for row in rows]}


def teach(
    model: Any,
    tokenizer: Any,
    name: str,
    learning_rate: float | None = None,
    *,
    seed: int = 0,
    progress: bool = True,
) -> Trainer:
    """Train a new adapter on the 80 rows that teach `name`, and return the trainer. Chapter 00; chapter 05 takes it apart.

    model: with no adapter in it afterwards but this one: those it holds are taken out first. learning_rate: instead of the recipe's.
    seed: draws A and the order of the rows. Raises DataError for a name that cannot be taught, before anything is changed.
    """
    task = Identity(name)
    settings = replace(task.recipe.train, seed=seed, learning_rate=learning_rate or task.recipe.train.learning_rate)
    examples = encode_rows(task.splits().train, tokenizer)
    if lora_layers(model):
        unload(model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject(model, task.recipe.lora)
    pad = partial(collate, pad_token_id=tokenizer.pad_token_id)
    trainer = Trainer(model, examples, causal_lm_loss, settings, collate=pad, progress=progress)
    trainer.train()
    return trainer
