"""Starts: what a layer does before the first step. Chapter 16; chapter 03 §3 and §7."""

from types import SimpleNamespace

import torch
from torch import nn

from lora_edu.course.museum.specimen import exhibit


@exhibit(
    "both-random", room="starts", title="Both factors drawn from N(0, 1)",
    breaks="law 1", repair="B = 0: then B A = 0, and the layer starts as the base.",
)  # fmt: skip
class BothRandom:
    @staticmethod
    def broken():
        base, x = nn.Linear(64, 64), torch.randn(5, 64)
        A, B = torch.randn(4, 64), torch.randn(64, 4)
        return SimpleNamespace(before=base(x), after=base(x) + x @ A.T @ B.T)

    @staticmethod
    def sound():
        base, x = nn.Linear(64, 64), torch.randn(5, 64)
        A, B = torch.randn(4, 64) / 8, torch.zeros(64, 4)
        return SimpleNamespace(before=base(x), after=base(x) + x @ A.T @ B.T)

    @staticmethod
    def holds(made):
        change = ((made.after - made.before).norm() / made.before.norm()).item()
        assert change == 0, f"before any step the output has changed by {change:.1f} times its size"


def _loudness(A):
    """rms(A x) / rms(x)."""
    x = torch.randn(200, A.shape[1])
    return float((x @ A.T).square().mean().sqrt() / x.square().mean().sqrt())


@exhibit(
    "A-of-size-one", room="starts", title="A from N(0, 1), B = 0: silent, and yet not the usual start",
    breaks="law 4: the first step, −η s² G AᵀA, grows with A squared", repair="A uniform in ±1/√in, as loralib and PEFT draw it.",
)  # fmt: skip
class AOfSizeOne:
    @staticmethod
    def broken():
        return torch.randn(4, 256)

    @staticmethod
    def sound():
        return (2 * torch.rand(4, 256) - 1) / 256**0.5

    @staticmethod
    def holds(A):
        loud = _loudness(A)
        assert 0.3 < loud < 1.2, f"A x is {loud:.1f} times as large as x, where the usual start has 0.58"


@exhibit(
    "A-divided-by-r", room="starts", title="A from N(0, 1) divided by the rank",
    breaks="law 4: how fast B starts hangs on r and on the width", repair="Divide by the root of the input's width; the rank has no part in it.",
)  # fmt: skip
class ADividedByR:
    @staticmethod
    def broken():
        return [torch.randn(r, 256) / r for r in (1, 8, 64)]

    @staticmethod
    def sound():
        return [torch.randn(r, 256) / (3 * 256) ** 0.5 for r in (1, 8, 64)]

    @staticmethod
    def holds(factors):
        loud = [_loudness(A) for A in factors]
        said = ", ".join(f"{each:.2f}" for each in loud)
        assert max(loud) < 1.5 * min(loud), f"A x against x at r = 1, 8, 64: {said}"


@exhibit(
    "base-lost", room="starts", title="The layer is replaced by the low-rank pair alone",
    breaks="laws 1 and 2", repair="Keep the base inside: base_layer(x) + s·B A x.",
)  # fmt: skip
class BaseLost:
    @staticmethod
    def broken():
        base, x = nn.Linear(8, 8), torch.randn(5, 8)
        A, B = torch.randn(2, 8) / 3, torch.zeros(8, 2)
        return SimpleNamespace(before=base(x), after=x @ A.T @ B.T)

    @staticmethod
    def sound():
        base, x = nn.Linear(8, 8), torch.randn(5, 8)
        A, B = torch.randn(2, 8) / 3, torch.zeros(8, 2)
        return SimpleNamespace(before=base(x), after=base(x) + x @ A.T @ B.T)

    @staticmethod
    def holds(made):
        assert made.after.any(), "the layer answers 0 to everything"
        assert torch.equal(made.after, made.before), "the output has changed before any step"


@exhibit(
    "bias-lost", room="starts", title="A new nn.Linear(bias=False) gets the old one's weight",
    breaks="law 1", repair="Use the layer that is there; copy nothing.",
)  # fmt: skip
class BiasLost:
    @staticmethod
    def broken():
        old, x = nn.Linear(8, 6), torch.randn(5, 8)
        new = nn.Linear(8, 6, bias=False)
        new.weight = old.weight
        return SimpleNamespace(bias=old.bias, before=old(x), after=new(x))

    @staticmethod
    def sound():
        old, x = nn.Linear(8, 6), torch.randn(5, 8)
        return SimpleNamespace(bias=old.bias, before=old(x), after=old(x))

    @staticmethod
    def holds(made):
        lost = made.before - made.after
        exact = torch.allclose(lost, made.bias.expand_as(lost), atol=1e-6)
        assert not lost.any(), "the output is off" + (", by exactly the bias" if exact else "")


@exhibit(
    "loud-bottleneck", room="starts", title="A bottleneck adapter with an ordinary random start",
    breaks="law 1, for bottleneck adapters", repair="Start its second matrix at (or near) zero, as Houlsby et al. do.",
)  # fmt: skip
class LoudBottleneck:
    @staticmethod
    def broken():
        h, down, up = torch.randn(5, 32), nn.Linear(32, 8), nn.Linear(8, 32)
        return h, h + up(down(h).relu())

    @staticmethod
    def sound():
        h, down, up = torch.randn(5, 32), nn.Linear(32, 8), nn.Linear(8, 32)
        nn.init.zeros_(up.weight), nn.init.zeros_(up.bias)
        return h, h + up(down(h).relu())

    @staticmethod
    def holds(made):
        h, out = made
        change = ((out - h).norm() / h.norm()).item()
        assert change < 0.01, f"a fresh adapter changes what passes through it by {change:.0%}"
