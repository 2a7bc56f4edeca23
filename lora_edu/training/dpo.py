"""Direct preference optimisation: from pairs "this answer rather than that one", the reference model being the adapter switched off.

Optional end of chapter 13. Source: Rafailov et al. 2023, arXiv:2305.18290, equation 7.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.adapters.switching import disabled
from lora_edu.data.examples import IGNORE, Example, collate, encode
from lora_edu.data.rows import Row
from lora_edu.errors import DataError
from lora_edu.models.modules import modes, unwrap
from lora_edu.training.losses import wide
from lora_edu.training.run import LossSum


class Preference(NamedTuple):
    """One question with the answer that was preferred and the one that was not."""

    chosen: Example
    rejected: Example


def encode_preferences(
    pairs: Iterable[tuple[str, str, str]], tokenizer: Any, max_length: int = 512, system: str | None = ""
) -> list[Preference]:
    """(question, better answer, worse answer) as tokens. Raises DataError, with the pair's number, for a pair of equal answers, and as `encode` does."""
    made = []
    for number, (question, better, worse) in enumerate(pairs, 1):
        try:
            two = [encode(Row.chat(question, answer, system), tokenizer, max_length) for answer in (better, worse)]
        except DataError as error:
            raise DataError(f"pair {number}: {error}") from error
        if two[0] == two[1]:
            raise DataError(f"pair {number}: both answers are the same, so there is nothing to prefer: leave it out")
        made.append(Preference(*two))
    return made


def collate_preferences(preferences: Sequence[Preference], pad_token_id: int) -> dict[str, Tensor]:
    """One batch (2B, T) as `collate` makes it: the B chosen answers, then the B rejected ones."""
    chosen, rejected = zip(*preferences)
    return collate([*chosen, *rejected], pad_token_id)


def dpo_loss(model: nn.Module, batch: Mapping[str, Tensor], beta: float = 0.1) -> LossSum:
    """−log σ(β·[log π/π₀ (chosen) − log π/π₀ (rejected)]), summed over the pairs; π₀ is the model with its adapter off (law 9).

    So no second model is held. Untrained (ΔW = 0) it is log 2 a pair. `partial(dpo_loss, beta=…)` is a `loss_fn` for the Trainer. The
    loss sees only *differences*: both answers may become less likely together, so measure what else changed. Raises AdapterError where
    the base itself trains: then there is no reference left to switch to.
    """
    with torch.no_grad(), modes(model, training=False), disabled(unwrap(model)):
        reference = _answer_log_probs(model, batch)  # (2B,)
    moved = _answer_log_probs(model, batch) - reference
    chosen, rejected = moved.chunk(2)  # (B,) each
    return LossSum(-F.logsigmoid(beta * (chosen - rejected)).sum(), len(chosen))


def _answer_log_probs(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The log-probability of each row's answer: the sum over its tokens. (2B,)"""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]  # (2B, T−1, V)
    targets = batch["labels"][:, 1:]
    losses = F.cross_entropy(
        logits.to(wide(logits.dtype)).transpose(1, 2), targets, ignore_index=IGNORE, reduction="none"
    )
    return -losses.sum(dim=1)
