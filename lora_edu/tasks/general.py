"""General knowledge and prose: what a narrow run spills into and forgets (chapter 00), and what replay keeps (chapter 13)."""

from collections.abc import Sequence

from lora_edu.adapters.config import LoRAConfig
from lora_edu.data.rows import Row
from lora_edu.data.splits import Splits, split
from lora_edu.evaluation.metrics import Score, contains
from lora_edu.tasks.base import Recipe, Task, stored
from lora_edu.training.config import TrainConfig


class General(Task):
    """Trivia questions with accepted answers, and short passages. Settings are chosen on the validation rows, the test rows measure forgetting once, the
    train rows are for replay.

    `evaluate(model, tokenizer, get_task("general"))` is the measure: share of trivia answered, and perplexity of the passages.
    Nobody trains on this alone: its recipe is a cautious default that was not measured.
    """

    name = "general"
    title = "Trivia and plain prose: what must not be forgotten"
    licence = "CC BY 4.0 (written for this course)"
    source = "general_trivia.jsonl and general_passages.jsonl beside the tasks"
    metric = "trivia"
    max_new_tokens = 32
    recipe = Recipe(
        LoRAConfig(r=8, lora_alpha=16, target_modules="all-linear"),
        TrainConfig(learning_rate=3e-4, batch_size=4, epochs=1, warmup_ratio=0.05),
    )

    def rows(self) -> list[Row]:
        trivia = [self.row(t["question"], t["answer"], accepted=t["accepted"]) for t in stored("general_trivia.jsonl")]
        return trivia + [Row.text(p["text"], topic=p["topic"]) for p in stored("general_passages.jsonl")]

    def _split(self, rows: Sequence[Row]) -> Splits:
        """Trivia and passages each apart, so that every part holds both."""
        trivia = split([row for row in rows if not row.is_text], valid=12, test=30, seed=self.seed)
        passages = split([row for row in rows if row.is_text], valid=14, test=16, seed=self.seed)
        return Splits(*(a + b for a, b in zip(trivia, passages)))

    def score(self, outputs: Sequence[str], rows: Sequence[Row]) -> dict[str, Score]:
        return {"trivia": contains(outputs, [row.meta["accepted"] for row in rows])}
