"""Dates → ISO 8601: a task with one right answer, learnt from rows that a seeded generator writes."""

import datetime as dt
import random
from collections.abc import Sequence

from lora_edu.adapters.config import LoRAConfig
from lora_edu.data.rows import Row
from lora_edu.data.splits import Splits, split
from lora_edu.evaluation.metrics import Score, exact_match
from lora_edu.tasks.base import Recipe, Task
from lora_edu.training.config import TrainConfig

MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
FORMATS = (  # none is ambiguous: the month is always a word
    "{month} {day}, {year}",
    "{day} {month} {year}",
    "the {nth} of {month}, {year}",
    "{weekday}, {day} {month} {year}",
    "{short} {day} {year}",
    "{day}-{short}-{year}",
    "{year}, {month} {nth}",
)


def written(date: dt.date, form: str) -> str:
    """`date` as one of `FORMATS`."""
    ending = "th" if 10 < date.day < 20 else {1: "st", 2: "nd", 3: "rd"}.get(date.day % 10, "th")
    month = MONTHS[date.month - 1]
    return form.format(
        day=date.day,
        nth=f"{date.day}{ending}",
        month=month,
        short=month[:3],
        year=date.year,
        weekday=DAYS[date.weekday()],
    )


class IsoDates(Task):
    """800 different days from 1900 to 2099, each written once, in one of seven ways. Test rows come from the same generator."""

    name = "iso_dates"
    title = "A date in words → YYYY-MM-DD"
    licence = "Apache-2.0 (generated)"
    source = "the generator in lora_edu/tasks/iso_dates.py"
    metric = "exact match"
    max_new_tokens = 14
    samples = ("New Year's Day 2031", "the last day of February 2024", "4 July '76")
    recipe = Recipe(
        LoRAConfig(r=8, lora_alpha=16, target_modules="all-linear"),
        TrainConfig(learning_rate=1e-3, batch_size=4, epochs=1, warmup_ratio=0.05),
    )

    def ask(self, text: str) -> str:
        return f"Write this date as YYYY-MM-DD: {text}"

    def rows(self) -> list[Row]:
        draw = random.Random(self.seed)
        days = draw.sample(range(dt.date(1900, 1, 1).toordinal(), dt.date(2100, 1, 1).toordinal()), 800)
        return [
            self.row(written(date, draw.choice(FORMATS)), date.isoformat()) for date in map(dt.date.fromordinal, days)
        ]

    def _split(self, rows: Sequence[Row]) -> Splits:
        return split(
            rows, self.valid_rows, self.test_rows, self.seed, key=lambda row: row.answer
        )  # by the day, however written

    def score(self, outputs: Sequence[str], rows: Sequence[Row]) -> dict[str, Score]:
        return {"exact match": exact_match(outputs, [row.answer for row in rows])}

    def baselines(self, rows: Sequence[Row]) -> dict[str, list[str]]:
        return super().baselines(rows) | {"copying": [row.meta["input"] for row in rows]}
