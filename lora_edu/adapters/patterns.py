"""The patterns by which a configuration names modules: PEFT's rules, and no pattern that never comes to an end. Chapter 04.

A regular expression in a downloaded adapter is somebody else's program. Python's matcher tries every way to split a name among
nested or neighbouring repeats, which for `(.+)+!` doubles with each letter; such forms are refused before they are run.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from re import _constants, _parser  # type: ignore[attr-defined]  # the only reader of Python's own syntax
from typing import Any

from lora_edu.errors import ConfigError

_MANY = 10  # a repeat of at most this many is no loop
_LOOPS = 5  # one after another: a name of n letters costs at most about n⁵/120 tries
_LONGEST = 20_000


@lru_cache(maxsize=1024)
def check(pattern: str) -> None:
    """Raise ConfigError for what is no regular expression, or one whose time to fail grows out of all bounds."""
    shown = pattern if len(pattern) <= 60 else f"{pattern[:60]}…"
    if len(pattern) > _LONGEST:
        raise ConfigError(f"the pattern {shown!r} has {len(pattern):,} letters: list the modules' names instead")
    try:
        loops = _loops(_parser.parse(pattern), inside=False)
        re.compile(pattern)
    except _Unbounded as error:
        raise ConfigError(f"the pattern {shown!r} {error}: list the modules' names, or write it without") from None
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"{shown!r} is no regular expression: {error}") from error
    if loops > _LOOPS:
        raise ConfigError(
            f"the pattern {shown!r} has {loops} repeats one after another, and could take for ever to match: at most {_LOOPS}, "
            "or list the modules' names"
        )


class _Unbounded(Exception):
    pass


def _loops(tree: Any, inside: bool) -> int:
    """How many unbounded repeats follow one another on the longest way through; raises for those that hold a choice of splits."""
    total = 0
    for kind, content in tree:
        if kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT):
            _, most, body = content
            loop = most > _MANY
            if loop and inside:
                raise _Unbounded("has a repeat within a repeat, which could take for ever to match")
            inner = _loops(body, inside or loop)
            total += 1 if loop else inner * max(1, min(int(most), _MANY))
        elif kind is _constants.BRANCH:
            if inside:
                raise _Unbounded("has a choice within a repeat, which could take for ever to match")
            total += max(_loops(way, inside) for way in content[1])
        elif kind is _constants.SUBPATTERN:
            total += _loops(content[-1], inside)
        elif kind in (_constants.ASSERT, _constants.ASSERT_NOT):
            total += _loops(content[1], inside)
        elif kind is _constants.ATOMIC_GROUP:
            total += _loops(content, inside)
        elif kind in (_constants.GROUPREF, _constants.GROUPREF_EXISTS):
            raise _Unbounded("refers back to a group, which PEFT's patterns have no use for")
    return total


# -- PEFT's rules ------------------------------------------------------------------------------------------------------
def matches(pattern: str | Sequence[str], name: str) -> bool:
    """A string is a regular expression for the whole name; of a list, one must be the name or its end after a dot."""
    if isinstance(pattern, str):
        return re.fullmatch(pattern, name) is not None
    return any(name == p or name.endswith(f".{p}") for p in pattern)


def at_the_end(pattern: str, name: str) -> bool:
    """Whether a key of rank_pattern or alpha_pattern matches the end of `name`."""
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


def inside_saved(modules_to_save: Sequence[str] | None, name: str) -> bool:
    """Whether `name` is a module trained in full, or inside one: it gets no adapter."""
    return any(re.match(rf"(^|.*\.){m}($|\..*)", name) for m in modules_to_save or ())


def layer_index(name: str, layers_pattern: str | Sequence[str] | None = None) -> int | None:
    """The first numbered part of the path (the decoder layer), behind one of `layers_pattern` if these are given; None without one."""
    if not layers_pattern:
        found = re.match(r".*?\.[^.]*\.(\d+)\.", f".{name}")
        return int(found[1]) if found else None
    for pattern in [layers_pattern] if isinstance(layers_pattern, str) else layers_pattern:
        if found := re.match(rf"(?:^|.*?\.)(?:{pattern})\.(?P<idx>\d+)\.", name):
            return int(found["idx"])
    return None
