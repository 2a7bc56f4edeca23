"""A folder whose keys have the wrong prefix: which one would be right. Chapter 07.

The commonest complaint of all is *trained, saved, loaded, and nothing changed*. The tensors lie under names that the model does not have
(saved from a compiled, distributed or inner model, or by hand); PEFT warns of missing keys, keeps the new adapter's B = 0 and goes on with
the base. Here such a folder is refused (law 7), and where one rule turns its keys into the right ones, the error says which.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

# What DistributedDataParallel and torch.compile put into the names of what they wrap.
_WRAPPERS = ("module", "_orig_mod")


@dataclass(frozen=True)
class Mending:
    """The rule that makes a file's keys right, in words, and {right key: key in the file}."""

    rule: str
    names: dict[str, str]


def mending(needed: Collection[str], there: Collection[str]) -> Mending | None:
    """The least rule by which all keys that are `needed` come out of those that are `there`; None where none fits, or none is needed.

    A rule takes out wrappers' names, an adapter's name, and exchanges the beginning of every key for another.
    """
    needed = set(needed)
    if not needed or not there or needed <= set(there):
        return None
    for words, cleaned in _cleanings(there):
        for old, new in sorted(_exchanges(needed, cleaned.values()), key=lambda pair: sum(map(len, pair))):
            names = {new + key.removeprefix(old): original for original, key in cleaned.items()}
            if needed <= names.keys() and len(names) == len(cleaned):
                rules = [*words, *_said(old, new)]
                return Mending(" and ".join(rules), names)
    return None


def _cleanings(there: Collection[str]) -> Iterator[tuple[list[str], dict[str, str]]]:
    """(what is taken out, {key in the file: the rest}), the least first."""
    steps: list[tuple[str, Callable[[str], str]]] = [
        *((f"take out every '{part}.'", lambda key, part=part: _without(key, part)) for part in _WRAPPERS),
        ("take out the adapter's name behind lora_A and lora_B", _without_adapter),
    ]
    for chosen in range(2 ** len(steps)):
        taken = [step for i, step in enumerate(steps) if chosen >> i & 1]
        cleaned = {key: key for key in there}
        for _, step in taken:
            cleaned = {key: step(rest) for key, rest in cleaned.items()}
        yield [words for words, _ in taken], cleaned


def _without(key: str, part: str) -> str:
    return ".".join(each for each in key.split(".") if each != part)


def _without_adapter(key: str) -> str:
    return re.sub(r"\.(lora_(?:embedding_)?[AB])\.(?!weight$)[^.]+", r".\1", key)


def _exchanges(needed: Collection[str], there: Collection[str]) -> Iterator[tuple[str, str]]:
    """Every (beginning of all keys that are there, beginning of all that are needed), "" among them."""
    for old in _beginnings(there):
        for new in _beginnings(needed):
            yield old, new


def _beginnings(keys: Collection[str]) -> list[str]:
    found = [""]
    for parts in zip(*(key.split(".")[:-1] for key in keys)):
        if len(set(parts)) > 1:
            break
        found.append(f"{found[-1]}{parts[0]}.")
    return found


def _said(old: str, new: str) -> list[str]:
    """The exchange in words, without what both beginnings have in common."""
    same = max((each for each in _beginnings([f"{old}x", f"{old}x"]) if new.startswith(each)), key=len)
    old, new = old.removeprefix(same), new.removeprefix(same)
    where = f"behind {same!r}" if same else "at the beginning"
    if old and new:
        return [f"replace {old!r} by {new!r} {where}"]
    return [f"take out {old!r} {where}"] if old else [f"put {new!r} {where}"] if new else []


def complaint(needed: Mapping[str, object], there: Mapping[str, object], mended: Mending | None) -> list[str]:
    """The line, if any, that says why a file none of whose keys fits would do nothing."""
    if not there or (mended is None and needed.keys() & there.keys()):
        return []
    if mended is None:
        return [f"none of the file's {len(there)} keys is one that this model needs, so nothing would be loaded"]
    right = next(key for key in needed if mended.names[key] != key)
    return [
        f"the keys have the wrong prefix, so PEFT would warn and go on without the adapter: the file has {mended.names[right]}, this model "
        f"needs {right}. What fits: {mended.rule}. load(..., mend_keys=True) does that, and save() then writes a folder that is right"
    ]
