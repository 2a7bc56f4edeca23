"""Is what a device computes right? Loss, gradients, a run and a merge, against float64 on the CPU. Called by `gpu.py` first.

Errors are ‖ours − reference‖ / ‖reference‖. A check passes when its error is *below* its bound, so NaN never passes.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.adapters import LoRAConfig, adapter_parameters, inject, merge, unmerge
from lora_edu.data import encode_rows
from lora_edu.models import Base
from lora_edu.tasks import get_task
from lora_edu.training import causal_lm_loss

Row = dict[str, Any]
# fp32 leaves rounding; with bf16's 8 bits a product is off by about 2⁻⁸, and a gradient of many layers by a few of those.
BOUNDS = {
    "fp32": {"loss": 1e-5, "gradients": 1e-3, "run": 1e-3},
    "bf16": {"loss": 2e-2, "gradients": 1e-1, "run": 5e-2},
}


def check(base: Base, device: torch.device, steps: int) -> list[Row]:
    """The table of checks: what was compared, its error, its bound, and whether it passed."""
    model, tokenizer = base
    reference = _adapted(copy.deepcopy(model).to("cpu", torch.float64))
    # Real text: on random tokens the model's gradients are so badly conditioned that bf16 is 80 % off on any device.
    rows = encode_rows(get_task("kjv").splits().train[:20], tokenizer)
    ids = torch.tensor([token for row in rows for token in row.input_ids][: 4 * 2 * 24]).view(
        4, 2, 24
    )  # (batches, B, T)
    true_loss, true_gradient = _loss_and_gradient(reference, ids[0], "fp32")
    true_run = _run(reference, ids, "fp32", steps)
    table = []
    for precision, bounds in BOUNDS.items():
        ours = _adapted(copy.deepcopy(model)).to(device)
        loss, gradient = _loss_and_gradient(ours, ids[0], precision)
        table.append(_row(f"loss, {precision}", loss, true_loss, bounds["loss"]))
        table.append(_row(f"gradients of the factors, {precision}", gradient, true_gradient, bounds["gradients"]))
        if precision == "fp32":
            table.append(_merged_row(ours, ids[1].to(device)))
        table.append(
            _row(f"{steps} AdamW steps, {precision}", _run(ours, ids, precision, steps), true_run, bounds["run"])
        )
    for row in table:
        print(
            f"  {row['check']:<36}{row['error']:10.1e}  (below {row['bound']:.0e})  {'ok' if row['passed'] else 'WRONG'}"
        )
    return table


def _row(what: str, ours: Tensor, reference: Tensor, bound: float) -> Row:
    error = float((ours.cpu().double() - reference.cpu().double()).norm() / reference.double().norm())
    return {"check": what, "error": error, "bound": bound, "passed": error < bound}


def _adapted(model: nn.Module) -> nn.Module:
    """An adapter with two factors that are not zero: with B = 0 most mistakes are silent. The same numbers on every device."""
    inject(model.train(), LoRAConfig(r=8, lora_alpha=16))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
            parameter.copy_(noise * 0.02)
    return model


def _loss(model: nn.Module, ids: Tensor, precision: str) -> Tensor:
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        total, count = causal_lm_loss(model, {"input_ids": ids.to(device), "labels": ids.to(device)})
    return total / count


def _loss_and_gradient(model: nn.Module, ids: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    loss = _loss(model, ids, precision)
    loss.backward()
    gradients = [p.grad.flatten().cpu() for p in adapter_parameters(model).values() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return loss.detach(), torch.cat(gradients)


def _run(model: nn.Module, ids: Tensor, precision: str, steps: int) -> Tensor:
    """The losses of `steps` AdamW steps through the batches in turn. (steps,)"""
    optimizer = torch.optim.AdamW(adapter_parameters(model).values(), lr=1e-3)
    losses = []
    for step in range(steps):
        loss = _loss(model, ids[step % len(ids)], precision)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach().cpu())
    return torch.stack(losses)


@torch.no_grad()
def _merged_row(model: nn.Module, ids: Tensor) -> Row:
    apart = model(input_ids=ids, use_cache=False).logits  # (B, T, V)
    merge(model)
    together = model(input_ids=ids, use_cache=False).logits
    unmerge(model)
    return _row("merged against unmerged, fp32", together, apart, 1e-4)
