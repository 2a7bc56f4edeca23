"""What a task is: rows that cannot leak, a way to score answers, what a model must beat, and a recipe that was measured."""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from lora_edu.adapters.config import LoRAConfig
from lora_edu.data.rows import Row
from lora_edu.data.splits import Splits, split
from lora_edu.evaluation.metrics import Score
from lora_edu.training.config import TrainConfig

FOLDER = Path(__file__).parent


class Recipe(NamedTuple):
    """The settings a task's score was measured with (benchmarks/results holds the scores)."""

    lora: LoRAConfig
    train: TrainConfig


class Task(ABC):
    """A data set with everything needed to train on it and to say honestly how well that went. Chapters 05 and 13.

    A new task is a subclass in a file of its own: the class variables, `rows` and `score`; `splits` and `baselines` have
    defaults. Then name it in `lora_edu/tasks/__init__.py`.
    """

    name: str
    title: str
    licence: ClassVar[str]
    source: ClassVar[str]
    metric: str  # the main one among the names that `score` returns
    recipe: Recipe
    max_new_tokens: int = 32
    system: ClassVar[str] = ""  # an empty system turn; recipes are measured with the one they use
    labels: tuple[str, ...] = ()  # of a classification task: scored by likelihood too
    samples: tuple[str, ...] = ()  # inputs far from the data, to see how far the skill reaches
    valid_rows: ClassVar[int] = 100
    test_rows: ClassVar[int] = 300
    seed: ClassVar[int] = 0

    @abstractmethod
    def rows(self) -> list[Row]:
        """Every row of the task."""

    @abstractmethod
    def score(self, outputs: Sequence[str], rows: Sequence[Row]) -> dict[str, Score]:
        """Metrics of the answers, by name; `metric` names the main one."""

    def ask(self, text: str) -> str:
        """The question that puts this task to the model, for one input."""
        return text

    def row(self, text: str, answer: str, **meta: Any) -> Row:
        """One row of this task; the bare input stays readable in `meta["input"]`."""
        return Row.chat(self.ask(text), answer, self.system, input=text, **meta)

    def splits(self) -> Splits:
        """Train, validation and test rows: always the same, and no input on two sides."""
        return self._splits

    @cached_property
    def _splits(self) -> Splits:
        return self._split(self.rows())

    def _split(self, rows: Sequence[Row]) -> Splits:
        return split(rows, self.valid_rows, self.test_rows, self.seed)

    def baselines(self, rows: Sequence[Row]) -> dict[str, list[str]]:
        """Answers that need no model, by name: the commonest training answer, unless a task knows better."""
        commonest = Counter(row.answer for row in self.splits().train).most_common(1)[0][0]
        return {"majority": [commonest] * len(rows)}

    def __repr__(self) -> str:
        return f"<task {self.name}: {self.title}>"


def stored(name: str) -> list[dict[str, Any]]:
    """The records of a .jsonl file that lies beside the tasks."""
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]
