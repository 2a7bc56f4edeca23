"""What `advise` answers with: choices, each with its reason and its evidence. Chapter 09."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lora_edu.adapters.config import LoRAConfig
from lora_edu.experiments.evidence import Evidence
from lora_edu.tables import html_table
from lora_edu.training.config import TrainConfig
from lora_edu.training.memory.ledger import Ledger

HEAD = ("", "chosen", "why", "evidence", "how sure", "for a 7B")


@dataclass(frozen=True)
class Reasoned:
    """One choice: what, its value, why, what speaks for it, how sure that makes it, and what a 7B model would change."""

    what: str
    value: str
    why: str
    evidence: tuple[Evidence, ...]
    for_7b: str

    @property
    def sure(self) -> str:
        """In words, from the evidence alone."""
        told = [each for each in self.evidence if each.kind != "missing"]
        verdicts = [each for each in told if each.speaks != "open"]
        against = " Not all of it agrees." if any(each.speaks == "against" for each in told) else ""
        kinds = {each.kind for each in verdicts}
        if any(each.near for each in verdicts):
            return f"Measured here, on this task and model.{against}"
        if "stored" in kinds:
            return f"Measured here, on another task or model.{against}"
        if "counted" in kinds:
            return f"Counted.{against}"
        if "paper" in kinds:
            here = ", and without a verdict here" if any(each.kind == "stored" for each in told) else ", not here"
            return f"Measured elsewhere{here}.{against}"
        return "Not measured here."

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "what": self.what, "value": self.value, "why": self.why, "evidence": [each.to_dict() for each in self.evidence],
            "how sure": self.sure, "for a 7B": self.for_7b,
        }  # fmt: skip


@dataclass(frozen=True, repr=False)
class Advice:
    """What `advise` recommends. Prints as text, shows as a table.

    lora, train: configurations, ready for `inject` and `Trainer`. dtype: of the base's weights ("float32", "bfloat16"). ledger: of the
    largest micro-batch. choices: each with its reason and evidence.
    """

    lora: LoRAConfig
    train: TrainConfig
    dtype: str
    ledger: Ledger
    choices: tuple[Reasoned, ...]

    def __str__(self) -> str:
        blocks = []
        for each in self.choices:
            evidence = [f"    evidence: {said}" for said in each.evidence] or ["    evidence: none"]
            blocks.append(
                "\n".join(
                    [
                        f"{each.what}: {each.value}",
                        f"    why: {each.why}",
                        *evidence,
                        f"    how sure: {each.sure}",
                        f"    for a 7B: {each.for_7b}",
                    ]
                )
            )
        return "\n".join(blocks)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [
            (each.what, each.value, each.why, "; ".join(map(str, each.evidence)) or "none", each.sure, each.for_7b)
            for each in self.choices
        ]
        return html_table(HEAD, rows, "A configuration with its reasons")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "lora": self.lora.to_dict(), "train": self.train.to_dict(), "dtype": self.dtype, "ledger": self.ledger.to_dict(),
            "choices": [each.to_dict() for each in self.choices],
        }  # fmt: skip
