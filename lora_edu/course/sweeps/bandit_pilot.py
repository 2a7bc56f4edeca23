"""A signal of one bit: is rank 1 as good as full training when all that comes back is right or wrong? On the digits, the rates. Chapter 12.

A reader of upright digits meets turned ones. For each digit it draws four answers from its own distribution and hears of each
only whether it was right (a contextual bandit); the policy gradient makes what was right more often than the mean of the four likelier. For
comparison the same network is told the label. Full training and LoRA at two ranks, each at a row of learning rates, half a decade apart, Adam and SGD. A rate
is chosen by the expected reward on the validation digits: the mean probability of the right answer. The runs that compare are `bandit`'s.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.course.sweeps.cut_later import LAYERS, reader
from lora_edu.course.sweeps.rates_ranks import adapted, rows
from lora_edu.experiments.sweeps import Cell, Sweep

STEPS, BATCH, DRAWS, ALPHA = 1000, 64, 4, 16.0
METHODS = {"LoRA, r = 1": 1, "LoRA, r = 8": 8, "full training": None}
ONE_BIT, LABEL, ONE_BIT_SGD = "one bit", "the label", "one bit, SGD"
_LORA, _FULL = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
_SGD = (1e-2, 3e-2, 1e-1, 3e-1, 1.0)
RATES = {  # of each signal and method; as they had to be for the best one to lie inside
    **{(signal, name): _LORA if r else _FULL for signal in (ONE_BIT, LABEL) for name, r in METHODS.items()},
    **{(ONE_BIT_SGD, name): _SGD for name in METHODS},
    (LABEL, "full training"): (*_FULL, 3e-2),
}


def reward_loss(logits: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """The policy gradient's loss for a batch: logits (n, classes) draw `DRAWS` answers each, and hear of each whether it is y (n,).

    −mean((R − mean of R over the digit's draws) · log p(answer)): its gradient is, up to the factor (DRAWS − 1)/DRAWS, an unbiased estimate of that of
    −mean(expected reward). Source: Williams 1992 (REINFORCE), with the mean of the draws as the baseline.
    """
    answers = torch.multinomial(logits.detach().softmax(1), DRAWS, replacement=True, generator=generator)  # (n, DRAWS)
    reward = (answers == y[:, None]).float()  # (n, DRAWS), a bit each
    advantage = reward - reward.mean(1, keepdim=True)
    return -(advantage * logits.log_softmax(1).gather(1, answers)).mean()


def taught(base: nn.Module, signal: str, method: str, rate: float, seed: int) -> nn.Module:
    """A copy of `base` after `STEPS` batches of turned digits with that signal; the seed draws A, the rows and the answers."""
    rank, digits = METHODS[method], rows(True)
    model = adapted(base, rank, ALPHA / rank, seed) if rank else copy.deepcopy(base).requires_grad_(True)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = (
        torch.optim.SGD(trained, lr=rate)
        if signal == ONE_BIT_SGD
        else torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    )
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        some = torch.randint(len(digits.x_train), (BATCH,), generator=generator)
        logits, y = model(digits.x_train[some]), digits.y_train[some]
        loss = F.cross_entropy(logits, y) if signal == LABEL else reward_loss(logits, y, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@torch.no_grad()
def reward_and_share(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """The expected reward (mean probability of the right answer), and the share of digits whose likeliest answer is right."""
    logits = model(x)  # (n, classes)
    expected = float(logits.softmax(1).gather(1, y[:, None]).mean())
    return expected, float((logits.argmax(1) == y).float().mean())


def _run(base: nn.Module, cell: Cell, seed: int) -> dict[str, float]:
    model, digits = taught(base, cell["signal"], cell["method"], cell["learning_rate"], seed), rows(True)
    found: dict[str, float] = {}
    found["valid_reward"], found["valid"] = reward_and_share(model, digits.x_valid, digits.y_valid)
    found["test_reward"], found["test"] = reward_and_share(model, digits.x_test, digits.y_test)
    return found if math.isfinite(found["valid_reward"]) else dict.fromkeys(found, math.nan)


SWEEP = Sweep(
    name="bandit_pilot",
    title="right or wrong is all that comes back: learning rates for rank 1, rank 8 and full training; turned digits",
    chapter="12",
    cells=[
        {"signal": signal, "method": method, "learning_rate": rate}
        for (signal, method), rates in RATES.items()
        for rate in rates
    ],
    seeds=(100, 101),
    metrics=("valid_reward", "valid", "test_reward", "test"),
    settings={
        "steps": STEPS, "batch": BATCH, "draws": DRAWS, "alpha": ALPHA, "layers": list(LAYERS),
        "optimisers": "AdamW without decay; SGD without momentum; a constant rate",
    },
    base=reader,
    run=_run,
)  # fmt: skip
