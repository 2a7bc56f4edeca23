"""`advise`: every choice has a reason, every reason a source that is read and not typed, and what is not known is called so."""

import json

import pytest
import torch

import lora_edu
from lora_edu.errors import CheckpointError, ConfigError
from lora_edu.experiments import advise, evidence, popular_recipes, recipes, stored, table
from lora_edu.experiments.choices import ALL_LINEAR, Choice
from lora_edu.experiments.evidence import EVIDENCE, Case, Evidence, gathered
from lora_edu.experiments.reasons import HEAD, Reasoned
from lora_edu.experiments.stored_results import FOLDER
from lora_edu.tasks import get_task
from lora_edu.training.memory import sketch

CASE = Case("smollm2-135m", 576, "iso_dates", 400, 12, 1.2, "the base's loss, measured")


@pytest.fixture
def without_results(monkeypatch, tmp_path):
    """A course whose stored results are all missing."""

    def gone(name, folder=None):
        raise CheckpointError(f"there is no stored result {name!r}")

    for module in (evidence, recipes):
        for name in ("table", "stored"):
            monkeypatch.setattr(module, name, gone, raising=False)
    monkeypatch.setattr("lora_edu.experiments.capacity.table", gone)


def choice_of(advice, what) -> Reasoned:
    return next(each for each in advice.choices if each.what == what)


@pytest.fixture(scope="module")
def dates():
    return advise("smollm2-135m", get_task("iso_dates"), "8 GB", 400, tokens=64)


def test_every_choice_carries_a_reason_and_its_evidence(dates):
    assert lora_edu.advise is advise
    assert [each.what for each in dates.choices] == [
        "places", "rank", "alpha", "learning rate", "length", "dropout, weight decay", "rows at once", "base weights",
    ]  # fmt: skip
    for each in dates.choices:
        assert each.why and each.for_7b and each.sure.endswith(".")
        assert each.evidence or each.sure == "Not measured here."
        for said in each.evidence:
            if said.kind == "stored":
                assert (FOLDER / f"{said.source}.safetensors").is_file()
            elif said.kind == "paper":
                assert "arXiv" in said.source and any(str(year) in said.source for year in range(2019, 2027))
            else:
                assert said.kind in ("counted", "missing")


def test_values_are_read_from_the_stored_files(dates):
    rate = stored("first_run").about["chosen"]
    assert dates.train.learning_rate == rate and choice_of(dates, "learning rate").value == f"{rate:g}"
    losses = table("targets_grid").where("loss", **ALL_LINEAR.cell())
    said = " ".join(map(str, choice_of(dates, "places").evidence))
    assert f"{float(losses.mean()):.3g}" in said and "no verdict" in said
    assert choice_of(dates, "learning rate").sure == "Measured here, on this task and model."
    verses = choice_of(advise("smollm2-135m", get_task("kjv"), "8 GB", 400), "learning rate")
    assert verses.sure == "Not measured here." and "no verdict: Llama-2-7B" in str(
        verses.evidence[-1]
    )  # a 7B says nothing of it


def test_a_name_is_learnt_at_the_rate_that_leaks_least():
    advice = advise("smollm2-135m", get_task("identity"), 8e9, 96)
    found = table("name_leak")
    best = next(i for i, cell in enumerate(found.cells) if cell["learning_rate"] == advice.train.learning_rate)
    name, leak = (found.metrics[metric].mean(1) for metric in ("name", "leak"))
    assert float(name[best]) == float(name.max())
    assert all(float(leak[best]) <= float(leak[i]) for i in range(len(name)) if float(name[i]) == float(name.max()))


def test_it_shows_as_text_as_html_and_as_plain_values(dates):
    for text in (str(dates), dates._repr_html_()):
        for each in dates.choices:
            assert each.what in text and each.sure in text
    assert all(f">{word}<" in dates._repr_html_() for word in HEAD if word)
    back = json.loads(json.dumps(dates.to_dict()))
    assert (
        back["lora"]["r"] == dates.lora.r and back["choices"][3]["how sure"] == choice_of(dates, "learning rate").sure
    )


def test_what_cannot_fit_is_refused_with_how_much_is_missing():
    with pytest.raises(ConfigError, match=r"Nothing fits: even one row of 128 tokens .* too little"):
        advise("llama-2-7b", None, "8 GB", 1000)
    for memory in ("plenty", "8", -1, float("nan"), "GB"):
        with pytest.raises(ConfigError, match="memory="):
            advise("smollm2-135m", None, memory, 100)
    for rows in (0, -3, 1.5, True):
        with pytest.raises(ConfigError, match="rows="):
            advise("smollm2-135m", None, "8 GB", rows)
    with pytest.raises(ConfigError, match="llama-2-7b"):
        advise("gpt-5", None, "8 GB", 100)


def test_less_memory_splits_the_step_and_keeps_its_rows():
    roomy, tight = (advise("smollm2-135m", None, memory, 400, tokens=256) for memory in (32e9, 1.3e9))
    rows = [plan.batch_size * plan.gradient_accumulation_steps for plan in (roomy.train, tight.train)]
    assert rows[0] == rows[1] and tight.train.batch_size < roomy.train.batch_size
    assert tight.ledger.total <= 0.9 * 1.3e9 and roomy.dtype == "float32"


def test_a_7b_takes_bf16_and_a_rate_that_others_measured():
    advice = advise("llama-2-7b", None, "24 GB", 1000, tokens=256)
    assert advice.dtype == "bfloat16" and 2e-4 <= advice.train.learning_rate <= 5e-4
    assert choice_of(advice, "learning rate").sure.startswith("Measured elsewhere")


def test_more_rows_than_the_rank_has_room_for_raise_it(monkeypatch):
    from every_widget import held

    monkeypatch.setattr("lora_edu.experiments.advisor.capacities", lambda: held(2.0, 2.5))
    few, many, far = (
        advise("smollm2-135m", None, "64 GB", rows, tokens=100, answer_tokens=50) for rows in (100, 20_000, 10**8)
    )
    assert few.lora.r == 8 < many.lora.r < 256 == far.lora.r
    assert "more than any rank" in choice_of(far, "rank").why


def test_a_loaded_model_is_advised_by_its_own_shapes():
    model = sketch("llama-3.2-1b")
    advice = advise(model, None, "16 GB", 400)
    assert advice.to_dict()["ledger"] == advise("llama-3.2-1b", None, "16 GB", 400).to_dict()["ledger"]
    with pytest.raises(ConfigError, match="Llama-shaped"):
        advise(torch.nn.Linear(2, 2), None, "8 GB", 10)


@pytest.mark.usefixtures("without_results")
def test_without_any_stored_result_it_advises_still_and_says_what_is_missing():
    advice = advise("smollm2-135m", get_task("iso_dates"), "8 GB", 400)
    for each in advice.choices:
        assert "Measured here" not in each.sure, each
    assert {said.kind for said in choice_of(advice, "rank").evidence} == {"missing", "paper"}
    assert {line.verdict for line in popular_recipes().lines} == {recipes.NOT_MEASURED}


def test_one_entry_adds_a_sweeps_evidence(monkeypatch):
    monkeypatch.setitem(EVIDENCE, "length", (lambda case: Evidence("it was measured", "lengths", "stored", near=True),))
    advice = advise("smollm2-135m", get_task("iso_dates"), "8 GB", 400)
    assert choice_of(advice, "length").sure == "Measured here, on this task and model."


@pytest.mark.parametrize(
    "said, sure",
    [
        ([], "Not measured here."),
        ([Evidence("", "x", "missing", speaks="open")], "Not measured here."),
        ([Evidence("", "x", "stored", near=True, speaks="open")], "Not measured here."),
        ([Evidence("", "p", "paper")], "Measured elsewhere, not here."),
        ([Evidence("", "p", "paper"), Evidence("", "x", "stored", speaks="open")], "Measured elsewhere, and without a verdict here."),
        ([Evidence("", "x", "stored"), Evidence("", "p", "paper", speaks="against")], "Measured here, on another task or model. Not all of it agrees."),
        ([Evidence("", "x", "counted")], "Counted."),
    ],
)  # fmt: skip
def test_how_sure_follows_from_the_evidence_alone(said, sure):
    assert Reasoned("", "", "", tuple(said), "").sure == sure


def test_a_place_is_taken_only_where_it_won_with_every_seed(monkeypatch):
    q_and_v = Choice(("q", "v"), (0, 29), 42)
    for losses, wanted in (([0.1, 0.1], q_and_v), ([0.1, 0.3], None)):
        own = {ALL_LINEAR: torch.tensor([0.2, 0.2]), q_and_v: torch.tensor(losses)}
        monkeypatch.setattr(evidence, "places_compared", lambda own=own: own)
        assert evidence.better_place() == wanted
        said = next(each for each in gathered("places", CASE) if each.source == "places")
        assert said.speaks == ("for" if wanted else "open")
    small = Choice(("q", "v"), (0, 29), ALL_LINEAR.r)  # of fewer parameters: no rival
    monkeypatch.setattr(
        evidence, "places_compared", lambda: {ALL_LINEAR: torch.tensor([0.2]), small: torch.tensor([0.1])}
    )
    assert evidence.better_place() is None


def test_a_recipe_is_judged_by_what_is_stored(monkeypatch):
    lines = {line.says: line for line in popular_recipes().lines}
    assert len(lines) == len(recipes.RECIPES)
    assert all(recipe.where for recipe in recipes.RECIPES if recipe.test)
    low = lines["begin with a learning rate of 1e-4"]
    assert low.verdict == "contradicted, on dates" and "2405.09673" in low.why
    equal = {r: (0.01, torch.tensor([0.3, 0.2, 0.1])) for r in (1, 2, 4, 8, 16, 64)}
    monkeypatch.setattr(recipes, "best_rates", lambda rule: equal)
    assert recipes.one_rate_for_all_ranks()[0] == recipes.SUPPORTED
    assert recipes.rank_settles_little()[0] == recipes.OPEN
    q_and_v, wider = Choice(("q", "v"), (0, 29), 42), Choice(("q", "v"), (0, 29), ALL_LINEAR.r)
    for losses, wanted in (
        ([0.1, 0.1], recipes.SUPPORTED),
        ([0.1, 0.3], recipes.OPEN),
        ([0.3, 0.3], recipes.CONTRADICTED),
    ):
        own = {ALL_LINEAR: torch.tensor([0.2, 0.2]), wider: torch.tensor([9.0, 9.0]), q_and_v: torch.tensor(losses)}
        monkeypatch.setattr(recipes, "places_compared", lambda own=own: own)
        assert recipes.queries_and_values()[0] == wanted
    monkeypatch.setattr(recipes, "places_compared", lambda: {q_and_v: torch.tensor([0.1])})
    assert {line.says: line for line in popular_recipes().lines}["q and v are enough"].verdict == recipes.NOT_MEASURED
    html = popular_recipes()._repr_html_()
    assert all(f">{word}<" in html for word in ("recipe", "verdict", "read off"))
    assert json.dumps(popular_recipes().to_dict())
