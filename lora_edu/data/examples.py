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

from lora_edu.data.rows import Message, Row, raise_faults
from lora_edu.errors import DataError

IGNORE = -100  # the label of a token that is not learnt (PyTorch's default `ignore_index`)

PLAIN_TEMPLATE = (
    "{% for m in messages %}{% if m['content'] %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
"""For a base model whose tokenizer has no chat template: `tokenizer.chat_template = PLAIN_TEMPLATE`."""


class Example(NamedTuple):
    """Token ids of one row and their labels: -100 on the prompt, not shifted (the loss shifts)."""

    input_ids: list[int]
    labels: list[int]


# --- tokens ----------------------------------------------------------------------------------------------------------


def render(messages: Sequence[Message], tokenizer: Any, *, for_answer: bool = False) -> str:
    """The conversation as the model's template writes it; `for_answer` opens the assistant's turn.

    Raises `DataError` if there is no template or it refuses the conversation.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            "the tokenizer has no chat template; set tokenizer.chat_template (lora_edu.data.examples.PLAIN_TEMPLATE is a plain one)"
        )
    from jinja2 import TemplateError

    turns = [dict(message) for message in messages]
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=for_answer)
    except TemplateError as error:
        if turns and turns[0] == {"role": "system", "content": ""}:  # no system role here: an empty one may go
            return render(messages[1:], tokenizer, for_answer=for_answer)
        raise DataError(f"the model's chat template refuses this conversation: {error}") from None


def prompt_ids(messages: Sequence[Message], tokenizer: Any) -> list[int]:
    """Token ids of everything before the answer, the assistant's turn opened: what generation starts from."""
    return _ids(render(messages, tokenizer, for_answer=True), tokenizer)


def encode(row: Row, tokenizer: Any, max_length: int = 512) -> Example:
    """One row as token ids and labels: -100 on the prompt, the ids on the answer *and on the token that ends it*.

    Raises `DataError` if the prompt's tokens are no prefix of the whole, if the text holds one of the model's special
    tokens, or if the row is longer than `max_length` (nothing is cut in silence). Chapter 05.
    """
    content = "\n".join(m["content"] for m in row.messages)
    planted = [token for token in tokenizer.all_special_tokens if token in content]
    if planted:
        raise DataError(f"the text holds the model's special token {planted[0]!r}: remove it or write it differently")
    if row.is_text:
        ids = list(tokenizer(row.answer)["input_ids"])
        example = Example(ids, list(ids))
    else:
        prompt = prompt_ids(row.messages[:-1], tokenizer)
        whole = _ids(render(row.messages, tokenizer), tokenizer)
        if whole[: len(prompt)] != prompt:
            raise DataError(
                "the chat template's prompt is not a prefix of the whole conversation, so the prompt cannot be masked; "
                "use a template that writes the same tokens with and without the answer"
            )
        answer = whole[len(prompt) :]
        special = set(tokenizer.all_special_ids)
        while answer and answer[-1] not in special and not tokenizer.decode([answer[-1]]).strip():
            answer.pop()  # the newline between turns: the model has stopped before it
        if not answer or answer[-1] not in special:
            answer.append(tokenizer.eos_token_id)
        example = Example(prompt + answer, [IGNORE] * len(prompt) + answer)
    if len(example.input_ids) > max_length:
        raise DataError(f"{len(example.input_ids)} tokens, more than max_length = {max_length}: shorten it or raise it")
    return example


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


def _ids(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])  # the template writes the special tokens


# --- splitting and mixing --------------------------------------------------------------------------------------------
