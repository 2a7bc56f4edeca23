"""What a chapter says only because of an exercise, or of a page, that a path leaves out: sentences that are cut or put in other words."""

import re

from nbformat import NotebookNode

from lora_edu.course.classroom.roster import ClassroomError

# Exercise → what its chapter says of it outside the exercise's own cells, and what a path without it says instead.
OF_EXERCISES: dict[str, tuple[tuple[str, str], ...]] = {
    "01.2": (
        (
            "Exercise 01.2 teaches a layer one fact (“to x₁ say y₁”) without retraining, and every",
            "A change of rank 1 teaches a layer one fact (“to x₁ say y₁”) without retraining, and every",
        ),
    ),
    "01.4": ((" Now take one apart yourself, and cut it.", ""),),
    "02.1": (("Complete the loop. What happens when both start at zero you can try.", ""),),
    "03.1": (
        ("- write a LoRA layer in ten lines and test it against its laws;", "- read a LoRA layer of ten lines and test it against its laws;"),
        ("Try `laws(MyLoRALinear)` on your own. In a terminal:", "For a layer of your own, in a terminal:"),
    ),
    "04.3": ((" Write an audit that cannot be fooled.", ""), (" (try yours on `impostor()`)", "")),
    "07.1": ((" The right sum, B₁A₁ + B₂A₂, can be one adapter too. Write it.", " The right sum, B₁A₁ + B₂A₂, can be one adapter too."),),
    "07.2": ((" Guess first, then write the measure.", " Guess first."),),
}  # fmt: skip
# Chapter → the same for what no path has: its optional parts, and the pages that do not go along.
OF_ALL_PATHS: dict[str, tuple[tuple[str, str], ...]] = {
    "00": (
        (
            " Do you want to know at the end what the course taught you? Then answer [fifteen questions](inventory.ipynb) first; it is optional.",
            "",
        ),
        (
            "Few do: see “Your name is not learnt” at the end.",
            "Few do: run the cell that trains again, or choose another name.",
        ),
    ),
}
# Part of a chapter → goals that only a section that was left out reaches.
GOALS_OF_SECTIONS: dict[str, tuple[tuple[int, str], ...]] = {
    "01": (
        (5, "- take a matrix apart into directions, sorted by strength, and cut it to its r strongest ones with an error that you know beforehand;"),
        (6, "- tell from measured numbers whether a matrix is low-rank, and what r directions cost in bytes."),
    ),
    "03": ((8, "- find three classic bugs (no division by *r*, a loud start, a transposed product in the merge) by measuring."),),
}  # fmt: skip


def tidy(cells: list[NotebookNode], chapter: str, without: tuple[str, ...], sections: tuple[int, ...]) -> None:
    """Cut from a part's cells, in place, what speaks of something that is not in it. (A test finds the sentences in their chapters.)"""
    changes = [*OF_ALL_PATHS.get(chapter, ()), *(pair for exercise in without for pair in OF_EXERCISES.get(exercise, ()))]  # fmt: skip
    for old, new in changes:
        for cell in cells:
            cell.source = cell.source.replace(old, new)
    for section, goal in GOALS_OF_SECTIONS.get(chapter, ()):
        if sections and section not in sections:
            cells[0].source = cells[0].source.replace(f"\n{goal}", "")
    cells[:] = [cell for cell in cells if cell.source.strip()]


def with_minutes(header: str, minutes: float) -> str:
    """A chapter's header whose line of minutes is this part's.

    Raises:
        ClassroomError: the header has no such line.
    """
    made, count = re.subn(r"\*\*Minutes:\*\*[^.]*\.", f"**Minutes:** about {minutes:.0f} on this path.", header)
    if count != 1:
        raise ClassroomError("a chapter's first cell says its minutes once, as in **Minutes:** 60.")
    return made
