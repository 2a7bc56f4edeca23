"""From logits to tokens, and from tokens to text that can be sent before the answer is whole. Chapter 15."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lora_edu.serving.engine import Question

_UNFINISHED = "\ufffd"  # what a decoder writes for bytes that are no whole character (yet)


class Chooser:
    """One row's next token: the likeliest, or drawn by its own generator, so that no other row of the batch changes the draw."""

    def __init__(self, question: Question) -> None:
        self.temperature, self.top_p = question.temperature, question.top_p
        self.generator = torch.Generator()
        if question.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(question.seed % 2**63)

    def __call__(self, logits: Tensor) -> int:
        """The token, of logits (vocabulary)."""
        if not self.temperature:
            return int(logits.argmax())
        p = torch.softmax(logits.float().cpu() / self.temperature, dim=-1)
        if self.top_p < 1:
            sorted_p, order = p.sort(descending=True)
            before = sorted_p.cumsum(0) - sorted_p  # what is likelier than this token; the first always stays
            sorted_p[before >= self.top_p] = 0
            return int(order[torch.multinomial(sorted_p, 1, generator=self.generator)])
        return int(torch.multinomial(p, 1, generator=self.generator))


class TextStream:
    """Tokens in, text out, never more than is certain: no half character, nothing that may be the beginning of a stop text.

    All pieces together are what the tokenizer makes of all tokens together, up to the first stop text, which is left out.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._ids: list[int] = []
        self._begin = self._end = (
            0  # tokens that were read as text lie before `_end`; `_begin` gives the decoder what stood before
        )
        self._held = ""  # text that may yet become a stop text
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that is certain with this token."""
        self._ids.append(token)
        before = self._decode(self._ids[self._begin : self._end])
        now = self._decode(self._ids[self._begin :])
        if now.endswith(_UNFINISHED):
            return ""
        self._begin, self._end = self._end, len(self._ids)
        return self._without_stop(now[len(before) :])

    def finish(self) -> str:
        """What was held back, when no token comes any more."""
        if self.stopped:
            return ""
        before = self._decode(self._ids[self._begin : self._end])
        rest = self._without_stop(self._decode(self._ids[self._begin :])[len(before) :])
        held, self._held = ("", "") if self.stopped else (self._held, "")
        return rest + held

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) if ids else ""

    def _without_stop(self, text: str) -> str:
        text = self._held + text
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        longest = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - longest :]
        return text[: len(text) - longest]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
