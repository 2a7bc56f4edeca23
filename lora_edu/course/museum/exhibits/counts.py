"""Counts and costs: numbers that train, operations, bytes. Chapter 16; chapters 03 §1 and 04."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lora_edu.adapters.layers import LoRALinear
from lora_edu.course.museum.specimen import exhibit


def _count(n_out, n_in, r):
    """Numbers that train in a LoRA layer of that size, read off the layer; nothing is allocated."""
    layer = LoRALinear(nn.Linear(n_in, n_out, device="meta"), r, 16)
    return sum(p.numel() for p in layer.parameters() if p.requires_grad)


@exhibit(
    "one-share-for-all", room="counts", title="“LoRA saves 99 % (or 90 %) of the trainable numbers”",
    breaks="chapter 03 §1: r·(in + out) against in·out", repair="Say the share with the width and the rank.",
)  # fmt: skip
class OneShareForAll:
    @staticmethod
    def broken():
        return lambda n_out, n_in, r: 0.01

    @staticmethod
    def sound():
        return lambda n_out, n_in, r: r * (n_in + n_out) / (n_in * n_out)

    @staticmethod
    def holds(share):
        for width in (4096, 576, 64):
            true = _count(width, width, 8) / width**2
            assert abs(share(width, width, 8) - true) < 1e-6, f"at width {width} the share is {true:.1%}"


@exhibit(
    "more-than-full", room="counts", title="r = 4 on a layer of 10 × 5",
    breaks="chapter 03 §1", repair="Below in·out / (in + out), here 3.3, LoRA has fewer numbers than the matrix.",
)  # fmt: skip
class MoreThanFull:
    @staticmethod
    def broken():
        return 4

    @staticmethod
    def sound():
        return 3

    @staticmethod
    def holds(r):
        assert _count(5, 10, r) < 50, f"{_count(5, 10, r)} numbers train in place of 50"


def _operations(width, r, batch=4):
    """(the base's, the layer's) operations of a forward pass."""
    found = []
    for layer in (base := nn.Linear(width, width), LoRALinear(base, r, 16)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            layer(torch.randn(batch, width))
        found.append(counter.get_total_flops())
    return tuple(found)


@exhibit(
    "forward-gets-cheaper", room="counts", title="“The cost of computing falls to r / min(d, k)”",
    breaks="law 2: the base's product is still there", repair="A forward pass costs the base's and r·(in + out) more; what is saved is W₀'s gradient and its optimiser.",
)  # fmt: skip
class ForwardGetsCheaper:
    @staticmethod
    def broken():
        return lambda width, r: r / width

    @staticmethod
    def sound():
        return lambda width, r: 1 + r * 2 * width / width**2

    @staticmethod
    def holds(cost):
        base, lora = _operations(128, 8)
        assert abs(cost(128, 8) - lora / base) < 1e-6, (
            f"a forward pass takes {lora / base:.3f} times the base's operations"
        )


@exhibit(
    "rank-is-dear", room="counts", title="“A larger rank costs a lot of computing”",
    breaks="chapter 04 §7", repair="From r = 8 to r = 64 a layer of width 4,096 takes 3 % more operations.",
)  # fmt: skip
class RankIsDear:
    @staticmethod
    def broken():
        return 64 / 8  # as the rank, so the cost

    @staticmethod
    def sound():
        return (4096**2 + 64 * 2 * 4096) / (4096**2 + 8 * 2 * 4096)

    @staticmethod
    def holds(said):
        (_, small), (_, large) = _operations(512, 1), _operations(512, 8)  # the same shares at an eighth of the width
        assert abs(said - large / small) < 1e-3, f"eight times the rank: {large / small:.3f} times the operations"


@exhibit(
    "thirteen-billion-one-million", room="counts", title="“On a model of 13 billion LoRA adds about a million numbers”",
    breaks="chapter 04: you pay for what trains, and it is counted", repair="On q and v: 0.8 million at r = 1, 6.6 million at r = 8.",
)  # fmt: skip
class ThirteenBillionOneMillion:
    @staticmethod
    def broken():
        return 1_000_000

    @staticmethod
    def sound():
        return 6_553_600

    @staticmethod
    def holds(said):
        counted = 40 * 2 * _count(5120, 5120, 8)  # 40 layers, q and v
        assert said == counted, f"at r = 8 they are {counted:,}"


@exhibit(
    "seven-billion-half", room="counts", title="r = 8 on q and v of a model of 7 billion, and a count of two million",
    breaks="chapter 04", repair="4,194,304; two million belong to r = 4.",
)  # fmt: skip
class SevenBillionHalf:
    @staticmethod
    def broken():
        return 2_000_000

    @staticmethod
    def sound():
        return 4_194_304

    @staticmethod
    def holds(said):
        counted = 32 * 2 * _count(4096, 4096, 8)
        assert said == counted, f"they are {counted:,}, {counted / 6.74e9:.3%} of the model"


@exhibit(
    "seven-billion-in-six-gigabytes", room="counts", title="“7 billion parameters on a card of 6 GB”, in 16 bits",
    breaks="chapter 04 §5: the base's weights are in the ledger", repair="Four bits (4.127 with their scales) make 3.5 GB; 16 bits make 13.5.",
)  # fmt: skip
class SevenBillionInSixGigabytes:
    @staticmethod
    def broken():
        return 16

    @staticmethod
    def sound():
        return 4.127

    @staticmethod
    def holds(bits):
        size = 6.74e9 * bits / 8 / 1e9
        assert size < 6, f"the weights alone take {size:.1f} GB"


@exhibit(
    "only-the-factors-in-memory", room="counts", title="“Memory is tiny, for only A and B are updated”",
    breaks="chapter 04 §5", repair="Gradients and optimiser shrink to those of A and B; weights and activations stay.",
)  # fmt: skip
class OnlyTheFactorsInMemory:
    @staticmethod
    def broken():
        return lambda layer: 16 * sum(p.numel() for p in layer.parameters() if p.requires_grad)

    @staticmethod
    def sound():
        return lambda layer: sum(p.numel() * (16 if p.requires_grad else 4) for p in layer.parameters())

    @staticmethod
    def holds(needed):
        layer = LoRALinear(nn.Linear(64, 64), 2, 16)
        optimizer = torch.optim.Adam([p for p in layer.parameters() if p.requires_grad])
        layer(torch.randn(4, 64)).square().mean().backward()
        optimizer.step()
        tensors = [*layer.parameters(), *(p.grad for p in layer.parameters() if p.grad is not None)]
        tensors += [each for state in optimizer.state.values() for each in state.values() if each.ndim]
        held = sum(each.numel() * each.element_size() for each in tensors)
        assert needed(layer) == held, f"{needed(layer):,} bytes are said, {held:,} are held, activations not counted"


@exhibit(
    "file-of-an-adapter", room="counts", title="An adapter's file: “a few to some tens of MB”",
    breaks="chapter 07 §1", repair="Four bytes a number of A and B, and a head: 16.8 MB for q and v at r = 8 of 7 billion.",
)  # fmt: skip
class FileOfAnAdapter:
    @staticmethod
    def broken():
        return 6.74e9 * 2  # the whole model's

    @staticmethod
    def sound():
        return 4 * 32 * 2 * _count(4096, 4096, 8)

    @staticmethod
    def holds(size):
        assert 1e6 < size < 1e8, f"{size / 1e6:,.0f} MB"


@exhibit(
    "square-called-flat", room="counts", title="“Weights are wide and flat”, and then 1000 × 1000",
    breaks="chapter 01: a matrix is low and wide by its shape, of low rank by its spectrum", repair="Two different things: a square matrix can be of low rank.",
)  # fmt: skip
class SquareCalledFlat:
    @staticmethod
    def broken():
        return (1000, 1000)

    @staticmethod
    def sound():
        return (4096, 11008)

    @staticmethod
    def holds(shape):
        assert shape[0] != shape[1], f"a matrix of {shape[0]} × {shape[1]} is square"
