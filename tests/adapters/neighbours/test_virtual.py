"""Prefix and prompt tuning: against PEFT in float64 to 1e-9, and against the plainest reference there is, real tokens in front."""

import copy

import peft
import pytest
import torch
from helpers import tokens
from neighbour_runs import MODELS, batch, gpt2, llama, trainer, twenty_steps, values

from lora_edu.adapters import (
    LoRAConfig,
    PrefixTuning,
    PromptTuning,
    adapter_names,
    adapter_parameters,
    attach,
    audit,
    combine,
    disabled,
    fingerprint,
    inject,
    load,
    merge,
    remove_adapter,
    resize,
    save,
    set_adapter,
    set_scale,
    trainable_count,
    unload,
)
from lora_edu.errors import AdapterError, CheckpointError, ConfigError, MergeError, TargetError
from lora_edu.models import modes
from lora_edu.models.modules import checkpointing
from lora_edu.training import causal_lm_loss

pytestmark = pytest.mark.filterwarnings("ignore")
KINDS = {"prefix": PrefixTuning, "prompt": PromptTuning}
PEFTS = {"prefix": peft.PrefixTuningConfig, "prompt": peft.PromptTuningConfig}
both = pytest.mark.parametrize("kind", KINDS)
every_model = pytest.mark.parametrize("make", MODELS)
TEXT = (5, 17, 2, 9)


def table(model) -> torch.nn.Parameter:
    [p] = [p for name, p in model.named_parameters() if "prompt_embeddings" in name or "prompt_encoder" in name]
    return p


def ready(make="llama", kind="prefix", dtype=torch.float64, **more):
    model = attach(MODELS[make](dtype, **more), KINDS[kind](4))
    values(table(model), 1)
    return model


def pair(make, kind, tmp_path):
    theirs = peft.get_peft_model(MODELS[make](), PEFTS[kind](task_type="CAUSAL_LM", num_virtual_tokens=4)).double()
    values(table(theirs), 1)
    theirs.save_pretrained(tmp_path / "peft")
    return load(MODELS[make](), tmp_path / "peft", trainable=True), theirs.eval()


# -- PEFT --------------------------------------------------------------------------------------------------------------
@both
@every_model
def test_the_same_forward_gradients_and_weights_after_20_adamw_steps_as_pefts(make, kind, tmp_path):
    ours, theirs = pair(make, kind, tmp_path)
    inputs, plain = batch(), MODELS[make]()(**batch()).logits
    skip = 4 if kind == "prompt" else 0  # PEFT hands out the virtual tokens' logits too
    torch.testing.assert_close(ours(**inputs).logits, theirs(**inputs).logits[:, skip:], rtol=0, atol=1e-9)
    assert not torch.allclose(ours(**inputs).logits, plain, atol=1e-3)
    twenty_steps(ours, theirs, {"table": table(ours)}, {"table": table(theirs)}, skip=skip)


@both
@every_model
def test_peft_loads_our_folder_with_the_same_logits(make, kind, tmp_path):
    ours = ready(make, kind)
    folder = save(ours, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(MODELS[make](), folder).double().eval()
    skip = 4 if kind == "prompt" else 0
    torch.testing.assert_close(theirs(**batch()).logits[:, skip:], ours(**batch()).logits, rtol=0, atol=1e-6)
    again = load(MODELS[make](), folder)
    assert torch.equal(again(**batch()).logits, ours(**batch()).logits)
    assert audit(again).trainable == 0 and adapter_names(again) == ["default"]


# -- real tokens in front are the reference ------------------------------------------------------------------------------
@both
@every_model
@pytest.mark.parametrize("cached", [True, False])
def test_started_from_a_text_it_answers_as_behind_that_text(make, kind, cached):
    base, x = MODELS[make](), tokens(2, 6)
    model = attach(MODELS[make](), KINDS[kind](4, start_from=TEXT))
    whole = torch.cat([torch.tensor(TEXT).expand(2, -1), x], dim=1)
    torch.testing.assert_close(model(x, use_cache=cached).logits, base(whole).logits[:, 4:], rtol=0, atol=1e-12)
    options = {"max_new_tokens": 5, "do_sample": False, "use_cache": cached, "eos_token_id": None, "pad_token_id": 0}
    written = model.generate(x, **options)[:, 6:]
    assert torch.equal(written, base.generate(whole, **options)[:, 10:])
    assert not torch.equal(written, base.generate(x, **options)[:, 6:])


@both
@every_model
def test_padding_on_either_side_changes_nothing(make, kind):
    model, x = ready(make, kind), tokens(1, 5).clamp(min=1)
    alone = model(x).logits
    right = torch.cat([x, torch.zeros(1, 3, dtype=torch.long)], dim=1)
    mask = (torch.arange(8) < 5)[None].long()
    torch.testing.assert_close(model(right, attention_mask=mask).logits[:, :5], alone, rtol=0, atol=1e-12)
    left = {"input_ids": right.roll(3, dims=1), "attention_mask": mask.roll(3, dims=1)}
    positions = (left["attention_mask"].cumsum(1) - 1).clamp(min=0)
    torch.testing.assert_close(model(**left, position_ids=positions).logits[:, 3:], alone, rtol=0, atol=1e-12)
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(model.generate(**left, **options)[:, 8:], model.generate(x, **options)[:, 5:])
    beams = model.generate(**left, **options, num_beams=3)[:, 8:]
    assert torch.equal(beams, model.generate(x, **options, num_beams=3)[:, 5:])


@both
@every_model
def test_the_losss_fast_path_and_logits_to_keep_see_the_texts_own_positions(make, kind):
    from lora_edu.adapters import fused

    model, inputs = ready(make, kind), batch()
    results = []
    for on in (True, False):
        model.zero_grad()
        with fused.switched(on):
            loss = causal_lm_loss(model, inputs)
        loss.total.backward()
        results.append((loss.total.detach(), table(model).grad.clone()))
    assert abs(results[0][0] / loss.count - model(**inputs).loss) < 1e-5  # transformers rounds its own to float32
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    kept = model(input_ids=inputs["input_ids"], logits_to_keep=torch.tensor([1, 4])).logits
    torch.testing.assert_close(kept, model(input_ids=inputs["input_ids"]).logits[:, [1, 4]], rtol=0, atol=1e-12)


@both
@every_model
def test_gradient_checkpointing_gives_the_same_gradient(make, kind, caplog):
    """transformers takes a block's cache away then, and a prefix would go with it."""
    grads = []
    for wanted in (False, True):
        model = ready(make, kind)
        with modes(model, training=True), checkpointing(model, wanted):
            causal_lm_loss(model, batch()).total.backward()
        grads.append(table(model).grad)
    torch.testing.assert_close(*grads, rtol=0, atol=1e-12)
    assert grads[0].abs().max() > 1e-3 and "incompatible" not in caplog.text


# -- the laws -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("make", "kind", "numbers"), [
    ("llama", "prefix", 5 * 2 * 2 * 2 * 4), ("llama", "prompt", 5 * 16), ("gpt2", "prefix", 5 * 2 * 2 * 8), ("gpt2", "prompt", 5 * 8),
])  # fmt: skip
def test_the_count_is_the_formula(make, kind, numbers):
    """V·2·L·(kv heads · head size), V·d; of Llama's four heads two have keys of their own."""
    model = MODELS[make]()
    assert trainable_count(model, KINDS[kind](5)) == numbers
    assert audit(attach(model, KINDS[kind](5))).trainable == numbers


@both
def test_off_is_the_base_and_taking_it_out_leaves_nothing(kind):
    base, model, x = llama(), ready(kind=kind), tokens()
    on = model(x).logits
    with disabled(model):
        assert torch.equal(model(x).logits, base(x).logits)
    set_scale(model, 0)
    assert torch.equal(model(x).logits, base(x).logits)
    set_scale(model, 1)
    assert torch.equal(model(x).logits, on)
    twin = copy.deepcopy(model)
    values(table(twin), 2)
    assert torch.equal(model(x).logits, on) and not torch.equal(twin(x).logits, on)
    remove_adapter(twin, "default")
    assert torch.equal(twin(x).logits, base(x).logits) and not adapter_names(twin)
    assert list(twin.state_dict()) == list(base.state_dict()) and "forward" not in twin.model.__dict__
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in twin.modules())


@both
def test_names_company_and_the_base_that_stays(kind):
    model = llama()
    print_of_base = fingerprint(model)
    inject(model, LoRAConfig(r=2, target_modules=["q_proj"]), "lora")
    values(model.model.layers[0].self_attn.q_proj.B, 5)
    lora = model(tokens()).logits
    attach(model, KINDS[kind](3), "first")
    attach(model, KINDS[kind](4), "second")
    for name in ("first", "second"):
        values(adapter_parameters(model, name)[f"lora_virtual.prompt_embeddings.{name}"], 3)
    assert list(audit(model).names) == ["lora_virtual.prompt_embeddings.second"]
    outputs = {}
    for names in ("first", "second", "first", "lora", ("lora", "second")):
        set_adapter(model, names)
        found = model(tokens()).logits
        assert torch.equal(outputs.setdefault(names, found), found)
    assert torch.equal(outputs["lora"], lora)
    assert all(
        not torch.allclose(outputs[a], outputs[b], atol=1e-3)
        for a, b in [("first", "second"), ("second", ("lora", "second"))]
    )
    with pytest.raises(AdapterError, match="first, second"):
        set_adapter(model, ["first", "second"])
    with pytest.raises(AdapterError, match="no LoRA"):
        resize(model, rank=1, adapter="first")
    with pytest.raises(AdapterError, match="no LoRA"):
        combine(model, {"first": 1.0, "lora": 1.0}, name="both")
    remove_adapter(model, "first")
    set_adapter(model, "second")
    assert torch.equal(model(tokens()).logits, outputs["second"])
    set_adapter(model, "lora")
    merge(model)
    unload(model)
    torch.testing.assert_close(model(tokens()).logits, lora, rtol=0, atol=1e-12)
    assert fingerprint(model) != print_of_base and adapter_names(model) == []


@both
def test_what_is_refused(kind, tmp_path):
    method = KINDS[kind]
    for wrong in (
        {"num_virtual_tokens": 0},
        {"num_virtual_tokens": True},
        {"start_from": "text"},
        {"start_from": (1, 2)},
    ):
        with pytest.raises(ConfigError):
            method(**wrong)
    with pytest.raises(TargetError, match="decoders"):
        attach(torch.nn.Linear(2, 2), method(3))
    model = ready(kind=kind)
    with pytest.raises(MergeError, match="nothing to merge"):
        merge(model)
    with pytest.raises(AdapterError, match="no dial"):
        set_scale(model, 0.5)
    packed = {"input_ids": tokens(1, 6), "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]])}
    with pytest.raises(AdapterError, match="packed"):
        model(**packed)
    with pytest.raises(AdapterError, match="pair of positions"):
        model.generate(tokens(), max_new_tokens=2, cache_implementation="static", eos_token_id=None)
    folder = save(model, tmp_path)
    with pytest.raises(CheckpointError, match=r"made for another model|shape"):
        load(llama(num_hidden_layers=3, hidden_size=32), folder)
    with pytest.raises(AdapterError, match="24 positions"):
        short = attach(gpt2(), method(20))
        short(tokens(1, 5))


def test_a_prefix_is_refused_where_attention_sees_a_window():
    from transformers import MistralConfig, MistralForCausalLM

    model = MistralForCausalLM(MistralConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, sliding_window=8))  # fmt: skip
    with pytest.raises(TargetError, match="window"):
        attach(model, PrefixTuning(4))
    assert not list(model.state_dict().keys() & {"lora_virtual"})


@both
def test_a_run_interrupted_and_resumed_ends_as_if_it_never_was(kind, tmp_path):
    def model():
        torch.manual_seed(3)
        return attach(llama(torch.float32), KINDS[kind](4))

    straight = model()
    trainer(straight, steps=6).train()
    run = trainer(model(), steps=6, output_dir=str(tmp_path), save_every=3)
    run.callbacks.append(_StopAt(3))
    with pytest.raises(KeyboardInterrupt):
        run.train()
    resumed = model()
    history = trainer(resumed, steps=6, output_dir=str(tmp_path), save_every=3).resume()
    assert torch.equal(table(resumed), table(straight)) and len(history.steps) == 6
    other = attach(llama(torch.float32), KINDS[kind](5))
    with pytest.raises(Exception, match=r"num_virtual_tokens|trainable"):
        trainer(other, steps=6, output_dir=str(tmp_path), save_every=3).resume()


class _StopAt:
    shows_progress = False

    def __init__(self, step):
        self.step = step

    def __getattr__(self, hook):
        return lambda *_: None

    def on_step_end(self, trainer, record):
        if record["step"] == self.step:
            trainer._interrupted.set()
