"""The course's data sets. `get_task("kjv")`; a task is one short file, named once in `TASKS`."""

import inspect
from importlib import import_module
from typing import Any

from lora_edu.errors import DataError
from lora_edu.tasks.base import Recipe, Task

TASKS = {  # name: the class, in the module that has the task's name
    "identity": "Identity",
    "iso_dates": "IsoDates",
    "kjv": "KingJames",
    "sentiment": "Sentiment",
    "intents": "Intents",
    "reminders": "Reminders",
    "general": "General",
}


def get_task(name: str, /, **options: Any) -> Task:
    """The task of that name; options are the task's own (`get_task("identity", name="Lulu")`). Raises DataError otherwise."""
    if name not in TASKS:
        raise DataError(f"there is no task {name!r}; there are {', '.join(TASKS)}")
    task_class = getattr(import_module(f"{__name__}.{name}"), TASKS[name])
    unknown = set(options) - set(inspect.signature(task_class).parameters)
    if unknown:
        raise DataError(f"the task {name} has no option {', '.join(sorted(unknown))}")
    return task_class(**options)


__all__ = ["TASKS", "Recipe", "Task", "get_task"]
