"""The laws of LoRA, run against anybody's layer: which hold, which are broken, and what that usually means.

    laws(MyLoRALinear)                      # in a cell
    lora-edu laws my_lora.py                # in a terminal

The layer is built as `MyLoRALinear(base_layer, r, lora_alpha)`; its factors are found by shape, A (r, in) and B (out, r), whichever
way they are named or held. Laws 7 and 8 are about folders and runs, not about a layer. Chapters 03 and 16.
"""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from lora_edu.course.card import SIGNS, Card, inline, sentence
from lora_edu.course.lawbook import forward
from lora_edu.course.lawbook import gradients as training
from lora_edu.course.lawbook import merge_and_save as keeping
from lora_edu.course.lawbook.common import double
from lora_edu.course.lawbook.diagnosis import explain, measure
from lora_edu.course.lawbook.probe import SQUARE, WIDE, Finding, LawBroken, NotJudged, Subject, guess
from lora_edu.course.lawbook.sharing import sharing
from lora_edu.errors import LoRAEduError

LAWS = {
    1: ("silent start", forward.law_1),
    2: ("dense reference", forward.law_2),
    3: ("what trains", training.law_3),
    4: ("what flows back", training.law_4),
    5: ("merge and unmerge", keeping.law_5),
    6: ("save and load", keeping.law_6),
    9: ("switched off", forward.law_9),
}


FOOT = "Laws 7 and 8 are about saved folders and training runs: no layer class can show them."


class LayerFileError(LoRAEduError, ValueError):
    """A file or object in which no layer class was found."""


@dataclass(frozen=True)
class LawResult:
    """One law: its number (0: the layer could not be built), its name and what was found."""

    number: int
    name: str
    findings: tuple[Finding, ...] = ()
    remarks: tuple[str, ...] = ()
    skipped: str = ""  # why the law was not judged

    @property
    def status(self) -> str:
        return "broken" if self.findings else "skipped" if self.skipped else "holds"

    def lines(self) -> list[str]:
        """The head, then a line for each thing to say."""
        sign = {"broken": SIGNS["wrong"], "holds": SIGNS["right"], "skipped": SIGNS["open"]}[self.status]
        head = f"{sign} Law {self.number}, {self.name}" if self.number else f"{sign} {self.name}"
        if self.status == "skipped":
            return [f"{head}: not judged. {sentence(self.skipped)}"]
        lines = [f"{head}: {self.status}."]
        for finding in self.findings:
            lines.append(sentence(finding.what))
            if finding.means:
                lines.append(f"This usually means: {_stop(finding.means)}")
        return lines + [f"Remark: {_stop(remark)}" for remark in self.remarks]


def _stop(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."


class LawReport(Card):
    """What the laws say of a layer. `passed` is True when none is broken; `broken` lists the numbers of those that are."""

    def __init__(self, name: str, results: tuple[LawResult, ...], note: str = "") -> None:
        self.name, self.results = name, results
        judged = [result for result in results if result.status != "skipped"]
        held = sum(result.status == "holds" for result in judged)
        verdict = f"{name}: {held} of the {len(judged)} laws that could be judged hold."
        text, parts = [verdict], [f"<b>{inline(verdict)}</b>"]
        for result in results:
            head, *rest = result.lines()
            text += [head, *(f"    {line}" for line in rest)]
            body = "".join(f'<div style="margin-left:1.6em">{inline(line)}</div>' for line in rest)
            parts.append(f"<div>{inline(head)}{body}</div>")
        for said in filter(None, (note, FOOT)):
            text.append(said)
            parts.append(f"<div><small>{inline(said)}</small></div>")
        super().__init__("\n".join(text), "".join(parts), "right" if self.passed else "wrong")

    @property
    def passed(self) -> bool:
        return not self.broken

    @property
    def broken(self) -> list[int]:
        return [result.number for result in self.results if result.status == "broken"]


def laws(layer_class: Callable[..., nn.Module]) -> LawReport:
    """Run every law that applies to a layer class built as `layer_class(base_layer, r, lora_alpha)`."""
    return run_laws(layer_class)


def run_laws(target: Any, class_name: str | None = None) -> LawReport:
    """Run every law that applies, and never raise for a fault of the layer itself.

    Args:
        target: the class, or a Python file that defines it ("my_lora.py"). The file is run, as `python my_lora.py` would.
        class_name: which class of the file; needed only where several could be meant.
    Raises: LayerFileError when there is no such file, the file fails, or no layer class is found in it.
    """
    note = ""
    layer_class = target
    if isinstance(target, str | Path):
        layer_class = load_class(Path(target), class_name)
        others = [n for n in _layers_of(sys.modules[layer_class.__module__]) if n != layer_class.__name__]
        if others and not class_name:
            note = f"The file has {', '.join(others)} too; another is named with `--class`."
    if not callable(layer_class) or isinstance(layer_class, nn.Module):
        raise LayerFileError(
            f"hand over the class itself, as in laws(MyLoRALinear); this is {type(layer_class).__name__}"
        )
    name = getattr(layer_class, "__name__", type(layer_class).__name__)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)  # the same report on every run, of a layer with dropout too
        try:
            subject = Subject(layer_class)
        except (Exception, SystemExit) as error:
            finding = error.finding if isinstance(error, LawBroken) else _unforeseen(error)
            skipped = tuple(
                LawResult(n, title, skipped="the layer could not be taken apart") for n, (title, _) in LAWS.items()
            )
            return LawReport(name, (LawResult(0, "The layer itself", (finding,)), *skipped), note)
        if findings := _cannot_answer(subject):
            rest = {
                n: LawResult(n, title, skipped="forward cannot be used: see law 2") for n, (title, _) in LAWS.items()
            }
            return LawReport(name, tuple((rest | {2: LawResult(2, LAWS[2][0], findings)}).values()), note)
        return LawReport(name, tuple(_judge(number, subject) for number in LAWS), note)


def _cannot_answer(subject: Subject) -> tuple[Finding, ...]:
    """A forward that fails on a plain batch, or a state shared by all layers, breaks law 2, and nothing else can be judged."""
    try:
        answer = subject.build(WIDE)(torch.ones(5, WIDE.n_in))
    except LawBroken as broken:
        return (_with_its_cause(subject, broken.finding),)
    if isinstance(answer, torch.Tensor):
        shared = sharing(subject)
        return (shared,) if shared else ()
    means = "a missing `return`" if answer is None else "a tensor is due"
    return (Finding(f"`forward(x)` returned {type(answer).__name__}", means),)


def _with_its_cause(subject: Subject, failed: Finding) -> Finding:
    """Where the shapes do not fit on a rectangular layer, a square one often runs, and what it computes names the bug."""
    try:
        built = double(subject, SQUARE)
        wrong = explain(built, measure(built, *subject.set_factors(built)))
    except LawBroken:
        return failed
    if not wrong:
        return failed
    return Finding(f"{failed.what}; on a square layer no error appears, but {wrong.what}", wrong.means)


def _unforeseen(error: BaseException) -> Finding:
    means = guess(error) if isinstance(error, SystemExit) else "the layer does something the runner did not expect"
    return Finding(f"the check met {type(error).__name__}: {error}", means)


def _judge(number: int, subject: Subject) -> LawResult:
    title, law = LAWS[number]
    findings: list[Finding] = []
    remarks: list[str] = []
    try:
        for said in law(subject):
            if isinstance(said, str):
                remarks.append(said)
            else:
                findings.append(said)
    except LawBroken as broken:
        findings.append(broken.finding)
    except NotJudged as reason:
        if not findings:
            return LawResult(number, title, skipped=str(reason))
    except (Exception, SystemExit) as error:  # a layer can surprise the runner in ways nobody foresaw: say where, go on
        findings.append(_unforeseen(error))
    return LawResult(number, title, tuple(findings), tuple(remarks))


def load_module(path: Path) -> ModuleType:
    """A Python file that a learner wrote, run as a module. Raises LayerFileError that names the line where it fails."""
    if not path.is_file():
        raise LayerFileError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"_learner_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise LayerFileError(f"{path} is not a Python file (its name should end in .py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        line = (
            next(
                (f.lineno for f in reversed(inspect.getinnerframes(error.__traceback__)) if f.filename == str(path)),
                None,
            )
            if error.__traceback__
            else None
        )
        where = f", line {getattr(error, 'lineno', None) or line}" if getattr(error, "lineno", None) or line else ""
        raise LayerFileError(f"{path}{where} could not be run: {type(error).__name__}: {error}") from error
    return module


def load_class(path: Path, class_name: str | None = None) -> type[nn.Module]:
    """The layer class of a Python file: the one named, or the only nn.Module whose name holds "LoRA", or the only one there is."""
    module = load_module(path)
    own = _layers_of(module)
    if class_name:
        if class_name not in own:
            raise LayerFileError(f"{path} has no layer class {class_name}; it has {', '.join(own) or 'none'}")
        return own[class_name]
    named = {n: c for n, c in own.items() if "lora" in n.lower()}
    for choice in (own, named):
        if len(choice) == 1:
            return next(iter(choice.values()))
    if not own:
        raise LayerFileError(
            f"{path} defines no class that inherits from nn.Module: write `class MyLoRALinear(nn.Module)`"
        )
    raise LayerFileError(f"{path} defines several layers ({', '.join(own)}): say which is meant")


def _layers_of(module: ModuleType) -> dict[str, type[nn.Module]]:
    """The nn.Module classes that a file itself defines."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    }
