"""What `lora-edu eval` does once it knows what was asked: opens one model after the other, and measures each on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from lora_edu.cli.common import base_alone, base_of, opened, rounded_as
from lora_edu.cli.run_folder import HELD_OUT, TRAINED_ON, run_of, template_of
from lora_edu.errors import LoRAEduError

BASE = "base"
Measure = Callable[[Any, Any], Any]  # (model, tokenizer) → a report


@dataclass
class Measured:
    """Reports by the model's name, the base first; `general` are those on the task general; `trained` says what each model is."""

    reports: dict[str, Any] = field(default_factory=dict)
    general: dict[str, Any] = field(default_factory=dict)
    trained: dict[str, dict[str, Any]] = field(default_factory=dict)


def named(adapters: Sequence[Path]) -> dict[str, Path]:
    """The adapters by as much of the end of their path as tells them apart (and none is "base"). Raises typer.BadParameter for one named twice."""
    whole = [adapter.absolute() for adapter in adapters]
    if twice := [adapter for i, adapter in enumerate(adapters) if whole[i] in whole[:i]]:
        raise typer.BadParameter(f"{twice[0]} is named twice: name each adapter once.")
    for depth in range(1, max((len(path.parts) for path in whole), default=0) + 1):
        names = ["/".join(path.parts[-depth:]) for path in whole]
        if len(set(names)) == len(names) and BASE not in names:
            return dict(zip(names, adapters))
    return {str(adapter): adapter for adapter in adapters}


def check_one_base(adapters: Sequence[Path], model: str | None, bits: int | None) -> None:
    """Raises LoRAEduError, before anything slow begins, where the adapters are of different bases, or of differently rounded ones."""
    bases = {adapter: base_of(adapter) for adapter in adapters}
    if model is None and len(set(bases.values())) > 1:
        (one, first), (other, second) = _two_that_differ(bases)
        raise LoRAEduError(
            f"{one} is an adapter of {first}, {other} of {second}: gains over one base need one base. Measure them apart, or name the base "
            "that all of them fit with --model"
        )
    rounded = {adapter: rounded_as(adapter) for adapter in adapters}
    if bits is None and len(set(map(repr, rounded.values()))) > 1:
        (one, first), (other, second) = _two_that_differ(rounded)
        raise LoRAEduError(
            f"{one} was trained on {_bits(first)}, {other} on {_bits(second)}: say with --bits 4 or --bits 16 on which all are measured"
        )


def _two_that_differ(values: Mapping[Path, Any]) -> list[tuple[Path, Any]]:
    one, first = next(iter(values.items()))
    return [(one, first), next((path, value) for path, value in values.items() if repr(value) != repr(first))]


def _bits(rounding: Any) -> str:
    return "a base that was not rounded" if rounding is None else f"a base in four bits ({rounding.kind})"


def common_setting(adapters: Mapping[str, Path], key: str, given: Any, otherwise: Any) -> Any:
    """What was given, else what the runs of all adapters agree on, else `otherwise`. Raises LoRAEduError where they do not agree."""
    if given is not None:
        return given
    found = {name: run_of(adapter).get(key, otherwise) for name, adapter in adapters.items()}
    if len(set(map(repr, found.values()))) > 1:
        said = ", ".join(f"{name}: {value!r}" for name, value in found.items())
        raise LoRAEduError(
            f"the adapters were trained with different settings of {key} ({said}), and all are asked alike: say with "
            f"--{key.replace('_', '-')} how, or measure them apart"
        )
    return next(iter(found.values()), otherwise)


def measure(
    adapters: Mapping[str, Path],
    model: str | None,
    scale: float,
    bits: int | None,
    with_base: bool,
    on_rows: Measure,
    on_general: Measure | None,
) -> Measured:
    """Every adapter on its base, one at a time, and the base alone where it is wanted; without adapters the model itself."""
    found = Measured()

    def one(name: str, net: Any, tokenizer: Any) -> None:
        typer.echo(f"Measuring {name} …", err=True)
        found.reports[name] = on_rows(net, tokenizer)
        if on_general is not None:
            found.general[name] = on_general(net, tokenizer)

    if not adapters:
        net, tokenizer = opened(model, None, scale, bits)
        name = model or BASE
        found.trained[name] = {"model": name}
        one(name, net, tokenizer)
        return found
    for name, adapter in adapters.items():
        net, tokenizer = opened(model, adapter, scale, bits)
        alone = with_base and BASE not in found.reports
        with base_alone(net, model, adapter) if alone else nullcontext() as plain:
            if alone:
                found.trained[BASE] = {"model": model or base_of(adapter)}
                one(BASE, plain, tokenizer)
        found.trained[name] = what_was_trained(adapter, model, scale, bits)
        one(name, net, tokenizer)
        del net, plain  # or two models are in memory while the next one loads
    return found


def what_was_trained(adapter: Path, model: str | None, scale: float, bits: int | None) -> dict[str, Any]:
    """Words for a report: the folder, the base, the adapter's settings, and those of the run that made it."""
    from lora_edu.adapters.folder import read_config

    config, run = read_config(adapter), run_of(adapter)
    words: dict[str, Any] = {"folder": adapter, "base": model or base_of(adapter)}
    words["kind"] = type(config).__name__.removesuffix("Config")
    for key in ("r", "lora_alpha", "target_modules", "variant"):
        value = getattr(config, key, None)
        if isinstance(value, str | int | float):
            words[key] = value
        elif isinstance(value, list | tuple | set | frozenset):
            words[key] = ", ".join(sorted(value))
    words["dial"] = f"{scale:g}"
    if template_of(adapter) is not None:
        words["template"] = "its own, from the adapter's folder"
    if bits is not None:
        words["measured on"] = f"a base in {bits} bits"
    settings = {key: value for key, value in run.items() if key not in ("model", *words)}
    words |= {f"run: {key}": value for key, value in settings.items()}
    if (adapter / TRAINED_ON).is_file():
        words["rows trained on"] = (
            f"{len((adapter / TRAINED_ON).read_text(encoding='utf-8').split()):,} different inputs"
        )
    return words


def held_out_of(adapters: Mapping[str, Path]) -> Path | None:
    """The rows that the adapters' runs kept from training, if all kept the same ones; None where there are none. Raises typer.BadParameter for
    different ones: what one held out another was trained on."""
    kept = [adapter / HELD_OUT for adapter in adapters.values() if (adapter / HELD_OUT).is_file()]
    if not kept or len(kept) < len(adapters) or not kept[0].stat().st_size:
        return None
    if len({path.read_bytes() for path in kept}) > 1:
        raise typer.BadParameter(
            "the runs held out different rows, and one may have been trained on what another held out: name rows that are new to all with --data."
        )
    return kept[0]
