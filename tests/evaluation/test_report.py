"""Metrics against values worked out by hand, intervals against theory, and generation against plain greedy decoding."""

import itertools
import json
import math

import numpy as np
import pytest
import sacrebleu
import torch
from conftest import make_tiny_llama
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from tiny_tokenizer import make_tokenizer

from lora_edu.adapters import LoRAConfig, inject, lora_layers
from lora_edu.data import Example, Row, Splits, collate, encode, prompt_ids
from lora_edu.errors import DataError
from lora_edu.evaluation import (
    Score,
    accuracy,
    bits_per_byte,
    bleu,
    bootstrap,
    contains,
    evaluate,
    exact_match,
    generate,
    likeliest,
    macro_f1,
    mean_nll,
    paired_bootstrap,
    perplexity,
    rouge,
    share,
    slot_f1,
    token_perplexity,
)
from lora_edu.evaluation.metrics import wilson
from lora_edu.training import causal_lm_loss

# --- metrics


def test_exact_match_accuracy_and_contains_differ_in_what_they_forgive():
    outputs, references = ["Yes ", "yes.", "no"], ["Yes", "Yes", "Yes"]
    assert exact_match(outputs, references).values.tolist() == [1, 0, 0]
    assert accuracy(outputs, references).values.tolist() == [1, 1, 0]
    accepted = [["Paris"], ["8", "eight"], ["ice"]]
    assert contains(["It is Paris!", "Eight legs", "nice"], accepted).values.tolist() == [1, 1, 0]


def test_macro_f1_by_hand():
    outputs, references = ["pos", "pos", "neg", "what?"], ["pos", "neg", "neg", "neg"]
    # pos: found 1, guessed 2, true 1 → 2/3. neg: found 1, guessed 1, true 3 → 2/4.
    assert macro_f1(outputs, references).value == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert macro_f1(references, references).value == 1


@given(pairs=st.lists(st.tuples(*[st.text(st.sampled_from("abcd "), max_size=25)] * 2), min_size=1, max_size=8))
@settings(max_examples=60)
def test_bleu_made_of_rows_is_sacrebleus_corpus_bleu(pairs):
    outputs, references = [a for a, _ in pairs], [b for _, b in pairs]
    assert bleu(outputs, references).value == pytest.approx(sacrebleu.corpus_bleu(outputs, [references]).score)


@given(
    truth=st.lists(st.sampled_from(["joy", "anger", "fear"]), min_size=1, max_size=30),
    draw=st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_macro_f1_is_scikit_learns_over_the_references_labels(truth, draw):
    outputs = [draw.choice(["joy", "anger", "fear", "what?"]) for _ in truth]
    theirs = f1_score(truth, outputs, labels=sorted(set(truth)), average="macro", zero_division=0)
    assert macro_f1(outputs, truth).value == pytest.approx(theirs)


def longest_common(a, b):
    """Words of the longest common run with gaps, by trying every choice of words."""
    choices = (c for n in range(len(a), 0, -1) for c in itertools.combinations(a, n))
    return next((len(c) for c in choices if all(word in rest for rest in [iter(b)] for word in c)), 0)


@given(pairs=st.lists(st.tuples(*[st.lists(st.sampled_from("abc"), max_size=6)] * 2), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_rouge_l_is_the_longest_common_run_with_gaps(pairs):
    expected = []
    for a, b in pairs:
        common = longest_common(a, b)
        expected.append(2 * common / (len(a) + len(b)) if common else 0)
    score = rouge([" ".join(a) for a, _ in pairs], [" ".join(b) for _, b in pairs])
    assert score.values.tolist() == pytest.approx(expected)


def test_rouge_counts_words_and_pairs_and_is_blind_beyond_ascii():
    assert rouge(["the cat sat"], ["the black cat sat"], "rouge1").value == pytest.approx(6 / 7)
    assert rouge(["the cat sat"], ["the black cat sat"], "rouge2").value == pytest.approx(2 / 5)
    assert rouge(["für"], ["fr"]).value == 0 and rouge(["γάτα"], ["γάτα"]).value == 0, "as its docstring warns"
    assert rouge(["it is not safe"], ["it is safe"]).value > 0.85
    with pytest.raises(DataError, match="rouge1, rouge2 or rougeL"):
        rouge(["a"], ["a"], "rouge9")


@pytest.mark.parametrize("metric", [exact_match, accuracy, contains, macro_f1, bleu, rouge, slot_f1])
def test_a_missing_output_is_an_error(metric):
    with pytest.raises(DataError, match="1 outputs for 2 references"):
        metric(["a"], ["a", "b"])


# --- intervals


def test_ten_of_ten_is_not_certainty():
    value, low, high = share([True] * 10).interval()
    assert (value, high) == (1, pytest.approx(1)) and low == pytest.approx(0.7225, abs=1e-4)  # Wilson 1927
    assert wilson(0, 10).high == pytest.approx(1 - 0.7225, abs=1e-4)
    assert bootstrap([1.0] * 10).low == 1, "which is what the bootstrap would have said"


def test_the_bootstrap_agrees_with_theory_where_there_is_one():
    values = np.random.default_rng(1).normal(3, 2, size=400)
    value, low, high = bootstrap(values, n=2000)
    half = 1.96 * values.std() / 20
    assert value == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * half, rel=0.1) and low < value < high
    assert bootstrap(values, n=200, seed=5) == bootstrap(values, n=200, seed=5) != bootstrap(values, n=200, seed=6)


def test_a_corpus_metric_has_an_interval_too():
    references = [f"the {i} red cats sat on mat number {i}" for i in range(40)]
    outputs = [r if i % 2 else r.replace("red cats", "dogs") for i, r in enumerate(references)]
    value, low, high = bleu(outputs, references).interval(n=200)
    assert value == pytest.approx(sacrebleu.corpus_bleu(outputs, [references]).score)
    assert low < value < high and high - low < 30


def test_pairing_sees_a_gain_that_two_intervals_hide():
    hard = np.random.default_rng(0).normal(0, 10, size=50)
    before, after = Score(hard), Score(hard + 1)
    assert before.interval().high > after.interval().low, "the two intervals overlap"
    gain, chance = paired_bootstrap(before, after)
    assert gain.value == pytest.approx(1) and gain.low > 0.99 and chance == 0
    assert paired_bootstrap(after, before)[1] == 1
    with pytest.raises(DataError, match="same rows"):
        paired_bootstrap(before, Score(hard[:3]))


def test_no_rows_no_score():
    with pytest.raises(DataError, match="no rows"):
        bootstrap([])


# --- the model: a tiny random Llama that speaks in characters

TOKENIZER = make_tokenizer()
PROMPTS = ["hi", "a much longer question, is it not?", "so", "one more"]


@pytest.fixture
def model():
    model = make_tiny_llama(vocab_size=len(TOKENIZER), max_position_embeddings=256)
    inject(model, LoRAConfig(r=4, lora_alpha=8, lora_dropout=0.5))
    generator = torch.Generator().manual_seed(3)
    for layer in lora_layers(model).values():
        layer.B.data.normal_(0, 0.5, generator=generator)  # B = 0 would make an adapter that is not there
    return model


def greedy(model, prompt, steps):
    """One row, no cache, no padding: what batched generation must equal."""
    ids = prompt_ids([{"role": "system", "content": ""}, {"role": "user", "content": prompt}], TOKENIZER)
    answer = []
    with torch.no_grad():
        while len(answer) < steps:
            token = int(model(torch.tensor([ids + answer])).logits[0, -1].argmax())
            if token == TOKENIZER.eos_token_id:
                break
            answer.append(token)
    return TOKENIZER.decode(answer, skip_special_tokens=True).strip()


def test_batched_generation_equals_greedy_decoding_row_by_row(model):
    expected = [greedy(model, prompt, 12) for prompt in PROMPTS]
    assert len(set(expected)) > 1, "a model that says the same to everything would prove nothing"
    for batch_size in (1, 3, 16):
        assert generate(model, TOKENIZER, PROMPTS, max_new_tokens=12, batch_size=batch_size) == expected
    rows = [Row.chat(prompt, "unused") for prompt in PROMPTS]
    assert generate(model, TOKENIZER, rows, max_new_tokens=12) == expected


def test_generation_stops_at_the_end_token_and_keeps_nothing_after_it(model):
    with torch.no_grad():
        model.lm_head.weight[TOKENIZER.eos_token_id] = 0
    before = generate(model, TOKENIZER, PROMPTS, max_new_tokens=8)
    stop = next(letter for letter in before[0] if letter.strip())
    model.generation_config.eos_token_id = [TOKENIZER.convert_tokens_to_ids(stop)]  # the model's own list counts too
    after = generate(model, TOKENIZER, PROMPTS, max_new_tokens=8)
    assert after == [text.split(stop)[0].strip() for text in before]


def test_a_model_in_training_mode_is_measured_without_dropout_and_given_back_as_it_was(model):
    expected = generate(model, TOKENIZER, PROMPTS, 8), mean_nll(model, [encode(Row.chat("hi", "yes"), TOKENIZER)]).value
    model.train()
    model.model.layers[0].eval()  # a part that its owner froze
    modes = {name: module.training for name, module in model.named_modules()}
    assert generate(model, TOKENIZER, PROMPTS, 8) == expected[0]
    assert mean_nll(model, [encode(Row.chat("hi", "yes"), TOKENIZER)]).value == expected[1]
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not any(p.grad is not None for p in model.parameters())


def test_a_row_that_the_model_cannot_read_is_named(model):
    with pytest.raises(DataError, match="row 2: token 99999, and the model's table"):
        mean_nll(model, [Example([1, 2], [1, 2]), Example([1, 99999], [1, 99999])])


def test_nll_weighs_tokens_not_rows_and_equals_the_training_loss(model):
    examples = [encode(Row.chat("hi", answer), TOKENIZER) for answer in ("y", "a rather long answer")]
    with torch.no_grad():
        together = causal_lm_loss(model, collate(examples, TOKENIZER.pad_token_id))
        alone = [causal_lm_loss(model, collate([one], TOKENIZER.pad_token_id)) for one in examples]
    score = mean_nll(model, examples)
    assert score.value == pytest.approx(together.total.item() / together.count, rel=1e-5)
    of_rows = sum(loss.total.item() / loss.count for loss in alone) / 2
    assert abs(score.value - of_rows) > 1e-4, "the mean of the rows' means is another figure"
    assert perplexity(model, examples).value == pytest.approx(math.exp(score.value))


def test_a_uniform_model_has_the_vocabulary_as_its_perplexity():
    uniform = make_tiny_llama(vocab_size=len(TOKENIZER))
    with torch.no_grad():
        uniform.lm_head.weight.zero_()
    assert perplexity(uniform, [Example([5, 6, 7], [-100, 6, 7])]).value == pytest.approx(len(TOKENIZER), rel=1e-4)


def test_bits_per_byte_are_nats_over_bytes_and_know_no_tokens(model):
    rows = [Row.chat("hi", "déjà"), Row.chat("so", "yes")]
    nats = mean_nll(model, [encode(row, TOKENIZER) for row in rows]).values[:, 0].sum()
    score = bits_per_byte(model, TOKENIZER, rows)
    assert score.values[:, 1].tolist() == [6, 3], "é and à are two bytes each"
    assert score.value == pytest.approx(nats / math.log(2) / 9)
    text = Row.text("some prose")
    assert bits_per_byte(model, TOKENIZER, [text]).values[0, 1] == len("some prose") - 1, (
        "nothing foretells the first token"
    )


def test_a_uniform_model_needs_the_logarithm_of_the_vocabulary_a_byte():
    """Our tokenizer has a token a character: so many bits each, however the text is cut into rows."""
    uniform = make_tiny_llama(vocab_size=len(TOKENIZER))
    with torch.no_grad():
        uniform.lm_head.weight.zero_()
    score = bits_per_byte(uniform, TOKENIZER, [Row.text("some prose"), Row.text("and more")])
    assert score.value == pytest.approx(math.log2(len(TOKENIZER)), rel=1e-4)


def test_the_likeliest_label_is_the_one_with_the_smallest_loss(model):
    rows, labels = [Row.chat(prompt, "unused") for prompt in PROMPTS], ["yes", "no way", "x"]
    for row, chosen in zip(rows, likeliest(model, TOKENIZER, rows, labels)):
        totals = {}
        for label in labels:
            example = encode(Row.chat(row.prompt, label), TOKENIZER)
            with torch.no_grad():
                totals[label] = causal_lm_loss(model, collate([example], 0)).total.item()
        assert chosen == min(totals, key=totals.__getitem__)


# --- reports


class Echo:
    """A task whose answer is the question, so that copying is right."""

    name, metric, labels, max_new_tokens = "echo", "exact match", ("hi", "so"), 4

    def splits(self):
        questions = [Row.chat(prompt, prompt) for prompt in PROMPTS]
        return Splits([], [], [*questions, Row.text("some prose"), Row.text("and more of it")])

    def score(self, outputs, rows):
        return {"exact match": exact_match(outputs, [row.answer for row in rows])}

    def baselines(self, rows):
        return {"copying": [row.prompt for row in rows]}


def test_a_report_has_score_interval_baseline_likelihood_and_perplexity(model):
    report = evaluate(model, TOKENIZER, Echo())
    assert set(report.scores) == {"exact match", "exact match by likelihood", "perplexity"}
    assert report.baselines["copying"]["exact match"].value == 1
    assert report.interval.low <= report.value <= report.interval.high
    assert report.outputs == generate(model, TOKENIZER, PROMPTS, 4) and len(report.rows) == 6
    text = str(report)
    assert "echo, 6 test rows" in text and "baseline: copying" in text and str(report.interval) in text
    page = report._repr_html_()
    assert page.count("<tr>") == 4 and "<caption" in page and str(report.interval) in page
    figures = report.to_dict()["scores"]["exact match"]
    assert figures["baselines"] == {"copying": 1.0} and figures["value"] == report.value


def test_the_loss_of_the_wanted_answers_is_there_when_asked_for(model):
    plain, more = evaluate(model, TOKENIZER, Echo()), evaluate(model, TOKENIZER, Echo(), loss=True)
    wanted = mean_nll(model, [encode(Row.chat(prompt, prompt), TOKENIZER) for prompt in PROMPTS])
    assert "loss" not in plain.scores and more.scores["loss"].values.tolist() == wanted.values.tolist()
    with pytest.raises(DataError, match="max_length = 20"):
        evaluate(model, TOKENIZER, Echo(), loss=True, max_length=20)


def test_a_stored_report_keeps_its_rows_so_that_two_can_be_compared_later(model):
    report = evaluate(model, TOKENIZER, Echo())
    scores = json.loads(json.dumps(report.to_dict()))["scores"]
    hits = scores["exact match"]["values"]
    assert hits == report.scores["exact match"].values.tolist() and all(type(hit) is int for hit in hits)
    pairs = scores["perplexity"]["values"]
    assert len(pairs) == 2 and token_perplexity(np.array(pairs)) == report.scores["perplexity"].value


def test_limit_takes_so_many_of_each_kind_and_reports_compare_only_on_equal_rows(model):
    few, all_rows = evaluate(model, TOKENIZER, Echo(), limit=1), evaluate(model, TOKENIZER, Echo())
    assert [row.prompt for row in few.rows] == ["hi", ""]
    assert all_rows.gain_over(all_rows) == ((0, *all_rows.gain_over(all_rows).interval[1:]), 1)
    with pytest.raises(DataError, match="same rows"):
        few.gain_over(all_rows)


def test_a_wrong_split_is_named(model):
    with pytest.raises(DataError, match="train, valid, test"):
        evaluate(model, TOKENIZER, Echo(), split="dev")
    with pytest.raises(DataError, match="no valid rows"):
        evaluate(model, TOKENIZER, Echo(), split="valid")
