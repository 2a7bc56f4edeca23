"""Exercise 11.3 of chapter 11, Four bits: the bits that scales cost."""

from collections.abc import Callable
from typing import Any

from lora_edu.course.exercises import Wrong, apart, as_number, attempt, named, register, same


@register(
    "11.3",
    title="Bits a weight",
    stars=1,
    minutes=5,
    task="Write `bits_a_weight(block_size, outer=None)`: how many bits a weight takes, its share of all scales included, in a large matrix. Each weight has a "
    "code of 4 bits, each block of `block_size` weights one scale in float32. With double quantisation (`outer` is a number) a scale takes 8 bits instead, "
    "and `outer` scales share one number in float32.",
    wants="bits_a_weight",
    shows="With and without double quantisation.",
    hints=(
        "float32 takes 32 bits, and `block_size` weights share them.",
        "With double quantisation each block has 8 bits of its own. Behind the second float32 stand `outer` blocks: how many weights is that?",
    ),
)
def bits_a_weight(function: Callable[..., Any]) -> None:
    # The first of each kind has another number for every bug, and a part that is no whole number.
    for block, outer in (
        (10, None), (64, None), (32, None), (5, 6), (64, 100), (32, 256), (64, 256), (128, 32),
    ):  # fmt: skip
        given = (block,) if outer is None else (block, outer)
        got = float(as_number(attempt(function, *given), "`bits_a_weight`"))
        scale = 32.0 if outer is None else 8 + 32 / outer
        want = 4 + scale / block
        if same(got, want):
            continue
        said, right = apart(got, want)
        how = "no double quantisation" if outer is None else f"outer = {outer}"
        bug = named(got, _miscounted(block, outer, scale), "another number")
        raise Wrong(bug, f"block_size = {block}, {how}: it is {right}, and you say {said}")


def _miscounted(block: int, outer: int | None, scale: float) -> dict[str, Any]:
    """What each way to miscount leads to."""
    want = 4 + scale / block
    bugs: dict[str, Any] = {
        "no scale is counted": 4.0,
        "4.5 for every block size": 4.5,
        "the scales alone": scale / block,
        "the codes' bits are taken off": want - 8,
        "bytes, not bits": want / 8,
        "a scale of 16 bits": 4 + 16 / block,
        "a scale of 8 bits": 4 + 8 / block,
        "a scale of 64 bits": 4 + 64 / block,
        "a scale's bytes, not its bits": 4 + scale / 8 / block,
        "a scale for every weight": 4 + scale,
        "a code of 8 bits": 8 + scale / block,
        "a code of 16 bits or more": [16 + scale / block, 32 + scale / block],
        "half a byte, not four bits": 0.5 + scale / block,
        "the bits of a block, not of a weight": 4 * block + scale,
        "multiplied by the block size, not divided": 4 + scale * block,
        "divided the wrong way round": 4 + block / 32,
        "how many times smaller, not how many bits": [32 / want, want / 32],
        "rounded, or divided by `//`": [4 + scale // block, *(float(round(want, digits)) for digits in range(3))],
    }
    if outer is None:
        return bugs
    return {
        "double quantisation is not used": 4 + 32 / block,
        "the second float32 is forgotten": 4 + 8 / block,
        "the second float32 is not shared": 4 + 40 / block,
        "the second float32 is shared by outer weights, not by outer blocks": 4 + 8 / block + 32 / outer,
        "the second float32 is shared by 256 scales, not by outer": 4 + 8 / block + 32 / (256 * block),
        "the second number in 16 bits or fewer": [4 + 8 / block + bits / (block * outer) for bits in (8, 16)],
        "the second number in 64 bits": 4 + 8 / block + 64 / (block * outer),
        "the scales are kept in float32 as well": [4 + 32 / block + 32 / (block * outer), 4 + 40 / block + 32 / (block * outer)],
        "the 8 bits are forgotten": 4 + 32 / (block * outer),
        "the 8 bits are shared by outer blocks, too": [4 + 40 / (block * outer), 4 + 8 / outer + 32 / (block * outer)],
        "the two kinds of scales are mixed up": [4 + 32 / block + 8 / (block * outer), 4 + 32 / block + 8 / outer],
        "rounded, or divided by `//`": [
            4 + 8 // block + 32 // (block * outer), 4 + 8 / block + 32 // (block * outer), 4 + (8 + 32 // outer) / block,
            *(float(round(want, digits)) for digits in range(3))],
    } | {bug: value for bug, value in bugs.items() if not bug.startswith("rounded")}  # fmt: skip
