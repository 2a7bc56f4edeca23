"""What each of N cards holds under DDP and under FSDP: the figures of chapter 14's planner, all from the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.training.memory.ledger import Ledger, predict_memory, sharded, sketch

CARDS = (1, 2, 4, 8, 16, 32, 64)
WAYS = ("DDP", "FSDP")
TRAINS = {"full": ("full fine-tuning", None), "lora": ("LoRA, r = 8", LoRAConfig(r=8))}
Shares = Mapping[str, tuple["Share", ...]]  # by way of sharing, a card's share for each number of CARDS


@dataclass(frozen=True)
class Share:
    """Bytes on one of `cards` cards, by part: the ledger's four, and what is `gathered`. It takes `rows` of the step, some `at_once`."""

    cards: int
    rows: int
    at_once: int
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def copied(self) -> int:
        """What does not depend on rows."""
        return self.total - self.parts["activations"]


@cache
def _sketched(shape: str, trains: str) -> nn.Module:
    return sketch(shape, TRAINS[trains][1], torch.bfloat16)


@cache
def _whole(shape: str, trains: str, seq_len: int, checkpointing: bool) -> tuple[Ledger, int]:
    """The ledger of one row in one process, and the bytes of activations that each further row adds."""
    model = _sketched(shape, trains)
    one, two = (predict_memory(model, rows, seq_len, gradient_checkpointing=checkpointing) for rows in (1, 2))
    return one, two.activations - one.activations


@cache
def _split(shape: str, trains: str, seq_len: int, cards: int) -> Ledger:
    """FSDP's ledger of one row; of it, activations depend on checkpointing and are not looked at."""
    return sharded(_whole(shape, trains, seq_len, True)[0], _sketched(shape, trains), cards)


@cache
def shares(
    shape: str, trains: str, batch_size: int, seq_len: int, checkpointing: bool, at_once: int | None = None
) -> Shares:
    """What each card holds, for every number of CARDS. One card alone has nobody to share with.

    shape: a name in `memory.SHAPES`, its weights in bf16. trains: a key of TRAINS. batch_size: rows of `seq_len` tokens a step, on all
    cards together. at_once: of a card's rows so many go through it together; None: all. AdamW's means are fp32, as in the chapter.
    """
    one, each = _whole(shape, trains, seq_len, checkpointing)
    alone = _split(shape, trains, seq_len, 1)  # one process keeps all it has: what is above that is gathered
    number = next(p.element_size() for p in _sketched(shape, trains).parameters() if p.requires_grad)
    fp32 = 4 // number  # the ledger counts AdamW's means as wide as what trains

    def share(cards: int, ledger: Ledger, weights: int, gradients: int) -> Share:
        rows = batch_size // cards
        together = rows if at_once is None else min(rows, at_once)
        entries = ledger.entries() | {
            "weights": ledger.weights - weights,
            "gradients": ledger.gradients - gradients,
            "optimizer": fp32 * ledger.optimizer,
            "activations": one.activations + (together - 1) * each,
            "gathered": weights + gradients,
        }
        return Share(cards, rows, together, entries)

    extra = (alone.weights - one.weights, alone.gradients - one.gradients)
    copied = tuple(share(cards, one, 0, 0) for cards in CARDS)
    split = tuple(share(cards, _split(shape, trains, seq_len, cards), *extra) for cards in CARDS[1:])
    return {"DDP": copied, "FSDP": (copied[0], *split)}
