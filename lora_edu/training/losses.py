"""The causal language-model loss, computed only where an answer token is predicted. Chapter 05.

The labels stand at the positions of their own tokens and are not shifted; the shift by one happens here, once. A loss is handed on
as a *sum* and a *count*, never as a mean: the mean of two means is not the mean of all tokens, and gradient accumulation over
micro-batches of unequal length goes wrong exactly there.
"""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from lora_edu.adapters import fused
from lora_edu.adapters.arithmetic import autocast_dtype, autocast_off, cast, frozen_cast, product
from lora_edu.adapters.recognise import gives_bare_logits
from lora_edu.data.examples import IGNORE
from lora_edu.models.modules import forward_takes, unwrap
from lora_edu.training.run import LossSum


def causal_lm_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> LossSum:
    """Cross-entropy of the answer tokens, summed. Chapter 05.

    `batch` holds `input_ids` and `labels` (B, T), the labels unshifted and -100 where nothing is learnt, and usually an
    `attention_mask` (B, T). The token at position t is predicted at t − 1, so the model is asked for logits at those positions
    alone: the union over the batch, as an index tensor, through its own forward (calling `lm_head` by hand would skip what some
    models do to their logits). A model whose forward cannot do that returns all logits, and the same ones are picked.

    With the fast path on (`fused`) and a frozen head that is nothing but a matrix, logits and their gradient are made in chunks.

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
    picked = answer[:, keep]  # (B, K)
    head = bare_head(model) if torch.is_grad_enabled() and not fused.transformed() else None
    if head is not None:
        with silent(head):  # in the place of logits the model gives what its head would have read
            hidden = model(**inputs, logits_to_keep=keep).logits[picked]  # (N, d)
        total = _ChunkedLoss.apply(hidden, head.weight, targets[:, keep][picked], autocast_dtype(hidden))
        return LossSum(total, int(picked.sum()))
    if forward_takes(model, "logits_to_keep"):
        logits = model(**inputs, logits_to_keep=keep).logits  # (B, K, V)
    else:
        logits = model(**inputs).logits[:, keep]
    logits = logits[picked]  # (N, V): the union holds positions that are prompt or padding in other rows
    total = F.cross_entropy(logits.to(wide(logits.dtype)), targets[:, keep][picked], reduction="sum")
    return LossSum(total, int(picked.sum()))


# -- the head and the loss in one step (chapter 14) --------------------------------------------------------------------
CHUNK_BYTES = 2**26  # of logits at a time; benchmarks/head_loss.py measures other sizes


class _ChunkedLoss(Function):
    """Summed cross-entropy of hidden (N, d) under the head W (V, d): its gradient is made in the forward pass, chunk by chunk.

    What is kept is N·d numbers twice, and not N·V.
    """

    @staticmethod
    def forward(ctx: Any, hidden, W, targets, dtype):
        gradient, total = torch.empty_like(hidden), hidden.new_zeros((), dtype=wide(hidden.dtype))
        rows = max(1, CHUNK_BYTES // (W.shape[0] * total.element_size()))
        with autocast_off(hidden):
            head = frozen_cast(W, dtype)
            for x, target, out in zip(hidden.split(rows), targets[:, None].split(rows), gradient.split(rows)):
                logits = F.linear(cast(x, dtype), head).to(total.dtype)  # (rows, V)
                largest, correct = logits.amax(1, keepdim=True), logits.gather(1, target)
                powers = logits.sub_(largest).exp_()
                sums = powers.sum(1, keepdim=True)
                total += (sums.log() + largest - correct).sum()
                softmax = powers.div_(sums)
                softmax.scatter_add_(1, target, softmax.new_full(target.shape, -1.0))
                out.copy_(product(softmax, head))
        ctx.save_for_backward(hidden, W, targets, gradient)
        ctx.dtype = dtype
        return total

    @staticmethod
    def backward(ctx: Any, d_total):
        hidden, W, targets, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():  # a gradient of the gradient is wanted: the plain way
            logits = F.linear(cast(hidden, ctx.dtype), cast(W, ctx.dtype)).to(d_total.dtype)
            loss = F.cross_entropy(logits, targets, reduction="sum")
            return torch.autograd.grad(loss, hidden, d_total, create_graph=True)[0], None, None, None
        return (gradient * d_total).to(hidden.dtype), None, None, None


def wide(dtype: torch.dtype) -> torch.dtype:
    """float32 for half precision, else the type itself: a log-sum-exp over 49k entries loses too much in half precision."""
    return torch.promote_types(dtype, torch.float32)


def bare_head(model: nn.Module) -> Any:
    """The model's output head, if the fast path is on and a chunk of logits is that frozen matrix times a chunk of its input; else None."""
    inner: Any = unwrap(model)
    head: Any = getattr(inner, "lm_head", None)
    kind: Any = type(inner)
    if head is None or not fused.is_on() or not forward_takes(model, "logits_to_keep") or not gives_bare_logits(kind):
        return None
    if isinstance(
        model, nn.DataParallel
    ):  # its replicas run in threads of their own, in which the head would not be silent
        return None
    part = None if fused.has_hooks(model) or fused.has_hooks(inner) else fused.part(head)
    return head if part is not None and part.b is None else None


class _HandOn:
    """A head's forward while it is silent: in the threads that asked for it the input is handed on, in all others the head speaks.

    A model is often asked something while another thread trains it (a server, a live widget).
    """

    only_some_threads = True  # so `fused` does not take it for a change of what the head computes

    def __init__(self, head: nn.Module) -> None:
        self.head, self.threads = head, Counter[int]()

    def __call__(self, hidden: Tensor) -> Tensor:
        return hidden if threading.get_ident() in self.threads else type(self.head).forward(self.head, hidden)


_changing = threading.Lock()


@contextmanager
def silent(head: Any) -> Iterator[None]:
    """Within the block the head hands its input on, to this thread alone."""
    here = threading.get_ident()
    with _changing:
        hand_on = head.__dict__.get("forward")  # another thread's, which is shared, or none
        if hand_on is None:
            hand_on = head.forward = _HandOn(head)
        hand_on.threads[here] += 1
    try:
        yield
    finally:
        with _changing:
            hand_on.threads -= Counter({here: 1})  # an entry at zero goes
            if not hand_on.threads:
                del head.forward
