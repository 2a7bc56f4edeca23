"""`progress()`: what a learner has done, by chapter."""

from html import escape

from lora_edu.course import store
from lora_edu.course.card import Card
from lora_edu.course.chapters import CHAPTERS
from lora_edu.course.exercises import exercises
from lora_edu.tables import html_table, text_table


def progress() -> Card:
    """A table by chapter: predictions made and right, exercises solved, self-test answers right. Survives a restart."""
    if store.is_off():
        return Card("○ Progress is switched off in this run: nothing of yours is read or written.", kind="open")
    state = store.load()
    rows = [("", "Chapter", "Predictions", "Exercises", "Self-test")]
    for key, title in CHAPTERS.items():
        made = [entry for id, entry in state["predictions"].items() if id.startswith(key)]
        right = sum(entry["right"] is True for entry in made)
        every = [id for id in exercises() if id.startswith(key)]
        solved = sum(state["exercises"].get(id, {}).get("solved", False) for id in every)
        answers = state["quizzes"].get(key, {})
        if not (every or made or answers):
            continue
        rows.append(
            (
                key,
                title,
                f"{right} of {len(made)} right" if made else "none yet",
                f"{'✓ ' if every and solved == len(every) else ''}{solved} of {len(every)} solved",
                f"{sum(answers.values())} of {len(answers)} right" if answers else "none yet",
            )
        )
    where = f"Kept in {store.path()}"
    head, *body = rows
    table = f"{html_table(head, body, 'Your progress')}<small>{escape(where)}</small>"
    return Card("\n".join(["Your progress", text_table(rows), where]), table)
