"""What a notebook says to its reader: predictions, exercises with checks, hints, self-tests, progress, and the laws as a runner.

How to add to it:
1. Prediction: `predict("07-merge", "Question?", ["option", …])` (or `unit="ms"` for a number), the measuring cell, then
   `reveal("07-merge", measured, misconceptions={"option": "sentence"}, because="sentence")`. The id starts with the chapter.
2. Exercise: in `checks/chNN.py` a function under `@register("NN.1", title, stars, minutes, task, wants, shows, hints)` that gets what
   the learner wrote, calls it with `attempt(function, *inputs)` on inputs from `generator()`, and raises `Wrong(bug, detail)`.
3. Prove it: `tests/course/answers_NN.py` holds the solution, the stub and four or more planted bugs with the bug's name each.
4. Self-test: `quizzes/chNN.py` with `QUIZ = Quiz(key, title, items, revisit)`; `revisit` names two questions of earlier chapters.
   What the whole course is about is asked twice, before 00 and after 17: `concepts.py`, shown by `inventory("before")` and `("after")`.
5. A law: a generator of findings in `lawbook/`, listed in `lawbook/runner.py`, and a layer that breaks it in `tests/wrong_layers/`.
6. In the notebook each call is its cell's last value: `exercise("NN.1")`, the stub, `check("NN.1", answer)`, `hint("NN.1")`, `quiz("NN")`.
"""

from lora_edu.course.exercises import check, exercise, hint
from lora_edu.course.lawbook.runner import laws, run_laws
from lora_edu.course.predictions import predict, reveal
from lora_edu.course.progress_table import progress
from lora_edu.course.selftest import quiz
from lora_edu.course.sittings import inventory
from lora_edu.course.store import forget

__all__ = ["check", "exercise", "forget", "hint", "inventory", "laws", "predict", "progress", "quiz", "reveal", "run_laws"]  # fmt: skip
