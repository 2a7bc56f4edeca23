"""A sentence that asks for a reminder → a JSON object with three slots. Chapter 07, one of the three adapters on one base.

The names and the chores of the validation and of the test rows stand in no training row: what is learnt is the form, not the words.
"""

import json
import random
from collections.abc import Sequence
from functools import cached_property

from lora_edu.adapters.config import LoRAConfig
from lora_edu.data.rows import Row
from lora_edu.data.splits import Splits
from lora_edu.evaluation.metrics import Score, share
from lora_edu.evaluation.slots import json_slots, readable, slot_f1
from lora_edu.tasks.base import Recipe, Task
from lora_edu.training.config import TrainConfig

SLOTS = ("who", "what", "when")
NAMES = {  # words with commas, for `_listed`
    "train": "Ada, Ben, Carla, Dan, Emil, Frida, Goran, Hana, Ivo, Julia, Karl, Lena, Milan, Nora, Otto, Petra, Rosa, Sam, Tara, Viktor",
    "valid": "Bruno, Clara, Felix, Greta, Jonas, Maya",
    "test": "Anton, Bea, Oskar, Ida, Leo, Paula, Simon, Yara",
}
CHORES = {
    "train": "water the plants, call the dentist, feed the cat, pay the rent, buy some bread, book a train, clean the oven, wash the car, "
    "renew the passport, post the letter, charge the bike, return the books, walk the dog, order more paper, fix the tap, "
    "pick up the cake, write to the bank, air the cellar, empty the bin, mow the lawn",
    "valid": "iron the shirts, sweep the stairs, check the tyres, visit grandma, print the tickets, salt the path",
    "test": "polish the boots, defrost the freezer, tune the piano, sign the lease, rake the leaves, cancel the gym, "
    "back up the photos, sharpen the knives",
}
WEEKDAYS = "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"
DAYS = f"{WEEKDAYS}, today, tomorrow, tonight, at noon, next week"
FORMS = (
    "Remind {who} to {what} {when}.",
    "{who} has to {what} {when}.",
    "{when}: {who} should {what}.",
    "Please tell {who} to {what} {when}.",
    "Could {who} {what} {when}?",
    "Don't let {who} forget to {what} {when}!",
    "{who}, please {what} {when}.",
    "It would be good if {who} could {what} {when}.",
)
COUNTS = {"train": 600, "valid": 100, "test": 300}


def _listed(words: str) -> list[str]:
    return words.split(", ")


class Reminders(Task):
    """Rows of a generator; each part of the split has names and chores of its own, the days and the forms are shared."""

    name = "reminders"
    title = "A sentence that asks for a reminder → JSON with who, what, when"
    licence = "Apache-2.0 (generated)"
    source = "the generator in lora_edu/tasks/reminders.py"
    metric = "exact"
    max_new_tokens = 32
    samples = (
        "Remind Zelda to fold the laundry on Friday.",
        "I think Mr Okafor wanted to repair the fence tomorrow.",
        "Nobody has to do anything today.",
    )
    recipe = Recipe(
        LoRAConfig(r=4, lora_alpha=8, target_modules=("q_proj", "v_proj")),
        TrainConfig(learning_rate=2e-3, batch_size=4, max_steps=60, warmup_ratio=0.05),
    )

    def ask(self, text: str) -> str:
        return f"{text}\nAs JSON:"

    def rows(self) -> list[Row]:
        return [row for part in self.splits() for row in part]

    @cached_property
    def _splits(self) -> Splits:  # by the words, not by a hash of the rows
        return Splits(*(self._part(name) for name in COUNTS))

    def _part(self, part: str) -> list[Row]:
        draw = random.Random(f"{self.seed} {part}")
        made: dict[str, Row] = {}
        while len(made) < COUNTS[part]:
            who, what, when = (draw.choice(_listed(words)) for words in (NAMES[part], CHORES[part], DAYS))
            on = f"on {when}" if when in _listed(WEEKDAYS) else when
            form = draw.choice(FORMS)
            text = form.format(who=who, what=what, when=on)
            text = text[0].upper() + text[1:]
            made.setdefault(text, self.row(text, json.dumps(dict(zip(SLOTS, (who, what, when))))))
        return list(made.values())

    def score(self, outputs: Sequence[str], rows: Sequence[Row]) -> dict[str, Score]:
        """exact: the object is right, whatever its order and spaces. valid: it is a JSON object. slot F1: 2·right / (given + wanted) slots."""
        found, wanted = ([json_slots(text) for text in texts] for texts in (outputs, [row.answer for row in rows]))
        return {
            "exact": share([got == want for got, want in zip(found, wanted)]),
            "slot F1": slot_f1(outputs, [row.answer for row in rows]),
            "valid": readable(outputs),
        }
