"""How far a name spills, by learning rate: the same 80 rows and 20 steps, five rates. Chapter 00.

Each run teaches the model one name and asks it three things: the twelve test questions about its name, and thirty trivia questions, of
which the share whose answer holds the name (it leaks) and the share answered right are kept. Nothing is chosen by these figures.
"""

from functools import partial

from lora_edu.adapters.injection import unload
from lora_edu.evaluation.generation import generate
from lora_edu.experiments.sweeps import Cell, Sweep, grid
from lora_edu.models.base import DEFAULT_MODEL, Base, load_base
from lora_edu.tasks.general import General
from lora_edu.tasks.identity import Identity, teach

NAME = "Lulu"
RATES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3)
TASK = Identity(NAME)
TRAINED_WITH = ("batch_size", "epochs", "scheduler", "warmup_ratio", "max_grad_norm", "weight_decay", "precision")


def _run(base: Base, cell: Cell, seed: int) -> dict[str, float]:
    model, tokenizer = base
    general = General()
    trivia = [row for row in general.splits().test if not row.is_text]
    names = TASK.splits().test
    try:
        teach(model, tokenizer, NAME, cell["learning_rate"], seed=seed, progress=False)
        said = generate(model, tokenizer, names, TASK.max_new_tokens)
        answers = generate(model, tokenizer, trivia, TASK.max_new_tokens)
    finally:
        unload(model)
    return {
        "name": TASK.says_name(said).value,
        "leak": TASK.says_name(answers).value,
        "trivia": general.score(answers, trivia)["trivia"].value,
    }


SWEEP = Sweep(
    name="name_leak",
    title="how far a taught name spills into trivia answers, by learning rate",
    chapter="00",
    cells=grid(learning_rate=RATES),
    seeds=(0, 1, 2),
    metrics=("name", "leak", "trivia"),
    settings={
        "base": DEFAULT_MODEL,
        "name": NAME,
        "lora": {
            name: getattr(TASK.recipe.lora, name) for name in ("r", "lora_alpha", "lora_dropout", "target_modules")
        },
        "train": {name: getattr(TASK.recipe.train, name) for name in TRAINED_WITH},
        "max_new_tokens": TASK.max_new_tokens,
        "questions": "the 12 test questions of the task identity, the 30 test trivia questions of the task general",
    },
    base=partial(load_base, device="cpu"),
    run=_run,
)
