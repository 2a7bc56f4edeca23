"""What somebody says to a smart home → one of ten intents. Chapter 07, one of the three adapters on one base."""

from collections.abc import Sequence

from lora_edu.adapters.config import LoRAConfig
from lora_edu.data.rows import Row
from lora_edu.data.splits import Splits, split
from lora_edu.evaluation.metrics import Score, accuracy, macro_f1
from lora_edu.tasks.base import Recipe, Task, stored
from lora_edu.training.config import TrainConfig

LABELS = {  # label: the package's intents that it stands for
    "turn on": ("HassTurnOn",),
    "turn off": ("HassTurnOff",),
    "light": ("HassLightSet",),
    "climate": ("HassClimateGetTemperature", "HassClimateSetTemperature", "HassClimateSetFanMode"),
    "volume": ("HassSetVolume", "HassSetVolumeRelative"),
    "media": ("HassMediaNext", "HassMediaPrevious", "HassMediaPause", "HassMediaUnpause", "HassMediaSearchAndPlay"),
    "start timer": ("HassStartTimer",),
    "change timer": ("HassIncreaseTimer", "HassDecreaseTimer"),
    "timer status": ("HassTimerStatus",),
    "question": ("HassGetState",),
}


class Intents(Task):
    """Sentences written out from a smart home's templates. The split goes by template: no template has rows on two sides."""

    name = "intents"
    title = "A sentence said to a smart home → its intent"
    licence = "Apache-2.0 (templates of home-assistant-intents; things and rooms are ours)"
    source = "templates of the package home-assistant-intents, written out by lora_edu/tasks/make/intents.py"
    metric = "accuracy"
    max_new_tokens = 5
    labels = tuple(LABELS)
    samples = (
        "could you make it a bit brighter in here",
        "how much longer until the eggs are done",
        "is the cellar door locked",
    )
    recipe = Recipe(
        LoRAConfig(r=4, lora_alpha=8, target_modules=("q_proj", "v_proj")),
        TrainConfig(learning_rate=5e-3, batch_size=4, max_steps=120, warmup_ratio=0.05),
    )

    def ask(self, text: str) -> str:
        return f"{text}\nWhich intent is this?"

    def rows(self) -> list[Row]:
        return [self.row(row["text"], row["intent"], template=row["template"]) for row in stored("intents.jsonl")]

    def _split(self, rows: Sequence[Row]) -> Splits:
        return split(rows, self.valid_rows, self.test_rows, self.seed, key=lambda row: row.meta["template"])

    def score(self, outputs: Sequence[str], rows: Sequence[Row]) -> dict[str, Score]:
        """Share of right labels, and macro F1: the mean over labels of 2·hits / (times said + times right)."""
        truth = [row.answer for row in rows]
        return {"accuracy": accuracy(outputs, truth), "macro F1": macro_f1(outputs, truth)}
