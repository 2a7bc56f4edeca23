"""What is wrong with a training loop, told from the steps that its optimiser took. Chapter 05, exercises 05.2 and 05.3."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lora_edu.course.checks.small_loop import Batch, Reader, flat, gradient_of
from lora_edu.course.checks.watched_loop import Step, WatchedLoss
from lora_edu.course.exercises import Wrong, close


def judge_frozen(model: Reader, base: Mapping[str, Tensor]) -> None:
    """Whether the base is what it was, and frozen. Raises: Wrong."""
    for name, p in model.base.items():
        if p.requires_grad:
            raise Wrong("what was frozen is thawed", f"`{name}` was frozen when you got the model, and trains now")
        if not torch.equal(p, base[name]):
            raise Wrong("a frozen weight has changed", f"`{name}` of the base is not what it was when you got it")
    if not all(p.requires_grad for p in model.factors):
        raise Wrong("the adapter is frozen", "the adapter's A and B trained when you got the model, and are frozen now")


def judge_run(
    model: Reader,
    start: Tensor,
    wanted: Tensor,
    batches: Sequence[Batch],
    taken: Sequence[Step],
    watched: WatchedLoss,
    learning_rate: float,
) -> None:
    """`start` and `wanted`: the adapter at the beginning and where it should be, as one vector. Raises: Wrong."""
    now = flat(model.factors, model.factors)
    if not close(now, wanted):
        _judge_steps(taken, len(batches), len(watched.batches))
        _judge_settings(model, taken, learning_rate)
        _judge_order(taken, batches, watched)
        off = (now - wanted).norm() / (wanted - start).norm()
        said = f"after {len(batches)} steps your weights end {off:.2f} × the reference's whole path away from the reference's end"
        raise Wrong(_bug_of_gradients(taken, batches) or "another run", said)
    if taken and any(id(p) in taken[0].given for p in model.base.values()):
        raise Wrong(
            "the optimiser is given what is frozen",
            "the weights come out right, but the optimiser got weights of the base too: hand it what trains, and nothing else",
        )
    if len(taken) == len(batches):
        for number, (step, factor) in enumerate(zip(taken, _factors(taken, batches)), 1):
            # not finite: a step with a closure, which makes its gradient only later
            if step.grad is not None and abs(factor - 1) >= 1e-3:
                raise Wrong(
                    "not the gradient of the mean",
                    f"the weights come out right, for AdamW hardly notices a constant factor; but at step {number} the gradient is "
                    f"{factor:.2f} times as long as that of the mean loss a token",
                )
    if watched.most > 1:
        raise Wrong(
            "every graph is kept",
            f"the weights come out right, but {watched.most} earlier batches still held their graphs when the next one came: "
            "is `retain_graph=True` there?",
        )


def _judge_steps(taken: Sequence[Step], batches: int, asked: int) -> None:
    """How many steps there were, by how many optimisers, and whether there was anything to step on. Raises: Wrong."""
    if not taken:
        raise Wrong("nothing has moved", "no optimiser has taken a step: is `optimizer.step()` called?")
    if all(step.grad is None for step in taken):
        raise Wrong(
            "nothing has moved",
            f"{len(taken)} steps were taken, and found no gradient: is `backward()` called, and are the gradients still there "
            "when the step is taken?",
        )
    if any(step.grad is None for step in taken):
        number = next(number for number, step in enumerate(taken, 1) if step.grad is None)
        raise Wrong(
            "a step comes before its gradient", f"step {number} found no gradient: `backward()` first, then the step"
        )
    if len({id(step.optimizer) for step in taken}) > 1:
        raise Wrong(
            "a new optimiser for every step",
            "AdamW remembers the gradients of earlier steps, and each new one begins without: make it once, before the loop",
        )
    steps = "1 step was" if len(taken) == 1 else f"{len(taken)} steps were"
    said = f"{steps} taken, and there are {batches} batches"
    if len(taken) == batches:
        return
    if len(taken) == 1 and asked == 1:
        raise Wrong("the loop ends after its first batch", f"{said}: does `return` stand inside the loop?")
    if len(taken) == 1:
        raise Wrong("one step for all batches", f"{said}: the step belongs into the loop")
    if len(taken) % batches == 0 and asked >= len(taken):
        raise Wrong("the batches are gone through more than once", said)
    raise Wrong("too many steps" if len(taken) > batches else "a batch is left out", said)


def _judge_settings(model: Reader, taken: Sequence[Step], learning_rate: float) -> None:
    """Whether the optimiser is the one that was asked for. Raises: Wrong."""
    for step in taken:
        name, settings = type(step.optimizer).__name__, step.settings
        if not isinstance(step.optimizer, torch.optim.Adam):  # AdamW is a kind of Adam
            raise Wrong("another optimiser", f"the steps are {name}'s, and AdamW was asked for")
        if settings["weight_decay"]:
            decay = settings["weight_decay"]
            raise Wrong(
                "weights decay", f"weight_decay is {decay}, and 0 was asked for; where nothing is said AdamW takes 0.01"
            )
        if settings["lr"] != learning_rate:
            raise Wrong(
                "another learning rate", f"the step is taken at {settings['lr']:g}, and `lr` is {learning_rate:g}"
            )
        usual: Mapping[str, Any] = torch.optim.AdamW([torch.zeros(1)], lr=learning_rate, weight_decay=0).param_groups[0]
        for key in ("betas", "eps", "amsgrad", "maximize"):
            if settings[key] != usual[key]:
                raise Wrong(
                    "another setting of AdamW", f"{key} is {settings[key]}, and is {usual[key]} where nothing is said"
                )
    if missing := [
        name
        for name, p in model.named_parameters()
        if any(p is f for f in model.factors) and id(p) not in taken[0].given
    ]:
        raise Wrong("a part of what trains is left out", f"the optimiser was not given {missing[0]}")


def _judge_order(taken: Sequence[Step], batches: Sequence[Batch], watched: WatchedLoss) -> None:
    """Whether each step follows the loss of its own batch. Raises: Wrong."""
    for number, (step, batch) in enumerate(zip(taken, batches), 1):
        seen = watched.batches[step.batch - 1] if step.batch else None
        if seen is not None and not _same_batch(seen, batch):
            other = next((i for i, each in enumerate(batches, 1) if _same_batch(seen, each)), None)
            what = f"batch {other}" if other else "a batch that was not handed over"
            raise Wrong("the batches come in another order", f"step {number} follows the loss of {what}")


def _same_batch(a: Batch, b: Batch) -> bool:
    return all(torch.equal(a[key], b[key]) for key in ("input_ids", "labels"))


def _factors(taken: Sequence[Step], batches: Sequence[Batch]) -> list[float]:
    """How many times as long as the mean loss's gradient each step's is; nan where it points elsewhere."""
    factors = []
    for step, batch in zip(taken, batches):
        grad, _, count = gradient_of(step.model, batch)
        found = torch.zeros_like(grad) if step.grad is None else step.grad
        factor = float(found.norm() / (grad / count).norm())
        factors.append(factor if close(found / max(factor, 1e-12), grad / count, 1e-3) else float("nan"))
    return factors


def _bug_of_gradients(taken: Sequence[Step], batches: Sequence[Batch]) -> str | None:
    """What the steps' gradients are, if not those of the mean loss a token of each step's batch; None: they are those."""
    whole = [gradient_of(step.model, batch) for step, batch in zip(taken, batches)]
    means, counts = [grad / count for grad, _, count in whole], [float(count) for *_, count in whole]
    found = [step.grad for step in taken if step.grad is not None]
    factors = torch.tensor(_factors(taken, batches))
    rows = torch.tensor([len(batch["input_ids"]) for batch in batches])
    if factors.isfinite().all():
        by = {
            "the sum is trained, not the mean": torch.tensor(counts),
            "divided by the number of rows": torch.tensor(counts) / rows,
            "the mean is divided by the number of batches": torch.full_like(factors, 1 / len(batches)),
            "divided by the tokens twice": 1 / torch.tensor(counts),
        }
        if close(factors, torch.ones_like(factors), 1e-3):
            return None
        if bug := next((bug for bug, wrong in by.items() if close(factors, wrong, 1e-3)), None):
            return bug
        cut = factors < 0.999
        lengths = torch.stack([grad.norm() for grad in found])
        if (factors < 1.001).all() and cut.any() and close(lengths[cut], lengths.max().expand(int(cut.sum())), 1e-3):
            return "the gradients are clipped"
        return "divided by another number than that of the tokens"
    if all(close(-grad, mean, 1e-3) for grad, mean in zip(found, means)):
        return "the loss is climbed"
    pairs = zip(found, found[1:], means[1:], factors[1:])
    if any(_parallel(now - before, mean) for before, now, mean, factor in pairs if not factor.isfinite()):
        return "the old gradients are kept"
    if all(close(grad, mean.clamp(-grad.abs().max(), grad.abs().max()), 1e-3) for grad, mean in zip(found, means)):
        return "the gradients are clipped"
    return "another gradient"


def _parallel(a: Tensor, b: Tensor) -> bool:
    return bool(torch.cosine_similarity(a, b, dim=0) > 0.9999)
