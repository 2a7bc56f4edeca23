"""Exercises of chapter 03, The LoRA layer."""

import math
from collections.abc import Callable

import torch
from torch import nn

from lora_edu.course.exercises import NotAttempted, Wrong, as_tensor, attempt, close, generator, register
from lora_edu.course.laws import run_laws

Tensor = torch.Tensor


@register(
    "03.1",
    title="The layer in ten lines",
    stars=2,
    minutes=20,
    task="Write `MyLoRALinear(base_layer, r, lora_alpha)`, an nn.Module over a frozen nn.Linear: A (r, in) random, B (out, r) zero, "
    "and forward returns W₀x + b + (α/r)·B(A x). Keep the factors as `self.A` and `self.B`.",
    wants="MyLoRALinear",
    shows="Your layer keeps the laws: silent at the start, equal to the dense reference with B ≠ 0, only A and B train, both gradients "
    "are the formula's, and what it saves it loads.",
    hints=(
        "`base_layer.requires_grad_(False)` freezes W₀ and b; `base_layer.in_features` and `.out_features` give the sizes.",
        "`self.A = nn.Parameter(torch.randn(r, in_features) / in_features**0.5)`, `self.B = nn.Parameter(torch.zeros(out_features, r))`.",
        "A batch holds its inputs as rows: `self.base_layer(x) + self.scaling * (x @ self.A.T @ self.B.T)`.",
        "`laws(MyLoRALinear)` shows every law, with what was measured.",
    ),
)
def lora_layer(layer_class: type[nn.Module]) -> None:
    if not isinstance(layer_class, type) or not issubclass(layer_class, nn.Module):
        raise Wrong("not a class", "hand over the class itself, `MyLoRALinear`, and let it inherit from nn.Module")
    try:
        with torch.random.fork_rng(devices=[]):
            layer = layer_class(nn.Linear(5, 7), 2, 4)
            if layer(torch.ones(3, 5)) is ...:
                raise NotAttempted
    except NotImplementedError:
        raise NotAttempted from None
    except Exception as error:  # the runner below says it better; here only a stub's dots matter
        if "ellipsis" in str(error):
            raise NotAttempted from None
    for result in run_laws(layer_class).results:
        for finding in result.findings:
            where = (
                f"law {result.number}, {result.name}, is broken" if result.number else "the layer cannot be taken apart"
            )
            raise Wrong(finding.means or result.name, f"{where}: {finding.what}")


@register(
    "03.2",
    title="Both gradients by hand",
    stars=2,
    minutes=12,
    task="Write `factor_gradients(G, A, B, s)` for ΔW = s·B A: from G = ∂L/∂W (out, in), the gradients (grad_A, grad_B), without autograd.",
    wants="factor_gradients",
    shows="∂A = s·Bᵀ G and ∂B = s·G Aᵀ, equal to autograd's. With B = 0 the first is 0 and the second is not: silent, not dead.",
    hints=(
        "Let the shapes lead: grad_A is (r, in) like A, grad_B is (out, r) like B, and G is (out, in).",
        "L depends on A only through s·B A: the chain rule multiplies G by what stands left of A, transposed.",
        "grad_A = s · Bᵀ G, and by the same rule grad_B = s · G Aᵀ.",
    ),
)
def factor_gradients(gradients: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]) -> None:
    rng = generator()
    for out, inp, r, s in [(7, 5, 3, 4.0), (6, 6, 2, 0.5)]:
        G, A, B = (
            torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in [(out, inp), (r, inp), (out, r)]
        )
        a, b = A.clone().requires_grad_(), B.clone().requires_grad_()
        (G * (s * b @ a)).sum().backward()
        assert a.grad is not None and b.grad is not None
        got = attempt(gradients, G, A, B, s)
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Wrong(
                "not a pair", f"`factor_gradients` should return (grad_A, grad_B); it returned {type(got).__name__}"
            )
        if isinstance(got[0], Tensor) and got[0].shape == B.shape and (r, inp) != (out, r):
            raise Wrong(
                "the two are swapped",
                f"the first of the pair has B's shape {tuple(B.shape)}: the order is (grad_A, grad_B)",
            )
        for name, value, want in [("A", got[0], a.grad), ("B", got[1], b.grad)]:
            gradient = as_tensor(value, want, f"grad_{name}")
            if close(gradient, want, 1e-9):
                continue
            bugs = {
                "the scale s is missing": want / s,
                "the scale s is applied twice": want * s,
                "divided by s": want / s**2,
                "the sign is turned: that is the step": -want,
                "all zeros": torch.zeros_like(want),
            }
            if out == inp:
                bugs["G is transposed"] = s * B.T @ G.T if name == "A" else s * G.T @ A.T
            bug = next((bug for bug, wrong in bugs.items() if close(gradient, wrong, 1e-9)), "not the gradient")
            off = float((gradient - want).norm() / want.norm())
            raise Wrong(
                bug,
                f"with out={out}, in={inp}, r={r}, s={s:g}, grad_{name} differs from autograd's by {100 * off:.0f} %",
            )


STARTS = {
    "A random, B zero": (1.0, 0.0),
    "A zero, B random": (0.0, 1.0),
    "both zero": (0.0, 0.0),
    "both random": (1.0, 1.0),
}


def _measure(scale_A: float, scale_B: float) -> tuple[bool, bool]:
    """(silent, learns): is ΔW zero at the start, and does either factor get a gradient?"""
    rng = generator()
    A = (scale_A * torch.randn(3, 8, generator=rng)).requires_grad_()
    B = (scale_B * torch.randn(6, 3, generator=rng)).requires_grad_()
    x, target = torch.randn(16, 8, generator=rng), torch.randn(16, 6, generator=rng)
    change = x @ A.T @ B.T  # (16, 6)
    ((change - target) ** 2).mean().backward()
    assert A.grad is not None and B.grad is not None
    return not bool(change.any()), bool(A.grad.any() or B.grad.any())


@register(
    "03.3",
    title="Four starts: silent? learning?",
    stars=2,
    minutes=8,
    task="For each of four starts say whether the layer is silent (ΔW = 0 at the start) and whether it learns (some gradient is not zero): "
    "`starts[name] = (silent, learns)` with True or False.",
    wants="starts",
    shows="Each start was measured: one factor at zero is silent and learns, whichever it is; both zero is silent and dead; "
    "both random learns and is not silent.",
    hints=(
        "Silent asks for B A = 0. Which starts have that?",
        "∂A = s·Bᵀ G and ∂B = s·G Aᵀ: put the zeros in and see which gradient is left.",
        "With A = 0 and B random, ∂A = s·Bᵀ G is not zero. With both zero, both gradients are.",
    ),
)
def four_starts(starts: dict[str, tuple[bool, bool]]) -> None:
    if not isinstance(starts, dict) or set(starts) != set(STARTS):
        raise Wrong("other keys", f"`starts` is a dictionary with the keys {list(STARTS)}")
    named = {
        ("A random, B zero", 0): "one zero factor is enough for silence",
        ("A random, B zero", 1): "silent taken for dead",
        ("A zero, B random", 0): "one zero factor is enough for silence",
        ("A zero, B random", 1): "A = 0 taken for dead",
        ("both zero", 0): "zero times zero taken for a change",
        ("both zero", 1): "dead taken for learning",
        ("both random", 0): "a random product taken for silence",
        ("both random", 1): "loud taken for dead",
    }
    for name, scales in STARTS.items():
        answer, measured = starts[name], _measure(*scales)
        if (
            not isinstance(answer, tuple | list)
            or len(answer) != 2
            or not all(part in (True, False) for part in answer)
        ):
            raise Wrong(
                "not a pair of True and False", f"`starts[{name!r}]` is {answer!r}; it should be (silent, learns)"
            )
        for part, word in enumerate(("silent", "learns")):
            if bool(answer[part]) != measured[part]:
                raise Wrong(
                    named[name, part], f"{name!r}: measured {word} = {measured[part]}, you said {bool(answer[part])}"
                )


@register(
    "03.4",
    title="Merge",
    stars=2,
    minutes=8,
    task="Write `merged_weight(W0, A, B, alpha, r)`: the one matrix (out, in) that does what W0 and the adapter do together. W0 stays as it is.",
    wants="merged_weight",
    shows="W0 + (α/r)·B A, on rectangular and square layers: the same output from one matrix, and W0 untouched.",
    hints=(
        "The layer computes W0 x + (α/r)·B(A x). Collect what multiplies x.",
        "B is (out, r) and A is (r, in): only B @ A has the shape of W0.",
        "`W0 + (alpha / r) * (B @ A)`, without `+=`.",
    ),
)
def merged_weight(merge: Callable[[Tensor, Tensor, Tensor, float, int], Tensor]) -> None:
    rng = generator()
    for out, inp, r, alpha in [(7, 5, 3, 12.0), (6, 6, 2, 1.0)]:
        W0, A, B = (
            torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in [(out, inp), (r, inp), (out, r)]
        )
        got = as_tensor(attempt(merge, W0, A, B, alpha, r), W0, "the merged weight")
        product = B @ A
        if close(got, W0 + alpha / r * product, 1e-9):
            continue
        scales = {
            "α is not divided by r": alpha,
            "1/√r instead of 1/r": alpha / math.sqrt(r),
            "the scale is missing": 1.0,
            "the scale is applied twice": (alpha / r) ** 2,
            "α/r is upside down": r / alpha,
            "the adapter is not added": 0.0,
            "the adapter is subtracted": -alpha / r,
        }
        bugs = {bug: W0 + scale * product for bug, scale in scales.items()}
        bugs["W0 is missing"] = alpha / r * product
        if out == inp:
            bugs |= {"the product is transposed": W0 + alpha / r * product.T}
        bug = next((bug for bug, wrong in bugs.items() if close(got, wrong, 1e-9)), "another matrix")
        x = torch.randn(inp, generator=rng, dtype=torch.float64)
        want = W0 @ x + alpha / r * (B @ (A @ x))
        off = float((got @ x - want).norm() / want.norm())
        raise Wrong(bug, f"with out={out}, in={inp}, r={r}, α={alpha:g} the merged output is off by {100 * off:.0f} %")
