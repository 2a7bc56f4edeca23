"""`advise` as a form: a model, a task, the memory and the rows, and a button (chapter 09)."""

from __future__ import annotations

from typing import Any

from lora_edu.course.card import SIGNS, Card, inline, panel
from lora_edu.errors import LoRAEduError
from lora_edu.experiments.advisor import advise
from lora_edu.experiments.reasons import Advice
from lora_edu.tasks import get_task

MODELS = ("smollm2-135m", "llama-3.2-1b", "llama-2-7b")
OWN = "rows of my own"
TASKS = ("iso_dates", "identity", "kjv", OWN)
MEMORIES = ("4 GB", "8 GB", "16 GB", "24 GB", "48 GB", "80 GB")
ROWS = (25, 50, 100, 200, 400, 1000, 5000, 20_000, 100_000)
TOKENS = (32, 64, 128, 256, 512, 1024)


class AdviceForm(Card):
    """Controls, a button, and the advice under it. Without a kernel: the advice for what the cell says.

    `advice` is what was recommended last; None where nothing fits.
    """

    def __init__(
        self, model: str = MODELS[0], task: str = TASKS[0], memory: str = "8 GB", rows: int = 400, tokens: int = 128
    ) -> None:
        self._asked = {"model": model, "task": task, "memory": memory, "rows": rows, "tokens": tokens}
        self.advice: Advice | None = None
        text, body = self._told(self._asked)
        super().__init__(text, body)

    def _told(self, asked: dict[str, Any]) -> tuple[str, str]:
        """The advice as text and as HTML; where there is none, why."""
        said = ", ".join(f"{name} {value}" for name, value in asked.items())
        task = None if asked["task"] == OWN else get_task(asked["task"])
        try:
            self.advice = advise(asked["model"], task, asked["memory"], asked["rows"], tokens=asked["tokens"])
        except LoRAEduError as error:
            self.advice = None
            return f"For {said}: {error}", f"{SIGNS['wrong']} For {inline(said)}: {inline(str(error))}"
        return f"For {said}:\n{self.advice}", f"For {inline(said)}:{self.advice._repr_html_()}"

    def form(self) -> Any:
        import ipywidgets as widgets

        from lora_edu.course import forms
        from lora_edu.widgets.base import choice

        def slider(said: str, options: tuple[Any, ...], value: Any) -> Any:
            shown = [(f"{each:,}" if isinstance(each, int) else each, each) for each in options]
            return widgets.SelectionSlider(options=shown, value=value, description=said)

        self.controls = {
            "model": choice("model", MODELS, self._asked["model"]),
            "task": choice("task", TASKS, self._asked["task"]),
            "memory": slider("memory", MEMORIES, self._asked["memory"]),
            "rows": slider("rows", ROWS, self._asked["rows"]),
            "tokens": slider("longest row", TOKENS, self._asked["tokens"]),
        }
        for control in self.controls.values():
            control.style.description_width = "initial"
        self.button = widgets.Button(description="Advise me")
        self.button.on_click(self._ask)
        self.answer = widgets.HTML(self.html)
        return forms.form(*self.controls.values(), self.button, self.answer)

    def _ask(self, _button: Any) -> None:
        self.answer.value = panel(f"{SIGNS['open']} Counting …")
        _, body = self._told({name: control.value for name, control in self.controls.items()})
        self.answer.value = panel(body, "note" if self.advice else "wrong")
