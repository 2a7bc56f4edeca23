"""Exercises of chapter 05, First run."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import isgeneratorfunction
from typing import Any

import torch
from torch import Tensor

from lora_edu.course.checks.judged_batch import judge_batch
from lora_edu.course.checks.judged_loop import judge_frozen, judge_run
from lora_edu.course.checks.small_loop import Reader, batch_of, flat, gradients, reference_run
from lora_edu.course.checks.watched_loop import Steps, WatchedLoss
from lora_edu.course.exercises import NotAttempted, Wrong, as_number, attempt, close, generator, register
from lora_edu.data.examples import IGNORE


def _values(got: Any) -> Sequence[Any] | None:
    """What a list, tuple, tensor or array holds, one of a single row too; None for anything else."""
    got = got.reshape(-1) if getattr(got, "ndim", 0) == 2 and len(got) == 1 else got  # (1, T)
    got = got.tolist() if hasattr(got, "tolist") else got
    return got if isinstance(got, Sequence) and not isinstance(got, str) else None


def _numbers(got: Any, what: str) -> list[int]:
    """A list, tuple, tensor or array of whole numbers as a list."""
    if (values := _values(got)) is None:
        raise Wrong("not a list of labels", f"{what} is {type(got).__name__}, and should be a list of whole numbers")
    if any(value is ... or value is None for value in values):
        raise NotAttempted
    try:
        return [operator.index(value) for value in values]
    except TypeError:
        raise Wrong("not a list of labels", f"{what} holds something that is no whole number: {values!r}") from None


def _row(random: torch.Generator, prompt: int, answer: int, end: int = 2) -> list[int]:
    """A prompt that holds the token `end` too, and an answer that ends in it."""
    ids = torch.randint(10, 99, (prompt + answer,), generator=random).tolist()
    ids[prompt // 2] = ids[-1] = end
    return ids


def _listed(function: Any) -> Any:
    """A generator function as one that returns a list; anything else as it is."""
    if not isgeneratorfunction(function):
        return function

    @wraps(function)
    def run(*values: Any) -> list[Any]:
        return list(function(*values))

    return run


@register(
    "05.1",
    title="The shifted labels",
    stars=1,
    minutes=6,
    task="Write `shifted_labels(ids, prompt_length)`: for each position of `ids` the token that has to be predicted *there*, or −100 where nothing "
    "is to be learnt. The first `prompt_length` ids are the prompt, the rest is the answer with its end. A list as long as `ids`.",
    wants="shifted_labels",
    shows="Every answer token is predicted one position before it stands, its end included, and nothing else counts.",
    hints=(
        "Begin with the token that follows each position, −100 at the last one, where nothing follows. Then mask.",
        "Which position predicts the first token of the answer? It is a position of the prompt.",
        "The labels −100 stand at positions 0 to prompt_length − 2, and at the last one.",
    ),
)
def shifted_labels(function: Callable[[list[int], int], Sequence[int]]) -> None:
    random = generator()
    for prompt, answer in [(4, 3), (1, 2), (7, 1), *torch.randint(1, 9, (6, 2), generator=random).tolist()]:
        ids = _row(random, prompt, answer)
        wanted = [IGNORE] * (prompt - 1) + ids[prompt:] + [IGNORE]
        copy = list(ids)
        got = attempt(_listed(function), copy, prompt)
        if copy != ids:
            raise Wrong(
                "the ids are changed in place", "`shifted_labels` changed the list it was given: make a new one"
            )
        got = _numbers(got, "what `shifted_labels` returned")
        if got == wanted:
            continue
        masked = [IGNORE] * prompt + ids[prompt:]
        bugs = {
            "nothing is learnt": [IGNORE] * len(ids),
            "not shifted: each position learns to repeat the token it has read": masked,
            "shifted the wrong way": [IGNORE, *masked[:-1]],
            "shifted by two": [*masked[2:], IGNORE, IGNORE],
            "the first token of the answer is never learnt": [IGNORE] * prompt + ids[prompt + 1 :] + [IGNORE],
            "the answer's end is masked": [*wanted[:-2], IGNORE, IGNORE],
            "the prompt is learnt too": [*ids[1:], IGNORE],
            "the last position has nothing to predict": [*wanted[:-1], ids[-1]],
            "the row is wrapped round: the last position learns the first token": [*wanted[:-1], ids[0]],
            "one label too few": wanted[:-1],
            "only the answer's labels": ids[prompt:],
            "a token of the prompt is learnt": [IGNORE] * (prompt - 2) + ids[prompt - 1 :] + [IGNORE],
        }
        bug = next((bug for bug, wrong in bugs.items() if got == wrong), None)
        if bug is None and len(got) != len(ids):
            bug = "another length"
        elif bug is None:
            other = {label for label, right in zip(got, wanted) if right == IGNORE and label != IGNORE}
            masked_so = [IGNORE if right == IGNORE else label for label, right in zip(got, wanted)] == wanted
            bug = "masked with another number than −100" if masked_so and len(other) == 1 else "other labels"
        raise Wrong(bug, f"for {len(ids)} ids of which {prompt} are the prompt, {ids}, you give {got}")


@register(
    "05.2",
    title="The missing lines of the loop",
    stars=2,
    minutes=8,
    task="Complete `train_by_hand(model, batches, loss_sum, lr)`: for each batch one step of `torch.optim.AdamW` (weight_decay=0) on what trains, "
    "with the gradient of the *mean* loss a token. Return the list of mean losses, as numbers. `loss_sum(model, batch)` gives (summed loss, count).",
    wants="train_by_hand",
    shows="Your loop ends with the weights of a reference run, number for number: the right parameters, the right mean, and no old gradients.",
    hints=(
        "The optimiser gets only what trains: `[p for p in model.parameters() if p.requires_grad]`.",
        "A step is four lines: loss, backward, optimiser step, gradients to zero. What is divided by what?",
        "`(total / count).backward()`, and for the list `(total / count).item()`: a number, not a tensor with its graph.",
    ),
)
def train_by_hand(function: Callable[..., Sequence[float]]) -> None:
    lr = 0.03
    for seed in torch.randint(0, 10**6, (2,), generator=generator()).tolist():
        random = torch.Generator().manual_seed(seed)
        batches = [batch_of(random, *sizes) for sizes in ((2, 6, 2), (1, 4, 1), (3, 9, 5), (2, 5, 3), (2, 7, 1))]
        model = Reader(random)
        weights, losses = reference_run(model, batches, lr)
        start, base = flat(model.factors, model.factors), {name: p.detach().clone() for name, p in model.base.items()}
        watched = WatchedLoss()
        steps = Steps(model, watched)
        with steps:
            got = _attempt(function, model, [dict(batch) for batch in batches], watched, lr)
        judge_frozen(model, base)
        judge_run(model, start, weights, batches, steps.taken, watched, lr)
        _judge_losses(got, losses, watched.batches)


def _attempt(function: Callable[..., Any], *values: Any) -> Any:
    """`attempt`, with a word on the error that a frozen parameter's missing gradient raises."""
    try:
        return attempt(_listed(function), *values)
    except Wrong as wrong:
        if "'NoneType'" not in wrong.detail:
            raise
        raise Wrong(wrong.bug, f"{wrong.detail}. A frozen parameter has no gradient: its `.grad` is None") from None


def _judge_losses(got: Any, wanted: Sequence[float], batches: Sequence[Mapping[str, Tensor]]) -> None:
    """For a run whose weights are right. Raises: Wrong."""
    if (values := _values(got)) is None:
        said = f"the weights are right; returned is {type(got).__name__}, and wanted a list of {len(wanted)} losses"
        raise Wrong("no list of losses", said)
    if any(isinstance(value, Tensor) and value.requires_grad for value in values):
        raise Wrong(
            "a loss in the list carries its graph",
            "the weights are right; but the list holds tensors that hang on the steps they come from: `.item()` gives the number",
        )
    try:
        losses = [float(as_number(value, "one of the losses")) for value in values]
    except Wrong as wrong:
        raise Wrong("no list of losses", f"the weights are right; {wrong.detail}") from None
    if len(losses) != len(wanted):
        said = f"the weights are right; returned are {len(losses)} losses, and there were {len(wanted)} steps"
        raise Wrong("another number of losses", said)
    counts = [int((batch["labels"][:, 1:] != IGNORE).sum()) for batch in batches]
    bugs = {
        "the losses are sums, not means": [mean * n for mean, n in zip(wanted, counts)],
        "the losses add up": torch.tensor(wanted).cumsum(0).tolist(),
        "the losses are divided twice": [mean / n for mean, n in zip(wanted, counts)],
    }

    def like(other: Sequence[float]) -> bool:
        return close(torch.tensor(losses), torch.tensor(other))

    if not like(wanted):
        bug = next((bug for bug, wrong in bugs.items() if like(wrong)), "other losses")
        shown = [round(loss, 3) for loss in losses], [round(loss, 3) for loss in wanted]
        raise Wrong(bug, f"the weights are right; the losses returned are {shown[0]}, the means a token {shown[1]}")


@register(
    "05.3",
    title="Four unequal micro-batches",
    stars=2,
    minutes=7,
    task="Write `accumulate(model, micro_batches, loss_sum)`: leave in `.grad` the gradient that *one* batch of all rows would give (of the mean "
    "loss a token), going through one micro-batch at a time. Return that mean loss as a number. The gradients are clear when you get the model.",
    wants="accumulate",
    shows="Unequal micro-batches, the same gradient as the one large batch: sums are added, and divided once, by all tokens.",
    hints=(
        "`backward()` adds to `.grad`. If every micro-batch hands it its *sum*, what do the gradients hold at the end?",
        "Memory is saved only if `backward()` is called for each micro-batch: no list of losses is kept to the end.",
        "After the loop divide every `.grad` by the number of all tokens: `p.grad /= count` where p.grad is not None.",
    ),
)
def accumulate(function: Callable[..., float]) -> None:
    random = generator()
    for sizes in ([(1, 3, 2), (2, 5, 1), (1, 12, 2), (3, 4, 3)], [(2, 9, 1), (1, 2, 1), (1, 4, 2)]):
        batches = [batch_of(random, *each) for each in sizes]
        model = Reader(random)
        grads, losses = gradients(model, batches)
        model.calls, before = 0, flat(model.factors, model.factors)
        base = {name: p.detach().clone() for name, p in model.base.items()}
        watched = WatchedLoss()
        got = _attempt(function, model, [dict(batch) for batch in batches], watched)
        judge_frozen(model, base)
        if not torch.equal(before, flat(model.factors, model.factors)):
            raise Wrong("a step is taken", "the weights have moved: `accumulate` only leaves a gradient behind")
        if all(p.grad is None for p in model.factors):
            raise Wrong(
                "no gradient is left",
                "`.grad` is None afterwards: is `backward()` called, and are the gradients not cleared?",
            )
        rows = sum(len(batch["input_ids"]) for batch in batches)
        if watched.batches and (seen := sum(len(batch["input_ids"]) for batch in watched.batches)) < rows:
            raise Wrong("a micro-batch is left out", f"`loss_sum` has seen {seen} of {rows} rows")
        if model.calls < len(batches):
            raise Wrong(
                "all rows at once",
                f"the model was called {model.calls} times for {len(batches)} micro-batches: that needs the memory of all",
            )
        if watched.most > 1:
            kept = f"{watched.most} earlier micro-batches still held their graphs when the next one came, so the memory of all is needed"
            if watched.retained > 1:
                raise Wrong(
                    "every graph is kept by `retain_graph`", f"{kept}: without it `backward()` frees each graph"
                )
            raise Wrong("every graph is kept", f"{kept}: call `backward()` for each before the next")
        grad = flat([p.grad for p in model.factors], model.factors)
        if not grad.any():
            raise Wrong("no gradient is left", "`.grad` is zero afterwards: are the gradients cleared at the end?")
        bug = next((name for name, wrong in grads.items() if close(grad, wrong)), "another gradient")
        if bug:
            off = (grad - grads[""]).norm() / grads[""].norm()
            tokens = [int((batch["labels"][:, 1:] != IGNORE).sum()) for batch in batches]
            raise Wrong(
                bug, f"for micro-batches of {tokens} tokens your gradient is off by {off:.0%} of the one batch's length"
            )
        _judge_loss(got, losses)


def _judge_loss(got: Any, losses: Mapping[str, float]) -> None:
    """For a run whose gradient is right; `losses` has the right one under "" and wrong ones by their bugs. Raises: Wrong."""
    try:
        loss = as_number(got, "`accumulate`")
    except Wrong as wrong:
        raise Wrong("no loss is returned", f"the gradient is right; {wrong.detail}, the mean loss a token") from None
    if not math.isclose(loss, losses[""], rel_tol=1e-4):
        bugs = (name for name, wrong in losses.items() if name and math.isclose(loss, wrong, rel_tol=1e-4))
        bug = next((f"the loss is {name}" for name in bugs), "another loss")
        raise Wrong(bug, f"the gradient is right; you return {loss:.4f}, and the mean loss a token is {losses['']:.4f}")


@register(
    "05.4",
    title="Pad without losing the end",
    stars=2,
    minutes=8,
    task="Write `pad_batch(rows, prompt_lengths, pad)`: three tensors (B, T), input_ids, attention_mask and labels, padded on the right to the "
    "longest row. Labels are unshifted, −100 on prompt and padding. Each row is a list of ids, and `pad` is also the token that ends an answer.",
    wants="pad_batch",
    shows="Padding is known by its place: every answer keeps its end, though that token and the padding are one and the same.",
    hints=(
        "Start with three tensors filled for a batch of nothing but padding: `torch.full((B, T), pad)`, zeros, and −100 everywhere.",
        "Then, row by row, write what is real into the first `len(row)` places. Nothing asks which value a token has.",
        "`labels[i, start:length] = torch.tensor(row[start:])` with start the row's prompt length and length its own.",
    ),
)
def pad_batch(function: Callable[[list[list[int]], list[int], int], tuple[Tensor, Tensor, Tensor]]) -> None:
    random = generator()
    pads = (torch.randperm(9, generator=random)[:3] + 1).tolist()  # never 0, and another one each time
    several = torch.randint(1, 8, (4, 2), generator=random).tolist()
    for pad, sizes in zip(pads, ([(3, 4), (2, 2), (5, 3)], [(2, 1), (4, 6)], several)):
        rows = [_row(random, prompt, answer, end=pad) for prompt, answer in sizes]
        prompts = [prompt for prompt, _ in sizes]
        given = [list(row) for row in rows]
        got = attempt(function, given, list(prompts), pad)
        if given != rows:
            raise Wrong("the rows are changed in place", "`pad_batch` changed the rows it was given: make new ones")
        judge_batch(got, rows, prompts, pad)
