"""Training loops: gradients, rows, devices, settings. Chapter 16; chapters 05 and 06."""

import ast
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from lora_edu.course.museum.specimen import exhibit


@exhibit(
    "no-zero-grad", room="loops", title="A loop without zero_grad()",
    breaks="law 4: ∂B = s·G Aᵀ of this batch, and of no other", repair="optimizer.zero_grad() before each backward pass.",
)  # fmt: skip
class NoZeroGrad:
    @staticmethod
    def broken():
        return _steps(clear=False)

    @staticmethod
    def sound():
        return _steps(clear=True)

    @staticmethod
    def holds(made):
        got, alone = made
        ratio = float(got.norm() / alone.norm())
        assert torch.allclose(got, alone, atol=1e-6), (
            f"the gradient of the fourth step is {ratio:.1f} times that of its batch"
        )


def _steps(clear):
    """(B's gradient at the fourth step, the gradient of the fourth batch alone)."""
    A, B = torch.randn(2, 8) / 3, nn.Parameter(torch.zeros(6, 2))
    optimizer = torch.optim.SGD([B], 1e-3)
    for _ in range(4):
        x, y = torch.randn(32, 8), torch.ones(32, 6)
        loss = F.mse_loss(x @ A.T @ B.T, y)
        [alone] = torch.autograd.grad(loss, [B], retain_graph=True)
        if clear:
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return B.grad, alone


@exhibit(
    "rows-never-tokenised", room="loops", title="A list of dictionaries of text goes to the model as it is",
    breaks="chapter 05: a model reads token numbers", repair="Tokenise, and make labels, before the loop.", fails=TypeError,
)  # fmt: skip
class RowsNeverTokenised:
    @staticmethod
    def broken():
        return {"question": "2 + 2?", "answer": "4"}

    @staticmethod
    def sound():
        return {"input_ids": torch.tensor([[2, 5, 2]])}

    @staticmethod
    def holds(row):
        def model(input_ids):
            return F.one_hot(input_ids, 9)

        assert model(**row).shape == (1, 3, 9)


@exhibit(
    "noise-for-a-task", room="loops", title="A demonstration on inputs and targets that have nothing to do with each other",
    breaks="chapter 02: first plant what is to be found", repair="Make the targets out of the inputs; then a fall of the loss on fresh rows means something.",
)  # fmt: skip
class NoiseForATask:
    @staticmethod
    def broken():
        return torch.randn(400, 8), torch.randn(400, 4)

    @staticmethod
    def sound():
        x, teacher = torch.randn(400, 8), torch.randn(8, 4)
        return x, x @ teacher

    @staticmethod
    def holds(rows):
        x, y = rows
        learnt = torch.linalg.lstsq(x[:200], y[:200]).solution  # the best that any linear layer can do
        fresh = float(F.mse_loss(x[200:] @ learnt, y[200:]) / y[200:].var())
        assert fresh < 0.5, (
            f"the best layer leaves {fresh:.0%} of the variance of fresh rows: there is nothing to learn"
        )


@exhibit(
    "batch-on-another-device", room="loops", title="The batch is sent to a device, the model is not",
    breaks="chapter 14 §1: one variable, the device", repair="Send the batch to where the model's parameters are.", fails=RuntimeError,
)  # fmt: skip
class BatchOnAnotherDevice:
    @staticmethod
    def broken():
        model = nn.Linear(4, 4)
        return model(torch.randn(2, 4).to("meta"))  # “meta” stands for any device that the model is not on

    @staticmethod
    def sound():
        model = nn.Linear(4, 4)
        return model(torch.randn(2, 4).to(model.weight.device))

    @staticmethod
    def holds(y):
        assert y.device.type == "cpu"


@dataclass
class _Settings:
    target_modules: tuple[str, ...] = ("q", "v")


@exhibit(
    "setting-never-read", room="loops", title="A setting under a name that nothing reads",
    breaks="law 3: the set that trains is not the one that was asked for", repair="A class of settings that refuses a name it does not have.",
    fails=TypeError,
)  # fmt: skip
class SettingNeverRead:
    @staticmethod
    def broken():
        asked = {"modules": ("q", "k", "v")}
        return asked.get("target_modules", ("q", "v")), ("q", "k", "v")  # a default fills the gap

    @staticmethod
    def sound():
        return _Settings(target_modules=("q", "k", "v")).target_modules, ("q", "k", "v")

    @staticmethod
    def holds(made):
        trained, asked = made
        assert trained == asked, f"{asked} were asked for, {trained} train"


@exhibit(
    "mean-of-means", room="loops", title="Two micro-batches of unlike length, each with its own mean",
    breaks="chapter 05: a batch cut in two is the same batch", repair="Sum the losses of all tokens, and divide once by their number.",
)  # fmt: skip
class MeanOfMeans:
    @staticmethod
    def broken():
        losses = torch.rand(10)
        return losses, (losses[:2].mean() + losses[2:].mean()) / 2

    @staticmethod
    def sound():
        losses = torch.rand(10)
        return losses, (losses[:2].sum() + losses[2:].sum()) / 10

    @staticmethod
    def holds(made):
        losses, got = made
        assert torch.isclose(got, losses.mean()), (
            f"{float(got):.3f}, where the whole batch has {float(losses.mean()):.3f}"
        )


@exhibit(
    "eos-masked-as-padding", room="loops", title="Padding is masked by its value, and its value is EOS",
    breaks="chapter 05: padding is known by its place", repair="Mask from the row's length on; the EOS of the answer stays a label.",
)  # fmt: skip
class EosMaskedAsPadding:
    @staticmethod
    def broken():
        tokens = torch.tensor([5, 7, 3, 0, 0, 0])  # 0 is EOS, and fills up too; the row has 4 tokens
        return torch.where(tokens == 0, -100, tokens)

    @staticmethod
    def sound():
        tokens, length = torch.tensor([5, 7, 3, 0, 0, 0]), 4
        return torch.where(torch.arange(6) >= length, -100, tokens)

    @staticmethod
    def holds(labels):
        assert 0 in labels, "no label is EOS: the model never learns to stop"


@exhibit(
    "not-python", room="loops", title="Code that was never run: a lost @, an index as a letter, a missing comma",
    breaks="nothing is taken on trust: a page's code is run before it is printed", repair="Run the page; let a machine compare it on every change.",
    fails=SyntaxError,
)  # fmt: skip
class NotPython:
    @staticmethod
    def broken():
        return ["delta = B A", "class Scaler³: ...", "train(model=model rows=rows)"]

    @staticmethod
    def sound():
        return ["delta = B @ A", "class Scaler3: ...", "train(model=model, rows=rows)"]

    @staticmethod
    def holds(lines):
        for line in lines:
            ast.parse(line)


@exhibit(
    "printed-nothing", room="loops", title="print(f\"{report()}\") of a function that prints and returns nothing",
    breaks="chapter 04 §4: the audit is a value, which a test can read", repair="Return the counts, and let the caller print.",
)  # fmt: skip
class PrintedNothing:
    @staticmethod
    def broken():
        def report(model):
            "".join(f"{sum(p.numel() for p in model.parameters())} train")  # stands for a print

        return f"{report(nn.Linear(3, 3))}"

    @staticmethod
    def sound():
        def report(model):
            return f"{sum(p.numel() for p in model.parameters())} train"

        return f"{report(nn.Linear(3, 3))}"

    @staticmethod
    def holds(line):
        assert "12" in line, f"the page shows {line!r}"
