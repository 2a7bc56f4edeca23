"""Popular recipes, each tested against what this course has measured. Chapter 09.

Whoever writes a recipe down seldom says where it was measured. Here each is supported, contradicted or not measured, by values that are read
from stored results when the table is made; and an effect that was seen on one task is said to be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lora_edu.errors import CheckpointError
from lora_edu.experiments.choices import ALL_LINEAR
from lora_edu.experiments.evidence import best_rates, places_compared, spread
from lora_edu.experiments.stored_results import stored
from lora_edu.experiments.sweeps import table
from lora_edu.tables import html_table, text_table

SUPPORTED, CONTRADICTED, OPEN, NOT_MEASURED = "supported", "contradicted", "no verdict", "not measured here"
Finding = tuple[str, str]  # a verdict, and the values that it was read off


@dataclass(frozen=True)
class Recipe:
    """A recipe in our words, where it is found, and what tests it (None: nothing that is stored here)."""

    says: str
    found: str
    test: Callable[[], Finding] | None = None
    where: str = ""  # what it is tested on: a verdict is about no more


@dataclass(frozen=True)
class Tested:
    """A recipe with its verdict."""

    says: str
    found: str
    verdict: str
    why: str


@dataclass(frozen=True, repr=False)
class TestedRecipes:
    """The table: prints as text, shows as HTML."""

    lines: tuple[Tested, ...]

    def __str__(self) -> str:
        return text_table(
            [("recipe", "verdict", "read off"), *((each.says, each.verdict, each.why) for each in self.lines)]
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [(each.says, each.found, each.verdict, each.why) for each in self.lines]
        return html_table(
            ("recipe", "found in", "verdict", "read off"), rows, "Popular recipes against what was measured here"
        )

    def to_dict(self) -> list[dict[str, Any]]:
        """As plain JSON values."""
        return [asdict(each) for each in self.lines]


def rank_settles_little() -> Finding:
    best = best_rates("α/r")
    worst, eight, high = (best[r][1] for r in (1, 8, 64))
    why = f"rates_ranks: validation loss on turned digits at each rank's best rate: r = 1 {spread(worst)}, r = 8 {spread(eight)}, r = 64 {spread(high)}"
    return (CONTRADICTED if bool((high < worst).all()) else OPEN), why


def higher_rank_overfits() -> Finding:
    """On test digits at the rate that the validation digits chose."""
    best, test = best_rates("α/r"), best_rates_on_test("α/r")
    low, high = test[1], test[64]
    why = f"rates_ranks: test loss on turned digits, 1,297 rows: r = 1 {spread(low)} at rate {best[1][0]:g}, r = 64 {spread(high)} at {best[64][0]:g}"
    verdict = CONTRADICTED if bool((high < low).all()) else SUPPORTED if bool((high > low).all()) else OPEN
    return verdict, why


def best_rates_on_test(rule: str) -> dict[int, Any]:
    """Rank: (seeds,) test losses at the rate that the validation losses chose."""
    found = table("rates_ranks")
    return {
        r: found.where("test_loss", optimiser="Adam", rule=rule, r=r, learning_rate=rate)[0]
        for r, (rate, _) in best_rates(rule).items()
    }


def one_rate_for_all_ranks() -> Finding:
    best = best_rates("one s")
    rates = {r: best[r][0] for r in (4, 8, 16, 64)}
    why = "rates_ranks: best rate on turned digits with α = 2r's constant scale: " + ", ".join(
        f"{rate:g} at r = {r}" for r, rate in rates.items()
    )
    return (SUPPORTED if len(set(rates.values())) == 1 else CONTRADICTED), why


def low_rate_first() -> Finding:
    tensors, about = stored("first_run")

    def losses(rate: float) -> list[float]:
        sums = (tensors[f"lr {rate:g} seed {seed} valid"].sum(0) for seed in about["seeds"])
        return [float(total / count) for total, count in sums]

    low, chosen = losses(1e-4), losses(about["chosen"])
    why = (
        f"first_run: validation loss on dates after 8 steps of SmolLM2: {min(low):.2g} to {max(low):.2g} at 1e-4, {min(chosen):.2g} to "
        f"{max(chosen):.2g} at {about['chosen']:g}; a 7B model may want it (Biderman et al. 2024, arXiv 2405.09673: 2e-4 to 5e-4)"
    )
    return (CONTRADICTED if max(chosen) < min(low) else OPEN), why


def queries_and_values() -> Finding:
    losses = places_compared()
    few = next((each for place, each in losses.items() if place.kinds == ("q", "v") and place.r != ALL_LINEAR.r), None)
    every = losses.get(ALL_LINEAR)
    if few is None or every is None:
        raise CheckpointError("the stored sweep places compares no q and v with all-linear")
    why = f"places: test loss on dates at equal parameters, each at its own rate: q and v {spread(few)}, all-linear {spread(every)}"
    if bool((few < every).all()):
        return SUPPORTED, why
    return (CONTRADICTED if bool((few > every).all()) else OPEN), why


TUTORIALS = "widely read tutorials"
RECIPES: tuple[Recipe, ...] = (
    Recipe("classification: r = 8 on q and v; generation: r = 16 on all", TUTORIALS),
    Recipe("simple tasks r = 8 to 16, complex ones 24 to 32", TUTORIALS),
    Recipe(
        "q and v are enough",
        "Hu et al. 2021, arXiv 2106.09685, §7.1, and many tutorials since",
        queries_and_values,
        "on dates",
    ),
    Recipe(
        "the rank hardly matters: r = 1 does what r = 64 does",
        "Hu et al. 2021, arXiv 2106.09685, §7.2",
        rank_settles_little,
        "on turned digits",
    ),
    Recipe("a high rank overfits", TUTORIALS, higher_rank_overfits, "on turned digits"),
    Recipe(
        "α = 2r, and the learning rate may stay when r changes",
        "defaults of training tools, and many tutorials",
        one_rate_for_all_ranks,
        "on turned digits",
    ),
    Recipe("begin with a learning rate of 1e-4", TUTORIALS, low_rate_first, "on dates"),
    Recipe("a higher rank in the layers near the output", TUTORIALS),
    Recipe("50 to 200 good rows beat ten thousand", TUTORIALS),
    Recipe("dropout of 0.05 to 0.1", TUTORIALS),
)


def popular_recipes(recipes: Sequence[Recipe] = RECIPES) -> TestedRecipes:
    """Every recipe with its verdict; where a stored result is missing, "not measured here"."""
    lines = []
    for recipe in recipes:
        verdict, why = NOT_MEASURED, "no stored result of this course tests it"
        if recipe.test:
            try:
                verdict, why = recipe.test()
                verdict = f"{verdict}, {recipe.where}"
            except CheckpointError:
                why = "the stored result that would test it is not made yet, or not whole"
        lines.append(Tested(recipe.says, recipe.found, verdict, why))
    return TestedRecipes(tuple(lines))
