"""What is looked at in a padded batch: ids, attention mask and labels, each with the bugs that make it what it is. Exercise 05.4."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lora_edu.course.exercises import NotAttempted, Wrong
from lora_edu.data.examples import IGNORE


def judge_batch(got: Any, rows: Sequence[list[int]], prompts: Sequence[int], pad: int) -> None:
    """A batch of these rows, whose first `prompts` ids are the prompt, padded on the right with `pad`. Raises: Wrong, NotAttempted."""
    names = ("input_ids", "attention_mask", "labels")
    if isinstance(got, Mapping) and set(got) == set(names):
        got = tuple(got[name] for name in names)
    if not isinstance(got, tuple | list) or len(got) != 3:
        raise Wrong(
            "not three tensors",
            f"`pad_batch` returned {type(got).__name__}; return input_ids, attention_mask, labels",
        )
    shape = (len(rows), max(map(len, rows)))
    ids, mask, labels = (_matrix(value, shape, name) for value, name in zip(got, names))
    for i, (row, prompt) in enumerate(zip(rows, prompts)):
        said = f"a row of {len(row)} ids of which {prompt} are the prompt, in a batch {shape[1]} wide, pad = {pad}"
        _judge_ids(row, ids[i].tolist(), pad, said)
        _judge_mask(row, prompt, mask[i].tolist(), pad, said)
        _judge_labels(row, prompt, labels[i].tolist(), pad, said)


def _judge_ids(row: list[int], ids: list[int], pad: int, said: str) -> None:
    rest = len(ids) - len(row)
    if ids == row + [pad] * rest:
        return
    filled = set(ids[len(row) :])
    if rest and ids == [pad] * rest + row:
        bug = "padded on the left"
    elif ids[: len(row)] == row and len(filled) == 1:
        bug = "the padding is not the token that was given"
    else:
        bug = "other ids"
    raise Wrong(bug, f"{said}, {row}: its input_ids are {ids}")


def _judge_mask(row: list[int], prompt: int, mask: list[int], pad: int, said: str) -> None:
    length, rest = len(row), len(mask) - len(row)
    if mask == [1] * length + [0] * rest:
        return
    bugs = {
        "the padding is attended to": [1] * len(mask),
        "the attention mask is the wrong way round": [0] * length + [1] * rest,
        "the attention mask goes by value": [int(token != pad) for token in row] + [0] * rest,
        "only the answer is attended to": [0] * prompt + [1] * (length - prompt) + [0] * rest,
        "only the prompt is attended to": [1] * prompt + [0] * (length - prompt + rest),
        "the answer's end is not attended to": [1] * (length - 1) + [0] * (rest + 1),
        "the attention mask is on the left": [0] * rest + [1] * length,
    }
    bug = next((bug for bug, wrong in bugs.items() if mask == wrong), "another attention mask")
    raise Wrong(bug, f"{said}: its attention_mask is {mask}; 1 for what is real, 0 for padding")


def _judge_labels(row: list[int], prompt: int, labels: list[int], pad: int, said: str) -> None:
    length, rest, answer = len(row), len(labels) - len(row), row[prompt:]
    wanted = [IGNORE] * prompt + answer + [IGNORE] * rest
    if labels == wanted:
        return
    outside, inside = labels[:prompt] + labels[length:], labels[prompt:length]
    bugs = {
        "nothing is masked": labels == row + [pad] * rest,
        "the labels are shifted": labels == [*wanted[1:], IGNORE],
        "the labels are shifted the wrong way": labels == [IGNORE, *wanted[:-1]],
        "nothing is learnt": set(labels) == {IGNORE},
        "masked with another number than −100": inside == answer and set(outside) <= {0, -1, 100},
        "the prompt is learnt": labels[:prompt] == row[:prompt],
        "the prompt is learnt but for the padding's value": labels[:prompt] == [IGNORE if i == pad else i for i in row[:prompt]],
        "a token of the prompt is learnt": any(label != IGNORE for label in labels[:prompt]),
        "the padding is learnt": rest > 0 and labels[length:] == [pad] * rest,
        "a token of the padding is learnt": any(label != IGNORE for label in labels[length:]),
        "the end of the answer is masked": inside == [*answer[:-1], IGNORE],
        "the first token of the answer is masked": inside == [IGNORE, *answer[1:]],
    }  # fmt: skip
    bug = next((bug for bug, found in bugs.items() if found), "other labels")
    raise Wrong(bug, f"{said}, {row}: its labels are {labels}; here they stay unshifted")


def _matrix(value: Any, shape: tuple[int, int], what: str) -> Tensor:
    if not isinstance(value, Tensor) and hasattr(value, "__len__"):
        try:
            value = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            raise Wrong("not a rectangle", f"{what} is a list whose rows are not of one length") from None
    if value is ... or value is None:
        raise NotAttempted
    if not isinstance(value, Tensor):
        raise Wrong("not a tensor", f"{what} is {type(value).__name__}, and should be a tensor of shape {shape}")
    if tuple(value.shape) != shape:
        raise Wrong("wrong shape", f"{what} has shape {tuple(value.shape)} and should have {tuple(shape)}")
    return value.long()
