"""Laws 1, 2 and 9: what a layer answers."""

from typing import Any

import torch
from torch import Tensor

from lora_edu.course.lawbook.common import ALL_CASES, CASES, Findings, batch, dense, differs, double
from lora_edu.course.lawbook.diagnosis import COARSE, ROUNDED, explain, explain_bias, measure, near, percent
from lora_edu.course.lawbook.probe import WIDE, Built, Case, Finding, LawBroken, NotJudged, Subject, call


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
    """Dense reference: with B ≠ 0 the output is (W₀ + s·B A) x + b, in eval and in train mode, for every dtype, with and
    without bias, for every batch shape; and two layers share nothing (most of that is `sharing`'s)."""
    for training in (False, True):
        for case in ALL_CASES:
            built = double(subject, case).train(training)
            try:
                wrong = wrong_answer(built, *subject.set_factors(built))
            except NotJudged as reason:
                yield str(reason)
                break
            except LawBroken as broken:
                wrong = broken.finding
            if wrong:
                yield in_train_mode(wrong) if training else wrong
                return
    if subject.A.transposed or subject.B.transposed:
        yield "a factor is stored transposed: right, but others write A as (r, in) and B as (out, r)"
    yield from there_and_back(subject)
    yield from seeds(subject)
    yield from with_dropout(subject)
    yield from other_shapes(subject)
    if subject.registered:
        yield from other_dtypes(subject)
        yield from mixed_dtypes(subject)


def wrong_answer(built: Built, A: Tensor, B: Tensor) -> Finding | None:
    """What the layer answers in place of W₀ + s·B A, in the mode it is in. Raises: NotJudged where dropout cannot be put to 0."""
    case, training = built.case, built.layer.training
    x = batch(case, dtype=built.W0.dtype)
    with torch.no_grad():
        y, again, loud = built(x), built(x), built(100 * x)  # loud: what is cut off shows
        other_x = batch(case, dtype=built.W0.dtype, seed=4)
        other = built(other_x)
    if not torch.equal(y, again):
        moved, BA = built.weight.detach() - built.W0, B @ A
        if moved.any():
            added = abs(float(moved.flatten() @ BA.flatten())) > 0.99 * float(moved.norm() * BA.norm())
            means = f"forward {'adds the adapter into' if added else 'changes'} W₀ itself, once more at each call"
        elif not hears_A(built, A, B):
            means = DRAWN_ANEW
        elif not the_same_with_a_seed(built, x):
            means = "forward changes something of its own at every call, a scale perhaps: one input, one output"
        elif not training:
            means = "dropout active in eval: it has to ask `self.training`"
        else:
            raise NotJudged("a dropout that no argument puts to 0: with B ≠ 0 the layer was judged in eval mode alone")
        mode = "train" if training else "eval"
        return Finding(f"in {mode} mode the same input gives two different outputs ({case})", means)
    found = measure(built, A, B)
    if y.shape == other.shape == built.expected(x).shape and kept_from_the_last(built, x, y, other_x, other):
        return Finding(
            f"two different inputs of one shape, {tuple(x.shape)}, get the same from the adapter ({case})",
            "what was computed for one x is kept for the next: a cache must not be known by the shape of x",
        )
    bent = max(
        float((y.double() - (size * x.double() @ found.M.T + found.c)).norm() / y.double().norm())
        for size, y in ((1, y), (100, loud))
    )
    if bent > 1e-5:
        return Finding(
            f"the layer is not linear in x: the output for x is {percent(bent)} off the sum over x's entries ({case})",
            ROUNDED if bent < COARSE else "a non-linearity between A and B, or on the output",
        )
    return explain(built, found)


def kept_from_the_last(built: Built, x: Tensor, y: Tensor, other_x: Tensor, other: Tensor) -> bool:
    """Whether the whole output, or what is added to the base's, is the same for another x."""
    added, added_to_other = y - built.expected(x), other - built.expected(other_x)
    return torch.equal(y, other) or (bool(added.any()) and differs(added_to_other, added.double(), 1e-6) is None)


def the_same_with_a_seed(built: Built, x: Tensor) -> bool:
    answers = []
    for _ in range(2):
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            answers.append(built(x))
    return torch.equal(*answers)


def there_and_back(subject: Subject) -> Findings:
    """Going to train mode and back changes nothing."""
    built = subject.build(WIDE)
    A, B = (factor.clone() for factor in subject.set_factors(built))
    built.layer.train().eval()
    for name, factor, kept in zip("AB", subject.factors(built), (A, B)):
        if not torch.equal(factor, kept):
            yield Finding(f"going to train mode and back changes {name}", f"`train()` or `eval()` sets {name} anew")
            return
    if not torch.equal(built.weight.detach(), built.W0):
        yield Finding(
            "going to train mode and back changes W₀", "`train()` or `eval()` merges, and does not put W₀ back"
        )


DRAWN_ANEW = "A is drawn anew at every call: random numbers are drawn once, in `__init__`, and kept in `self.A`"


def hears_A(built: Built, A: Tensor, B: Tensor) -> bool:
    """Does the output depend on the A that the layer keeps? Not where forward puts another one in its place."""
    kept = A.clone()
    x, B_now = batch(built.case, dtype=built.W0.dtype), B.clone()

    def answer(scale: float) -> Tensor:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            A.copy_(scale * kept)
            B.copy_(B_now)
            return built(x)

    heard = not torch.equal(answer(1), answer(2))
    with torch.no_grad():
        A.copy_(kept)
    return heard


def in_train_mode(finding: Finding) -> Finding:
    if "train mode" in finding.what:
        return finding
    return Finding(f"in train mode, where dropout is 0: {finding.what}", f"{finding.means}; in eval mode all is well")


def seeds(subject: Subject) -> Findings:
    """Two layers share nothing, the random numbers they draw included."""
    one, two = (subject.build(WIDE, seed=seed) for seed in (1, 2))
    for what, drawn, also in (
        ("building a layer", one.drawn_after, two.drawn_after),
        ("a call of `forward` in eval mode", drawn_after_forward(one, 1), drawn_after_forward(two, 2)),
        ("a call of `forward` in train mode", drawn_after_forward(one, 1, True), drawn_after_forward(two, 2, True)),
    ):
        if torch.equal(drawn, also):
            yield Finding(
                f"{what} sets torch's random numbers back to the same place each time",
                "`torch.manual_seed` inside the layer: every layer starts alike, and so does all that is drawn after it",
            )
            return
    A, other_A = subject.factors(one)[0], subject.factors(two)[0]
    if torch.equal(A, other_A) and not bool(A.eq(A[0, 0]).all()):
        yield "every layer of this size starts with the same A: its seed is fixed in `__init__`"


def drawn_after_forward(built: Built, seed: int, training: bool = False) -> Tensor:
    built.layer.train(training)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built(batch(WIDE))
        return torch.rand(4)


def with_dropout(subject: Subject) -> Findings:
    """Off in eval mode; in train mode each input is either dropped or made larger, so that the mean stays."""
    p = 0.5
    built = subject.build(WIDE, dropout=p) if "dropout" in subject.arguments else subject.build(WIDE)
    A, B = subject.set_factors(built)
    x = batch(WIDE, 64)
    with torch.no_grad():
        if not torch.equal(built(x), built(x)):
            yield Finding(
                f"with dropout {p} in eval mode the same input gives two different outputs",
                "dropout active in eval: it has to ask `self.training`",
            )
            return
        built.layer.train()
        if torch.equal(built(x), built(x)):
            if "dropout" in subject.arguments:
                yield "the dropout that the constructor takes is never applied, not even in train mode"
            return
        x = batch(WIDE, 1).expand(64, -1).clone()
        heard = torch.stack([built(x) for _ in range(128)]).mean((0, 1)).double() - built.expected(x)[0].double()
    due = dense(built, A, B, x)[0] - built.expected(x)[0].double()
    share = float(heard @ due / (due @ due))
    if abs(share - 1) > 0.08:
        yield Finding(
            f"in train mode the adapter adds {share:.2f} times what it adds in eval mode, as a mean over 8192 draws",
            "dropout without rescaling: what is kept has to be divided by 1 − p, as `nn.Dropout` does",
        )


LARGE = (64, 65)  # more rows than a layer that looks at their number is likely to allow


def other_shapes(subject: Subject) -> Findings:
    built = subject.build(WIDE)
    A, B = subject.set_factors(built)
    for lead in [(1,), (2, 4), (2, 3, 2), (0,), LARGE]:
        x = batch(WIDE, *lead)
        try:
            with torch.no_grad():
                y = built(x)
        except LawBroken as broken:
            means = "forward takes rows (batch, in) only: write `x @ A.T @ B.T`, where `@` works on the last dimension"
            if "dtype" in broken.finding.means:
                means = broken.finding.means
            raise LawBroken(broken.finding.what, means) from broken
        if 0 not in lead and (apart := differs(y, dense(built, A, B, x), 1e-5)):
            if lead == LARGE:
                yield Finding(
                    f"for x of shape {tuple(x.shape)} the output is off by {percent(apart)}, and for a few rows it is right",
                    "the size of the batch decides: every row gets the adapter, however many there are",
                )
                return
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
    try:
        built = subject.build(WIDE, dtype=torch.bfloat16)
        subject.set_factors(built)
        kept = {subject.raw(built, place).dtype for place in (subject.A, subject.B)}
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
    for training in (False, True):
        found = list(switch(subject, training))
        yield from found
        if found:
            return


def switch(subject: Subject, training: bool) -> Findings:
    built = subject.build(WIDE).train(training)
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
        if training and not torch.equal(built(x), on):
            return  # a dropout that no argument puts to 0
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
    how += ", in train mode," if training else ""
    if not torch.equal(off, want):
        part = float((off - want).norm() / (on - want).norm())
        means = "the switch does nothing: forward does not ask it" if near(part, 1) else "switched off in part only"
        yield Finding(f"after {how} the output still has {percent(part)} of the adapter's part", means)
    elif not torch.equal(again, on):
        yield Finding(
            f"after {how} and back on, the adapter's output is not what it was", "the switch throws the adapter away"
        )
