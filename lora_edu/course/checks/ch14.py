"""Exercises of chapter 14, A real LLM, all the way."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lora_edu.course.exercises import Wrong, as_number, attempt, close, generator, register

Need = Callable[[int, bool], int]


BETTER, WORSE, OPEN = "better", "worse", "cannot tell"


@register(
    "14.1",
    title="Choose what fits",
    stars=2,
    minutes=12,
    task="Write `choose(need, rows, room)`. A step must see exactly `rows` rows, in micro-batches of one size. `need(at_once, checkpointed)` gives the bytes of a micro-batch, "
    "and `room` is what there is. Return `(batch_size, accumulation_steps, checkpointing)`: as many rows at once as fit, and checkpointing (True "
    "or False) only where not even one row fits without it. Raise ValueError where nothing fits.",
    wants="choose",
    shows="On machines of every size the step keeps its rows, and what does not fit is refused and not tried.",
    hints=(
        "Which micro-batches can make up a step of 12 rows without a remainder? 12, 6, 4, 3, 2, 1.",
        "Go through them from the largest to the smallest without checkpointing. Only then go through them again with it.",
        "A need that is *equal* to the room fits. After both loops there is one line left: `raise ValueError(…)`.",
    ),
)
def choose(function: Callable[[Need, int, int], tuple[int, int, bool]]) -> None:
    random = generator()
    few = (3, 6)  # bytes a row keeps with checkpointing: so few that all rows fit where not one does without it
    for rows, keeps in (*((rows, (20, 40)) for rows in (8, 12, 7, 1, 20, 16)), (12, few), (16, few)):
        fixed, row, kept = (
            int(torch.randint(low, high, (1,), generator=random)) for low, high in ((500, 900), (90, 130), keeps)
        )

        def need(at_once: int, checkpointed: bool, fixed: int = fixed, row: int = row, kept: int = kept) -> int:
            bend = 0 if checkpointed else at_once * (at_once - 1)  # no straight line: two sizes do not tell the third
            return fixed + bend + (kept * at_once + 8 if checkpointed else row * at_once)

        sizes = [size for size in range(1, rows + 1) if rows % size == 0]
        # a byte more comes first: who misses a size misses it there, too, and not only where it is just enough
        rooms = {need(size, False) + more for size in sizes for more in (0, 1)} | {
            need(1, False) - 1,
            need(rows, False) - 1,
        }
        rooms |= {room for size in sizes for room in (need(size, True), need(size, True) - 1) if room < need(1, False)}
        for room in sorted(rooms, reverse=True):
            _compare(function, need, rows, room, sizes)  # fmt: skip


def _swapped(function: Callable[..., Any]) -> bool:
    """Six of twelve rows fit: who says 2 × 6 has turned round 6 × 2. Nobody who misses a size says so."""
    got = attempt(function, lambda at_once, checkpointed: 100 + at_once, 12, 107)
    return isinstance(got, tuple | list) and list(got[:2]) == [2, 6]


def _compare(function: Callable[..., Any], need: Need, rows: int, room: int, sizes: Sequence[int]) -> None:
    fitting = [(max(fits), flag) for flag in (False, True) if (fits := [s for s in sizes if need(s, flag) <= room])]
    where = f"{rows} rows a step, one row at once takes {need(1, False)} bytes ({need(1, True)} checkpointed), all take {need(rows, False)}, room for {room}"
    try:
        got = attempt(function, need, rows, room)
    except Wrong as wrong:
        if wrong.bug == "nothing is returned" and not fitting:
            raise Wrong(
                "nothing fits, and nothing is said", f"{where}: nothing fits there, and None came back"
            ) from None
        if wrong.bug != "it raises an error" or not isinstance(wrong.__cause__, ValueError):
            raise
        if fitting:
            just = need(*fitting[0]) == room
            bug = "room that is just enough is refused" if just else "refused, although something fits"
            said = f" (it raised: {wrong.__cause__})" if str(wrong.__cause__) else ""
            raise Wrong(bug, f"{where}: {fitting[0][0]} at once would fit{said}") from None
        return
    if not (isinstance(got, tuple | list) and len(got) == 3):
        raise Wrong("not three values", "`choose` returns (batch_size, accumulation_steps, checkpointing)")
    if isinstance(got[0], bool):
        raise Wrong(
            "the three values stand in another order", "first the rows at once, then how often, then True or False"
        )
    size, times = (as_number(value, "`choose`") for value in got[:2])
    if any(isinstance(value.item() if hasattr(value, "item") else value, float) for value in got[:2]):
        said = f"{where}: you chose {tuple(got)}; a trainer takes rows and steps as int (`//`, not `/`)"
        raise Wrong("not whole numbers", said)
    checkpointed = got[2].item() if getattr(got[2], "shape", None) == () else got[2]  # NumPy's bool, or a tensor's
    if not isinstance(checkpointed, bool):
        raise Wrong("checkpointing is not True or False", f"the third value is {got[2]!r}")
    if size * times != rows:
        raise Wrong("the step has other rows", f"{where}: {size} at once, {times} times, is not {rows}")
    if not fitting:
        raise Wrong("nothing fits, and nothing is said", f"{where}: you chose {tuple(got)}; nothing fits there")
    if need(size, checkpointed) > room:
        if _swapped(function):
            raise Wrong(
                "the first two values are swapped", f"{where}: you chose {tuple(got)}; the rows at once come first"
            )
        raise Wrong("it does not fit", f"{where}: {tuple(got)} needs {need(size, checkpointed)}")
    best, flag = fitting[0]
    if checkpointed and not flag:
        raise Wrong("checkpointing where it is not needed", f"{where}: {best} at once fits without it")
    if _swapped(function):
        raise Wrong("the first two values are swapped", f"{where}: you chose {tuple(got)}; the rows at once come first")
    if size < best:
        just = need(best, flag) == room and size == max(s for s in sizes if s < best)
        raise Wrong(
            "room that is just enough is refused" if just else "fewer rows at once than fit",
            f"{where}: you chose {size} at once, and {best} fit",
        )


@register(
    "14.2",
    title="Better, worse, or not to be told?",
    stars=2,
    minutes=6,
    task="`before` and `after` are lists with a 1 or 0 for each of the *same* held-out rows: answered right or wrong by the base and by what you trained. "
    'Write `verdict(before, after)`: "better", "worse" or "cannot tell". Only rows that changed speak. If nothing was gained or lost, each of them is a '
    "fair coin: it went up or down by chance. Something is found if so many coins would fall at least so unevenly, either way, in at most 5 % of all throws. "
    "Count the throws exactly (`math.comb`), or build on `gain, p = paired_gain(share(before), share(after))` from `lora_edu.evaluation`.",
    wants="verdict",
    shows="A verdict on the same rows looks at the rows that changed; a few of them say nothing.",
    hints=(
        "Count the rows that went from 0 to 1 (gained) and from 1 to 0 (lost). With gained + lost coins there are 2 ** (gained + lost) equally likely throws.",
        "`sum(comb(n, k) for k in range(min(gained, lost) + 1))` of them show as few heads as the rarer side, or fewer. As many show as few tails: twice that, of 2 ** n, is p.",
        "`from lora_edu.evaluation import paired_gain, share` does it: `gain, p = paired_gain(share(before), share(after))`. If p is above 0.05, it cannot be told; "
        "else the sign of `gain.value` decides.",
    ),
)
def verdict(function: Callable[[Sequence[int], Sequence[int]], str]) -> None:
    random = generator()
    for right, gained, lost, rows, wanted, bug in (
        (10, 2, 0, 30, OPEN, "a difference is taken for a finding"),
        (40, 5, 3, 100, OPEN, "a difference is taken for a finding"),
        (0, 40, 0, 48, BETTER, "a clear gain is not seen"),
        (20, 1, 30, 60, WORSE, "a loss is overlooked"),
        (100, 18, 1, 200, BETTER, "the rows are not compared one by one"),
        (100, 1, 18, 200, WORSE, "the rows are not compared one by one"),
        (12, 0, 0, 24, OPEN, "nothing changed, and something is found"),
        (30, 25, 25, 100, OPEN, "many changes are taken for a gain"),
        (60, 40, 28, 200, OPEN, "only the totals are compared"),
        (8, 9, 0, 24, BETTER, "a gain on few rows is not seen"),
        (30, 30, 20, 100, OPEN, "a large share is taken for a sure one"),
        (60, 19, 10, 200, OPEN, "less is asked for than 95 %"),
        (60, 22, 7, 200, BETTER, "more is asked for than 95 %"),
        (60, 20, 8, 200, BETTER, "more is asked for than 95 %"),
        (60, 8, 20, 200, WORSE, "more is asked for than 95 %"),
        (60, 85, 50, 300, BETTER, "many lost rows hide a gain"),
        (60, 42, 25, 200, BETTER, "more is asked for than 95 %"),  # 4.98 %
        (14, 4, 0, 24, OPEN, "four coins that fall alike are taken for a finding"),
        (14, 0, 4, 24, OPEN, "four coins that fall alike are taken for a finding"),
        (60, 16, 7, 200, OPEN, "only one side is asked for, or less than 95 %"),
        (60, 112, 88, 300, OPEN, "throws that are more uneven still are left out"),
        (60, 22, 10, 200, OPEN, "less is asked for than 95 %"),  # 5.01 %
    ):
        before = [1] * (right + lost) + [0] * (rows - right - lost)
        after = [1] * right + [0] * lost + [1] * gained + [0] * (rows - right - lost - gained)
        order = torch.randperm(rows, generator=random).tolist()
        got = attempt(function, [before[i] for i in order], [after[i] for i in order])
        if not isinstance(got, str) or got not in (BETTER, WORSE, OPEN):
            raise Wrong(
                "another word", f'`verdict` returned {got!r}, and should return "{BETTER}", "{WORSE}" or "{OPEN}"'
            )
        if got == wanted:
            continue
        if {got, wanted} == {BETTER, WORSE}:
            bug = "the two are exchanged"
        raise Wrong(
            bug, f"{rows} rows, {sum(before)} right before and {sum(after)} after; {gained} went from wrong to right and {lost} from right to "
            f"wrong: you say {got!r}"
        )  # fmt: skip


@register(
    "14.3",
    title="The ledger of one of N processes",
    stars=1,
    minutes=4,
    task="Write `per_process(weights, gradients, optimizer, activations, gathered, processes, shards)`: the bytes that *one* process needs. The "
    "first four are the ledger of the whole step in one process. Under DDP (`shards` is False) each has a whole copy of weights, gradients "
    "and optimiser. Under FSDP (`shards` is True) each keeps its part of them, and for a short time `gathered` bytes of whole weights come on top. The rows of "
    "the step are shared out in both.",
    wants="per_process",
    shows="DDP saves activations alone; FSDP divides all four, and pays with what it gathers.",
    hints=(
        "Which of the four entries belong to rows, and which to the model?",
        "A process sees 1/N of the step's rows. What of the ledger depends on rows?",
        "FSDP: (weights + gradients + optimizer + activations) / N + gathered. Under DDP only activations are divided, and nothing is gathered.",
    ),
)
def per_process(function: Callable[..., float]) -> None:
    random = generator()
    cases = ((2, False), (2, True), (4, False), (4, True), (8, False), (8, True), (1, False))
    for processes, shards in cases:
        entries = (torch.randint(50, 900, (5,), generator=random) + torch.tensor([2000, 700, 1100, 0, 0])) * 840
        w, g, o, a, gathered = entries.tolist()
        n = processes
        got = as_number(attempt(function, w, g, o, a, gathered, n, shards), "`per_process`")
        if abs(got - _needs(w, g, o, a, gathered, n, shards)) <= 2:  # rounded up or down
            continue
        bug = next(
            (bug for bug, wrong in _other_sums(w, g, o, a, gathered, n, shards).items() if abs(got - wrong) <= 2),
            "another number of bytes",
        )
        if bug == "DDP and FSDP are exchanged":  # … or always FSDP
            other = as_number(attempt(function, w, g, o, a, gathered, n, not shards), "`per_process`")
            bug = "DDP counted as if it were FSDP" if abs(other - got) <= 2 else bug
        how = f"{n} process{'es' if n > 1 else ''}, {'FSDP' if shards else 'DDP'}"
        raise Wrong(
            bug, f"{how}: weights {w:,}, gradients {g:,}, optimiser {o:,}, activations {a:,}, gathered {gathered:,}: you say {got:,.0f}"
        )  # fmt: skip


def _needs(w: int, g: int, o: int, a: int, gathered: int, n: int, shards: bool) -> float:
    return (w + g + o + a) / n + gathered if shards else w + g + o + a / n


def _other_sums(w: int, g: int, o: int, a: int, gathered: int, n: int, shards: bool) -> dict[str, float]:
    """What each way to get it wrong returns."""
    wanted, kept = _needs(w, g, o, a, gathered, n, shards), w + g + o
    bugs = {
        "a process sees its own rows only": kept / n + a + gathered if shards else kept + a,
        "all processes together, not one": n * wanted,
        "the optimiser is forgotten": wanted - (o / n if shards else o),
        "gradients are forgotten": wanted - (g / n if shards else g),
        "activations are forgotten": wanted - a / n,
        "the weights are forgotten": wanted - (w / n if shards else w),
        "activations grow with the processes": wanted - a / n + a * n,
    }
    return bugs | {
        "FSDP counted as if it were DDP": kept + a / n,
        "what is gathered is forgotten": (kept + a) / n,
        "what is gathered is whole": (kept + a + gathered) / n,
        "the weights are kept whole": w + (g + o + a) / n + gathered,
        "the optimiser is shared out as well": (w + g + a) / n + o + gathered,
        "gradients are shared out as well": (w + o + a) / n + g + gathered,
        "not only the weights are shared out": w / n + g + o + a / n + gathered,
    } if shards else bugs | {
        "DDP and FSDP are exchanged": (kept + a) / n + gathered,
        "DDP does not divide what is kept": (kept + a) / n,
        "DDP gathers nothing": kept + a / n + gathered,
    }  # fmt: skip


@register(
    "14.4",
    title="Unequal shares",
    stars=2,
    minutes=8,
    task="Each of N processes has the gradient of the *mean* loss of its own rows, over `counts[k]` answer tokens. DDP then averages the N "
    "gradients. Write `weights_of(counts)`: by what must process k multiply its loss, so that the average is the gradient of the mean over *all* tokens?",
    wants="weights_of",
    shows="Whatever the shares, the average is the gradient of the one large batch; a process without a token counts nothing.",
    hints=(
        "Write the wanted gradient down first. With g_k the gradient of process k's mean, the *sum* over its tokens is counts[k] · g_k.",
        "Wanted: Σ counts[k]·g_k / Σ counts. DDP gives: (1/N) · Σ w_k·g_k. Compare them term by term.",
        "(1/N)·w_k = counts[k] / Σ counts.",
    ),
)
def unequal_shares(function: Callable[[Sequence[int]], Sequence[float]]) -> None:
    random = generator()
    drawn = [torch.randint(1, 60, (n,), generator=random).tolist() for n in (3, 2, 5)]
    for counts in ([12, 4], [5, 5, 5, 5], [7, 0, 3], *drawn):
        n, tokens = len(counts), sum(counts)
        got = attempt(function, list(counts))
        if isinstance(got, dict | set):
            raise Wrong(
                "not a list in the processes' order",
                f"for counts {counts} `weights_of` returned a {type(got).__name__}",
            )
        try:
            found = torch.as_tensor([float(value) for value in got], dtype=torch.float64)
        except (TypeError, ValueError):
            raise Wrong("not a number for each process", f"for counts {counts} `weights_of` returned {got!r}") from None
        wanted = n * torch.tensor(counts, dtype=torch.float64) / tokens  # (N,)
        if len(found) != n:
            raise Wrong("not a number for each process", f"for counts {counts} it returned {len(found)} numbers")
        if close(found, wanted):
            continue
        bugs = {
            "every process counts the same": torch.ones(n),
            "the average is 1/N of the wanted gradient": wanted / n,
            "the average is 1/N² of the wanted gradient": wanted / n**2,
            "a sum, and not a mean": torch.tensor(counts),
            "not divided by all tokens": n * torch.tensor(counts),
            "a process without tokens is left out of N": wanted * sum(count > 0 for count in counts) / n,
            "turned round: fewer tokens weigh more": tokens / (n * torch.tensor(counts).clamp(min=1)),
        }
        bug = next((bug for bug, wrong in bugs.items() if close(found, wrong.double())), "other weights")
        k = int((found - wanted).abs().argmax())  # where it shows most
        raise Wrong(
            bug, f"for counts {counts} you give {[round(v, 3) for v in found.tolist()]}. Were the gradient of process {k + 1} of {n} equal to 1 and "
            f"those of the others 0, the average would be {found[k] / n:.3g}; but {counts[k]} of all {tokens} tokens are {counts[k] / tokens:.3g}"
        )  # fmt: skip
