"""Laws 5 and 6: merge and unmerge, save and load."""

import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from lora_edu.course.lawbook.common import Findings, batch, double
from lora_edu.course.lawbook.diagnosis import Map, measure, name_scale, near, percent, tidy
from lora_edu.course.lawbook.probe import (
    FRACTIONS,
    SQUARE,
    TALL,
    WIDE,
    Built,
    Finding,
    NotJudged,
    Subject,
    call,
    holding_W0,
    tensors,
)


def law_5(subject: Subject) -> Findings:
    """Merge: the same output from one matrix; twice is refused or does nothing more; unmerge brings W₀ back bit for bit."""
    if not callable(getattr(subject.build(WIDE).layer, "merge", None)):
        raise NotJudged("the layer has no `merge()` method")
    for case in (SQUARE, WIDE, TALL, *FRACTIONS):  # a transposed product has its name on a square layer only
        built = double(subject, case)
        A, B = (factor.clone() for factor in subject.set_factors(built))
        before = measure(built, A, B)
        merged = call(f"`merge()` ({case})", built.layer.merge)
        forward = merged if isinstance(merged, nn.Linear) else None
        after = measure(built, A, B, forward)
        if wrong := explain_merge(built, before, after):
            yield wrong
            return
        if forward is not None:
            if not torch.equal(built.weight.detach(), built.W0):
                yield Finding(
                    f"`merge()` returned a new layer and changed the old base too ({case})",
                    "merge works in place on W₀ and on a copy",
                )
                return
            continue
        if wrong := nothing_merged(subject, built, merged, after) or other_in_train_mode(built, before, A, B):
            yield wrong
            return
        if again := refused_or_unchanged(built, A, B, after):
            yield again
            return
    if forward is None:
        yield from unmerging(subject)


def explain_merge(built: Built, before: Map, after: Map) -> Finding | None:
    case = built.case
    if float((after.M - before.M).norm()) <= 1e-8 * float(before.M.norm()):
        if float((after.c - before.c).norm()) <= 1e-8 * max(1.0, float(before.c.norm())):
            return None
        return Finding(f"after `merge()` the output for x = 0 has changed ({case})", "bias lost in the merge")
    apart = float((after.M - before.M).norm() / before.M.norm())
    measured = f"`merge()` changes the layer's map by {percent(apart)} ({case})"
    if after.p_turned is not None:
        return Finding(
            f"{measured}: W₀ + {tidy(after.p_turned)} × (B A)ᵀ",
            "merge adds the transposed product: `B @ A` has W₀'s shape (out, in)",
        )
    if after.rest < 1e-6 and near(after.w, 1):
        entered = f"{measured}: B A is multiplied by {tidy(after.p)}, and by {tidy(before.p)} before"
        if near(after.p, 2 * before.p):
            return Finding(entered, "after the merge forward still adds B A: counted twice")
        return Finding(entered, f"merge and forward disagree on the scale; in merge: {name_scale(after.p, case)}")
    return Finding(measured, "merge computes something else than W₀ + s·B A")


def nothing_merged(subject: Subject, built: Built, merged: object, after: Map) -> Finding | None:
    """A merged layer's answer does not come from A and B any more: put other factors in, and it stays as it is."""
    try:
        factors = subject.factors(built)
    except AttributeError:
        return None  # the merge threw them away
    kept = [factor.clone() for factor in factors]
    with torch.no_grad():
        for factor in factors:
            factor.zero_()
        silent = measure(built, kept[0], kept[1])
        for factor, values in zip(factors, kept):
            factor.copy_(values)
    if float((silent.M - after.M).norm()) <= 1e-8 * float(after.M.norm()):
        return None
    given = "" if merged is None else f" It returned {type(merged).__name__}, and the layer itself is as it was."
    return Finding(
        f"after `merge()` the output still comes from A and B: with zeros in them it changes ({built.case}).{given}",
        "merge does nothing to the layer: W₀ + s·B A has to stand in `base_layer.weight`, or come back as an nn.Linear",
    )


def other_in_train_mode(built: Built, before: Map, A: Tensor, B: Tensor) -> Finding | None:
    built.train()
    x = batch(built.case, dtype=built.W0.dtype)
    with torch.no_grad():
        wrong = explain_merge(built, before, measure(built, A, B)) if torch.equal(built(x), built(x)) else None
    built.train(False)
    return Finding(f"in train mode: {wrong.what}", wrong.means) if wrong else None


def refused_or_unchanged(built: Built, A: Tensor, B: Tensor, after: Map) -> Finding | None:
    try:
        built.layer.merge()
    except Exception:
        return None  # refused: as it should be
    twice = measure(built, A, B)
    if float((twice.M - after.M).norm()) > 1e-8 * float(after.M.norm()):
        return Finding(
            f"a second `merge()` changes the layer again: B A is multiplied by {tidy(twice.p)} ({built.case})",
            "merge twice applies twice: keep a flag and refuse",
        )
    return None


def unmerging(subject: Subject) -> Findings:
    built = subject.build(WIDE)
    if not callable(getattr(built.layer, "unmerge", None)):
        yield "the layer has no `unmerge()` method: that part was not checked"
        return
    for seed in range(4):  # a subtraction restores some numbers by luck, never all of them
        built = subject.build(WIDE)
        paths = holding_W0(built)
        subject.set_factors(built, seed=seed)
        x = batch(WIDE)
        with torch.no_grad():
            y = built(x)
            call("`merge()`", built.layer.merge)
            call("`unmerge()`", built.layer.unmerge)
            base = [tensors(built.layer)[path][1] for path in paths if path in tensors(built.layer)]
            again = built(x)
        if apart := max((float((t - built.W0).abs().max()) for t in base), default=0.0):
            if apart < 1e-4:
                yield Finding(
                    "after `merge()` and `unmerge()` W₀ is back only up to rounding, not bit for bit",
                    "unmerge by subtraction: keep W₀ aside and put it back",
                )
            else:
                yield Finding(
                    f"after `merge()` and `unmerge()` W₀ is off by up to {apart:.2g}",
                    "unmerge does not take back what merge added",
                )
            return
        if not torch.equal(again, y):
            yield Finding(
                "after `merge()` and `unmerge()` W₀ is back but the output is not",
                "the adapter is not switched on again by unmerge",
            )
            return
    built = subject.build(WIDE)
    subject.set_factors(built)
    with torch.no_grad():
        before = built(x)
        try:
            built.layer.unmerge()
        except Exception:
            return  # refused: nothing is merged
        if not torch.equal(built(x), before):
            yield Finding(
                "`unmerge()` without a merge changes the output",
                "unmerge without a flag: it takes away what was never added",
            )


def law_6(subject: Subject) -> Findings:
    """Save and load: a second layer over the same base gives the same output, bit for bit, once it has loaded the first one's state."""
    first, second = subject.build(WIDE), subject.build(WIDE, seed=1)
    A, B = subject.set_factors(first)
    state = call("`state_dict()`", first.layer.state_dict)
    stored = {key: value.detach().clone().contiguous() for key, value in state.items() if isinstance(value, Tensor)}
    lost = False
    for name, factor, place in (("A", A, subject.A), ("B", B, subject.B)):
        if not any(torch.equal(t, factor) or torch.equal(t, factor.T) for t in stored.values() if t.dim() == 2):
            lost = True
            yield Finding(
                f"`{place.path}` is not in `state_dict()`, which holds {', '.join(stored) or 'nothing'}",
                f"{name} is never saved: a plain tensor, or a buffer with persistent=False; wrap it in nn.Parameter",
            )
    loaded = load_bytes(save_bytes(stored))
    call("`load_state_dict()` of what `state_dict()` gave", second.layer.load_state_dict, loaded)
    x = batch(WIDE)
    with torch.no_grad():
        y, again, other = first(x), first(x), second(x)
    if not torch.equal(y, again):
        raise NotJudged("the same input gives two different outputs: mend law 2 first")
    if not lost and not torch.equal(y, other):
        yield Finding(
            f"after saving and loading the output differs by up to {float((y - other).abs().max()):.2g}",
            "something that matters is kept outside the state: a plain tensor or a random number",
        )
