"""Checks that stop a sick run with a sentence instead of a wasted hour. Chapters 05, 06 and 16."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lora_edu.errors import DataError, TrainingError
from lora_edu.models.limits import Limits
from lora_edu.models.sharded import whole
from lora_edu.training.callbacks import History

NamedParameters = dict[str, torch.nn.Parameter]
IGNORED = -100  # torch's own mark for a label that is not learnt


def some_names(names: Sequence[str], limit: int = 4) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


# Why something that should train is not in the loss's graph.
OUTSIDE = (
    "Is their adapter switched on, and is gradient checkpointing left to TrainConfig(gradient_checkpointing=True)? "
    "Parameters that shall not train need requires_grad_(False)."
)


# --- rows that the model cannot read ----------------------------------------------------------------------------------


def check_rows(limits: Limits, batch: Any, rows: Sequence[int]) -> None:
    """Before a batch of tokens goes to the device: is each in the model's table, and is there a position for it?

    `rows` are the numbers of the examples in the batch, in its order. Raises DataError that names rows, value and remedy, where torch
    would say "index out of range in self", or end a GPU's process; warns once of rows longer than a model without a table of
    positions was made for. A batch that is not of tokens (B, T) passes.
    """
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point() or ids.numel() == 0:
        return

    def named(bad: Tensor) -> str:
        """The rows of the batch where `bad` (B,) is True; all, if rows of the batch are not rows of the examples (packed ones)."""
        chosen = [row for row, is_bad in zip(rows, bad.tolist()) if is_bad] if len(bad) == len(rows) else list(rows)
        return f"Row{'s' * (len(chosen) > 1)} {some_names([str(row) for row in chosen], 8)} of the examples"

    if limits.tokens is not None:
        labels = batch.get("labels")
        checked = [ids] + ([labels] if isinstance(labels, Tensor) and labels.shape == ids.shape else [])
        for values, least in zip(checked, (0, IGNORED)):
            bad = (values < least) | (values >= limits.tokens)  # (B, T)
            if bad.any():
                what = "token" if values is ids else "label"
                raise DataError(
                    f"{named(bad.any(dim=1))}: the {what} {int(values[bad][0])} is not among the model's {limits.tokens:,} tokens. Were the "
                    "rows made with another model's tokenizer, or tokens added to it? Use the model's own, or "
                    "model.resize_token_embeddings(len(tokenizer)) before the adapter is injected."
                )
    positions = batch.get("position_ids")
    if isinstance(positions, Tensor) and positions.shape == ids.shape:
        longest = positions.amax(dim=1) + 1
    elif positions is None:
        longest = torch.full((len(ids),), ids.shape[1])
        if isinstance(mask := batch.get("attention_mask"), Tensor) and mask.shape == ids.shape and not limits.learnt:
            longest = mask.sum(dim=1)  # padding has no place of its own where positions are not looked up
    else:
        return
    if limits.positions is not None and (bad := longest > limits.positions).any():
        words = f"{named(bad)}: {int(longest.max()):,} tokens, and this model "
        if limits.learnt:
            raise DataError(f"{words}has {limits.positions:,} positions: shorten or split such rows.")
        warnings.warn(
            f"{words}was made for {limits.positions:,} at most. It computes on, but what it says there was never trained.",
            stacklevel=2,
        )


# --- what the loss depends on -----------------------------------------------------------------------------------------


def check_graph(total: Tensor) -> None:
    """Raises TrainingError if the loss depends on nothing that trains: there is no graph to go back through."""
    if not total.requires_grad:
        raise TrainingError(f"The loss depends on none of the trainable parameters. {OUTSIDE}")


def check_first_gradients(parameters: NamedParameters) -> None:
    """After the first backward pass: does everything that should train receive a gradient?

    Raises TrainingError if a trainable parameter got none at all (it is not part of the loss's graph: the silent failure of
    gradient checkpointing without input gradients, or of an adapter that is not active), or if every gradient is zero. Warns of a
    parameter that is zero and receives zero: with B = 0 the gradient of A is rightly zero at the first step, but a factor that
    starts at zero and stays without gradient never leaves it, unless another one of its layer leaves zero first (a bottleneck's bias).
    """
    missing = [name for name, p in parameters.items() if p.grad is None]
    if missing:
        raise TrainingError(
            f"{len(missing)} of {len(parameters)} trainable parameters got no gradient: {some_names(missing)}. They are not part of "
            f"the loss's graph, so they would never train. {OUTSIDE}"
        )
    silent = [name for name, p in parameters.items() if p.grad is not None and not whole(p.grad).any()]
    if len(silent) == len(parameters):
        raise TrainingError(
            f"Every gradient is exactly zero ({some_names(silent)}), so nothing would train. Usual causes: both factors of the "
            "adapter start at zero (one must not), its scale is 0, or the loss does not depend on it."
        )
    unmoved = set(silent)
    # In the parameters' order, which all processes share: `whole` is a collective call, and a set has another order in each of them.
    asked = [name for name in parameters if name in unmoved or _layer(name) != name]
    zero = [name for name in asked if not whole(parameters[name].detach()).any()]
    waking = {_layer(name) for name in zero if name not in unmoved}  # a factor of 0 that moves now lets the others move then
    if dead := [name for name in zero if name in unmoved and _layer(name) not in waking]:
        warnings.warn(
            f"{len(dead)} trainable parameters are zero and got a gradient of zero at the first step: {some_names(dead)}. "
            "Unless their input was empty this time, they will never train.",
            stacklevel=2,
        )


def _layer(name: str) -> str:
    """Of "down_proj.lora_down_bias.default" the layer, of any other parameter its own name."""
    return name.rsplit(".", 2)[0] if ".lora_" in name else name


def explain_bad_number(
    what: str,
    step: int,
    rows: Sequence[int],
    row_is_bad: Callable[[int], bool],
    parameters: NamedParameters,
    history: History,
    precision: str,
) -> TrainingError:
    """The error for a loss or gradient that is not finite at step `step` (from 1), with the rows at fault and the likely cause.

    `row_is_bad(row)` runs one example by itself; it is asked for each of `rows`, the micro-batches where it happened.
    """
    bad = [row for row in rows if row_is_bad(row)]
    broken = [name for name, p in parameters.items() if not all_finite([p.detach()])]
    losses = history.losses
    if broken:
        cause = f"the weights were not finite before this step ({some_names(broken)})."
    elif bad and len(bad) < len(rows):
        cause = f"the data: row{'s' if len(bad) > 1 else ''} {some_names([str(row) for row in bad], 8)} give it alone, the others do not."
    elif len(losses) >= 2 and losses[-1] > 1.5 * min(losses):
        cause = (
            f"the learning rate: the loss had risen from {min(losses):.3g} to {losses[-1]:.3g} before. "
            f"Try a third of {history.steps[-1]['learning_rate']:.3g}, or a longer warm-up."
        )
    elif precision == "bf16":
        cause = 'a number too large or too small for bf16. Try precision="fp32".'
    elif bad:
        cause = "the base model or the loss itself: every row of the step gives it, and the trained weights are finite."
    else:
        cause = "an overflow: no row gives it alone. Try a smaller learning rate or scale."
    return TrainingError(
        f"Stopped at step {step}: {what} is not a finite number. Rows of the examples: {some_names([str(row) for row in rows], 16)}. "
        f"Likely cause: {cause} The model keeps the weights it had before this step."
    )


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every entry of every tensor is a finite number."""
    return all(bool(torch.isfinite(whole(tensor)).all()) for tensor in tensors)
