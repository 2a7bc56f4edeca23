"""Laws 3 and 4: what trains, and what flows back."""

import itertools

import torch
from torch import Tensor, nn

from lora_edu.course.lawbook.common import CASES, Findings, batch, double
from lora_edu.course.lawbook.diagnosis import explain_bias, measure, near, percent
from lora_edu.course.lawbook.probe import (
    WIDE,
    Built,
    Case,
    Finding,
    NotJudged,
    Subject,
    call,
    holding_W0,
    shares_memory,
    tensors,
)


def law_3(subject: Subject) -> Findings:
    """What trains: A and B and nothing else; W₀ is neither copied nor changed by training."""
    built = subject.build(WIDE)
    held = tensors(built.layer)
    for name, place in (("A", subject.A), ("B", subject.B)):
        if place.held == "plain":
            yield Finding(
                f"`{place.path}` is not among the layer's parameters",
                f"{name} registered as a plain tensor: not trained, not saved, not moved by `.to()`; wrap it in nn.Parameter",
            )
        elif place.held == "buffer":
            yield Finding(
                f"`{place.path}` is a buffer", f"{name} registered as a buffer: saved and moved, but not trained"
            )
        elif not subject.raw(built, place).requires_grad:
            yield Finding(
                f"`{place.path}.requires_grad` is False",
                f"{name} frozen along with the base: freeze first, then make the factors",
            )
    names = {subject.A.path, subject.B.path}
    values = {path: t.detach().clone() for path, (_, t) in held.items()}  # before training
    extra = {path: held[path][1] for path in trains(built) - names}
    moved = 0.0
    for training in (False, True):
        trained = subject.build(WIDE).train(training)
        extra |= {path: values[path] for path in trains(trained) - names if path in values}
        subject.set_factors(trained)
        moved = max(moved, train_briefly(trained))
    for path in extra:
        yield explain_extra(built, path, values[path], moved)
    if not extra and moved > 0:
        yield Finding(
            f"three steps of AdamW moved W₀ by up to {moved:.2g}, though it is frozen",
            "the base's weight is changed in place",
        )
    fresh = subject.build(WIDE)
    same = holding_W0(fresh)
    if same and not any(shares_memory(tensors(fresh.layer)[path][1], fresh.weight) for path in same):
        yield Finding(
            f"`{same[0]}` holds W₀'s numbers in memory of its own",
            "the layer is itself an nn.Linear with W₀ copied into it: inherit from nn.Module and keep `base_layer` as it is"
            if isinstance(fresh.layer, nn.Linear)
            else "W₀ copied: keep the base layer itself, or the weight costs its memory twice",
        )


def trains(built: Built) -> set[str]:
    return {path for path, (kind, t) in tensors(built.layer).items() if kind == "parameter" and t.requires_grad}


def explain_extra(built: Built, path: str, tensor: Tensor, moved: float) -> Finding:
    """Why a parameter trains that should not; `tensor` holds what it held before training."""
    if any(torch.equal(tensor, W) for W in (built.W0, built.W0.T)):
        how = f"three steps of AdamW moved W₀ by up to {moved:.2g}" if moved else f"`{path}` trains"
        return Finding(f"`{path}` has requires_grad=True: {how}", "base not frozen")
    if built.b is not None and torch.equal(tensor, built.b):
        return Finding(f"`{path}` has requires_grad=True", "base not frozen: its bias trains")
    if tensor.numel() == 1:
        return Finding(f"`{path}` is a Parameter of one number and trains", "the scale is trained: α/r is a constant")
    return Finding(
        f"`{path}` {tuple(tensor.shape)} trains besides A and B",
        "an extra parameter trains: a factor made as nn.Linear needs bias=False",
    )


def train_briefly(built: Built) -> float:
    """Three AdamW steps with weight decay on all of layer.parameters(); by how much did W₀ move?"""
    paths = holding_W0(built)
    trainable = [p for p in built.layer.parameters() if p.requires_grad]
    x, target = batch(built.case, 16), torch.ones(16, built.case.n_out)
    if trainable:
        optimizer = torch.optim.AdamW(built.layer.parameters(), lr=0.01, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            loss = ((built(x) - target) ** 2).mean()
            if not loss.requires_grad:
                break
            call("`loss.backward()`", loss.backward)
            optimizer.step()
    now = [built.weight] + [tensors(built.layer)[path][1] for path in paths]
    return max(float((t.detach() - built.W0).abs().max()) for t in now)


def law_4(subject: Subject) -> Findings:
    """What flows back: ∂A = s·Bᵀ G and ∂B = s·G Aᵀ, so the first SGD step is ΔW = −η s² G AᵀA; silent, but not dead."""
    for name, place in (("A", subject.A), ("B", subject.B)):
        if place.held != "parameter" or not subject.raw(subject.build(WIDE), place).requires_grad:
            raise NotJudged(f"{name} does not train: see law 3")
    built = double(subject, WIDE)
    A, B = subject.factors(built)
    x, R = (
        batch(WIDE, dtype=torch.float64),
        torch.randn(5, WIDE.n_out, generator=torch.Generator().manual_seed(4), dtype=torch.float64),
    )
    grad_A, grad_B, _ = gradients(subject, built, x, R)
    if not grad_A.any() and not grad_B.any():
        means = "the graph is cut: a detach(), .data or no_grad in forward"
        means = "B and A both zero: dead, it will never learn" if not A.any() and not B.any() else means
        yield Finding("at the start both gradients are exactly 0", means)
        return
    yield from start_has_room(A, B)
    for training, case in itertools.product((False, True), CASES):
        built = double(subject, case).train(training)
        A, B = subject.set_factors(built)
        x = batch(case, dtype=torch.float64)
        if not torch.equal(built(x), built(x)):
            if training and torch.equal(built.weight.detach(), built.W0):
                return  # a dropout that no argument puts to 0
            raise NotJudged("the same input gives two different outputs: mend law 2 first")
        found = measure(built, A, B)
        if found.rest > 1e-6 or near(found.p, 0) or explain_bias(built, found.c):
            raise NotJudged("the layer is not (W₀ + s·BA) x + b: mend law 2 first")
        where = f"{case}, in train mode" if training else str(case)
        R = torch.randn(5, case.n_out, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        G, s = R.T @ x, found.p  # (out, in); s as measured, so that a wrong scale breaks law 2 and not this one too
        grad_A, grad_B, grad_x = gradients(subject, built, x, R)
        for name, got, want, rule in [
            ("A", grad_A, s * B.T @ G, "s·Bᵀ G"),
            ("B", grad_B, s * G @ A.T, "s·G Aᵀ"),
            ("x", grad_x, R @ found.M, "Wᵀ R"),
        ]:
            apart = float((got - want).norm() / want.norm().clamp_min(1e-30))
            if apart > 1e-8:
                zero = "is 0" if not got.any() else f"is off by {percent(apart)}"
                yield Finding(
                    f"∂L/∂{name} {zero}, and {rule} is due ({where})",
                    f"the graph is cut on the way to {name}: a detach(), .data or no_grad"
                    if not got.any()
                    else "a part of the forward is hidden from autograd",
                )
                return
        if found_there := list(first_step(subject, case, x, R, s, training=training)):
            yield from found_there
            return


def start_has_room(A: Tensor, B: Tensor) -> Findings:
    """Directions that the random factor lacks at the start never come: ∂B = s·G Aᵀ mixes only what A's rows hold."""
    name, factor, rows = ("A", A, "rows") if A.any() else ("B", B.T, "columns")
    if not factor.isfinite().all():
        return  # law 1 says so
    r, n = factor.shape
    rank = int(torch.linalg.matrix_rank(factor, rtol=1e-5))
    if rank < min(r, n):
        alike = bool((factor - factor[0]).norm() <= 1e-5 * factor.norm())
        means = (
            f"{name}'s {rows} are all alike: rank 1 for ever"
            if alike
            else f"{rank} of {r} {rows}' worth of room, for ever"
        )
        yield Finding(
            f"at the start {name} has rank {rank}, and {min(r, n)} is due ({WIDE})", f"{means}; draw it at random"
        )
        return
    size = float(factor.pow(2).mean().sqrt()) * n**0.5
    if name == "A" and not 1 / 30 < size < 30:
        word = "large" if size > 1 else "small"
        yield Finding(
            f"A's entries are typically {size:.1e} times 1/√in ({WIDE})",
            f"A is far too {word}: with entries around 1/√in, A x has about the size of x's entries",
        )


def first_step(
    subject: Subject, case: Case, x: Tensor, R: Tensor, s: float, lr: float = 0.1, training: bool = False
) -> Findings:
    """From B = 0, one SGD step on A and B."""
    built = double(subject, case).train(training)
    A, B = subject.set_factors(built, zero_B=True)
    A, before = A.clone(), measure(built, A, B).M
    gradients(subject, built, x, R)
    with torch.no_grad():
        for place in (subject.A, subject.B):
            factor = subject.raw(built, place)
            assert factor.grad is not None  # gradients() has been through here
            factor -= lr * factor.grad
    step, want = measure(built, *subject.factors(built)).M - before, -lr * s**2 * (R.T @ x) @ A.T @ A
    apart = float((step - want).norm() / want.norm().clamp_min(1e-30))
    if apart > 1e-8:
        yield Finding(
            f"the first SGD step changes W by something else than −η s² G AᵀA: off by {percent(apart)} ({case})",
            "forward takes another way while B = 0",
        )


def gradients(subject: Subject, built: Built, x: Tensor, R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """∂/∂A, ∂/∂B and ∂/∂x of L = ⟨R, y⟩, zeros where none flowed."""
    x = x.clone().requires_grad_()
    built.layer.zero_grad(set_to_none=True)
    loss = (built(x) * R).sum()
    if loss.requires_grad:
        call("`loss.backward()`", loss.backward)
    found = []
    for place in (subject.A, subject.B):
        factor = subject.raw(built, place)
        grad = torch.zeros_like(factor) if factor.grad is None else factor.grad
        found.append(grad.T if place.transposed else grad)
    return found[0], found[1], torch.zeros_like(x) if x.grad is None else x.grad
