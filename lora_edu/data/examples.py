"""Rows → chat template → tokens with the prompt masked → batches (chapter 05).

A row is a conversation whose last message is the answer to be learnt. The model's own chat template turns it into
tokens; the prompt's tokens must be an exact prefix of the whole conversation's, and that prefix is what the labels
mask. Labels therefore come from *structure*. Masking by value (`labels[ids == pad] = -100`) looks the same until the
padding token is also the end-of-answer token, as it is in the default model: then the model never learns to stop.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lora_edu.data.rows import Row, raise_faults
from lora_edu.data.templates import render, special_ids, special_tokens_in, text_ids
from lora_edu.errors import DataError, shown
from lora_edu.models.limits import limits_of
from lora_edu.models.modules import unwrap

IGNORE = -100  # the label of a token that is not learnt (PyTorch's default `ignore_index`)


class Example(NamedTuple):
    """Token ids of one row and their labels: -100 on the prompt, not shifted (the loss shifts)."""

    input_ids: list[int]
    labels: list[int]


# --- tokens ----------------------------------------------------------------------------------------------------------


def encode(row: Row, tokenizer: Any, max_length: int = 512) -> Example:
    """One row as token ids and labels: -100 on the prompt, the ids on the answer *and on the token that ends it*.

    Raises `DataError` if the prompt is no prefix of the whole, if the text holds one of the model's special tokens (most often
    a template has been over it already), if nothing is there to be learnt, or if the row is longer than `max_length`
    (nothing is cut in silence). Chapter 05.
    """
    for message in row.messages:
        if planted := special_tokens_in(message["content"], tokenizer):
            raise DataError(
                f"the text holds the model's special token {planted[0]!r}: remove it or write it differently"
            )
    if row.is_text:
        ids = list(tokenizer(row.answer)["input_ids"])
        example = Example(ids, list(ids))
    else:
        prompt, answer = _parts(row, tokenizer)
        special = special_ids(tokenizer)
        while answer and answer[-1] not in special and not tokenizer.decode([answer[-1]]).strip():
            answer.pop()  # the newline between turns: the model has stopped before it
        if not answer or answer[-1] not in special:
            if tokenizer.eos_token_id is None:
                raise DataError("the tokenizer names no end-of-text token to end the answer: set tokenizer.eos_token")
            answer.append(tokenizer.eos_token_id)
        example = Example(prompt + answer, [IGNORE] * len(prompt) + answer)
    if all(label == IGNORE for label in example.labels[1:]):
        raise DataError(
            f"it is of {len(example.input_ids)} token(s), and a token is learnt from those before it: write more"
        )
    if len(example.input_ids) > max_length:
        raise DataError(f"{len(example.input_ids)} tokens, more than max_length = {max_length}: shorten it or raise it")
    return example


def _parts(row: Row, tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens of the prompt, as generation will start from them, and those that follow it."""
    opened, text = render(row.messages[:-1], tokenizer, for_answer=True), render(row.messages, tokenizer)
    prompt, whole = text_ids(opened, tokenizer), text_ids(text, tokenizer)
    if whole[: len(prompt)] == prompt:
        return prompt, whole[len(prompt) :]
    if not text.startswith(opened):
        raise DataError(
            "the chat template's prompt is not a prefix of the whole conversation, so the prompt cannot be masked; "
            "use a template that writes the same text with and without the answer"
        )
    # One token would hold the prompt's end and the answer's beginning (blanks, line breaks). The model will find the prompt as it is
    # written without an answer, so the answer is written as what follows that.
    rest = text[len(opened) :]
    newline = text_ids("\n", tokenizer)
    after_newline = text_ids("\n" + rest, tokenizer)  # some tokenizers put a blank before the beginning of any text
    for answer in (text_ids(rest, tokenizer), after_newline[len(newline) :]):
        if tokenizer.decode(prompt + answer) == tokenizer.decode(whole):
            return prompt, answer
    raise DataError(
        f"the tokenizer cannot write the answer's beginning, {shown(rest[:20])}, apart from the prompt's end, {shown(opened[-20:])}: "
        "begin the answer otherwise, or use a template whose prompt ends in a line break"
    )


def encode_rows(rows: Sequence[Row], tokenizer: Any, max_length: int = 512) -> list[Example]:
    """`encode` for every row; all faults are reported at once, in one `DataError`, before anything trains."""
    examples, faults = [], []
    for number, row in enumerate(rows, 1):
        try:
            examples.append(encode(row, tokenizer, max_length))
        except DataError as error:
            faults.append(f"{row.where or f'row {number}'}: {error}")
    raise_faults(faults)
    return examples


def check_fits(examples: Sequence[Any], model: Any, where: Sequence[str] = ()) -> None:
    """Raises `DataError` that names the examples with token ids beyond the model's table, or longer than its table of positions.

    `where`: what to call each of them (`row.where`), instead of its number.

    Without it a step somewhere in training ends in "index out of range in self". Models that rotate (most of today's) have no such table.
    """
    limits = limits_of(unwrap(model))
    faults = []
    for number, example in enumerate(examples, 1):
        if not isinstance(example, Example):
            return
        name = (where[number - 1] if where else "") or f"row {number}"
        strange = [] if limits.tokens is None else [t for t in example.input_ids if not 0 <= t < limits.tokens]
        if strange:
            faults.append(
                f"{name}: token {strange[0]}, and the model's table has {limits.tokens} rows: is this its tokenizer?"
            )
        elif limits.learnt and limits.positions is not None and len(example.input_ids) > limits.positions:
            faults.append(
                f"{name}: {len(example.input_ids)} tokens, and the model knows {limits.positions} positions: set max_length"
            )
    raise_faults(faults)


def collate(examples: Sequence[Example], pad_token_id: int) -> dict[str, Tensor]:
    """A right-padded batch: input_ids, attention_mask and labels, each int64 (B, T). Padding is known by position."""
    longest = max(len(example.input_ids) for example in examples)
    ids = torch.full((len(examples), longest), pad_token_id)  # (B, T)
    labels = torch.full_like(ids, IGNORE)
    mask = torch.zeros_like(ids)
    for i, example in enumerate(examples):
        length = len(example.input_ids)
        ids[i, :length] = torch.tensor(example.input_ids)
        labels[i, :length] = torch.tensor(example.labels)
        mask[i, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def pack(examples: Sequence[Example]) -> dict[str, Tensor]:
    """The same batch as one row without padding: input_ids, position_ids and labels, each int64 (1, ΣT). Chapter 14.

    Positions begin at 0 with each example; by that, and because there is no attention mask, transformers' models let no example look
    into another. An example's first token is no target: what stands before it is another's end.
    """
    ids = [token for example in examples for token in example.input_ids]
    positions = [position for example in examples for position in range(len(example.input_ids))]
    labels = [label for example in examples for label in (IGNORE, *example.labels[1:])]
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "labels": torch.tensor([labels]),
    }
