"""One budget in bytes, and what each way to fine-tune buys for it on the default model. Chapter 12."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.neighbours.attaching import trainable_count
from lora_edu.adapters.neighbours.bottleneck import Bottleneck
from lora_edu.adapters.neighbours.ia3 import IA3
from lora_edu.adapters.neighbours.in_place import BitFit, FullFineTuning
from lora_edu.adapters.neighbours.prefix import PrefixTuning
from lora_edu.adapters.neighbours.prompt import PromptTuning
from lora_edu.training.memory.ledger import sketch

SHAPE, BYTES = "smollm2-135m", 4  # of a number, in fp32
CONTEXT = 8192  # positions of the default model: more virtual tokens than that leave no room for a text


@dataclass(frozen=True)
class Way:
    """A way to spend: `make(size)` is the method of that size (None: it has one size only, and costs what it costs)."""

    name: str
    make: Callable[[int], Any]
    unit: str | None = None  # what a size counts: "rank", "tokens", "width"
    largest: int = 1
    measured: dict[int, str] = field(default_factory=dict)  # {size: the method of the sweep `neighbours`}

    def numbers(self, size: int) -> int:
        """How many numbers it trains at that size; 0 for none."""
        first, each = _prices(self.name)
        return first + (size - 1) * each if size else 0

    def bought(self, budget: float) -> int:
        """The largest size whose numbers take at most `budget` bytes; 0: none does."""
        first, each = _prices(self.name)
        spare = budget // BYTES - first
        return 0 if spare < 0 else min(1 + int(spare // each) if each else 1, self.largest)

    def words(self, size: int) -> str:
        """ "5 tokens", "r = 8", "as it is"."""
        if self.unit is None:
            return "as it is"
        if self.unit == "tokens":
            return f"{size:,} token{'s' if size > 1 else ''}"
        return f"{self.unit} = {size:,}"


def _lora(*targets: str) -> Callable[[int], LoRAConfig]:
    return lambda r: LoRAConfig(r=r, lora_alpha=2 * r, target_modules=targets or "all-linear")


WAYS = (
    Way("LoRA on q and v", _lora("q_proj", "v_proj"), "r", 192, {1: "LoRA, r = 1, q and v"}),
    Way("LoRA, all-linear", _lora(), "r", 192, {8: "LoRA, r = 8, all-linear"}),
    Way("IA³", lambda _: IA3(), measured={1: "IA³"}),
    Way("prefix", PrefixTuning, "tokens", CONTEXT, {5: "prefix, 5 tokens"}),
    Way("prompt", PromptTuning, "tokens", CONTEXT, {20: "prompt, 20 tokens"}),
    Way("bottleneck", lambda m: Bottleneck(m=m, place="pfeiffer"), "m", 576, {1: "bottleneck, m = 1"}),
    Way("norms' weights", lambda _: BitFit(norms=True)),
    Way("full fine-tuning", lambda _: FullFineTuning(), measured={1: "full fine-tuning"}),
)  # ranks end where the smallest matrix, of 192 outputs, is full; wider than the hidden state nothing is a bottleneck


@cache
def _prices(name: str) -> tuple[int, int]:
    """(numbers at size 1, numbers that each size more adds); every formula is linear in its size."""
    way, model = next(way for way in WAYS if way.name == name), sketch(SHAPE)
    first = trainable_count(model, way.make(1))
    return first, trainable_count(model, way.make(2)) - first if way.unit else 0
