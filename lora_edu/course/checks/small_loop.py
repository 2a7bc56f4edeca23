"""A language model of a few numbers and its training loop: the runs and gradients that right and wrong programs end in. Chapter 05."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.data.examples import IGNORE


class Reader(nn.Module):
    """A model of a few numbers that behaves as a language model does: ids in, logits out, and one part is frozen."""

    def __init__(self, random: torch.Generator) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 6).requires_grad_(False)
        self.trained = nn.Linear(6, 12, bias=False)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=random)
        self.calls = 0

    def forward(self, input_ids: Tensor) -> Tensor:
        self.calls += 1
        return self.trained(self.table(input_ids))  # (B, T, V)


def loss_sum(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    """Summed loss and number of labels that count, shifted by one, as `causal_lm_loss` gives them."""
    logits, targets = model(batch["input_ids"])[:, :-1], batch["labels"][:, 1:]
    total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    return total, int((targets != IGNORE).sum())


def batch_of(random: torch.Generator, rows: int, length: int, prompt: int) -> dict[str, Tensor]:
    ids = torch.randint(0, 12, (rows, length), generator=random)
    labels = ids.clone()
    labels[:, :prompt] = IGNORE
    return {"input_ids": ids, "labels": labels}


LOOP_BUGS = (
    "the old gradients are kept",
    "the sum is trained, not the mean",
    "another optimiser",
    "weights decay",
    "divided by the number of rows",
    "a batch is left out",
)


def run_with(
    start: Reader, batches: Sequence[Mapping[str, Tensor]], bug: str
) -> tuple[Tensor, list[float], list[Tensor]]:
    """The trained weight, the mean losses and the gradients of the run, with one bug or ("") none."""
    model = Reader(torch.Generator().manual_seed(0))
    model.load_state_dict(start.state_dict())
    weights = [model.trained.weight]
    optimizer = (
        torch.optim.SGD(weights, lr=0.03)
        if bug == "another optimiser"
        else torch.optim.AdamW(weights, lr=0.03, weight_decay=0.01 if bug == "weights decay" else 0.0)
    )
    losses, grads = [], []
    for batch in batches[: -1 if bug == "a batch is left out" else None]:
        total, count = loss_sum(model, batch)
        by = {"the sum is trained, not the mean": 1, "divided by the number of rows": len(batch["input_ids"])}
        (total / by.get(bug, count)).backward()
        assert model.trained.weight.grad is not None
        grads.append(model.trained.weight.grad.clone())
        optimizer.step()
        if bug != "the old gradients are kept":
            optimizer.zero_grad()
        losses.append(total.item() / count)
    return model.trained.weight.detach().clone(), losses, grads


def gradients(model: Reader, batches: Sequence[Mapping[str, Tensor]]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The right gradient under "" and wrong ones by their bugs; the same for the loss."""
    each: list[tuple[Tensor, float, int]] = []
    for batch in batches:
        model.zero_grad()
        total, count = loss_sum(model, batch)
        total.backward()
        assert model.trained.weight.grad is not None
        each.append((model.trained.weight.grad.clone(), total.item(), count))
    tokens, rows = sum(count for *_, count in each), sum(len(batch["input_ids"]) for batch in batches)
    total_grad, total_loss = torch.stack([grad for grad, *_ in each]).sum(0), sum(loss for _, loss, _ in each)
    mean_grad = torch.stack([grad / count for grad, _, count in each]).mean(0)
    grads = {
        "": total_grad / tokens,
        "the mean of the means": mean_grad,
        "the sum of the means": mean_grad * len(each),
        "the sum is not divided": total_grad,
        "divided by the number of micro-batches": total_grad / len(each),
        "divided by the number of rows": total_grad / rows,
        "only the last micro-batch is left": each[-1][0] / each[-1][2],
        "only the last micro-batch is left, divided by all tokens": each[-1][0] / tokens,
        "divided again at every micro-batch": _running(each, tokens),
    }
    losses = {
        "": total_loss / tokens,
        "the mean of the means": sum(loss / count for _, loss, count in each) / len(each),
        "the sum of the means": sum(loss / count for _, loss, count in each),
        "the sum": total_loss,
        "the last micro-batch's": each[-1][1] / each[-1][2],
    }
    return grads, losses


def _running(each: Sequence[tuple[Tensor, float, int]], tokens: int) -> Tensor:
    """Gradients that are divided inside the loop, so that the first ones are divided many times."""
    grad = torch.zeros_like(each[0][0])
    for own, *_ in each:
        grad = (grad + own) / tokens
    return grad
