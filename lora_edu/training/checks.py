"""Checks that stop a sick run with a sentence instead of a wasted hour. Chapters 05, 06 and 16."""

import warnings
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from lora_edu.errors import TrainingError
from lora_edu.models.sharded import whole
from lora_edu.training.callbacks import History

NamedParameters = dict[str, torch.nn.Parameter]


def some_names(names: Sequence[str], limit: int = 4) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


# Why something that should train is not in the loss's graph.
OUTSIDE = (
    "Is their adapter switched on, and is gradient checkpointing left to TrainConfig(gradient_checkpointing=True)? "
    "Parameters that shall not train need requires_grad_(False)."
)


def check_graph(total: Tensor) -> None:
    """Raises TrainingError if the loss depends on nothing that trains: there is no graph to go back through."""
    if not total.requires_grad:
        raise TrainingError(f"The loss depends on none of the trainable parameters. {OUTSIDE}")


def check_first_gradients(parameters: NamedParameters) -> None:
    """After the first backward pass: does everything that should train receive a gradient?

    Raises TrainingError if a trainable parameter got none at all (it is not part of the loss's graph: the silent failure of
    gradient checkpointing without input gradients, or of an adapter that is not active), or if every gradient is zero. Warns of a
    parameter that is zero and receives zero: with B = 0 the gradient of A is rightly zero at the first step, but a factor that
    starts at zero and stays without gradient never leaves it.
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
    if dead := [name for name in silent if not whole(parameters[name].detach()).any()]:
        warnings.warn(
            f"{len(dead)} trainable parameters are zero and got a gradient of zero at the first step: {some_names(dead)}. "
            "Unless their input was empty this time, they will never train.",
            stacklevel=2,
        )


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
