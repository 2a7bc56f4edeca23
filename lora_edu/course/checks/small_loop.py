"""A language model of a few numbers with an adapter, its rows, and the gradients that right and wrong programs end in. Chapter 05."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.adapters.layers import LoRALinear
from lora_edu.data.examples import IGNORE

Batch = Mapping[str, Tensor]
VOCABULARY, WIDTH, RANK = 12, 6, 2


class Reader(nn.Module):
    """A model of a few numbers that behaves as the page's does: ids in, logits out, a base that is frozen, an adapter that trains."""

    def __init__(self, random: torch.Generator) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, WIDTH).requires_grad_(False)
        self.head = LoRALinear(nn.Linear(WIDTH, VOCABULARY, bias=False), r=RANK, lora_alpha=2 * RANK)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=random)  # B ≠ 0 as well, so that both factors have a gradient
        self.calls = 0

    @property
    def device(self) -> torch.device:
        return self.table.weight.device

    @property
    def factors(self) -> tuple[nn.Parameter, nn.Parameter]:
        """A (2, 6) and B (12, 2): what trains."""
        return self.head.A, self.head.B

    @property
    def base(self) -> dict[str, nn.Parameter]:
        """What must not train, by name."""
        factors = {id(p) for p in self.factors}
        return {name: p for name, p in self.named_parameters() if id(p) not in factors}

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
        self.calls += 1
        return SimpleNamespace(logits=self.head(self.table(input_ids)))  # (B, T, V)


def flat(tensors: Iterable[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    """One vector; where there is no tensor, zeros."""
    return torch.cat([torch.zeros(p.numel()) if t is None else t.detach().flatten() for t, p in zip(tensors, like)])


def loss_sum(model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
    """Summed loss and number of labels that count, shifted by one, as `causal_lm_loss` gives them."""
    logits, targets = model(batch["input_ids"]).logits[:, :-1], batch["labels"][:, 1:]
    total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    return total, int((targets != IGNORE).sum())


def batch_of(random: torch.Generator, rows: int, length: int, prompt: int) -> dict[str, Tensor]:
    ids = torch.randint(0, VOCABULARY, (rows, length), generator=random)
    labels = ids.clone()
    labels[:, :prompt] = IGNORE
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def copy_of(model: Reader) -> Reader:
    """The same weights in a model of its own, without gradients."""
    copy = Reader(torch.Generator().manual_seed(0))
    copy.load_state_dict(model.state_dict())
    return copy


def gradient_of(model: Reader, batch: Batch) -> tuple[Tensor, float, int]:
    """Gradient of the summed loss as one vector, the summed loss, and its tokens. The model's own gradients stay as they are."""
    total, count = loss_sum(model, batch)
    return flat(torch.autograd.grad(total, model.factors), model.factors), total.item(), count


def reference_run(start: Reader, batches: Sequence[Batch], learning_rate: float) -> tuple[Tensor, list[float]]:
    """The trained weights as one vector and the mean losses, of the run that exercise 05.2 asks for."""
    model = copy_of(start)
    optimizer, losses = torch.optim.AdamW(model.factors, lr=learning_rate, weight_decay=0), []
    for batch in batches:
        total, count = loss_sum(model, batch)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item() / count)
    return flat(model.factors, model.factors), losses


def gradients(model: Reader, batches: Sequence[Batch]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The right gradient of exercise 05.3 under "" and wrong ones by their bugs; the same for the loss."""
    each = [gradient_of(model, batch) for batch in batches]
    tokens, rows = sum(count for *_, count in each), sum(len(batch["input_ids"]) for batch in batches)
    every, inner = (sum(batch["labels"][:, skip:].numel() for batch in batches) for skip in (0, 1))
    total_grad, total_loss = torch.stack([grad for grad, *_ in each]).sum(0), sum(loss for _, loss, _ in each)
    mean_grad = torch.stack([grad / count for grad, _, count in each]).mean(0)
    last_grad, last_loss, last_count = each[-1]
    so_far = torch.tensor([count for *_, count in each]).cumsum(0).tolist()
    grads = {
        "": total_grad / tokens,
        "the mean of the means": mean_grad,
        "the sum of the means": mean_grad * len(each),
        "the sum is not divided": total_grad,
        "divided by the number of micro-batches": total_grad / len(each),
        "divided by the number of rows": total_grad / rows,
        "divided by all tokens, the masked ones too": total_grad / every,
        "divided by all positions, the masked ones too": total_grad / inner,
        "divided by the last micro-batch's tokens": total_grad / last_count,
        "divided by the tokens so far": sum(grad / n for (grad, *_), n in zip(each, so_far)),
        "only the last micro-batch is left": last_grad / last_count,
        "only the last micro-batch is left, divided by all tokens": last_grad / tokens,
        "only the last micro-batch is left, and not divided": last_grad,
        "only the first micro-batch is there": each[0][0] / each[0][2],
        "divided again at every micro-batch": _again(each, lambda i: tokens),
        "divided again at every micro-batch, by the tokens so far": _again(each, lambda i: so_far[i]),
        "divided again at every micro-batch, by its own tokens": _again(each, lambda i: each[i][2]),
    }
    losses = {
        "": total_loss / tokens,
        "the mean of the means": sum(loss / count for _, loss, count in each) / len(each),
        "the sum of the means": sum(loss / count for _, loss, count in each),
        "the sum": total_loss,
        "the last micro-batch's": last_loss / last_count,
        "the last micro-batch's sum, by all tokens": last_loss / tokens,
        "the sum, by the number of micro-batches": total_loss / len(each),
        "the mean, divided once more": total_loss / tokens**2,
    }
    return grads, losses


def _again(each: Sequence[tuple[Tensor, float, int]], by: Callable[[int], int]) -> Tensor:
    """Gradients that are divided inside the loop, so that the first ones are divided many times."""
    grad = torch.zeros_like(each[0][0])
    for i, (own, *_) in enumerate(each):
        grad = (grad + own) / by(i)
    return grad
