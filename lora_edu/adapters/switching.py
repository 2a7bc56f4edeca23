"""Which adapters speak, and how loud. Law 9, chapters 00 and 07."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from lora_edu.adapters.finding import state_of
from lora_edu.adapters.layer import AdapterState
from lora_edu.errors import AdapterError, MergeError


def set_adapter(model: nn.Module, names: str | Sequence[str] | None) -> None:
    """Make these adapters speak, at scale 1, and no other; None silences all. What trains is not changed. Law 9, chapter 07.

    Raises AdapterError for a name that is not there, MergeError while the model is merged.
    """
    state = state_of(model)
    wanted = [] if names is None else [names] if isinstance(names, str) else list(names)
    known(state, wanted)
    refuse_merged(state)
    owners = [n for n in wanted if state.configs[n].modules_to_save]
    if len(owners) > 1:
        raise AdapterError(
            f"{', '.join(owners)} each bring modules trained in full, which cannot be added up: activate one of them"
        )
    virtual = [n for n in wanted if state.configs[n].virtual]
    if len(virtual) > 1:
        raise AdapterError(f"{', '.join(virtual)} each put tokens before the first one: activate one of them")
    _refuse_in_place(state, [n for n in state.configs if n not in wanted])
    state.active = dict.fromkeys(wanted, 1.0)


def set_scale(model: nn.Module, scale: float, name: str | None = None) -> None:
    """Turn the dial of the active adapter(s): ΔW counts `scale` times. 1 as trained, 0 the base, −1 the opposite. Chapter 00.

    The dial is a multiplier beside s = α/r; it is not saved. Raises AdapterError for an adapter that is not active
    and for a scale that is no number.
    """
    state = state_of(model)
    refuse_merged(state)
    if name is not None and name not in state.active:
        raise AdapterError(
            f"adapter {name!r} is not active (active: {', '.join(state.active) or 'none'}): set_adapter(model, {name!r}) first"
        )
    if not math.isfinite(scale):
        raise AdapterError(f"scale={scale}: a number, such as 1 (as trained), 0 (the base) or 1.5 (more than trained)")
    turned = [n for n in state.active if name in (None, n)]
    if scale != 1:
        _refuse_in_place(state, turned)
    if scale not in (0, 1) and (virtual := [n for n in turned if state.configs[n].virtual]):
        raise AdapterError(f"{', '.join(virtual)} has no dial, because it is no change of a weight: 0 (off) or 1 (on)")
    state.active = {n: float(scale) if name in (None, n) else dial for n, dial in state.active.items()}


@contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """Within the block the model is its base again; afterwards the same adapters speak at the same scales. Law 9."""
    state = state_of(model)
    refuse_merged(state)
    _refuse_in_place(state, state.configs)
    before, state.active = state.active, {}
    try:
        yield model
    finally:
        state.active = before


def known(state: AdapterState, names: Iterable[str]) -> None:
    """Raise AdapterError for a name that the model has no adapter of."""
    for name in names:
        if name not in state.configs:
            raise AdapterError(f"there is no adapter {name!r}; the model has: {', '.join(state.configs)}")


def _refuse_in_place(state: AdapterState, names: Iterable[str]) -> None:
    """Raise AdapterError for what cannot be switched off."""
    for name in names:
        if state.configs[name].changes_base:
            raise AdapterError(
                f"{name!r} trains the base's own weights, so there is no base left to switch to: keep a copy of it (copy.deepcopy), or load "
                "it again"
            )


def refuse_merged(state: AdapterState) -> None:
    """Raise MergeError while adapters are in the weights: these would not follow."""
    if state.merged_layers:
        raise MergeError("adapters are merged into the weights: unmerge(model) first")
