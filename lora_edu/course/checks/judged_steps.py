"""What is wrong with a loss, by the number it gives, and with a loop, by where the adapter ends. Chapter 17, exercise 17.2."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lora_edu.course.blank_page import Page
from lora_edu.course.checks.judged_page import IGNORE, PAD, Adapted, Batch, Settings, adapted, called, logits
from lora_edu.course.exercises import Wrong, apart, as_number, kind, told


def _mean(says: Tensor, labels: Tensor, how: str = "mean") -> Tensor:
    return cross_entropy(says.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction=how)


def _wanted(says: Tensor, labels: Tensor, how: str = "mean") -> Tensor:
    return _mean(says[:, :-1], labels[:, 1:], how)


# What each way to get the loss wrong gives, from the logits (B, T, V), the ids and the labels (B, T).
LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "the labels are not shifted": lambda says, ids, labels: _mean(says, labels),
    "shifted the wrong way": lambda says, ids, labels: _mean(says[:, 1:], labels[:, :-1]),
    "shifted twice": lambda says, ids, labels: _mean(says[:, :-2], labels[:, 2:]),
    "the prompt's tokens are trained on": lambda says, ids, labels: [
        _wanted(says, ids),
        _wanted(says, ids.masked_fill(ids == PAD, IGNORE)),
    ],
    "padding is trained on": lambda says, ids, labels: _wanted(says, torch.where(ids == PAD, ids, labels)),
    "not shifted, and the prompt's tokens are trained on": lambda says, ids, labels: [
        _mean(says, ids),
        _mean(says, ids.masked_fill(ids == PAD, IGNORE)),
    ],
    "the sum, not the mean": lambda says, ids, labels: _wanted(says, labels, "sum"),
    "masked places count in the mean": lambda says, ids, labels: [
        _wanted(says, labels, "sum") / (labels[:, 1:].numel()),
        _wanted(says, labels, "sum") / labels.numel(),
        *(_wanted(says, labels, "sum") / (ids != PAD)[:, start:].sum() for start in (0, 1)),
    ],
    "the first token counts in the mean, and nothing foretells it": lambda says, ids, labels: _wanted(says, labels, "sum") / (labels != IGNORE).sum(),
    "the mask is not shifted along": lambda says, ids, labels: _mean(says[:, :-1], ids[:, 1:].masked_fill(labels[:, :-1] == IGNORE, IGNORE)),
    "masked places are asked for token 0": lambda says, ids, labels: _wanted(says, labels.clamp_min(0)),
    "the perplexity, not the loss": lambda says, ids, labels: _wanted(says, labels).exp(),
    "each row's mean counts the same, however long it is": lambda says, ids, labels: torch.stack(
        [_wanted(says[i : i + 1], labels[i : i + 1]) for i in range(len(ids))]
    ).mean(),
    "divided by the number of rows": lambda says, ids, labels: _wanted(says, labels, "sum") / len(ids),
    "the sign is turned round": lambda says, ids, labels: -_wanted(says, labels),
    "in bits, not in nats": lambda says, ids, labels: _wanted(says, labels) / torch.tensor(2.0).log(),
    "softmax twice: cross_entropy takes the logits themselves": lambda says, ids, labels: _wanted(says.softmax(-1), labels),
}  # fmt: skip


def judge_loss(page: Page, settings: Settings, seed: int, tries: Sequence[Batch]) -> None:
    """Raises: Wrong, where the number is another or no gradient reaches the adapter."""
    made = adapted(page, settings, seed)
    if not any(p.requires_grad for p in made.parameters()):
        raise Wrong("the adapter is frozen", "after `inject` no factor has requires_grad=True: exercise 17.1")
    asked = _spied_upon(made.model)
    for ids, labels in tries:
        got = called(page, "loss", made.model, ids, labels)
        if asked:
            raise Wrong(
                "the model's own loss",
                "the model was asked for its loss (as by `labels=`): shift, mask and mean are yours to write here",
            )
        value = as_number(got.detach() if isinstance(got, Tensor) else got, "what `loss` returns")
        says = logits(made.model, ids)
        want = float(_wanted(says, labels))
        if not _near(value, want):
            bug = next(
                (
                    name
                    for name, wrong in LOSSES.items()
                    if any(_near(value, float(each)) for each in _all(wrong(says, ids, labels)))
                ),
                None,
            )
            mine, right = apart(value, want)
            raise Wrong(
                bug or "another number",
                f"the loss of a batch of shape {tuple(ids.shape)} is {mine} and should be {right}",
            )
        if not isinstance(got, Tensor) or not got.requires_grad:
            raise Wrong(
                "no gradient",
                f"the number is right, but it is {kind(got)} without a gradient: no `.item()`, `.detach()` or `no_grad` here",
            )
        trains = [p for p in made.parameters() if p.requires_grad]
        try:
            grads = torch.autograd.grad(got, trains, allow_unused=True)
        except RuntimeError as error:
            raise Wrong(
                "the gradient cannot be computed", f"was `backward()` called inside `loss` already? {told(error)}"
            ) from None
        if any(grad is None for grad in grads):
            raise Wrong("no gradient", "the number is right, but no gradient reaches some of A and B")


def _spied_upon(model: nn.Module) -> list[bool]:
    """A list that is no longer empty once the model's own loss has been asked for, by whichever way."""
    asked: list[bool] = []
    for module in model.modules():
        if callable(own := getattr(module, "loss_function", None)):

            def spy(*args: Any, own: Any = own, **kwargs: Any) -> Any:
                asked.append(True)
                return own(*args, **kwargs)

            module.loss_function = spy  # type: ignore[assignment]
    return asked


def _all(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [value]


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-4 * abs(b)


# --- the loop ---------------------------------------------------------------------------------------------------------
def _run(
    made: Adapted,
    batches: Sequence[Batch],
    lr: float,
    empty: bool = True,
    optimizer: Callable[..., Any] = torch.optim.AdamW,
    anew: bool = False,
    sign: float = 1.0,
    at_once: bool = False,
    only: int | None = None,
    clip: float | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = _wanted,
) -> Tensor:
    """The reference loop, and how to get it wrong; returns where A and B end, as one vector."""
    trains = made.parameters() if only is None else made.parameters()[only::2]
    steps = optimizer(trains, lr)
    for number, (ids, labels) in enumerate(batches, 1):
        steps = optimizer(trains, lr) if anew else steps
        if empty:
            steps.zero_grad()
        (sign * loss(made.model(input_ids=ids).logits, labels)).backward()
        if clip:
            nn.utils.clip_grad_norm_(trains, clip)
        if not at_once or number == len(batches):
            steps.step()
    return _flat(made)


def _which(batches: Sequence[Batch], args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """The number of the batch that the model is called with; −1 where it is none of them."""
    ids = kwargs.get("input_ids", args[0] if args else None)
    same = (number for number, (one, _) in enumerate(batches) if isinstance(ids, Tensor) and torch.equal(one, ids))
    return next(same, -1)


def _flat(made: Adapted) -> Tensor:
    return torch.cat([p.detach().flatten() for p in made.parameters()])


def judge_steps(page: Page, settings: Settings, seed: int, batches: Sequence[Batch], lr: float = 7e-3) -> None:
    """Raises: Wrong, where the base has moved or the adapter does not end where one pass of AdamW ends."""

    def run(**how: Any) -> Tensor:
        given = how.pop("batches", batches)
        return _run(adapted(page, settings, seed), given, how.pop("lr", lr), **how)

    made = adapted(page, settings, seed)
    start, factors = _flat(made), {id(p) for p in made.parameters()}
    held = {name: p.detach().clone() for name, p in made.model.named_parameters() if id(p) not in factors}
    frozen = [name for name, p in made.model.named_parameters() if name in held and not p.requires_grad]
    seen: list[int] = []
    rates: list[float] = []
    heard = made.model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(_which(batches, args, kwargs)), with_kwargs=True)  # fmt: skip
    stepped = register_optimizer_step_pre_hook(lambda steps, *_: rates.append(float(steps.param_groups[0]["lr"])))
    try:
        # What dropout drops is drawn, and not to be compared.
        with mock.patch.object(nn.functional, "dropout", lambda input, *_, **__: input):
            called(page, "train", made.model, [(ids.clone(), labels.clone()) for ids, labels in batches], lr)
    finally:
        heard.remove()
        stepped.remove()
    there = dict(made.model.named_parameters())
    if not held.keys() <= there.keys() or not factors <= set(map(id, there.values())):
        raise Wrong(
            "another model after `train`",
            "layers or weights of the model are others than before: `train` moves A and B, and puts nothing in their place",
        )
    moved = [name for name, p in made.model.named_parameters() if name in held and not torch.equal(p, held[name])]
    if moved:
        head = any(name.startswith("lm_head") for name in moved)
        raise Wrong(
            "the head is trained" if head else "a frozen weight has moved",
            f"after `train` `{moved[-1]}` is not what it was: A and B train, and nothing else",
        )
    if thawed := [name for name in frozen if there[name].requires_grad]:
        raise Wrong(
            "the base is thawed", f"`train` sets requires_grad=True for `{thawed[0]}` and {len(thawed) - 1} more"
        )
    now, wanted = _flat(made), run()
    if torch.equal(now, start):
        raise Wrong("nothing has moved", f"after `train` with {len(batches)} batches A and B are what they were")

    def ends_at(there: Tensor) -> bool:
        return bool((now - there).norm() <= 0.02 * (there - start).norm())  # weight decay of 0.01 is inside

    if ends_at(wanted) or ends_at(run(optimizer=partial(torch.optim.AdamW, weight_decay=0.1))):
        return
    n = len(batches)
    if seen != list(range(n)) and sorted(seen) == list(range(n)):
        raise Wrong(
            "the batches come in another order", f"they came as {seen}: `train` takes them as they lie in the list"
        )
    if len(rates) > 1 and max(rates) - min(rates) > 1e-3 * lr:
        raise Wrong(
            "the learning rate changes on the way",
            f"it went from {rates[0]:.3g} to {rates[-1]:.3g}: every step is at lr = {lr:g}",
        )
    wrongs: dict[str, Callable[[], Iterable[Tensor]]] = {
        "the old gradients are kept": lambda: [run(empty=False)],
        "the loss is climbed": lambda: [run(sign=-1.0)],
        "the loop ends after its first batch": lambda: [run(batches=batches[:1])],
        "one step for all batches": lambda: [run(at_once=True, empty=False), run(at_once=True)],
        "a new optimiser for every step": lambda: [run(anew=True)],
        "the batches are gone through more than once": lambda: (run(batches=many) for many in ([*batches] * 2, [*batches] * 3, [each for each in batches for _ in (0, 1)])),
        "the batches come in another order": lambda: [run(batches=batches[::-1])],
        "the gradients are clipped": lambda: [run(clip=1.0)],
        "the labels are not shifted": lambda: [run(loss=_mean)],
        "the prompt's tokens are trained on": lambda: [
            run(batches=[(ids, ids) for ids, _ in batches]),
            run(batches=[(ids, ids.masked_fill(ids == PAD, IGNORE)) for ids, _ in batches]),
        ],
        "a batch is left out": lambda: [run(batches=batches[:-1]), run(batches=batches[1:])],
        "fewer steps than batches": lambda: [now] if 1 < len(rates) < n else [],
        "only B trains": lambda: [run(only=1)],
        "only A trains": lambda: [run(only=0)],
        "another optimiser: SGD": lambda: [run(optimizer=torch.optim.SGD)],
        "another learning rate": lambda: (run(lr=other) for other in ({*rates} - {lr}) | {1e-2, 1e-3, 1e-4, 5e-4, 2e-4, 5e-5, 2e-3, 3e-4, 3e-3, 5e-3}),
    }  # fmt: skip
    bug = next((name for name, ends in wrongs.items() if any(ends_at(there) for there in ends())), "another run")
    off = float((now - wanted).norm() / (wanted - start).norm())
    raise Wrong(
        bug,
        f"after {len(batches)} batches at lr = {lr:g} A and B end {off:.2f} × the reference's path away from where AdamW ends",
    )
