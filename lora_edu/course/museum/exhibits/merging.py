"""Merging: into the weight, out of it again, and with one another. Chapter 16; chapter 03 §8 and chapter 07."""

import torch
from torch import nn

from lora_edu.course.museum.specimen import exhibit
from lora_edu.models.quantized.blockwise import dequantize_blockwise, quantize_blockwise
from lora_edu.models.quantized.codebooks import int4


@exhibit(
    "merge-untransposed", room="merging", title="W₀ + A B on a square layer, with A (in, r) and B (r, out)",
    breaks="law 5", repair="W₀ + (A B)ᵀ: the weight is (out, in).",
)  # fmt: skip
class MergeUntransposed:
    @staticmethod
    def broken():
        W, A, B = torch.randn(8, 8), torch.randn(8, 2), torch.randn(2, 8)
        x = torch.randn(5, 8)
        return x @ W.T + x @ A @ B, x @ (W + A @ B).T

    @staticmethod
    def sound():
        W, A, B = torch.randn(8, 8), torch.randn(8, 2), torch.randn(2, 8)
        x = torch.randn(5, 8)
        return x @ W.T + x @ A @ B, x @ (W + (A @ B).T).T

    @staticmethod
    def holds(made):
        before, after = made
        off = float((after - before).norm() / before.norm())
        assert off < 1e-5, f"no error is raised, and the merged output is off by {off:.0%}"


@exhibit(
    "merged-and-added", room="merging", title="Merged, and the forward adds the adapter once more",
    breaks="law 5", repair="A merged layer answers with its weight alone.",
)  # fmt: skip
class MergedAndAdded:
    @staticmethod
    def broken():
        W, A, B, x = torch.randn(6, 8), torch.randn(2, 8), torch.randn(6, 2), torch.randn(5, 8)
        before = x @ W.T + x @ A.T @ B.T
        W = W + B @ A
        return before, x @ W.T + x @ A.T @ B.T

    @staticmethod
    def sound():
        W, A, B, x = torch.randn(6, 8), torch.randn(2, 8), torch.randn(6, 2), torch.randn(5, 8)
        before = x @ W.T + x @ A.T @ B.T
        W = W + B @ A
        return before, x @ W.T

    @staticmethod
    def holds(made):
        before, after = made
        off = float((after - before).norm() / before.norm())
        assert off < 1e-5, f"the merged output is off by {off:.0%}"


class _Gone(nn.Module):
    def __init__(self, flag):
        super().__init__()
        self.W, self.A, self.B = torch.randn(6, 8), torch.randn(2, 8), torch.randn(6, 2)
        self.flag = flag

    def merge(self):
        self.W = self.W + self.B @ self.A
        del self.A, self.B

    def forward(self, x):
        if self.flag and not hasattr(self, "A"):
            return x @ self.W.T
        return x @ self.W.T + x @ self.A.T @ self.B.T


@exhibit(
    "factors-deleted", room="merging", title="merge() deletes the factors that forward() still reads",
    breaks="law 5", repair="forward() asks whether the layer is merged.", fails=AttributeError,
)  # fmt: skip
class FactorsDeleted:
    @staticmethod
    def broken():
        return _Gone(flag=False)  # forward() never asks

    @staticmethod
    def sound():
        return _Gone(flag=True)

    @staticmethod
    def holds(layer):
        x = torch.randn(5, 8)
        before = layer(x)
        layer.merge()
        assert torch.allclose(layer(x), before, atol=1e-4), "the merged output is another one"


@exhibit(
    "models-added", room="merging", title="base + adapter, written between two model objects",
    breaks="law 5: it is the changes that are added, not the objects", repair="Add B A to the weight.", fails=TypeError,
)  # fmt: skip
class ModelsAdded:
    @staticmethod
    def broken():
        base, adapter = nn.Linear(8, 8), nn.Linear(8, 8)
        return base + adapter  # type: ignore[operator]  # the mistake itself

    @staticmethod
    def sound():
        base, A, B = nn.Linear(8, 8), torch.randn(2, 8), torch.randn(8, 2)
        base.weight.data += B @ A
        return base

    @staticmethod
    def holds(model):
        assert isinstance(model, nn.Module)


@exhibit(
    "merge-rounded-away", room="merging", title="Merged into a base in four bits, and rounded to its grid again",
    breaks="law 5", repair="Merge into the weights in 16 or 32 bits, and keep those.",
)  # fmt: skip
class MergeRoundedAway:
    @staticmethod
    def broken():
        W, delta = _on_a_grid(), 0.01 * torch.randn(64, 2) @ torch.randn(2, 64)
        return W, delta, _rounded(W + delta)

    @staticmethod
    def sound():
        W, delta = _on_a_grid(), 0.01 * torch.randn(64, 2) @ torch.randn(2, 64)
        return W, delta, W + delta

    @staticmethod
    def holds(made):
        W, delta, merged = made
        kept = float(((merged - W) * delta).sum() / delta.square().sum())
        assert kept > 0.9, f"{kept:.0%} of the change is left"


def _rounded(W):
    return dequantize_blockwise(*quantize_blockwise(W.flatten(), int4()), int4()).view_as(W)


def _on_a_grid():
    """A weight that came out of four bits: rounding it once more changes nothing."""
    return _rounded(torch.randn(64, 64))


@exhibit(
    "factors-averaged", room="merging", title="Two adapters into one: the mean of the A's and the mean of the B's",
    breaks="law 2: the adapter is B A, and (B₁ + B₂)(A₁ + A₂) has cross terms", repair="Average the products, or put the factors side by side (chapter 07).",
)  # fmt: skip
class FactorsAveraged:
    @staticmethod
    def broken():
        A1, A2, B1, B2 = (torch.randn(*each) for each in [(2, 8), (2, 8), (6, 2), (6, 2)])
        return (B1 @ A1 + B2 @ A2) / 2, (B1 + B2) / 2 @ (A1 + A2) / 2

    @staticmethod
    def sound():
        A1, A2, B1, B2 = (torch.randn(*each) for each in [(2, 8), (2, 8), (6, 2), (6, 2)])
        return (B1 @ A1 + B2 @ A2) / 2, torch.cat([B1, B2], 1) / 2 @ torch.cat([A1, A2])

    @staticmethod
    def holds(made):
        want, got = made
        off = float((got - want).norm() / want.norm())
        assert off < 1e-5, f"the change is off by {off:.0%}"


@exhibit(
    "unmerged-by-subtraction", room="merging", title="Unmerge by subtracting what was added",
    breaks="law 5", repair="Keep W₀ and put it back.",
)  # fmt: skip
class UnmergedBySubtraction:
    @staticmethod
    def broken():
        W, delta = torch.randn(64, 64), torch.randn(64, 2) @ torch.randn(2, 64)
        return W, W + delta - delta

    @staticmethod
    def sound():
        W, delta = torch.randn(64, 64), torch.randn(64, 2) @ torch.randn(2, 64)
        kept = W.clone()
        W += delta
        return kept, kept.clone()

    @staticmethod
    def holds(made):
        before, after = made
        moved = float((before != after).float().mean())
        assert not moved, f"{moved:.0%} of the weights have other bits than before"


@exhibit(
    "tied-table", room="merging", title="An adapter at the output head is merged, and the head is the embedding",
    breaks="law 5: another layer has changed, too", repair="Untie the two first, or refuse.",
)  # fmt: skip
class TiedTable:
    @staticmethod
    def broken():
        table, head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        head.weight = table.weight
        before = table(torch.arange(9)).detach().clone()
        head.weight.data += torch.randn(9, 1) @ torch.randn(1, 4)
        return before, table(torch.arange(9))

    @staticmethod
    def sound():
        table, head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        head.weight = nn.Parameter(table.weight.detach().clone())
        before = table(torch.arange(9)).detach().clone()
        head.weight.data += torch.randn(9, 1) @ torch.randn(1, 4)
        return before, table(torch.arange(9))

    @staticmethod
    def holds(made):
        before, after = made
        assert torch.equal(before, after), "the embedding has changed with the head"
