"""How far an export is from the model that it was made of: loss, KL divergence and agreement on the same text. Chapter 15.

"It answers well" is no test of a file: a wrong scale answers well. So the two next-token distributions are compared token by token on
text that neither has trained on, against bounds that were written down first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lora_edu.data.examples import IGNORE, Example
from lora_edu.errors import ExportError
from lora_edu.evaluation.metrics import Interval, Score, paired_bootstrap
from lora_edu.models.modules import modes, unwrap
from lora_edu.serving.llama_cpp import LlamaCpp


class Tolerance(NamedTuple):
    """Bounds: of the mean loss difference either way and of the mean KL, in nats a token; of the share of tokens with the same favourite."""

    loss: float
    kl: float
    agreement: float


# Stated before anything was measured: float32 may round sums in another order, float16 has eleven bits, and of eight and four bits it is
# asked only that the damage stays far below what an adapter does. llama.cpp adds probabilities up in float32: its log p are off by 2e-4.
TOLERANCES = {
    "peft": Tolerance(1e-4, 1e-5, 0.99),
    "portable": Tolerance(1e-4, 1e-5, 0.99),
    "merged": Tolerance(1e-4, 1e-5, 0.99),
    "f32": Tolerance(1e-3, 1e-4, 0.99),
    "f16": Tolerance(5e-3, 1e-3, 0.98),
    "q8_0": Tolerance(0.02, 5e-3, 0.95),
    "q4_0": Tolerance(0.3, 0.2, 0.70),
}
_TOP = 200  # so many of the other's likeliest tokens are told apart; the rest counts as one


class Passage(NamedTuple):
    """Tokens of a text; `start` is the first that is predicted, at least 1."""

    ids: Sequence[int]
    start: int = 1

    @classmethod
    def of(cls, example: Example) -> "Passage":
        """A row as it is trained on: its answer is predicted."""
        return cls(example.input_ids, max(1, next(i for i, label in enumerate(example.labels) if label != IGNORE)))


@dataclass(frozen=True)
class Distance:
    """Theirs against ours on the same `tokens` tokens. `loss`: mean difference, theirs − ours, passages redrawn for its interval."""

    tokens: int
    loss: Interval
    kl: float  # of ours from theirs, at least this much: theirs is known for its likeliest tokens, and the rest as one
    agreement: float

    def within(self, bounds: Tolerance) -> bool:
        """Whether all three keep the bounds."""
        return abs(self.loss.value) <= bounds.loss and self.kl <= bounds.kl and self.agreement >= bounds.agreement

    def __str__(self) -> str:
        low, high = self.loss.low, self.loss.high
        return (
            f"loss {self.loss.value:+.2g} [{low:+.2g}, {high:+.2g}] nats a token, KL {self.kl:.2g}, the same favourite at "
            f"{self.agreement:.1%} of {self.tokens} tokens"
        )


def compared(ours: nn.Module, theirs: nn.Module | LlamaCpp, passages: Sequence[Passage], top: int = _TOP) -> Distance:
    """Two next-token distributions on the same text: ours by torch, theirs by torch or by llama.cpp. Chapter 15.

    KL(ours ‖ theirs) is taken over their `top` likeliest tokens and one heap of all others, which can only make it smaller.
    Raises ExportError where there is nothing to predict.
    """
    if not passages or any(not 1 <= passage.start < len(passage.ids) for passage in passages):
        raise ExportError(
            "a passage needs a token to predict and one before it (start of at least 1, below its length)"
        )
    nats, kls, same = [], [], []
    for passage in passages:
        p = _log_probabilities(ours, passage)  # (n, V)
        targets = torch.tensor(list(passage.ids[passage.start :]))  # (n,)
        theirs_target, ids, q = _seen(theirs, passage, targets, min(top, p.shape[1]))  # (n,), (n, k), (n, k)
        mine = -p.gather(1, targets[:, None])[:, 0]
        nats.append([float(mine.sum()), float(-theirs_target.sum()), len(targets)])
        kls.append(_kl(p.gather(1, ids), q))
        same.append(p.argmax(1) == ids[:, 0])
    sums = np.array(nats)  # (passages, 3): our nats, theirs, tokens

    def a_token(values: np.ndarray) -> float:
        return float(values[:, 0].sum() / values[:, 1].sum())

    loss, _ = paired_bootstrap(Score(sums[:, [0, 2]], a_token), Score(sums[:, [1, 2]], a_token))
    return Distance(int(sums[:, 2].sum()), loss, float(torch.cat(kls).mean()), float(torch.cat(same).float().mean()))


@torch.no_grad()
def _log_probabilities(model: nn.Module, passage: Passage) -> Tensor:
    """log p of every token at each place from `start` on (n, V), float64."""
    inner: Any = unwrap(model)
    with modes(inner, training=False):
        logits = inner(torch.tensor([list(passage.ids)], device=inner.device)).logits[0, passage.start - 1 : -1]
    return logits.double().cpu().log_softmax(-1)


def _seen(theirs: nn.Module | LlamaCpp, passage: Passage, targets: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """log q of the tokens that came (n,), the `top` likeliest (n, k) and their log q (n, k)."""
    if isinstance(theirs, LlamaCpp):
        found = [
            theirs.next_logprobs(passage.ids[:at], passage.ids[at], top)
            for at in range(passage.start, len(passage.ids))
        ]
        pairs = torch.tensor([likeliest for _, likeliest in found], dtype=torch.float64)  # (n, k, 2)
        return torch.tensor([target for target, _ in found], dtype=torch.float64), pairs[..., 0].long(), pairs[..., 1]
    q = _log_probabilities(theirs, passage)
    values, ids = q.topk(top, dim=1)
    return q.gather(1, targets[:, None])[:, 0], ids, values


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """Σ p log(p/q) over k tokens and the heap of all others (n,), from log p and log q (n, k)."""
    p, q = p.exp(), q.exp()
    q = q / q.sum(1, keepdim=True).clamp(min=1)  # sums of rounded numbers may pass 1
    heap_p, heap_q = ((1 - each.sum(1)).clamp(min=1e-9) for each in (p, q))
    return (p * (p.clamp(min=1e-30) / q).log()).sum(1) + heap_p * (heap_p / heap_q).log()
