"""Exercises of chapter 03, The LoRA layer."""

import math
from collections.abc import Callable

import torch
from torch import nn

from lora_edu.course.exercises import attempt, generator, register
from lora_edu.course.lawbook.diagnosis import COARSE, ROUNDED, percent, tidy
from lora_edu.course.lawbook.probe import WIDE, Subject, guess
from lora_edu.course.lawbook.runner import run_laws
from lora_edu.course.open_parts import NotAttempted, Wrong, lacks_forward
from lora_edu.course.values import as_parts, as_tensor, as_truth, close

Tensor = torch.Tensor


@register(
    "03.1",
    title="The layer in ten lines",
    stars=2,
    minutes=20,
    task="Write `MyLoRALinear(base_layer, r, lora_alpha)`, an nn.Module over a frozen nn.Linear: A (r, in) random, B (out, r) zero, "
    "and forward returns W₀x + b + (α/r)·B(A x). Keep the factors as `self.A` and `self.B`.",
    wants="MyLoRALinear",
    shows="Your layer keeps the laws: silent at the start, the same as one matrix W₀ + (α/r)·B A where B ≠ 0, only A and B train, both gradients "
    "are the formula's, and what it saves it loads.",
    hints=(
        "`base_layer.requires_grad_(False)` freezes W₀ and b; `base_layer.in_features` and `.out_features` give the sizes.",
        "A factor is a tensor of the right shape wrapped in `nn.Parameter`: `torch.randn` divided by √in for A, `torch.zeros` for B.",
        "A batch holds its inputs as rows, so A x becomes `x @ self.A.T`, of shape (batch, r). What takes that to (batch, out)?",
    ),
)
def lora_layer(layer_class: type[nn.Module]) -> None:
    if not isinstance(layer_class, type):
        raise Wrong("not a class", f"hand over the class `MyLoRALinear` itself; this is {type(layer_class).__name__}")
    if not issubclass(layer_class, nn.Module):
        raise Wrong(
            "the class does not inherit from nn.Module",
            f"write `class {layer_class.__name__}(nn.Module)` and call `super().__init__()` first",
        )
    _look_for_gaps(layer_class)
    for result in run_laws(layer_class).results:
        for finding in result.findings:
            where = (
                f"law {result.number}, {result.name}, is broken" if result.number else "the layer cannot be taken apart"
            )
            raise Wrong(finding.means or result.name, f"{where}: {finding.what}")
    subject = Subject(layer_class)  # the laws accept what follows; this exercise asks for one form
    A, B = subject.factors(subject.build(WIDE))
    if B.any() and not A.any():
        raise Wrong("A and B exchanged at the start", "silent as well, but the task has B zero and A random")
    for name, place, shape in (("A", subject.A, "(r, in)"), ("B", subject.B, "(out, r)")):
        if place.transposed:
            raise Wrong(f"{name} is stored transposed", f"the maths is right, but the task has {name} as {shape}")


def _look_for_gaps(layer_class: type[nn.Module]) -> None:
    """Raise NotAttempted where dots stand, and Wrong for an `__init__` that fails or a `forward` still to be written."""
    dots = False
    try:
        with torch.random.fork_rng(devices=[]):
            layer = layer_class(nn.Linear(5, 7), 2, 4)
            dots = any(value is ... for value in vars(layer).values())
            if not lacks_forward(layer_class):
                dots = layer(torch.ones(3, 5)) is ...
    except NotImplementedError:
        raise NotAttempted from None
    except Exception as error:
        dots = dots or "ellipsis" in str(error)
        if not dots and lacks_forward(layer_class):  # else the laws say it, with more cases
            raise Wrong(
                guess(error) or "`__init__` raises an error",
                f"`{layer_class.__name__}(nn.Linear(5, 7), 2, 4)` raised {type(error).__name__}: {error}",
            ) from error
    if dots:
        raise NotAttempted
    if lacks_forward(layer_class):
        made = ", ".join(f"{name} {tuple(value.shape)}" for name, value in layer.named_parameters()) or "no parameter"
        raise Wrong("`forward` is still to be written", f"`__init__` runs; the layer holds {made}")


@register(
    "03.2",
    title="Both gradients by hand",
    stars=2,
    minutes=12,
    task="Write `factor_gradients(G, A, B, s)` for ΔW = s·B A: from G = ∂L/∂W (out, in), the gradients (grad_A, grad_B), without autograd.",
    wants="factor_gradients",
    shows="∂A = s·Bᵀ G and ∂B = s·G Aᵀ, equal to autograd's on square and rectangular layers.",
    hints=(
        "Let the shapes lead: grad_A is (r, in) like A, grad_B is (out, r) like B, and G is (out, in).",
        "L depends on A only through s·B A: the chain rule multiplies G by what stands left of A, transposed.",
        "∂B = s·G Aᵀ: in s·B A the factor A stands on B's right, and comes back, transposed, on G's right. Where does B stand?",
    ),
)
def factor_gradients(gradients: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]) -> None:
    rng = generator()
    for out, inp, r, s in [(6, 6, 2, 1.75), (7, 5, 3, 0.4)]:
        G, A, B = (
            torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in [(out, inp), (r, inp), (out, r)]
        )
        a, b = A.clone().requires_grad_(), B.clone().requires_grad_()
        (G * (s * b @ a)).sum().backward()
        assert a.grad is not None and b.grad is not None
        got = as_parts(attempt(gradients, G, A, B, s), ("grad_A", "grad_B"), "`factor_gradients`'s answer")
        # Before the shapes: on a square layer A's gradient turned has B's shape.
        for name, value, want in [("A", got[0], a.grad), ("B", got[1], b.grad)]:
            if isinstance(value, Tensor) and value.dim() == 2 and close(value.detach().T.to(want.dtype), want, 1e-9):
                raise Wrong(
                    f"grad_{name} is the transpose of what is due",
                    f"it has shape {tuple(value.shape)}, and {name} has {tuple(want.shape)}",
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
                other, mixed = ("B", s * A @ G) if name == "A" else ("A", s * G @ B)
                bugs[f"grad_{name} is made of {name}: it takes {other}"] = mixed
            ratio = float((gradient * want).sum() / want.square().sum())
            bugs[f"a scale of {tidy(ratio * s)} stands where s = {s:g} is due"] = ratio * want
            bug = next((bug for bug, wrong in bugs.items() if close(gradient, wrong, 1e-9)), "not the gradient")
            off = float((gradient - want).norm() / want.norm())
            raise Wrong(
                bug,
                f"with out={out}, in={inp}, r={r}, s={s:g}, grad_{name} differs from autograd's by {percent(off)}",
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
    minutes=5,
    task="For each of four starts say whether the layer is silent (ΔW = 0 at the start) and whether it learns (some gradient is not zero): "
    "`starts[name] = (silent, learns)` with True or False.",
    wants="starts",
    shows="Each start was measured: one factor at zero is silent and learns, whichever it is; both zero is silent and dead; "
    "both random learns and is not silent.",
    hints=(
        "Silent asks for B A = 0. Which starts have that?",
        "∂A = s·Bᵀ G and ∂B = s·G Aᵀ: put the zeros in and see which gradient is left.",
        "Learning asks for one gradient that is not zero, of either factor. For each start: which of the two products holds no zero?",
    ),
)
def four_starts(starts: dict[str, tuple[bool, bool]]) -> None:
    if not isinstance(starts, dict) or set(starts) != set(STARTS):
        raise Wrong("other keys", f"`starts` is a dictionary with the keys {list(STARTS)}")
    formulas = {"silent": "put this start into ΔW = s·B A", "learns": "put this start into ∂A = s·Bᵀ G and ∂B = s·G Aᵀ"}
    for name, scales in STARTS.items():
        where = f"`starts[{name!r}]`"
        answer, measured = as_parts(starts[name], ("silent", "learns"), where), _measure(*scales)
        for part, word in enumerate(("silent", "learns")):
            if as_truth(answer[part], f"{word} of {where}") != measured[part]:
                raise Wrong(f"another answer was measured for `{word}` of {name!r}", formulas[word])


@register(
    "03.4",
    title="Merge",
    stars=1,
    minutes=5,
    task="Write `merged_weight(W0, A, B, alpha, r)`: the one matrix (out, in) that does what W0 and the adapter do together. W0 stays as it is.",
    wants="merged_weight",
    shows="W0 + (α/r)·B A, on rectangular and square layers: the same output from one matrix, and W0 untouched.",
    hints=(
        "The layer computes W0 x + (α/r)·B(A x). Collect what multiplies x.",
        "B is (out, r) and A is (r, in): only B @ A has the shape of W0.",
        "The scale belongs to the product alone, not to W0; and `+=` would change the tensor that you were handed.",
    ),
)
def merged_weight(merge: Callable[[Tensor, Tensor, Tensor, float, int], Tensor]) -> None:
    rng = generator()
    # Square first, where a transposed product has a name and no error; α/r whole first, so that rounding it has one too.
    for out, inp, r, alpha in [(6, 6, 3, 12.0), (7, 5, 3, 12.0), (5, 8, 4, 10.0), (6, 9, 3, 2.0)]:
        W0, A, B = (
            torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in [(out, inp), (r, inp), (out, r)]
        )
        got = as_tensor(attempt(merge, W0, A, B, alpha, r), W0, "the merged weight")
        product, s = B @ A, alpha / r
        want = W0 + s * product
        if close(got, want, 1e-9):
            continue
        rounded = [] if s.is_integer() or s < 1 else [math.floor(s), math.ceil(s)]
        scales = [("α/r is rounded to a whole number", float(whole)) for whole in rounded] + [
            ("the scale is held at 1 or more", 1.0 if s < 1 else s),  # by now rounding has had its name
            ("α is not divided by r", alpha),
            ("1/√r instead of 1/r", alpha / math.sqrt(r)),
            ("the scale is missing", 1.0),
            ("the scale is applied twice", s**2),
            ("α/r is upside down", r / alpha),
            ("the adapter is not added", 0.0),
            ("the adapter is subtracted", -s),
            ("the adapter is added twice", 2 * s),
            ("α is missing: divided by r alone", 1 / r),
            ("α is applied twice", alpha * s),
            ("divided by r twice", s / r),
        ]
        p = float(((got - W0) * product).sum() / product.square().sum())
        scales.append((f"a scale of {tidy(p)} stands where α/r = {tidy(s)} is due", p))
        bugs = [(bug, W0 + scale * product) for bug, scale in scales]
        bugs.append(("W0 is missing", s * product))
        bugs.append(("the scale multiplies W0 too: a missing bracket", s * (W0 + product)))
        if out == inp:
            bugs.append(("transposed product: `A.T @ B.T` is (B A)ᵀ", W0 + s * product.T))
        off = float((got - want).norm() / want.norm())
        bug = ROUNDED if off < COARSE else "W0 and B A are mixed in another way"
        bug = next((name for name, wrong in bugs if close(got, wrong, 1e-9)), bug)
        raise Wrong(bug, f"with out={out}, in={inp}, r={r}, α={alpha:g} the merged weight is off by {percent(off)}")
