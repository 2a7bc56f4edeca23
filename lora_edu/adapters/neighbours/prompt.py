"""Prompt tuning: V vectors before the first token's, in the embedding alone. Chapter 12.

    x = [P; E(ids)],   P (V, d) trained

V·d numbers. It speaks from the start, as any prompt does, so law 1 cannot be kept.
Source: Lester, Al-Rfou and Constant 2021, The Power of Scale for Parameter-Efficient Prompt Tuning (arXiv 2104.08691), §2; the start from
the vocabulary is theirs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lora_edu.adapters.neighbours.virtual import Virtual, is_first


@dataclass(frozen=True)
class PromptTuning(Virtual):
    """V virtual tokens before the first one: V·d numbers. Source: Lester et al. 2021. Chapter 12.

    num_virtual_tokens  V, at least 1. start_from: "vocab" (the vectors of tokens drawn from the vocabulary), "normal" (N(0, 1), PEFT's: far
    larger than a real token's vector) or a tuple of V token numbers: the model then answers as behind that text.
    """

    peft_type: ClassVar[str] = "PROMPT_TUNING"
    unmergeable: ClassVar[str] = (
        "prompt tuning adds tokens and changes no weight, so there is nothing to merge: keep it as a folder, save(model, folder)"
    )
    exempt: ClassVar = {
        1: "it speaks from the start, as any prompt does",
        2: "it is no change of a weight",
        4: "it has no A and B",
        5: "it is no change of a weight",
    }

    def numbers(self, config: Any, heads: int, size: int) -> dict[str, Any]:
        return {
            "token_dim": config.hidden_size,
            "num_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
        }

    def shape(self) -> tuple[int, int]:
        assert self.token_dim
        return self.num_virtual_tokens, self.token_dim

    def run(self, decoder: Any, inner: Callable[..., Any], kwargs: dict[str, Any], table: Tensor) -> Any:
        if not is_first(kwargs):
            return inner(**kwargs)
        V, ids = self.num_virtual_tokens, kwargs.pop("input_ids", None)
        text = kwargs["inputs_embeds"] if ids is None else decoder.get_input_embeddings()(ids)  # (B, T, d)
        kwargs["inputs_embeds"] = torch.cat(
            [table.to(text.dtype).expand(len(text), -1, -1), text], dim=1
        )  # (B, V + T, d)
        if (positions := kwargs.get("position_ids")) is not None:  # moved by V already
            own = torch.arange(V, device=positions.device).expand(len(positions), -1)
            kwargs["position_ids"] = torch.cat([own, positions], dim=1)
        output = inner(**kwargs)
        if isinstance(output, tuple):
            return output[0][:, V:], *output[1:]
        output.last_hidden_state = output.last_hidden_state[:, V:]  # of the text alone
        if getattr(output, "hidden_states", None) is not None:
            output.hidden_states = tuple(states[:, V:] for states in output.hidden_states)
        return output

    def of_tokens(self, model: Any, ids: Tensor) -> Tensor:
        return model.get_input_embeddings()(ids).detach()
