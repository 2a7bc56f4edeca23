"""Shapes: orders of factors, and products that are built though nobody needs them. Chapter 16; chapter 03 §2."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lora_edu.course.museum.specimen import exhibit


@exhibit(
    "product-in-the-wrong-order", room="shapes", title="The change as B @ A, with A (in, r) and B (r, out)",
    breaks="law 2", repair="With A (in, r) and B (r, out) the change is (A B)ᵀ; with A (r, in) and B (out, r) it is B A.",
    fails=RuntimeError,
)  # fmt: skip
class ProductInTheWrongOrder:
    @staticmethod
    def broken():
        A, B = torch.randn(16, 2), torch.randn(2, 24)  # in = 16, out = 24
        return B @ A

    @staticmethod
    def sound():
        A, B = torch.randn(16, 2), torch.randn(2, 24)
        return (A @ B).T

    @staticmethod
    def holds(delta):
        assert delta.shape == (24, 16), f"the change has shape {tuple(delta.shape)}, W₀ has (24, 16)"


@exhibit(
    "big-matrix-built", room="shapes", title="x @ (A @ B): the whole matrix in every forward",
    breaks="law 2 holds; the cost of chapter 03 §2 does not", repair="Two thin products, (x @ A) @ B: the matrix is never built.",
)  # fmt: skip
class BigMatrixBuilt:
    @staticmethod
    def broken():
        A, B = torch.randn(64, 2), torch.randn(2, 48)
        return lambda x: x @ (A @ B)

    @staticmethod
    def sound():
        A, B = torch.randn(64, 2), torch.randn(2, 48)
        return lambda x: (x @ A) @ B

    @staticmethod
    def holds(forward):
        with FlopCounterMode(display=False) as counter:
            forward(torch.randn(4, 64))
        flops, due = counter.get_total_flops(), 2 * 4 * 2 * (64 + 48)
        assert flops == due, f"{flops:,} operations where {due:,} do"


@exhibit(
    "heads-not-split", room="shapes", title="Attention that divides by a head's width and never splits the heads",
    breaks="law 2: the pretrained layer is another function", repair="Split into heads first; then √(head width) is the right divisor.",
)  # fmt: skip
class HeadsNotSplit:
    @staticmethod
    def broken():
        q, k, v = torch.randn(3, 5, 32)
        weights = (q @ k.T / 8**0.5).softmax(-1)  # 4 heads of width 8, all in one product
        return SimpleNamespace(q=q, k=k, v=v, out=weights @ v)

    @staticmethod
    def sound():
        q, k, v = torch.randn(3, 5, 32)
        heads = [each.view(5, 4, 8).transpose(0, 1) for each in (q, k, v)]  # (4, 5, 8)
        weights = (heads[0] @ heads[1].transpose(1, 2) / 8**0.5).softmax(-1)
        return SimpleNamespace(q=q, k=k, v=v, out=(weights @ heads[2]).transpose(0, 1).reshape(5, 32))

    @staticmethod
    def holds(made):
        q, k, v = (each.view(1, 5, 4, 8).transpose(1, 2) for each in (made.q, made.k, made.v))
        want = F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).reshape(5, 32)
        off = float((made.out - want).norm() / want.norm())
        assert off < 1e-5, f"the output is off by {off:.0%}"


@exhibit(
    "only-linear-layers", room="shapes", title="A wrapper that asks every layer for in_features",
    breaks="law 2, on every layer that stores its weight in another way", repair="Read the sizes off the weight, and refuse by name what is not known.",
    fails=AttributeError,
)  # fmt: skip
class OnlyLinearLayers:
    @staticmethod
    def broken():
        return lambda layer: (layer.out_features, layer.in_features)

    @staticmethod
    def sound():
        return lambda layer: tuple(layer.weight.flatten(1).shape)

    @staticmethod
    def holds(sizes):
        assert sizes(nn.Linear(6, 8)) == (8, 6)
        assert sizes(nn.Conv2d(3, 8, 2)) == (8, 12), "the sizes of a convolution are wrong"
