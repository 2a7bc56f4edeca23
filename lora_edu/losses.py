"""The causal language-model loss, computed only where an answer token is predicted. Chapter 05.

The labels stand at the positions of their own tokens and are not shifted; the shift by one happens here, once. A loss is handed on
as a *sum* and a *count*, never as a mean: the mean of two means is not the mean of all tokens, and gradient accumulation over
micro-batches of unequal length goes wrong exactly there.
"""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORE = -100  # the label of a token that is not learnt (PyTorch's default `ignore_index`)


class LossSum(NamedTuple):
    """A loss summed over `count` answer tokens, in nats. `total` is a scalar tensor that carries the graph."""

    total: Tensor
    count: int  # type: ignore[assignment]  # tuple has a method of this name, which nobody calls on a LossSum

    @property
    def mean(self) -> float:
        """Nats per answer token; NaN when there is none."""
        return self.total.item() / self.count if self.count else float("nan")


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside a wrapper that only distributes it (DistributedDataParallel, DataParallel)."""
    while isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        model = model.module
    return model


def forward_takes(model: nn.Module, argument: str) -> bool:
    """Whether the model's forward has an argument of that name (`logits_to_keep`: most decoders of transformers 5 do)."""
    return argument in inspect.signature(unwrap(model).forward).parameters


def causal_lm_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> LossSum:
    """Cross-entropy of the answer tokens, summed. Chapter 05.

    `batch` holds `input_ids` and `labels` (B, T), the labels unshifted and -100 where nothing is learnt, and usually an
    `attention_mask` (B, T). The token at position t is predicted at t − 1, so the model is asked for logits at those positions
    alone: the union over the batch, as an index tensor, through its own forward (calling `lm_head` by hand would skip what some
    models do to their logits). A model whose forward cannot do that returns all logits, and the same ones are picked.

    Returns `LossSum(total, count)`; with no answer token in the batch that is (0, 0), still attached to the graph.
    """
    labels = batch["labels"]
    targets = labels[:, 1:]  # (B, T−1): what position t has to say
    answer = targets != IGNORE
    keep = answer.any(dim=0).nonzero().flatten()  # (K,): positions where at least one row predicts an answer token
    if keep.numel() == 0:
        keep = keep.new_zeros(1)  # one position, all of it masked: the graph stays whole and the sum is zero
    inputs: dict[str, Any] = {name: value for name, value in batch.items() if name != "labels"}
    if forward_takes(model, "use_cache"):
        inputs["use_cache"] = False  # a key-value cache serves generation; here it only copies every key and value
    if forward_takes(model, "logits_to_keep"):
        logits = model(**inputs, logits_to_keep=keep).logits  # (B, K, V)
    else:
        logits = model(**inputs).logits[:, keep]
    picked = answer[:, keep]  # (B, K)
    logits = logits[picked]  # (N, V): the union holds positions that are prompt or padding in other rows
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()  # a log-sum-exp over 49k entries loses too much in half precision
    total = F.cross_entropy(logits, targets[:, keep][picked], reduction="sum")
    return LossSum(total, int(picked.sum()))
