"""Naming what is wrong: the map x → M x + c is read off by feeding unit vectors, and expressed in W₀, B A and b."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lora_edu.course.lawbook.probe import Built, Case, Finding, LawBroken

COARSE = 0.02  # 16-bit floats are coarser than this nowhere; every other bug is
ROUNDED = "precision lost on the way: something is cast to 16 bits, as `.half()` or `.bfloat16()` does"


@dataclass(frozen=True)
class Map:
    """The map x → M x + c that a layer computes, fitted as w·W₀ + p·BA and k·b."""

    M: Tensor  # (out, in)
    c: Tensor  # (out,)
    w: float = 0.0
    p: float = 0.0
    rest: float = 0.0  # what w·W₀ + p·BA leaves of M, relative
    p_turned: float | None = None  # the fit with (BA)ᵀ, on square layers, when it leaves nothing


def measure(built: Built, A: Tensor, B: Tensor, forward: Callable[[Tensor], Tensor] | None = None) -> Map:
    """Read off the map by feeding zero and the unit vectors; then express it in W₀ and B A. Wants float64."""
    n = built.case.n_in
    x = torch.cat([torch.zeros(1, n), torch.eye(n)]).to(built.W0.dtype)
    with torch.no_grad():
        y = (forward or built)(x)
    if not isinstance(y, Tensor) or y.shape != (n + 1, built.case.n_out):
        shape = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise LawBroken(
            f"`forward(x)` with x of shape {tuple(x.shape)} gave {shape} ({built.case})", "a wrong output shape"
        )
    y = y.to(torch.float64)
    found = Map((y[1:] - y[0]).T, y[0])
    W0, BA = built.W0.double(), B.double() @ A.double()
    w, p, rest = _fit(found.M, W0, BA)
    found = replace(found, w=w, p=p, rest=rest)
    if rest > 1e-6 and built.case.n_in == built.case.n_out:
        w, turned, left = _fit(found.M, W0, BA.T)
        if left < 1e-6:
            found = replace(found, w=w, p_turned=turned)
    return found


def _fit(M: Tensor, W0: Tensor, BA: Tensor) -> tuple[float, float, float]:
    columns = torch.stack([W0.flatten(), BA.flatten()], dim=1)  # (out·in, 2)
    if not BA.any():
        columns = columns[:, :1]
    solution = torch.linalg.lstsq(columns, M.reshape(-1, 1)).solution
    rest = float((columns @ solution - M.reshape(-1, 1)).norm() / M.norm().clamp_min(1e-30))
    values = solution.flatten().tolist()
    return values[0], values[1] if len(values) > 1 else 0.0, rest


def tidy(value: float) -> str:
    """Three digits, and 0 for what is 0 but for rounding."""
    return f"{0.0 if abs(value) < 1e-9 else value:.3g}"


def percent(part: float) -> str:
    return f"{100 * part:.0f} %" if part >= 0.01 else f"{100 * part:.1g} %"


def near(value: float, target: float, tolerance: float = 1e-6) -> bool:
    return abs(value - target) <= tolerance * max(1.0, abs(target))


def name_scale(p: float, case: Case) -> str:
    """The bug's name for an adapter that is multiplied by `p` where α/r is due."""
    s, r, alpha = case.scale, case.r, case.alpha
    if s < 1 and near(p, 1):  # not by rounding: that has its name at a scale above 1, which is tried first
        return "α/r is held at 1 or more"
    if not s.is_integer() and near(p, round(p)) and abs(p - s) < 1:
        return "α/r is rounded to a whole number"
    names = {
        0.0: "the adapter is not added to the output",
        alpha: "α not divided by r",
        1.0: "scale missing",
        s * s: "scale applied twice",
        alpha / math.sqrt(r): "1/√r instead of 1/r (that is rsLoRA's scale)",
        1 / r: "α missing: divided by r alone",
        r / alpha: "scale upside down: r/α",
        1 / alpha: "divided by α",
        2 * s: "the adapter is added twice",
        -s: "the adapter is subtracted",
    }
    return next(
        (name for value, name in names.items() if near(p, value)),
        f"a wrong scale: {tidy(p)} where α/r = {tidy(s)} is due",
    )


def explain(built: Built, found: Map) -> Finding | None:
    """What is wrong with a measured map, or None if it is W₀ + s·BA and b."""
    case, s = built.case, built.case.scale
    if found.p_turned is not None:
        return Finding(
            f"the layer adds {tidy(found.p_turned)} × (B A)ᵀ and not s·B A ({case})",
            "transposed product: `x @ A.T @ B.T` is due",
        )
    if 1e-6 < found.rest < COARSE and near(found.w, 1, COARSE) and near(found.p, s, COARSE):
        return Finding(f"the map is W₀ + s·B A but for {percent(found.rest)} ({case})", ROUNDED)
    if found.rest > 1e-6:
        if case.n_in == case.n_out and float((found.M - built.W0.double().T).norm()) < float(
            (found.M - built.W0.double()).norm()
        ):
            return Finding(f"the base's weight acts transposed ({case})", "W₀ transposed: a batch takes `x @ W0.T`")
        return Finding(
            f"the map is no mixture of W₀ and B A: {percent(found.rest)} of it is neither ({case})", "not W₀ + s·BA"
        )
    if near(found.w, s) and near(found.p, s) and not near(s, 1):
        return Finding(
            f"the base's output is multiplied by {tidy(found.w)}, as the adapter's is ({case})",
            "the scale multiplies the base too: a missing bracket",
        )
    if not near(found.w, 1):
        means = "W₀ is missing: the layer returns the adapter alone" if near(found.w, 0) else "the base path is scaled"
        means = "the base's output is added twice" if near(found.w, 2) else means
        return Finding(f"W₀ is multiplied by {tidy(found.w)} where 1 is due ({case})", means)
    if not near(found.p, s):
        return Finding(
            f"B A is multiplied by {tidy(found.p)} where s = α/r = {tidy(s)} is due ({case})", name_scale(found.p, case)
        )
    return explain_bias(built, found.c)


def explain_bias(built: Built, c: Tensor) -> Finding | None:
    """What is wrong with the constant part of a measured map."""
    case = built.case
    b = torch.zeros_like(c) if built.b is None else built.b.double()
    if float((c - b).norm()) <= 1e-6 * max(1.0, float(b.norm())):
        return None
    k = float(c @ b / (b @ b)) if b.any() else 0.0
    if not b.any() or float((c - k * b).norm()) > 1e-6 * float(b.norm()):
        return Finding(
            f"the output for x = 0 is off by {float((c - b).norm()):.3g} ({case})",
            "an extra bias: a factor made as nn.Linear needs bias=False",
        )
    if near(k, 0):
        return Finding(f"the output for x = 0 is 0 and not the base's bias ({case})", "bias lost")
    means = "bias added twice" if near(k, 2) else "bias scaled"
    return Finding(f"the bias is multiplied by {tidy(k)} where 1 is due ({case})", means)
