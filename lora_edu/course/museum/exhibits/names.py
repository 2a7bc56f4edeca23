"""Names and definitions: what a method's name says, and what it does. Chapter 16; chapters 10 and 12."""

from types import SimpleNamespace

import torch
from torch import nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.injection import inject
from lora_edu.course.museum.specimen import exhibit


@exhibit(
    "ia3-adds-something-sparse", room="names", title="IA³ as something sparse that is injected into activations",
    breaks="chapter 12: the definition (Liu et al. 2022)", repair="Learned vectors multiply k, v and the feed-forward's activations; they start at 1.",
)  # fmt: skip
class IA3AddsSomethingSparse:
    @staticmethod
    def broken():
        added = torch.zeros(8)
        added[torch.randperm(8)[:2]] = 1.0
        return lambda h: h + added

    @staticmethod
    def sound():
        scale = 1 + 0.1 * torch.randn(8)
        return lambda h: scale * h

    @staticmethod
    def holds(change):
        h = torch.randn(5, 8)
        ratio = change(h) / h
        spread = float((ratio - ratio[0]).abs().max())
        assert spread < 1e-4, (
            f"the output over the input differs by up to {spread:.1f} from row to row: no vector multiplies"
        )


@exhibit(
    "dora-changes-its-rank", room="names", title="DoRA as “dynamic”: the rank adapts",
    breaks="chapter 10: the definition (Liu et al. 2024, eq. 5)", repair="Weight-decomposed: each row's length m is trained apart from its direction; r is fixed.",
)  # fmt: skip
class DoRAChangesItsRank:
    @staticmethod
    def broken():
        W, A, B = torch.randn(6, 8), torch.randn(4, 8), torch.randn(6, 4)
        keep = (B.norm(dim=0) > B.norm(dim=0).median()).float()  # as many directions as are loud
        return W.norm(dim=1), W + B * keep @ A

    @staticmethod
    def sound():
        W, A, B = torch.randn(6, 8), torch.randn(4, 8), torch.randn(6, 4)
        m, V = W.norm(dim=1, keepdim=True), W + B @ A
        return W.norm(dim=1), m * V / V.norm(dim=1, keepdim=True)

    @staticmethod
    def holds(made):
        m, W = made
        off = float((W.norm(dim=1) / m - 1).abs().max())
        assert off < 1e-5, f"a row's length is off its m by {off:.0%}: lengths and directions are not apart"


@exhibit(
    "pissa-by-pivots", room="names", title="PiSSA as something pivoted: the largest columns",
    breaks="chapter 10: the definition (Meng et al. 2024)", repair="The principal singular values and vectors: the r loudest pieces of the SVD.",
)  # fmt: skip
class PiSSAByPivots:
    @staticmethod
    def broken():
        W = torch.randn(12, 8)
        columns = W.norm(dim=0).topk(3).indices
        taken = torch.zeros_like(W)
        taken[:, columns] = W[:, columns]
        return W, taken

    @staticmethod
    def sound():
        W = torch.randn(12, 8)
        U, S, Vh = torch.linalg.svd(W, full_matrices=False)
        return W, U[:, :3] * S[:3] @ Vh[:3]

    @staticmethod
    def holds(made):
        W, taken = made
        left, best = torch.linalg.matrix_norm(W - taken, 2), torch.linalg.svdvals(W)[3]
        assert left < 1.0001 * best, f"the loudest piece that is left is {float(left / best):.2f} times σ₄"


@exhibit(
    "prefix-on-the-sequence", room="names", title="Prefix tuning as vectors put before the input, once",
    breaks="chapter 12: the definition (Li and Liang 2021)", repair="Keys and values are put before those of every layer; the sequence keeps its length. The other is prompt tuning.",
)  # fmt: skip
class PrefixOnTheSequence:
    @staticmethod
    def broken():
        x, prefix = torch.randn(7, 8), torch.randn(10, 8)
        return torch.cat([prefix, x])

    @staticmethod
    def sound():
        x, keys, values = torch.randn(7, 8), torch.randn(10, 8), torch.randn(10, 8)
        return (x @ torch.cat([keys, x]).T).softmax(-1) @ torch.cat([values, x])

    @staticmethod
    def holds(h):
        assert len(h) == 7, f"7 tokens go in, {len(h)} places come out"


class _Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.head = nn.Linear(16, 16), nn.Linear(16, 9)

    def forward(self, x):
        return self.head(self.q(x))


@exhibit(
    "additional-modules", room="names", title="“Additional modules” as more places for LoRA",
    breaks="law 3", repair="modules_to_save: those train in full and are saved whole.",
)  # fmt: skip
class AdditionalModules:
    @staticmethod
    def broken():
        config = LoRAConfig(r=2, target_modules=("q", "head"))
        return inject(_Small(), config)

    @staticmethod
    def sound():
        config = LoRAConfig(r=2, target_modules=("q",), modules_to_save=("head",))
        return inject(_Small(), config)

    @staticmethod
    def holds(model):
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        due = 2 * (16 + 16) + (16 * 9 + 9)
        assert trained == due, f"{trained} numbers train; q's factors and the whole head are {due}"


@exhibit(
    "low-rank-as-sparse", room="names", title="“Of a thousand pages twenty need another word”: low rank as sparse",
    breaks="chapter 01: rank counts directions, not entries", repair="A rank-1 change changes every entry.",
)  # fmt: skip
class LowRankAsSparse:
    @staticmethod
    def broken():
        return SimpleNamespace(share=20 / 1000, delta=torch.randn(1000, 1) @ torch.randn(1, 8))

    @staticmethod
    def sound():
        delta = torch.randn(1000, 1) @ torch.randn(1, 8)
        return SimpleNamespace(share=float(delta.ne(0).float().mean()), delta=delta)

    @staticmethod
    def holds(said):
        changed = float(said.delta.ne(0).float().mean())
        assert abs(said.share - changed) < 0.01, (
            f"{said.share:.0%} is said; a change of rank 1 moves {changed:.0%} of the entries"
        )


@exhibit(
    "rank-is-r", room="names", title="“The rank of the change is r”",
    breaks="law 1: at the start its rank is 0", repair="At most r, and 0 at the start.",
)  # fmt: skip
class RankIsR:
    @staticmethod
    def broken():
        return lambda rank, r: rank == r

    @staticmethod
    def sound():
        return lambda rank, r: rank <= r

    @staticmethod
    def holds(said):
        A = torch.randn(3, 8)
        for step, B in (("start", torch.zeros(6, 3)), ("end", torch.randn(6, 3))):
            rank = int(torch.linalg.matrix_rank(B @ A))
            assert said(rank, 3), f"at the {step} r = 3 and the rank of B A is {rank}"


@exhibit(
    "text-against-code", room="names", title="The text says q, k and v; the code takes q and v",
    breaks="law 3: the set that trains is not the one that is named", repair="Print what trains (audit), and write the text from it.",
)  # fmt: skip
class TextAgainstCode:
    @staticmethod
    def broken():
        return _attention(("q", "v"))

    @staticmethod
    def sound():
        return _attention(("q", "k", "v"))

    @staticmethod
    def holds(model):
        there = sorted({name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad})
        assert there == ["k", "q", "v"], f"an adapter is on {there}"


def _attention(targets):
    model = nn.ModuleDict({name: nn.Linear(8, 8) for name in ("q", "k", "v", "o")})
    return inject(model, LoRAConfig(r=2, target_modules=targets))
