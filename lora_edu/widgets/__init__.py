"""One class a widget: it computes with the core, draws with `plots`, and leaves a picture behind."""

from lora_edu.widgets.base import Widget
from lora_edu.widgets.shapes import ShapesAndStarts

__all__ = ["ShapesAndStarts", "Widget"]
