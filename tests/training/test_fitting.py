"""The run that scales itself: each choice with its sentence, on devices whose memory and clock are made up."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import make_tiny_llama

from lora_edu.adapters import LoRAConfig, inject
from lora_edu.data import IGNORE, Example, collate
from lora_edu.errors import ConfigError, DataError
from lora_edu.models.device import Settings
from lora_edu.training import TrainConfig, Trainer, causal_lm_loss, trainer
from lora_edu.training import run as training_run
from lora_edu.training.memory import fit, fitting, megabytes, predict_memory
from lora_edu.training.memory.fitting import SPARE

LENGTHS = (9, 24, 13, 24, 17, 20, 11, 15, 22, 10)
RECIPE = TrainConfig(batch_size=4, gradient_accumulation_steps=2, learning_rate=1e-2, precision="fp32", epochs=3)
PAD = partial(collate, pad_token_id=0)


def rows() -> list[Example]:
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(1, 32, (length,), generator=draw).tolist() for length in LENGTHS]
    return [Example(row, [IGNORE] * 4 + row[4:]) for row in ids]


def adapted(**options):
    return inject(make_tiny_llama(**options), LoRAConfig(r=2))


def needed(model, size: int, checkpointed: bool = False) -> int:
    """Bytes of a micro-batch of the longest rows, worked out here from the ledger alone."""
    answers = sum(sorted((length - 4 for length in LENGTHS), reverse=True)[:size])
    return predict_memory(
        model, size, 24, answer_tokens=answers, padded=size > 1, gradient_checkpointing=checkpointed
    ).total  # fmt: skip


def room_for(size: int) -> int:
    """What a device must have so that just so many bytes may be used."""
    return int(size / (1 - SPARE)) + 1


def table(found) -> dict[str, tuple[str, str]]:
    return {choice.what: (choice.value, choice.why) for choice in found.choices}


def fitted(model, room: int, recipe: TrainConfig = RECIPE, **options):
    return fit(model, rows(), recipe, collate=PAD, room=room, **options)


def test_with_room_enough_all_rows_go_at_once():
    model = adapted()
    found = fitted(model, 10**9)
    assert (found.config.batch_size, found.config.gradient_accumulation_steps) == (8, 1)
    assert not found.config.gradient_checkpointing and found.ledger.total == needed(model, 8)
    said = table(found)
    assert said["device"] == ("cpu", "the model lies there")
    assert said["sequence length"] == ("24 tokens", "the longest of 10 rows; nothing is cut")
    assert said["rows a step"] == ("8", "the recipe's: the same everywhere")
    need = f"by the ledger {megabytes(needed(model, 8))} of the 900 MB there are to use"
    assert said["rows at once"] == ("8", f"all of them: {need}")
    assert said["gradient checkpointing"] == ("off", "the activations fit as they are")
    assert said["steps"] == ("6", "the recipe's; nothing was timed")


@pytest.mark.parametrize("size", [4, 2, 1])
def test_with_less_room_fewer_rows_go_at_once_and_a_step_keeps_its_rows(size):
    model = adapted()
    found = fitted(model, room_for(needed(model, size)))
    assert (found.config.batch_size, found.config.gradient_accumulation_steps) == (size, 8 // size)
    assert not found.config.gradient_checkpointing and found.ledger.total == needed(model, size) <= found.room
    assert f"all 8 at once would need {megabytes(needed(model, 8))}" in table(found)["rows at once"][1]
    one_byte_less = fitted(model, room_for(needed(model, size)) - 4)
    assert one_byte_less.config.batch_size < size or one_byte_less.config.gradient_checkpointing


def test_checkpointing_comes_where_one_row_alone_does_not_fit():
    model = adapted(num_hidden_layers=6)
    room = needed(model, 1) - 1
    found = fitted(model, room_for(room - 1))
    assert found.config.gradient_checkpointing and found.ledger.total <= room
    assert found.config.batch_size * found.config.gradient_accumulation_steps == 8
    assert found.ledger.total == needed(model, found.config.batch_size, checkpointed=True)
    chosen, why = table(found)["gradient checkpointing"]
    assert chosen == "on" and why == f"without it one row alone would need {megabytes(room + 1)}; it costs time"


def test_checkpointing_that_the_recipe_asks_for_stays():
    found = fitted(adapted(), 10**9, replace(RECIPE, gradient_checkpointing=True))
    assert table(found)["gradient checkpointing"] == ("on", "the recipe says so")


def test_the_run_that_was_scaled_down_is_the_same_run():
    """Eight rows at once against two at a time with checkpointing: the same losses and weights up to rounding."""
    runs = []
    for room in (10**9, room_for(needed(adapted(num_hidden_layers=6), 1) - 1)):
        model = adapted(num_hidden_layers=6)
        config = fitted(model, room).config
        history = Trainer(model, rows(), causal_lm_loss, config, collate=PAD, progress=False).train()
        runs.append((config, history, torch.cat([p.flatten() for p in model.parameters() if p.requires_grad])))
    (large, one, weights), (small, other, again) = runs
    assert large.decisive() == small.decisive() and (large.batch_size, small.batch_size) != (8, 8)
    torch.testing.assert_close(torch.tensor(other.losses), torch.tensor(one.losses), rtol=1e-5, atol=0)
    torch.testing.assert_close(again, weights, rtol=1e-3, atol=1e-5)
    assert one.losses[-1] < one.losses[0]


# --- nothing fits -----------------------------------------------------------------------------------------------------


def test_a_model_that_fits_nowhere_says_by_how_much_and_that_its_weights_are_too_large():
    model = adapted()
    least = needed(model, 1, checkpointed=True)
    weights = predict_memory(model, 1, 8).weights
    with pytest.raises(ConfigError) as error:
        fitted(model, room_for(weights // 2))
    said = str(error.value)
    assert "even one row of 24 tokens with gradient checkpointing needs " + megabytes(least) in said
    assert f"{megabytes(least - int((1 - SPARE) * room_for(weights // 2)))} too little" in said
    assert f"weights alone take {megabytes(weights)}: load the base in bf16" in said and "shard" in said


def test_weights_in_bf16_are_not_told_to_become_bf16():
    model = make_tiny_llama(dtype=torch.bfloat16)
    with pytest.raises(
        ConfigError,
        match=r"weights alone take [^:]+: load it in four bits \(load_base\(…, bits=4\)\), take a smaller base",
    ):
        fitted(model, room_for(predict_memory(model, 1, 8).weights // 2))


def test_where_only_the_optimiser_is_too_large_an_adapter_is_named():
    model = make_tiny_llama()
    ledger = predict_memory(model, 1, 8)
    with pytest.raises(ConfigError, match=r"gradients and optimiser do not .*train an adapter instead of all weights"):
        fitted(model, room_for(2 * ledger.weights))


def test_where_only_activations_are_too_large_the_length_that_fits_is_named():
    model = adapted()
    least = predict_memory(model, 1, 24, answer_tokens=20, gradient_checkpointing=True)
    with pytest.raises(ConfigError, match=r"rows of (12|6|3|1) tokens would fit"):
        fitted(model, room_for(least.total - least.activations // 4))


def test_a_row_beyond_the_model_is_refused_by_number():
    long = Example(list(range(1, 32)) * 3, list(range(1, 32)) * 3)
    with pytest.raises(DataError, match="Example 11 has 93 tokens, and this model reads 64 at most"):
        fit(adapted(), [*rows(), long], RECIPE, collate=PAD, room=10**9)
    with pytest.raises(DataError, match="no examples"):
        fit(adapted(), [], RECIPE, collate=PAD)


# --- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timings", "precision", "why"),
    [
        ({"fp32": 62.0, "bf16": 41.0}, "bf16", "a trial on two small layers: 41 ms in bf16, 62 ms in fp32"),
        ({"fp32": 40.0, "bf16": 41.0}, "fp32", "exact, and bf16 is not clearly faster (a trial on two small layers: 41 ms in bf16, 40 ms in fp32)"),
        ({"fp32": 40.0, "bf16": float("inf")}, "fp32", "bf16 does not run on this device"),
    ],
)  # fmt: skip
def test_precision_is_what_the_trainer_measured(monkeypatch, timings, precision, why):
    settings = Settings("cpu", precision, 1, {(name, 1): ms for name, ms in timings.items()})
    for module in (fitting, training_run):
        monkeypatch.setattr(module, "fastest_settings", lambda: settings)
    model, recipe = adapted(), replace(RECIPE, precision="auto")
    found = fitted(model, 10**9, recipe)
    assert table(found)["precision"] == (precision, why)
    assert Trainer(model, rows(), causal_lm_loss, found.config, collate=PAD).precision == precision
    assert found.precision == precision
    assert ("bf16 copies of weights" in found.ledger.parts) == (precision == "bf16")


def test_float64_stays_and_the_recipe_may_say():
    assert table(fitted(adapted(dtype=torch.float64), 10**9, replace(RECIPE, precision="auto")))["precision"] == (
        "fp32", "no autocast: the weights are float64",
    )  # fmt: skip
    assert table(fitted(adapted(), 10**9))["precision"] == ("fp32", "the recipe says so")


def test_it_says_how_the_base_is_held_and_what_the_other_way_would_take(monkeypatch):
    """Copies are made for a run in bf16 on a base in fp32, unless memory is short."""
    model = inject(make_tiny_llama(), LoRAConfig(r=2))
    frozen = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    room = room_for(needed(model, 16))

    def base(**settings):
        return table(fitted(model, room, replace(RECIPE, **settings)))["base weights"]

    assert base(precision="fp32") == ("float32", f"as they were loaded: {megabytes(frozen)}")
    value, why = base(precision="bf16")
    assert value == "float32, and copies in bf16" and f"would hold {megabytes(frozen // 2)} alone" in why
    value, why = base(precision="bf16", gradient_checkpointing=True)
    assert value == "float32" and "cast at every use" in why
    with_halves = inject(make_tiny_llama().to(torch.bfloat16), LoRAConfig(r=2))
    for own_bf16, more in ((True, ""), (False, f"hold {megabytes(frozen)}")):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda own=own_bf16: own)
        name, why = table(fitted(with_halves, room, replace(RECIPE, precision="bf16")))["base weights"]
        assert name == "bfloat16" and why.startswith(f"as they were loaded: {megabytes(frozen // 2)}")
        assert why.endswith(more) and ("several times as fast" in why) == (not own_bf16)


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_seconds_a_step(monkeypatch):
    """A loss function under which every micro-batch takes two seconds of the trainer's clock, and the first one 100 more."""
    clock = [0.0]
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def slow(model, batch):
        clock[0] += 102 if clock[0] == 0 else 2
        return causal_lm_loss(model, batch)

    return slow


def test_as_many_steps_as_the_time_allows(two_seconds_a_step):
    model = adapted()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = torch.random.get_rng_state()
    found = fitted(model, 10**9, minutes=9 / 60, loss_fn=two_seconds_a_step)
    assert found.seconds == 2.0 and found.config.max_steps == 4
    assert table(found)["steps"] == ("4 of 6", "2 s a step, and the time allowed is 9 s")
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_run_that_is_short_enough_stays_whole(two_seconds_a_step):
    found = fitted(adapted(), 10**9, minutes=1, loss_fn=two_seconds_a_step)
    assert found.config.max_steps is None
    assert table(found)["steps"] == ("6", "all of the recipe's: 2 s a step, 12 s in all")


def test_a_step_of_several_micro_batches_takes_longer(two_seconds_a_step):
    model = adapted()
    found = fitted(model, room_for(needed(model, 4)), minutes=60, loss_fn=two_seconds_a_step)
    assert found.seconds == pytest.approx(3.0)  # the timed steps: one of 2 rows in one micro-batch, one of 8 in two


def test_time_for_not_one_step(two_seconds_a_step):
    with pytest.raises(ConfigError, match=r"One step takes 2 s, and the time allowed is 1\.5 s"):
        fitted(adapted(), 10**9, minutes=1.5 / 60, loss_fn=two_seconds_a_step)


# --- other architectures, and how it is shown -------------------------------------------------------------------------


def test_a_model_that_the_ledger_does_not_know_is_measured():
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    shape = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 4,
    }
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=32, num_key_value_heads=2, max_position_embeddings=64, **shape))
    inject(model, LoRAConfig(r=2))
    with pytest.raises(ConfigError, match="not Llama-shaped"):
        predict_memory(model, 1, 8)
    large = fitted(model, 10**9)
    assert large.config.batch_size == 8
    small = fitted(model, room_for(large.ledger.total - large.ledger.activations // 2))
    assert small.config.batch_size == 4 and small.ledger.activations == large.ledger.activations // 2
    with pytest.raises(ConfigError, match="Nothing fits"):
        fitted(model, 1000)


def test_shown_as_text_and_as_a_table():
    found = fitted(adapted(), 10**9)
    text, html = str(found), found._repr_html_()
    assert len(text.splitlines()) == len(found.choices) == html.count('<tr><th scope="row"') == 8
    assert "How this run fits this machine" in html and "by the ledger" in text and "by the ledger" in html


def test_the_memory_there_is_comes_from_the_device(monkeypatch):
    model = adapted()
    monkeypatch.setattr(fitting, "memory_for_this_process", lambda device: room_for(needed(model, 2)))
    assert fit(model, rows(), RECIPE, collate=PAD).config.batch_size == 2
