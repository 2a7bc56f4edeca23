"""What speaks for a choice: values read from this course's stored results, and papers. Chapter 09.

`EVIDENCE` lists, for each choice that `advise` makes, functions of a `Case` that read what they say when they are asked: nothing is typed
that a file holds. A file that is missing is said to be. A new sweep is heard by adding its function to the list.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from lora_edu.errors import CheckpointError
from lora_edu.experiments.capacity import bits_each, capacities
from lora_edu.experiments.choices import ALL_LINEAR, KINDS, NOTHING, Choice
from lora_edu.experiments.stored_results import stored
from lora_edu.experiments.sweeps import table

SMALL, DATES, NAMES = "smollm2-135m", "iso_dates", "identity"
FEW = 1.005  # rates nearer than this are the same


@dataclass(frozen=True)
class Case:
    """What is asked: a model by name and hidden size, a task by name (None: rows of one's own), training rows, tokens and bits of an answer."""

    model: str
    hidden: int
    task: str | None
    rows: int
    answer_tokens: int
    token_bits: float
    bits_from: str

    @property
    def need(self) -> float:
        """Bits of all answers, if each were learnt by heart."""
        return self.rows * self.answer_tokens * self.token_bits


@dataclass(frozen=True)
class Evidence:
    """What a source says. kind: "stored" (a result of this course), "paper", "counted" (by the ledger) or "missing" (a result not made yet).

    source: the stored file's name, or authors, year and arXiv number. near: whether it is about this task and this model.
    speaks: "for" the choice, "against" it, or "open": it was measured and gives no verdict.
    """

    says: str
    source: str
    kind: str
    near: bool = False
    speaks: str = "for"

    def __str__(self) -> str:
        if self.kind == "missing":
            return f"{self.says} [stored result {self.source}]"
        sign = {"against": "against it: ", "open": "no verdict: "}.get(self.speaks, "")
        return f"{sign}{self.says} [{'stored result ' if self.kind == 'stored' else ''}{self.source}]"

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


Finder = Callable[[Case], Evidence | None]  # None: has nothing to say of this case


def gathered(what: str, case: Case) -> list[Evidence]:
    """Everything known of a choice; what would be said by a stored result that is missing is listed as missing."""
    found = []
    for finder in EVIDENCE[what]:
        try:
            said = finder(case)
        except CheckpointError:
            said = Evidence("not measured here yet, or not whole", finder.__name__, "missing", speaks="open")
        if said:
            found.append(said)
    return found


def spread(values: Tensor) -> str:
    """Mean, and least to most over the seeds: "0.044 (0.038 to 0.056, 3 seeds)"."""
    low, high = float(values.min()), float(values.max())
    return f"{float(values.mean()):.3g} ({low:.2g} to {high:.2g}, {len(values)} seeds)"


def paper(says: str, source: str, speaks: str = "for") -> Finder:
    """Evidence that is read in a paper, whatever the case."""
    return lambda case: Evidence(says, source, "paper", speaks=speaks)


def rounded(count: float) -> str:
    """A large number with three digits that say something: "2,430,000"."""
    return f"{float(f'{count:.3g}'):,.0f}"


# --- where ------------------------------------------------------------------------------------------------------------


def places_compared() -> dict[Choice, Tensor]:
    """(seeds,) test losses of each place that the sweep `places` holds, each at its own rate; seeds that lack a run are left out."""
    found = table("places")
    if not (seeds := found.done.all(0)).any():
        raise CheckpointError("the stored sweep places has no seed with every run: go on with `lora-edu sweep places`")
    return {Choice.of_cell(cell): each[seeds] for cell, each in zip(found.cells, found.metrics["test"])}


def better_place() -> Choice | None:
    """A place that beat all-linear with every seed, in the sweep `places`, at equal parameters; None where none did, or nothing is stored."""
    try:
        losses = places_compared()
    except CheckpointError:
        return None
    if ALL_LINEAR not in losses:
        return None
    winners = [
        place for place, each in losses.items() if place.r != ALL_LINEAR.r and bool((each < losses[ALL_LINEAR]).all())
    ]
    return min(winners, key=lambda place: float(losses[place].mean()), default=None)


def places(case: Case) -> Evidence:
    losses = places_compared()
    own, losses = losses[ALL_LINEAR], {place: each for place, each in losses.items() if place != ALL_LINEAR}
    others = "; ".join(f"{place.place}, r = {place.r}: {spread(each)}" for place, each in losses.items())
    says = f"test loss on dates, each place at its own rate: all-linear, r = {ALL_LINEAR.r}: {spread(own)}; {others}"
    settled = all(bool((own < each).all()) for each in losses.values()) or better_place() is not None
    return Evidence(says, "places", "stored", case.task == DATES and case.model == SMALL, "for" if settled else "open")


def targets_grid(case: Case) -> Evidence:
    found = table("targets_grid")
    all_linear, q_and_v = (
        found.where("loss", **cell)[0] for cell in (ALL_LINEAR.cell(), Choice(("q", "v"), ALL_LINEAR.layers, 42).cell())
    )
    rate = found.about["settings"]["train"]["learning_rate"]
    says = f"loss on dates with equal parameters, all at the one rate {rate:g}: all-linear {spread(all_linear)}, q and v {spread(q_and_v)}"
    return Evidence(says, "targets_grid", "stored", case.task == DATES and case.model == SMALL, "open")


# --- how much ---------------------------------------------------------------------------------------------------------


def capacity(case: Case) -> Evidence:
    each = bits_each(held := capacities())
    says = (
        f"{each.mean:.2f} bits of random labels a free number ({each.least:.2f} to {each.most:.2f} over ranks, seeds, nets, optimisers), after "
        f"{held[0].steps:,} steps on small nets; {case.rows:,} rows × {case.answer_tokens} tokens × {case.token_bits:.3g} bits ({case.bits_from}) "
        f"= {rounded(case.need)} bits at most"
    )
    return Evidence(says, "capacity", "stored")


def best_rates(rule: str, metric: str = "valid_loss") -> dict[int, tuple[float, Tensor]]:
    """Rank: (best rate, (seeds,) losses at it), Adam on turned digits under a rule for the scale; chosen by the mean validation loss."""
    found = table("rates_ranks")
    best: dict[int, tuple[float, Tensor]] = {}
    for cell, losses in zip(found.cells, found.metrics[metric]):
        if (cell["optimiser"], cell["rule"]) != ("Adam", rule) or not losses.isfinite().all():
            continue
        chosen = best.get(cell["r"])
        if chosen is None or float(losses.mean()) < float(chosen[1].mean()):
            best[cell["r"]] = (cell["learning_rate"], losses)
    return best


def rates_ranks(case: Case) -> Evidence:
    best = best_rates("α/r")
    said = "; ".join(f"r = {r}: {spread(best[r][1])}" for r in (1, 8, 64))
    higher = bool((best[64][1] < best[8][1]).all())
    says = f"validation loss on turned digits, each rank at its own best rate: {said}; the same seed was better at r = 64 than at r = 8 "
    says += f"{int((best[64][1] < best[8][1]).sum())} times of {len(best[8][1])}"
    return Evidence(says, "rates_ranks", "stored", speaks="against" if higher else "open")


def scale_rule(case: Case) -> Evidence:
    one_alpha, one_scale = best_rates("α/r"), best_rates("one s")
    said = "; ".join(
        f"{rule}: " + ", ".join(f"{best[r][0]:g} at r = {r} (loss {float(best[r][1].mean()):.2g})" for r in (4, 8, 64))
        for rule, best in {"one α, α/r": one_alpha, "one s, as α = 2r": one_scale}.items()
    )
    other = bool((one_scale[64][1] < one_alpha[64][1]).all())
    return Evidence(
        f"best rate on turned digits, three seeds: {said}",
        "rates_ranks",
        "stored",
        speaks="against" if other else "for",
    )


# --- how fast ---------------------------------------------------------------------------------------------------------


def first_run(case: Case) -> Evidence | None:
    if case.task != DATES:
        return None
    tensors, about = stored("first_run")
    losses = []
    for rate in about["rates"]:
        runs = [tensors[f"lr {rate:g} seed {seed} valid"].sum(0) for seed in about["seeds"]]  # summed loss, tokens
        losses.append(f"{rate:g}: " + ", ".join(f"{float(total / count):.2g}" for total, count in runs))
    says = f"validation loss after 8 steps, a number a seed, at rate {'; '.join(losses)}"
    return Evidence(says, "first_run", "stored", case.model == SMALL)


def name_leak(case: Case) -> Evidence | None:
    if case.task != NAMES:
        return None
    found = table("name_leak")
    said = [
        f"{cell['learning_rate']:g}: named {float(name.mean()):.2g}, leaked {float(leak.mean()):.2g}"
        for cell, name, leak in zip(found.cells, found.metrics["name"], found.metrics["leak"])
    ]
    return Evidence(
        f"shares, mean of {len(found.seeds)} seeds, at rate {'; '.join(said)}",
        "name_leak",
        "stored",
        case.model == SMALL,
    )


def rate_of(case: Case) -> tuple[float, str] | None:
    """The rate that a stored result chose for this task, and by what; None where none has."""
    if case.model != SMALL:
        return None
    try:
        if case.task == DATES:
            return float(
                stored("first_run").about["chosen"]
            ), "the lowest mean validation loss of the rates that were tried"
        if case.task == NAMES:
            found = table("name_leak")
            name, leak = (found.metrics[metric].mean(1) for metric in ("name", "leak"))
            learnt = [i for i in range(len(found.cells)) if float(name[i]) == float(name.max())]
            best = min(learnt, key=lambda i: (float(leak[i]), -found.cells[i]["learning_rate"]))
            return found.cells[best]["learning_rate"], "of the rates that learn the name, the one that leaks least"
    except CheckpointError:
        return None
    return None


def token_bits(task: str | None) -> float | None:
    """Bits a token of the answers takes the course's model before training, where that is stored."""
    if task != DATES:
        return None
    try:
        return float(table("targets_grid").where("loss", **NOTHING.cell()).nanmean()) / math.log(2)
    except CheckpointError:
        return None


HU = "Hu et al. 2021, arXiv 2106.09685"
BIDERMAN = "Biderman et al. 2024, arXiv 2405.09673"
QLORA = "Dettmers et al. 2023, arXiv 2305.14314"
RATES_7B = (2e-4, 5e-4)  # where Biderman et al. found the best rates of LoRA

LARGE = 2048  # hidden size from which a model is taken for one of the billions, of which this course has measured none


def rates_of_7b(case: Case) -> Evidence:
    says = f"Llama-2-7B: best rates of LoRA from {RATES_7B[0]:g} to {RATES_7B[1]:g}, of full fine-tuning from 1e-05 to 5e-05"
    return Evidence(says, BIDERMAN, "paper", speaks="for" if case.hidden >= LARGE else "open")


EVIDENCE: dict[str, tuple[Finder, ...]] = {
    "places": (
        places, targets_grid,
        paper("LLaMA on Alpaca: adapters at every linear layer are needed to match full fine-tuning", QLORA),
        paper("Llama-2-7B on code and mathematics: all matrices before the MLP's before attention's", BIDERMAN),
    ),
    "rank": (
        capacity, rates_ranks,
        paper("GPT-3 on WikiSQL and MNLI: r = 1 to 64 about alike", HU),
        paper("Llama-2-7B, continued pretraining on code: r = 256 still learns less than full fine-tuning", BIDERMAN, "open"),
    ),
    "alpha": (scale_rule,),
    "learning rate": (first_run, name_leak, rates_of_7b),
    "length": (),
    "dropout, weight decay": (),
}  # fmt: skip


def targets(place: Choice) -> str | tuple[str, ...]:
    """A place as `target_modules`."""
    return "all-linear" if place.kinds == KINDS else tuple(f"{kind}_proj" for kind in place.kinds)
