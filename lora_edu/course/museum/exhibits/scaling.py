"""Scaling: α, r, dropout and two learning rates. Chapter 16; chapter 03 §5 and chapter 08."""

import torch
import torch.nn.functional as F
from torch import nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.layers import LoRALinear
from lora_edu.course.museum.specimen import exhibit


@exhibit(
    "divided-by-alpha", room="scaling", title="ΔW = A B / α",
    breaks="law 2", repair="α multiplies, r divides: ΔW = (α/r)·B A.",
)  # fmt: skip
class DividedByAlpha:
    @staticmethod
    def broken():
        A, B = torch.randn(4, 8), torch.randn(6, 4)
        return lambda alpha: B @ A / alpha

    @staticmethod
    def sound():
        A, B = torch.randn(4, 8), torch.randn(6, 4)
        return lambda alpha: alpha / 4 * B @ A

    @staticmethod
    def holds(delta):
        ratio = float(delta(16.0).norm() / delta(8.0).norm())
        assert abs(ratio - 2) < 1e-4, f"with twice the α the change is {ratio:.2f} times as large"


@exhibit(
    "scale-trains", room="scaling", title="The scale as a trainable number that starts at 1",
    breaks="law 3", repair="A constant, α/r, which no optimiser sees.",
)  # fmt: skip
class ScaleTrains:
    @staticmethod
    def broken():
        return nn.ParameterDict({"A": torch.randn(2, 8), "B": torch.zeros(8, 2), "scale": torch.ones(())})

    @staticmethod
    def sound():
        return nn.ParameterDict({"A": torch.randn(2, 8), "B": torch.zeros(8, 2)})

    @staticmethod
    def holds(factors):
        extra = sorted(set(factors) - {"A", "B"})
        assert not extra, f"beside A and B there trains {extra}"


@exhibit(
    "rslora-random", room="scaling", title="rsLoRA as a scale drawn at random",
    breaks="law 2", repair="RS is rank-stabilised: s = α/√r, the same every time.",
)  # fmt: skip
class RsLoRARandom:
    @staticmethod
    def broken():
        return lambda r, alpha: alpha / r * (0.5 + float(torch.rand(())))

    @staticmethod
    def sound():
        return lambda r, alpha: alpha / r**0.5

    @staticmethod
    def holds(scale):
        for r in (1, 4, 64):
            want = next(iter(LoRALinear(nn.Linear(64, 64), r, 16, use_rslora=True).scalings.values()))
            assert abs(scale(r, 16) - want) < 1e-6, f"r = {r}: {scale(r, 16):.2f}, where the module has {want:.2f}"


@exhibit(
    "rslora-is-a-larger-alpha", room="scaling", title="“rsLoRA beats LoRA” at r = 4 and one α",
    breaks="law 4: two scales are compared, not two methods", repair="Give plain LoRA the same scale, α·√r in place of α: the same layer.",
)  # fmt: skip
class RsLoRAIsALargerAlpha:
    @staticmethod
    def broken():
        return {"use_rslora": True, "lora_alpha": 16.0}, {"lora_alpha": 16.0}

    @staticmethod
    def sound():
        return {"use_rslora": True, "lora_alpha": 16.0}, {"lora_alpha": 16.0 * 4**0.5}

    @staticmethod
    def holds(settings):
        base, x, outs = nn.Linear(8, 8), torch.randn(5, 8), []
        for each in settings:
            torch.manual_seed(1)
            layer = LoRALinear(base, 4, **each)
            nn.init.normal_(next(iter(layer.factors[1].values())))  # B: as if it had trained
            outs.append(layer(x) - base(x))
        ratio = (outs[0].norm() / outs[1].norm()).item()
        assert abs(ratio - 1) < 1e-5, f"one adds {ratio:.2f} times what the other adds, with the same factors"


@exhibit(
    "lora-plus-over-the-base", room="scaling", title="LoRA+'s ratio as LoRA's rate over the base's",
    breaks="law 3: the base trains", repair="The ratio is B's rate over A's; the base has none.",
)  # fmt: skip
class LoRAPlusOverTheBase:
    @staticmethod
    def broken():
        base, A, B = (nn.Parameter(torch.randn(3, 3)) for _ in range(3))
        groups = [{"params": [base], "lr": 1e-4}, {"params": [A, B], "lr": 16e-4}]
        return torch.optim.Adam(groups), base, A, B

    @staticmethod
    def sound():
        base, A, B = (nn.Parameter(torch.randn(3, 3)) for _ in range(3))
        groups = [{"params": [A], "lr": 1e-4}, {"params": [B], "lr": 16e-4}]
        return torch.optim.Adam(groups), base, A, B

    @staticmethod
    def holds(made):
        optimizer, base, A, B = made
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert id(base) not in rates, "the base has a learning rate"
        assert abs(rates[id(B)] / rates[id(A)] - 16) < 1e-9, "B's rate is not 16 times A's"


@exhibit(
    "twice-the-rank", room="scaling", title="r = 6, α = 8, and beside it: “twice the rank”",
    breaks="law 2: s = α/r is 1.33 here, and 2 is said", repair="α = 12, or another comment.",
)  # fmt: skip
class TwiceTheRank:
    @staticmethod
    def broken():
        return LoRAConfig(r=6, lora_alpha=8)  # twice the rank

    @staticmethod
    def sound():
        return LoRAConfig(r=6, lora_alpha=12)  # twice the rank

    @staticmethod
    def holds(config):
        s = config.lora_alpha / config.r
        assert s == 2, f"s = α/r is {s:.2f}, where 2 is said"


@exhibit(
    "dropout-on-the-change", room="scaling", title="Dropout that strikes out entries of ΔW",
    breaks="law 2, with dropout as the paper's authors wrote it", repair="Dropout acts on the input of the adapter's branch.",
)  # fmt: skip
class DropoutOnTheChange:
    @staticmethod
    def broken():
        A, B = torch.randn(2, 8), torch.randn(6, 2)
        return lambda x: x @ F.dropout(B @ A, 0.5).T, B @ A

    @staticmethod
    def sound():
        A, B = torch.randn(2, 8), torch.randn(6, 2)
        return lambda x: F.dropout(x, 0.5) @ A.T @ B.T, B @ A

    @staticmethod
    def holds(made):
        branch, delta = made
        for _ in range(8):  # one entry of x alone: it passes, doubled, or it does not
            y, whole = branch(torch.eye(8)[:1])[0], 2 * delta[:, 0]
            parts = int(y.ne(0).sum())
            assert parts == 0 or torch.allclose(y, whole, atol=1e-5), f"of one input {parts} of 6 outputs are left"
