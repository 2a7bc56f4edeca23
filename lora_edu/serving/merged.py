"""A merged model as a folder that transformers loads by itself: weights, tokenizer, chat template, read back and compared. Chapter 15."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.adapters.finding import adapter_names, state_of
from lora_edu.adapters.injection import unload
from lora_edu.adapters.merging import MergeReport, merge, untie
from lora_edu.errors import ExportError
from lora_edu.files import replacing
from lora_edu.models.base import load_base
from lora_edu.models.modules import modes, unwrap
from lora_edu.serving.rules import refuse

_PROBE = "Who are you? The capital of France is Paris, and 12 × 3 = 36."
_REREAD = 1e-5  # of the largest logit: reading back may take another kernel, and nothing else


@dataclass(frozen=True)
class MergedReport:
    """What was merged, and how far the reloaded folder's logits are from the adapter's, beside how far these reach."""

    merge: MergeReport | None  # None for what was trained in place
    difference: float
    reach: float

    def __str__(self) -> str:
        return f"Reloaded, its logits differ from the adapter's by at most {self.difference:.1g} (they reach {self.reach:.0f})."


def write_merged(model: nn.Module, tokenizer: Any, folder: str | Path, *, separate: bool = False) -> MergedReport:
    """Fold the active adapters into `model`, in place, and write the plain model to `folder`, whole or not at all. Chapter 15.

    separate=True gives tied tables weights of their own first (`untie`). The folder is read back before it takes its place: its logits
    must be the merged model's, its tokenizer and chat template the same. `model` is a plain, merged one afterwards.
    Raises ExportError for a model without adapters, a method that cannot be merged, and a folder that reads otherwise; MergeError.
    """
    inner: Any = unwrap(model)
    speaking = [name for name, dial in state_of(inner).active.items() if dial] if adapter_names(inner) else []
    if not speaking:
        raise ExportError(
            "no adapter is active, so there is nothing to merge: save_pretrained(folder) writes a plain model"
        )
    for name in speaking:
        refuse(inner, name, "merged")
    in_place = any(state_of(inner).configs[name].changes_base for name in speaking)
    if separate:
        untie(inner)
    ids = torch.tensor([tokenizer(_PROBE).input_ids], device=inner.device)  # (1, T)
    with modes(inner, training=False):
        expected = _logits(inner, ids)
        report = None if in_place else merge(inner, keep_base=False)
        unload(inner)
        merged = _logits(inner, ids)
        with replacing(Path(folder)) as part:
            inner.save_pretrained(part)
            tokenizer.save_pretrained(part)
            found = _read_back(part, inner, tokenizer, ids, merged)
    reach = float(expected.abs().max())
    return MergedReport(report, float((found - expected).abs().max()), reach)


def _read_back(folder: Path, model: Any, tokenizer: Any, ids: Tensor, merged: Tensor) -> Tensor:
    """The logits (T, V) of the folder's model. Raises ExportError where it is another model, or its tokenizer another one."""
    reread, its_tokenizer = load_base(folder, device=model.device, dtype=model.dtype)
    found = _logits(reread, ids)
    if float((found - merged).abs().max()) > _REREAD * float(merged.abs().max()):
        raise ExportError(
            f"what was written reads as another model: logits differ by {float((found - merged).abs().max()):.2g}"
        )
    if its_tokenizer(_PROBE).input_ids != ids[0].tolist() or its_tokenizer.chat_template != tokenizer.chat_template:
        raise ExportError("the tokenizer that was written makes other tokens, or has another chat template")
    return found


@torch.no_grad()
def _logits(model: Any, ids: Tensor) -> Tensor:
    return model(ids).logits[0].float()  # (T, V)
