"""Modern English → King James English: the demo. A style that the base model lacks and that everybody recognises."""

import re
from collections.abc import Sequence

from lora_edu.adapters.config import LoRAConfig
from lora_edu.data.rows import Row
from lora_edu.evaluation.metrics import Score, bleu, share
from lora_edu.tasks.base import Recipe, Task, stored
from lora_edu.training.config import TrainConfig

MODERN = re.compile(r"\b(you|your|yours|yourself|yourselves)\b", re.IGNORECASE)
ARCHAIC = re.compile(r"\b(thou|thee|thy|thine|thyself|ye)\b", re.IGNORECASE)


class KingJames(Task):
    """Verses that say "you" and whose King James side says "thou" or "ye": without that filter copying is nearly right."""

    name = "kjv"
    title = "Modern English → King James English"
    licence = "public domain (World English Bible; King James Version)"
    source = "verse pairs, cleaned and filtered by lora_edu/tasks/make/kjv.py"
    metric = "BLEU"
    max_new_tokens = 64
    test_rows = 400
    valid_rows = 200
    samples = (
        "You have a new message from your boss. Open it now.",
        "You forgot your umbrella, and it is going to rain.",
        "Do you know where your brother has hidden the biscuits?",
        "If you want to pass the exam, you must read your notes.",
    )
    recipe = Recipe(
        LoRAConfig(r=8, lora_alpha=16, target_modules="all-linear"),
        TrainConfig(learning_rate=1.5e-3, batch_size=4, max_steps=80, warmup_ratio=0.05),
    )

    def ask(self, text: str) -> str:
        return f"Rewrite in King James English: {text}"

    def rows(self) -> list[Row]:
        return [self.row(v["modern"], v["kjv"], reference=v["reference"]) for v in stored("kjv.jsonl")]

    def score(self, outputs: Sequence[str], rows: Sequence[Row]) -> dict[str, Score]:
        """BLEU against the verse, and the share of answers that say thou, thee, thy, thine or ye at all."""
        return {
            "BLEU": bleu(outputs, [row.answer for row in rows]),
            "archaic": share([bool(ARCHAIC.search(output)) for output in outputs]),
        }

    def baselines(self, rows: Sequence[Row]) -> dict[str, list[str]]:
        return {"copying": [row.meta["input"] for row in rows]}
