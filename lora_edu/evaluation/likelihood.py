"""How likely a model finds an answer: loss, perplexity, bits per byte, and the likeliest of some labels. Chapters 05 and 13.

Everything here takes any causal language model, with or without adapters, in whatever mode it is, and gives it back so.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lora_edu.data.examples import Example, check_fits, collate, encode_rows
from lora_edu.data.rows import Row
from lora_edu.evaluation.metrics import Score
from lora_edu.models.modules import modes
from lora_edu.training.losses import causal_lm_loss


def mean_nll(model: nn.Module, examples: Sequence[Example]) -> Score:
    """Mean negative log-likelihood of the answer tokens, in nats, each *token* weighted alike.

    The score's rows hold (sum, tokens); one row at a time, so that nothing is spent on padding. Raises DataError for rows that the
    model cannot read. Chapter 05.
    """
    check_fits(examples, model)
    device = next(model.parameters()).device
    with modes(model, training=False), torch.no_grad():
        losses = [causal_lm_loss(model, {k: v.to(device) for k, v in collate([one], 0).items()}) for one in examples]
    return Score(np.array([(loss.total.item(), loss.count) for loss in losses]), token_mean)


def perplexity(model: nn.Module, examples: Sequence[Example]) -> Score:
    """exp(mean NLL): between how many equally likely tokens the model wavers on average. Chapter 13.

    Misleads between models with different tokenizers: longer tokens are fewer and each is harder (`bits_per_byte`).
    """
    return Score(mean_nll(model, examples).values, token_perplexity)


def bits_per_byte(model: nn.Module, tokenizer: Any, rows: Sequence[Row], max_length: int = 512) -> Score:
    """Bits that the model needs for a byte of the answers: Σ nats / (ln 2 · Σ bytes of UTF-8). Chapter 13.

    Text that any tokenizer cuts as it likes has the same bytes, so models with different tokenizers compare. The end of an answer costs
    bits and has no byte. A plain text's first token is given, not predicted, and its bytes do not count. Misleads where the bytes are
    not the answer's substance: of two formats for one answer the wordier has fewer bits per byte. The score's rows hold (nats, bytes).
    """
    examples = encode_rows(rows, tokenizer, max_length)
    nats = mean_nll(model, examples).values[:, 0]
    sizes = [_bytes(row, example, tokenizer) for row, example in zip(rows, examples)]
    return Score(np.stack([nats, np.array(sizes, dtype=float)], axis=1), _bits)


def _bytes(row: Row, example: Example, tokenizer: Any) -> int:
    size = len(row.answer.encode("utf-8"))
    first = tokenizer.decode(example.input_ids[:1], skip_special_tokens=True) if row.is_text else ""
    return size - len(first.encode("utf-8")) if row.answer.startswith(first) else size


def _bits(values: NDArray[Any]) -> float:
    return float(values[:, 0].sum() / values[:, 1].sum() / math.log(2))


def token_mean(values: NDArray[Any]) -> float:
    """The summed losses over the tokens counted, in nats; values (N, 2). The statistic of `mean_nll`."""
    return float(values[:, 0].sum() / values[:, 1].sum())


def token_perplexity(values: NDArray[Any]) -> float:
    """exp of the summed losses over the tokens counted; values (N, 2). The statistic of `perplexity`."""
    return math.exp(token_mean(values))


def likeliest(model: nn.Module, tokenizer: Any, rows: Sequence[Row], labels: Sequence[str]) -> list[str]:
    """For each row the label that the model finds likeliest as the whole answer, its end included.

    It shows what a model knows before it has learnt to answer in one word. Chapter 13.
    """
    tried = [Row((*row.messages[:-1], {"role": "assistant", "content": label})) for row in rows for label in labels]
    nll = mean_nll(model, encode_rows(tried, tokenizer)).values[:, 0].reshape(len(rows), len(labels))
    return [labels[i] for i in nll.argmin(axis=1)]
