"""Answers that a model writes: greedily, a batch at a time. Chapter 05."""

from collections.abc import Sequence
from typing import Any

import torch

from lora_edu.data.rows import Message, Row
from lora_edu.data.templates import prompt_ids
from lora_edu.models.modules import modes


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Row | str],
    max_new_tokens: int = 64,
    batch_size: int = 16,
    system: str | None = "",
) -> list[str]:
    """Greedy answers, in the order of `prompts`. A row is asked with its own messages, a string with `system`.

    Prompts are padded on the left, so that every answer starts where its prompt ends; a row stops at the model's
    end-of-turn token. Batches hold prompts of like length. Chapter 13.
    """
    asked = [prompt_ids(_question(prompt, system), tokenizer) for prompt in prompts]
    configured = getattr(model.generation_config, "eos_token_id", None)
    stops = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])} - {None}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(stops, default=0)
    options = type(model.generation_config)(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=sorted(stops) or None, pad_token_id=pad
    )
    outputs = [""] * len(asked)
    order = sorted(range(len(asked)), key=lambda i: len(asked[i]))
    with modes(model, training=False), torch.no_grad():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            longest = len(asked[batch[-1]])
            ids = torch.full((len(batch), longest), pad)  # (B, T)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(batch):
                ids[row, longest - len(asked[i]) :] = torch.tensor(asked[i])
                mask[row, longest - len(asked[i]) :] = 1
            answers = model.generate(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=options
            )[:, longest:]
            for i, answer in zip(batch, answers.tolist()):
                end = next((t for t, token in enumerate(answer) if token in stops), len(answer))
                outputs[i] = tokenizer.decode(answer[:end], skip_special_tokens=True).strip()
    return outputs


def _question(prompt: Row | str, system: str | None) -> list[Message]:
    if isinstance(prompt, Row):
        return list(prompt.messages[:-1])
    turns: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return [*turns, {"role": "user", "content": prompt}]
