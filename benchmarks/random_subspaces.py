"""How few numbers can adapt the digits network? `python benchmarks/random_subspaces.py`. Chapter 02, the optional section.

θ = θ₀ + z P: all parameters θ move, but only along d random directions, the rows of P; the d numbers z train. Turned digits, from two
starts: a network that reads upright digits, and an untrained one. Stored in lora_edu/stored/random_subspaces.safetensors: `pretrained` and
`untrained`, accuracies on test digits (d, learning rate, seed), and `full_pretrained`, `full_untrained` (seed), with all parameters trained.
Each d and start has three learning rates, so that none is judged at the other's. About four CPU minutes.
"""

import argparse
import copy

import torch
import torch.nn.functional as F
from common import environment
from torch import nn
from torch.func import functional_call

from lora_edu.checkpoint import fingerprint
from lora_edu.stored import store
from lora_edu.tasks.digits import Digits, accuracy, fit, load_digits, network

DIMENSIONS, RATES, SEEDS, EPOCHS = (16, 64, 256), (0.05, 0.2, 0.5), (0, 1, 2), 8


def train_in_subspace(start: nn.Module, digits: Digits, d: int, lr: float, seed: int) -> float:
    """Accuracy on the test digits after `EPOCHS` epochs of Adam on z."""
    theta0 = nn.utils.parameters_to_vector(start.parameters()).detach()
    generator = torch.Generator().manual_seed(seed)
    P = torch.randn(d, len(theta0), generator=generator) / len(theta0) ** 0.5  # rows of length about 1
    z = torch.zeros(d, requires_grad=True)
    sizes = {name: p.shape for name, p in start.named_parameters()}

    def answer(x: torch.Tensor) -> torch.Tensor:
        parts = (theta0 + z @ P).split([shape.numel() for shape in sizes.values()])
        weights = {name: part.view(shape) for (name, shape), part in zip(sizes.items(), parts)}
        return functional_call(start, weights, x)

    optimizer = torch.optim.Adam([z], lr=lr)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(digits.x_train), generator=generator).split(64):
            loss = F.cross_entropy(answer(digits.x_train[rows]), digits.y_train[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return float((answer(digits.x_test).argmax(1) == digits.y_test).float().mean())


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    upright, turned = load_digits(), load_digits(turned=True)
    tensors, prints = {}, []
    starts = {
        seed: {"pretrained": fit(network(seed), upright, seed=seed), "untrained": network(seed)} for seed in SEEDS
    }
    for name in ("pretrained", "untrained"):
        full = [
            accuracy(fit(copy.deepcopy(starts[seed][name]), turned, epochs=20, seed=seed), turned) for seed in SEEDS
        ]
        tensors[f"full_{name}"] = torch.tensor(full)
        table = [
            [[train_in_subspace(starts[seed][name], turned, d, lr, seed) for seed in SEEDS] for lr in RATES]
            for d in DIMENSIONS
        ]
        tensors[name] = torch.tensor(table)  # (d, learning rate, seed)
        print(name, "full", full, "by d, at the best rate:", tensors[name].mean(2).amax(1).tolist(), flush=True)
    about = {
        "command": "python benchmarks/random_subspaces.py",
        "fingerprint": fingerprint(starts[SEEDS[0]]["pretrained"]),
        "dimensions": DIMENSIONS,
        "rates": RATES,
        "seeds": SEEDS,
        "epochs": EPOCHS,
        "parameters": sum(p.numel() for p in network().parameters()),
        **environment(),
    }
    path = store("random_subspaces", tensors, about)
    print(f"written: {path.name}, {path.stat().st_size:,} bytes")
