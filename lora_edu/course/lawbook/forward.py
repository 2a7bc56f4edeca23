"""Laws 1, 2 and 9: what a layer answers."""

from typing import Any

import torch
from torch import Tensor

from lora_edu.course.lawbook.common import ALL_CASES, CASES, Findings, batch, dense, differs, double
from lora_edu.course.lawbook.diagnosis import COARSE, ROUNDED, explain, explain_bias, measure, near, percent
from lora_edu.course.lawbook.probe import WIDE, Case, Finding, LawBroken, NotJudged, Subject, call


def law_1(subject: Subject) -> Findings:
    """Silent start: before training the output is the base's, bit for bit in float32, in eval and in train mode."""
    for case in CASES:
        for training in (False, True):
            built = subject.build(case)
            built.layer.train(training)
            x = batch(case)
            with torch.no_grad():
                y, want = built(x), built.expected(x)
            if isinstance(y, Tensor) and torch.equal(y, want):
                continue
            yield explain_start(subject, case, y, want, training)
            return
    A, B = subject.factors(subject.build(WIDE))
    if not A.any() and B.any():
        yield "A = 0 and B is random: silent too, with the roles of A and B exchanged; the paper starts with B = 0"
    if "dropout" in subject.arguments:
        built = subject.build(WIDE, dropout=0.5)
        subject.set_factors(built, zero_B=True)
        built.layer.train()
        x = batch(WIDE)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            y = built(x)
        if not torch.equal(y, built.expected(x)):
            yield Finding(
                "with dropout 0.5 and B = 0 the output in train mode is not the base's",
                "dropout on the base path: it belongs to the adapter's input alone",
            )


def explain_start(subject: Subject, case: Case, y: Any, want: Tensor, training: bool) -> Finding:
    if not isinstance(y, Tensor) or y.shape != want.shape:
        got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        return Finding(
            f"the output has shape {got} and the base's {tuple(want.shape)} ({case})", "a wrong output shape"
        )
    apart = float((y - want).abs().max())
    measured = f"before training the output differs from the base's by up to {apart:.2g}"
    A, B = subject.factors(subject.build(case))
    if A.any() and B.any():
        return Finding(f"{measured} ({case})", "both factors random: one of A and B has to start at zero, and it is B")
    if training:
        return Finding(
            f"in train mode, {measured} ({case})", "dropout on the base path: it belongs to the adapter's input alone"
        )
    built = double(subject, case)
    found = measure(built, *subject.set_factors(built))
    wrong = explain(built, found)
    if wrong and near(found.w, 1) and found.rest < 1e-6:
        wrong = explain_bias(built, found.c)  # with BA = 0 only the base path and the bias can show
    if wrong:
        return Finding(f"{measured}; {wrong.what}", wrong.means)
    return Finding(
        "before training the output equals the base's only up to rounding, not bit for bit",
        "the base's output is computed anew: call `base_layer(x)` and add to it",
    )


def law_2(subject: Subject) -> Findings:
    """Dense reference: with B ≠ 0 the output is (W₀ + s·B A) x + b, for every dtype, with and without bias, for every batch shape."""
    for case in ALL_CASES:
        built = double(subject, case)
        A, B = subject.set_factors(built)
        x = batch(case, dtype=built.W0.dtype)
        with torch.no_grad():
            y, again = built(x), built(x)
        if not torch.equal(y, again):
            moved = float((built.base.weight.detach() - built.W0).abs().max())
            means = (
                "forward adds the adapter into W₀ itself, once more at each call" if moved else "dropout active in eval"
            )
            yield Finding(f"in eval mode the same input gives two different outputs ({case})", means)
            return
        found = measure(built, A, B)
        bent = float((y.double() - (x.double() @ found.M.T + found.c)).norm() / y.double().norm())
        if bent > 1e-5:
            yield Finding(
                f"the layer is not linear in x: the output for x is {percent(bent)} off the sum over x's entries ({case})",
                ROUNDED if bent < COARSE else "a non-linearity between A and B, or on the output",
            )
            return
        if wrong := explain(built, found):
            yield wrong
            return
    if subject.A.transposed or subject.B.transposed:
        yield "a factor is stored transposed: right, but others write A as (r, in) and B as (out, r)"
    yield from dropout_in_eval(subject)
    yield from other_shapes(subject)
    if subject.registered:
        yield from other_dtypes(subject)
        yield from mixed_dtypes(subject)


def dropout_in_eval(subject: Subject) -> Findings:
    if "dropout" not in subject.arguments:
        return
    built = subject.build(WIDE, dropout=0.5)
    subject.set_factors(built)
    x = batch(WIDE, 64)
    with torch.no_grad():
        if not torch.equal(built(x), built(x)):
            yield Finding(
                "with dropout 0.5 in eval mode the same input gives two different outputs",
                "dropout active in eval: it has to ask `self.training`",
            )
            return
        built.layer.train()
        if torch.equal(built(x), built(x)):
            yield "the dropout that the constructor takes is never applied, not even in train mode"


def other_shapes(subject: Subject) -> Findings:
    built = subject.build(WIDE)
    A, B = subject.set_factors(built)
    for lead in [(1,), (2, 4), (2, 3, 2), (0,)]:
        x = batch(WIDE, *lead)
        with torch.no_grad():
            y = built(x)
        if 0 not in lead and (apart := differs(y, dense(built, A, B, x), 1e-5)):
            yield Finding(
                f"for x of shape {tuple(x.shape)} the output is off by {percent(apart)}",
                "the batch dimensions are mixed up",
            )
            return


def other_dtypes(subject: Subject) -> Findings:
    for dtype, tolerance in [(torch.float32, 1e-5), (torch.bfloat16, 0.03)]:
        built = subject.build(WIDE).to(dtype)
        A, B = subject.set_factors(built)
        x = batch(WIDE, 2, 4, dtype=dtype)
        with torch.no_grad():
            y = built(x)
        if y.dtype != dtype:
            yield Finding(f"a {dtype} layer answers in {y.dtype}", "adapter output not cast back to the base's dtype")
            return
        if apart := differs(y, dense(built, A, B, x), tolerance):
            yield Finding(f"in {dtype} the output is off by {percent(apart)}", "precision lost on the way")
            return


def mixed_dtypes(subject: Subject) -> Findings:
    """Over a bf16 base the factors may well stay fp32, but what comes out must be bf16 again."""
    built = subject.build(WIDE, dtype=torch.bfloat16)
    subject.set_factors(built)
    kept = {subject.raw(built, place).dtype for place in (subject.A, subject.B)}
    try:
        with torch.no_grad():
            y = built(batch(WIDE, dtype=torch.bfloat16))
    except LawBroken:
        yield (
            "on a base that is stored in 16-bit floats (bfloat16) this layer stops with a dtype error; "
            "on a float32 base, as here, nothing is wrong"
        )
        return
    if y.dtype != torch.bfloat16:
        held = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in kept))
        yield Finding(
            f"over a bf16 base, with {held} factors, the output is {str(y.dtype).removeprefix('torch.')}",
            "fp32 adapter output not cast back to bf16",
        )


SWITCHES = (("disable", "enable"), ("disable_adapter", "enable_adapter"), ("turn_off", "turn_on"), ("off", "on"))
FLAGS = {"enabled": False, "active": False, "adapter_enabled": False, "disabled": True, "disable_adapters": True}


def law_9(subject: Subject) -> Findings:
    """Switched off, the layer is the base again, bit for bit; switched on, it is itself.

    The switch: a pair of methods, a flag, or a dict `state.active` of what speaks, as `lora_edu.adapters.layers` has it.
    """
    built = subject.build(WIDE)
    subject.set_factors(built)
    layer, x = built.layer, batch(WIDE)
    pair = next((p for p in SWITCHES if all(callable(getattr(layer, name, None)) for name in p)), None)
    flag = next((name for name, off in FLAGS.items() if getattr(layer, name, None) is (not off)), None)
    active = getattr(
        getattr(layer, "state", None), "active", None
    )  # lora_edu's own: {adapter: how loud}, shared by a model
    if pair is None and flag is None and not isinstance(active, dict):
        raise NotJudged("the layer offers no switch (`disable()` and `enable()`, or a flag `enabled`)")
    with torch.no_grad():
        on = built(x)
        if pair:
            call(f"`{pair[0]}()`", getattr(layer, pair[0]))
        elif flag:
            setattr(layer, flag, FLAGS[flag])
        else:
            layer.state.active = {}
        off = built(x)
        if pair:
            call(f"`{pair[1]}()`", getattr(layer, pair[1]))
        elif flag:
            setattr(layer, flag, not FLAGS[flag])
        else:
            layer.state.active = active
        again = built(x)
    want = built.expected(x)
    how = f"`{pair[0]}()`" if pair else f"`{flag} = {FLAGS[flag]}`" if flag else "`state.active = {}`"
    if not torch.equal(off, want):
        part = float((off - want).norm() / (on - want).norm())
        means = "the switch does nothing: forward does not ask it" if near(part, 1) else "switched off in part only"
        yield Finding(f"after {how} the output still has {percent(part)} of the adapter's part", means)
    elif not torch.equal(again, on):
        yield Finding(
            f"after {how} and back on, the adapter's output is not what it was", "the switch throws the adapter away"
        )
