"""Exercises of chapter 16, The bug museum: repair by the laws, name the law, write the assertion, compare fairly."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.course.checks.compared_runs import Run, drawn_runs, reported
from lora_edu.course.exercises import (
    NotAttempted,
    Wrong,
    apart,
    as_number,
    attempt,
    generator,
    is_stub,
    kind,
    named,
    register,
    same,
    shown,
    told,
)
from lora_edu.course.lawbook.runner import run_laws
from lora_edu.course.museum.hall import STRANGERS

NEEDED = (1, 2, 3, 4, 5)  # the laws that the specimen has what it takes to be judged by


@register(
    "16.1",
    title="Repair the specimen",
    stars=2,
    minutes=10,
    task="`Repaired` is the specimen with its four faulty lines taken out: what becomes of the base layer, B's start, the scale, and what `merge` "
    "adds to the weight. Write them. The laws judge.",
    wants="Repaired",
    shows="Frozen base, B = 0, s = α/r, and s·B A into the weight: every law that a layer can be judged by holds.",
    hints=(
        "Run `laws(Specimen)`: it names the four laws, and what usually breaks each.",
        "Law 1 asks for a product B A that is zero while A is random; law 3 for a base that gets no gradient.",
        "The weight is (out, in), B is (out, r) and A (r, in): only one order of the product has the weight's shape on every layer.",
    ),
)
def repaired(layer_class: type[nn.Module]) -> None:
    if not (inspect.isclass(layer_class) and issubclass(layer_class, nn.Module)):
        raise Wrong("not a layer class", f"hand over the class itself; this is {kind(layer_class)}")
    if left := _left_open(layer_class):
        raise NotAttempted(*(left if len(left) < 4 else ()))
    report = run_laws(layer_class)
    for result in report.results:
        if result.status == "broken":
            finding = result.findings[0]
            means = f" This usually means: {finding.means}." if finding.means else ""
            raise Wrong(f"law {result.number} is broken ({result.name})", f"{finding.what}.{means}")
    if missing := [r for r in report.results if r.status == "skipped" and r.number in NEEDED]:
        raise Wrong(f"law {missing[0].number} cannot be judged", missing[0].skipped)


def _left_open(layer_class: type[nn.Module]) -> list[str]:
    """The attributes that are still `...`, and `merge`'s change."""
    left = []
    try:
        with torch.random.fork_rng(devices=[]):
            layer = layer_class(nn.Linear(5, 7), 2, 4)
            left = [f"self.{name}" for name, value in vars(layer).items() if value is ...]
    except NotImplementedError:
        return ["__init__"] * 4
    except Exception as error:  # the laws say it; dots are a gap all the same
        if "ellipsis" in told(error):
            left = ["__init__"]
    try:
        source = inspect.getsource(getattr(layer_class, "merge", None))  # type: ignore[arg-type]
    except (AttributeError, OSError, TypeError):
        source = ""
    if re.search(r"=\s*\.\.\.", source):
        left.append("what `merge` adds")
    return left


LAW_ASKS = {
    1: "law 1 is about the moment before the first step",
    2: "law 2 is about what a layer with given factors computes",
    3: "law 3 is about which numbers move in training",
    4: "law 4 is about gradients, and so about the size of a step",
    5: "law 5 is about the weight into which an adapter goes, and out of which it comes",
    6: "law 6 is about what a reader makes of a file all of whose tensors it has read",
    7: "law 7 is about tensors of a file that find no place, or places that get no tensor",
    8: "law 8 is about a run that was interrupted",
    9: "law 9 is about an adapter that is switched off",
}


@register(
    "16.2",
    title="Six symptoms",
    stars=2,
    minutes=6,
    task='For each of the six strangers say which law is broken first: `broken_law = {"a": 1, …}`, numbers from 1 to 9.',
    wants="broken_law",
    shows="Six symptoms, six laws: before the first step, in training, in the size of a step, in the weight, in what a file holds and in how it is read.",
    hints=(
        "Ask first *when* it shows: before the first step, while it trains, at a merge, or at a reload.",
        "A reload has two laws: one for tensors that find no place, one for what is computed with those that did.",
        "Two are about training: which numbers move, and how far a step goes.",
    ),
)
def six_symptoms(broken_law: dict[str, int]) -> None:
    if not isinstance(broken_law, Mapping) or set(broken_law) != set(STRANGERS):
        raise Wrong("other keys", f"`broken_law` is a dictionary with the keys {', '.join(STRANGERS)}")
    for letter, (_, law, _) in STRANGERS.items():
        said = broken_law[letter]
        if isinstance(said, str) and (found := re.fullmatch(r"\s*(?:law\s*)?(\d)\s*", said, re.IGNORECASE)):
            said = int(found[1])
        number = as_number(said, f"broken_law[{letter!r}]")
        if number not in LAW_ASKS:
            raise Wrong(f"{letter} is no law", f"the laws have the numbers 1 to 9, and this is {shown(said)}")
        if number != law:
            raise Wrong(f"another law for {letter}", f"{LAW_ASKS[number]}; read {letter} again: when does it show?")


class _Adapted(nn.Module):
    """Two layers with a frozen base weight and trained factors; one of them square, so that transposing has no other shape."""

    def __init__(self, draw: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for n_out, n_in, r in ((4, 6, 2), (3, 3, 3)):
            layer = nn.Module()
            layer.weight = nn.Parameter(torch.randn(n_out, n_in, generator=draw), requires_grad=False)
            layer.lora_A = nn.Parameter(torch.randn(r, n_in, generator=draw))
            layer.lora_B = nn.Parameter(torch.randn(n_out, r, generator=draw))
            self.layers.append(layer)


def _loads(draw: torch.Generator) -> Iterator[tuple[str, nn.Module, dict[str, Tensor]]]:
    """(the bug's name, or "" for a sound load; the model after it; the file's tensors)."""

    def pair() -> tuple[nn.Module, dict[str, Tensor]]:
        model = _Adapted(draw)
        return model, {k: p.detach().clone() for k, p in model.named_parameters() if "lora_" in k}

    yield "", *pair()
    model, file = pair()
    yield "a prefix before every key is not noticed", model, {f"base_model.{k}": v for k, v in file.items()}
    model, file = pair()
    for name, each in model.named_parameters():
        if name.endswith("lora_B"):
            nn.init.zeros_(each)
    yield "a load that changed nothing is not noticed", model, file
    for key in ("layers.0.lora_A", "layers.1.lora_B"):
        model, file = pair()
        del file[key]
        yield "a factor for which the file has no tensor is not noticed", model, file
    model, file = pair()
    file["layers.2.lora_A"] = torch.randn(2, 6, generator=draw)
    yield "a tensor that finds no place is not noticed", model, file
    for key in [each for each in file if each != "layers.2.lora_A"]:
        model, file = pair()
        number = file[key].view(-1)[-1]
        number += 0.5 * number.sign()  # away from 0, so that the norm changes too
        yield "one other number is not noticed", model, file
    model, file = pair()
    file["layers.1.lora_A"] = file["layers.1.lora_A"].T.contiguous()
    yield "a transposed tensor is not noticed", model, file
    model, file = pair()
    file["layers.0.lora_A"] = file["layers.0.lora_A"][:1]
    yield "a tensor of another shape is not noticed", model, file
    yield "an empty file is not noticed", _Adapted(draw), {}
    yield "", *pair()


@register(
    "16.3",
    title="The assertion that was missing",
    stars=2,
    minutes=8,
    task="Write `assert_loaded(model, tensors)`: it raises an AssertionError unless the file's `tensors` (key → tensor) have all arrived in the model, "
    "and the adapter in the model is all from the file. The adapter's parameters are those with `lora_` in their names; keys are parameter names.",
    wants="assert_loaded",
    shows="Both ways round, keys and numbers: no prefix, no gap, no tensor too many, not one other number gets past it, and a sound load does.",
    hints=(
        "Two sets of names have to be equal: the file's keys, and the model's parameters with `lora_` in their names.",
        "Equal names are not enough: a load that was skipped leaves them equal. Compare the numbers: `torch.equal`.",
        "`torch.equal` is False, and no error, for tensors of different shape.",
    ),
)
def assert_loaded(function: Callable[[nn.Module, dict[str, Tensor]], Any]) -> None:
    if not callable(function):
        raise Wrong("not a function", f"hand over the function itself, without calling it; this is {kind(function)}")
    if is_stub(function):
        raise NotAttempted
    for bug, model, tensors in _loads(generator()):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        given = dict(tensors)
        try:
            answer = function(model, tensors)
            noticed, asserted = "", False
        except NotImplementedError:
            raise NotAttempted from None
        except Exception as error:
            if "ellipsis" in told(error).lower():
                raise NotAttempted from None
            answer, noticed, asserted = None, told(error), isinstance(error, AssertionError)
        if answer is ...:
            raise NotAttempted
        moved = any(not torch.equal(p, before[name]) for name, p in model.named_parameters())
        if moved or tensors.keys() != given.keys() or any(tensors[k] is not v for k, v in given.items()):
            raise Wrong("it changes what it was given", "an assertion looks; it loads nothing and removes nothing")
        if noticed and not bug:
            raise Wrong("a sound load is accused", f"every tensor had arrived, and it raised {noticed}")
        if noticed and not asserted:
            raise Wrong(
                "another error than an assertion's", f"it raised {noticed}; `assert condition, message` is asked for"
            )
        if bug and not noticed:
            if answer is not None:
                raise Wrong(
                    "it returns, and does not assert", f"it returned {shown(answer)}, and nobody has to look at that"
                )
            raise Wrong(bug, "with such a file it raised nothing")


@register(
    "16.4",
    title="A fair comparison",
    stars=2,
    minutes=10,
    task="Write `compare(runs)`. Each run is a dictionary with `method`, `rate`, `seed`, and the losses `valid` and `test`. Return {method: loss}: "
    "of each method the mean test loss over the seeds, at its own rate, the one with the lowest mean validation loss.",
    wants="compare",
    shows="Each at its own rate, chosen where nothing is reported, and reported over all seeds.",
    hints=(
        "First gather, for each method and rate, the losses of all its seeds.",
        "Validation losses choose the rate; test losses are looked at only for the chosen one.",
        "Every method has its own loop: nothing of one method's choice is handed on to the next.",
    ),
)
def fair(function: Callable[[list[Run]], Mapping[str, float]]) -> None:
    draw = generator()
    wrong, fitting = (
        [],
        dict.fromkeys(reported(drawn_runs(draw, ("LoRA",)), "LoRA")),
    )  # the mistakes that explain every number
    for methods in (("LoRA", "DoRA"), ("full", "LoRA", "IA³"), ("LoRA",), ("b", "a")):
        for _ in range(4):
            runs = drawn_runs(draw, methods)
            copies = [dict(run) for run in runs]
            given = list(copies)
            got = attempt(function, given)
            if given != runs or len(given) != len(runs):
                raise Wrong("an input is changed in place", "the list or its runs are others now; read them only")
            if not isinstance(got, Mapping) or set(got) != set(methods):
                said = f"the keys {', '.join(map(str, got))}" if isinstance(got, Mapping) else kind(got)
                raise Wrong(
                    "not one loss a method", f"a dictionary with the keys {', '.join(methods)} is due; this is {said}"
                )
            for method in methods:
                number = as_number(got[method], f"the loss of {method}")
                bugs = reported(runs, method)
                [want] = bugs.pop("")
                fitting = {bug: None for bug in fitting if any(same(number, x, 1e-6) for x in bugs.get(bug, ()))}
                if not same(number, want, 1e-6):
                    said, due = apart(number, want)
                    found = named(number, bugs, "another number")
                    wrong.append((found, f"{said} for {method}, and {due} is due"))
    if wrong:
        raise Wrong(next(iter(fitting), wrong[0][0]), wrong[0][1])
