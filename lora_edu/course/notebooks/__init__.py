"""The chapters as files: executed and cleaned for the repository, copied fresh for a learner, written as HTML, guarded by rules.

`python -m lora_edu.course.notebooks execute | fresh | render | guard | overrides` is what `make notebooks` and `make fresh` call.
"""

from lora_edu.course.notebooks.files import chapters, clean, execute, install_overrides
from lora_edu.course.notebooks.guard import guard
from lora_edu.course.notebooks.learner import Copies, copy_course, fresh
from lora_edu.course.notebooks.pages import render

__all__ = ["Copies", "chapters", "clean", "copy_course", "execute", "fresh", "guard", "install_overrides", "render"]
