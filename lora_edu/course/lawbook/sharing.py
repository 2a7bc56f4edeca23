"""Part of law 2: two layers share nothing. Judged first, because a layer that shares breaks the other laws in whichever runs second."""

from dataclasses import replace

import torch
from torch import Tensor

from lora_edu.course.lawbook.common import batch
from lora_edu.course.lawbook.diagnosis import COARSE, measure, near, percent
from lora_edu.course.lawbook.probe import SQUARE, WIDE, Built, Case, Finding, LawBroken, Subject

OTHER = replace(WIDE, alpha=2.0)  # the same sizes, another scale: what is kept by size is shared between these two
KEPT = "keep it on `self`, made anew in each `__init__`"


def sharing(subject: Subject) -> Finding | None:
    """In float32, because `.to()` would part what is shared: set up a layer, build another with its own base, scale and factors, and ask the first one again.

    None as well where the first layer cannot be asked twice, or the second cannot be built: other laws say that.
    """
    for other in (OTHER, SQUARE):
        first = subject.build(WIDE)
        A, B = subject.set_factors(first)
        kept = A.clone(), B.clone()
        x = batch(WIDE)
        with torch.no_grad():
            try:
                y = first(x)
                if not isinstance(y, Tensor) or not torch.equal(y, first(x)):
                    return None
                second(subject, other)
            except LawBroken:
                return None
            try:
                off = float((first(x) - y).norm() / y.norm())
            except LawBroken as broken:
                return Finding(f"once a second layer was built, {broken.finding.what}", _means("base"))
        if off:
            what = f"once a second layer was built and filled, the first one's output is off by {percent(off)} ({WIDE})"
            return Finding(what, _means(_what(first, A, B, kept)))
    return None


def second(subject: Subject, case: Case) -> None:
    built = subject.build(case, seed=5, base_seed=2000)
    subject.set_factors(built, seed=11)
    built(batch(case))


def _what(first: Built, A: Tensor, B: Tensor, kept: tuple[Tensor, Tensor]) -> str:
    for name, now, then in (("A", A, kept[0]), ("B", B, kept[1])):
        if not torch.equal(now, then):
            return name
    found = measure(first, A, B)
    return "scale" if found.rest < COARSE and near(found.w, 1, COARSE) else "base"


def _means(shared: str) -> str:
    if shared in "AB":
        return f"{shared} is one tensor for all layers: {KEPT}"
    where = "on the class (as `type(self).… = …` does) or in a global"
    return f"the {shared} is one for all layers, kept {where}: {KEPT}"
