"""The toy of chapters 02, 03 and 08: 8×8 handwritten digits, upright and turned by 90°, and a small network that reads them.

Seconds on a laptop, and yet a real fine-tuning: a network that reads upright digits is adapted to turned ones.
Source: scikit-learn's bundled digits (UCI Optical Recognition of Handwritten Digits, Alpaydin and Kaynak 1998, CC BY 4.0).
"""

import itertools
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Digits(NamedTuple):
    """Images (n, 64) with pixels in 0 … 1 and their labels (n,), split once and for all."""

    x_train: Tensor
    y_train: Tensor
    x_valid: Tensor
    y_valid: Tensor
    x_test: Tensor
    y_test: Tensor


def load_digits(turned: bool = False) -> Digits:
    """1,797 digits: 1,297 to train, 200 to choose on, 300 to test; `turned` rotates every image by 90°. The same split either way."""
    from sklearn import datasets

    data = datasets.load_digits()
    x = torch.tensor(data.images, dtype=torch.float32) / 16  # (n, 8, 8)
    x = torch.rot90(x, 1, dims=(1, 2)) if turned else x
    x, y = x.reshape(-1, 64), torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, valid, test = order[:-500], order[-500:-300], order[-300:]
    return Digits(x[train], y[train], x[valid], y[valid], x[test], y[test])


def network(seed: int = 0) -> nn.Sequential:
    """An untrained reader of digits, 64 → 256 → 256 → 256 → 10, with ReLU between its four linear layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = [64, 256, 256, 256, 10]
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


def train_digits(
    model: nn.Module,
    digits: Digits,
    *,
    lr: float = 1e-3,
    epochs: int = 15,
    batch_size: int = 64,
    seed: int = 0,
    momentum: float | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    watch: Callable[[int], object] | None = None,
) -> nn.Module:
    """Train what trains in `model`, in place: with AdamW, or with SGD where `momentum` is given. 15 epochs: about a CPU second.

    optimizer: one of your own, instead of `lr` and `momentum`. watch: called after each step with the number of steps done.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if optimizer is None and momentum is None:
        optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    elif optimizer is None:
        optimizer = torch.optim.SGD(trained, lr=lr, momentum=momentum or 0.0)
    generator = torch.Generator().manual_seed(seed)
    done = 0
    for _ in range(epochs):
        for rows in torch.randperm(len(digits.x_train), generator=generator).split(batch_size):
            loss = F.cross_entropy(model(digits.x_train[rows]), digits.y_train[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if watch:
                watch(done)
    return model


@torch.no_grad()
def accuracy(model: Callable[[Tensor], Tensor], digits: Digits, rows: Literal["valid", "test"] = "test") -> float:
    """Share of the 300 test digits (or of the 200 to choose on) that `model` names right; 0.1 is guessing."""
    x, y = (digits.x_valid, digits.y_valid) if rows == "valid" else (digits.x_test, digits.y_test)
    return float((model(x).argmax(1) == y).float().mean())
