"""Exercises of chapter 05, First run."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lora_edu.course.checks.small_loop import LOOP_BUGS, Reader, batch_of, gradients, loss_sum, run_with
from lora_edu.course.checks.watched_loop import Steps, WatchedLoss
from lora_edu.course.exercises import NotAttempted, Wrong, as_number, attempt, close, generator, register
from lora_edu.data.examples import IGNORE

PAD = 2  # of the rows that the checkers make up: the token that ends an answer, and the one that pads


def _values(got: Any) -> Sequence[Any] | None:
    """What a list, tuple, tensor or array holds; None for anything else."""
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


def _row(random: torch.Generator, prompt: int, answer: int) -> list[int]:
    """A prompt that holds the end-of-turn token too, and an answer that ends in it."""
    ids = torch.randint(10, 99, (prompt + answer,), generator=random).tolist()
    ids[prompt // 2] = ids[-1] = PAD
    return ids


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
        got = attempt(function, copy, prompt)
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
        if bug is None:
            bug = "other labels" if len(got) == len(ids) else "another length"
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
    seeds = torch.randint(0, 10**6, (2,), generator=generator()).tolist()
    for seed in seeds:
        random = torch.Generator().manual_seed(seed)
        batches = [batch_of(random, *sizes) for sizes in ((2, 6, 2), (1, 4, 1), (3, 9, 5), (2, 5, 3), (2, 7, 1))]
        start = Reader(random)
        variants = {name: run_with(start, batches, name) for name in ("", *LOOP_BUGS)}
        model = Reader(random)
        model.load_state_dict(start.state_dict())
        frozen = model.table.weight.clone()
        seen = Steps(model)
        with seen:
            got = _attempt(function, model, batches, loss_sum, 0.03)
        if not torch.equal(frozen, model.table.weight) or any(p.requires_grad for p in model.table.parameters()):
            raise Wrong(
                "a frozen weight has changed", "the base's table was frozen when you got it, and is not what it was"
            )
        if torch.equal(start.trained.weight, model.trained.weight):
            raise Wrong(
                "nothing has moved",
                "the trained weight is what it was: is the optimiser's step taken, and are the gradients still there when it is?",
            )
        weight, losses, grads = variants.pop("")
        size = (seen.grads[0].norm() / grads[0].norm()).item() if seen.grads else 1.0
        if close(model.trained.weight.detach(), weight):
            _judge_gradients(seen, grads)
            _judge_losses(got, losses)
            continue
        # AdamW hardly notices a constant factor, so the weights alone do not tell what was divided by what
        bug = next((bug for bug, run in variants.items() if _same(model, seen, run[0], run[2])), "another run")
        if bug == "another run" and seen.grads and close(seen.grads[0] / size, grads[0]):
            bug = "divided by another number than that of the tokens" if abs(size - 1) > 1e-3 else bug
        distance = (model.trained.weight.detach() - weight).norm() / (weight - start.trained.weight).norm()
        raise Wrong(
            bug,
            f"after {len(batches)} steps your weight ends {distance:.2f} × the reference's whole path away from the reference's end",
        )


def _judge_gradients(seen: Steps, wanted: Sequence[Tensor]) -> None:
    """For a run whose weights are right. Raises: Wrong."""
    if seen.frozen_too:
        raise Wrong(
            "the optimiser is given what is frozen",
            "the weights come out right, but the optimiser got the base's frozen table too: hand it what trains, and nothing else",
        )
    for step, (got, grad) in enumerate(zip(seen.grads, wanted), 1):
        if not close(got, grad, 1e-3):
            raise Wrong(
                "not the gradient of the mean",
                f"the weights come out right, for AdamW hardly notices a constant factor; but at step {step} the gradient is "
                f"{got.norm() / grad.norm():.2f} times as long as that of the mean loss a token",
            )


def _same(model: Reader, seen: Steps, weight: Tensor, grads: Sequence[Tensor]) -> bool:
    """Whether a learner's run is the run that ended in `weight` and began with `grads[0]`."""
    first = not seen.grads or close(seen.grads[0], grads[0], 1e-3)
    return first and close(model.trained.weight.detach(), weight)


def _attempt(function: Callable[..., Any], *values: Any) -> Any:
    """`attempt`, with a word on the error that a frozen parameter's missing gradient raises."""
    try:
        return attempt(function, *values)
    except Wrong as wrong:
        if "'NoneType'" not in wrong.detail:
            raise
        raise Wrong(wrong.bug, f"{wrong.detail}. A frozen parameter has no gradient: its `.grad` is None") from None


def _judge_losses(got: Any, wanted: Sequence[float]) -> None:
    if (values := _values(got)) is None:
        raise Wrong(
            "no list of losses",
            f"the weights are right; returned is {type(got).__name__}, and wanted a list of {len(wanted)} losses",
        )
    if any(isinstance(value, Tensor) and value.requires_grad for value in values):
        raise Wrong(
            "the list keeps every graph",
            "a loss in the list still carries its graph, so nothing of a step can be freed: `.item()`",
        )
    if len(values) != len(wanted) or not close(torch.tensor([float(v) for v in values]), torch.tensor(wanted)):
        raise Wrong(
            "other losses",
            f"the weights are right; the losses returned are {[round(float(v), 3) for v in values]}, the means a token {[round(v, 3) for v in wanted]}",
        )


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
        model.zero_grad()
        model.calls, before = 0, model.trained.weight.detach().clone()
        watched = WatchedLoss()
        got = _attempt(function, model, batches, watched)
        if not torch.equal(before, model.trained.weight):
            raise Wrong("a step is taken", "the weights have moved: `accumulate` only leaves a gradient behind")
        if model.trained.weight.grad is None:
            raise Wrong(
                "no gradient is left",
                "`.grad` is None afterwards: is `backward()` called, and are the gradients not cleared?",
            )
        if model.calls < len(batches):
            raise Wrong(
                "all rows at once",
                f"the model was called {model.calls} times for {len(batches)} micro-batches: that needs the memory of all",
            )
        if watched.most > 1:
            raise Wrong(
                "every graph is kept",
                f"{watched.most} earlier micro-batches still held their graphs when the next one came, so the memory of all is needed: "
                "call `backward()` for each before the next",
            )
        grad = model.trained.weight.grad
        bug = next((name for name, wrong in grads.items() if close(grad, wrong)), "another gradient")
        if bug:
            size = grad.norm() / grads[""].norm()
            raise Wrong(
                bug,
                f"for micro-batches of {[loss_sum(model, b)[1] for b in batches]} tokens your gradient has {size:.2f} times the length of the one batch's, or another direction",
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


def _matrix(value: Any, shape: tuple[int, int], what: str) -> Tensor:
    if not isinstance(value, Tensor) and hasattr(value, "__len__"):
        try:
            value = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            raise Wrong("not a rectangle", f"{what} is a list whose rows are not of one length") from None
    if value is ... or value is None:
        raise NotAttempted
    if not isinstance(value, Tensor):
        raise Wrong("not a tensor", f"{what} is {type(value).__name__}, and should be a tensor of shape {shape}")
    if tuple(value.shape) != shape:
        raise Wrong("wrong shape", f"{what} has shape {tuple(value.shape)} and should have {shape}")
    return value.long()


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
    for sizes in ([(3, 4), (2, 2), (5, 3)], [(2, 1), (4, 6)], torch.randint(1, 8, (4, 2), generator=random).tolist()):
        rows = [_row(random, prompt, answer) for prompt, answer in sizes]
        prompts = [prompt for prompt, _ in sizes]
        given = [list(row) for row in rows]
        got = attempt(function, given, list(prompts), PAD)
        if given != rows:
            raise Wrong("the rows are changed in place", "`pad_batch` changed the rows it was given: make new ones")
        if not isinstance(got, tuple | list) or len(got) != 3:
            raise Wrong(
                "not three tensors",
                f"`pad_batch` returned {type(got).__name__}; return input_ids, attention_mask, labels",
            )
        shape = (len(rows), max(map(len, rows)))
        names = ("input_ids", "attention_mask", "labels")
        ids, mask, labels = (_matrix(value, shape, name) for value, name in zip(got, names))
        for i, (row, prompt) in enumerate(zip(rows, prompts)):
            _judge_row(row, prompt, ids[i].tolist(), mask[i].tolist(), labels[i].tolist())


def _judge_row(row: list[int], prompt: int, ids: list[int], mask: list[int], labels: list[int]) -> None:
    rest = len(ids) - len(row)
    said = f"a row of {len(row)} ids of which {prompt} are the prompt, in a batch {len(ids)} wide"
    if ids != row + [PAD] * rest:
        bug = "padded on the left" if rest and ids == [PAD] * rest + row else "other ids"
        raise Wrong(bug, f"{said}, {row}: its input_ids are {ids}")
    if mask != [1] * len(row) + [0] * rest:
        by_value = [int(token != PAD) for token in ids]
        bug = "the attention mask goes by value" if mask == by_value else "another attention mask"
        raise Wrong(bug, f"{said}: its attention_mask is {mask}; 1 for what is real, 0 for padding")
    answer = row[prompt:]
    wanted = [IGNORE] * prompt + answer + [IGNORE] * rest
    if labels == wanted:
        return
    bugs = {
        "the end of the answer is masked": [IGNORE if token == PAD else token for token in wanted],
        "the padding is learnt": [IGNORE] * prompt + answer + [PAD] * rest,
        "the prompt is learnt": row + [IGNORE] * rest,
        "nothing is masked": ids,
        "the labels are shifted": [*wanted[1:], IGNORE],
    }
    bug = next((bug for bug, wrong in bugs.items() if labels == wrong), "other labels")
    raise Wrong(bug, f"{said}, {row}: its labels are {labels}; here they stay unshifted")
