"""What lies in a folder: readable by PEFT whatever was asked for, both files of one save, and hostile ones refused in words."""

import copy
import json
import os
import warnings

import peft
import pytest
import torch
from conftest import make_tiny_llama
from helpers import randomise, tokens
from safetensors.torch import load_file, save_file
from torch import nn

from lora_edu.adapters import LoRAConfig, inject, load, lora_layers, merge, save, unload, untie
from lora_edu.adapters.config import LoRAConfig as Config
from lora_edu.adapters.folder import CONFIG, WEIGHTS
from lora_edu.adapters.identity import resized, rows_of_file
from lora_edu.errors import CheckpointError, ConfigError

Q = LoRAConfig(r=2, target_modules=["q_proj"])


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x):
        return x + self.mlp(x)


class GPT(nn.Module):
    """As written from scratch: numbered matrices in numbered blocks."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks, self.head = nn.Sequential(Block(), Block()), nn.Linear(8, 8)

    def forward(self, x):
        return self.head(self.blocks(x))


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({}, 5),
        ({"exclude_modules": ["head"]}, 4),
        ({"layers_to_transform": [1]}, 2),
        ({"target_modules": ["0", "mlp.2"], "exclude_modules": "blocks.0"}, 4),
        ({"target_modules": r".*mlp\.[02]", "layers_to_transform": [0]}, 2),  # which PEFT itself refuses
        ({"target_modules": ("blocks.1.mlp.0",)}, 1),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_whatever_was_injected_is_saved_and_peft_finds_the_same_layers(tmp_path, settings, layers):
    model, x = randomise(inject(GPT(), LoRAConfig(r=2, **settings))), torch.randn(3, 8)
    folder = save(model, tmp_path)
    assert len(lora_layers(model)) == len(lora_layers(load(GPT(), folder))) == layers
    theirs = peft.PeftModel.from_pretrained(GPT(), folder)
    assert sum(type(m).__name__ == "Linear" and hasattr(m, "lora_A") for m in theirs.modules()) == layers
    torch.testing.assert_close(theirs(x), model(x), rtol=0, atol=1e-6)


def test_the_task_is_what_the_model_is_for(tmp_path):
    def written(model):
        return json.loads((save(model, tmp_path) / CONFIG).read_text())["task_type"]

    assert written(inject(GPT(), LoRAConfig(r=2))) is None
    assert written(inject(make_tiny_llama(), Q)) == "CAUSAL_LM"
    assert written(inject(make_tiny_llama().model, Q)) is None  # has no head to generate with


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_a_wrapped_model_is_saved_under_its_own_names(tmp_path, wrap):
    model = randomise(inject(GPT(), LoRAConfig(r=2)))
    assert all(
        k.startswith("base_model.model.blocks.")
        for k in load_file(save(wrap(model), tmp_path) / WEIGHTS)
        if "head" not in k
    )
    x = torch.randn(3, 8)
    plain = GPT()
    load(wrap(plain), tmp_path)
    assert torch.equal(plain(x), model(x))


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_save_that_is_killed_between_its_files_leaves_weights_and_alpha_of_one_adapter(tmp_path, monkeypatch, stop):
    one = randomise(inject(make_tiny_llama(), LoRAConfig(r=2, lora_alpha=4, target_modules=["q_proj"])))
    two = randomise(inject(make_tiny_llama(), LoRAConfig(r=2, lora_alpha=64, target_modules=["q_proj"])), seed=7)
    save(one, tmp_path)
    count, replace = iter(range(1, 99)), os.replace

    def killed(source, target):
        if next(count) == stop:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save(two, tmp_path)
    monkeypatch.undo()
    found = load(make_tiny_llama(), tmp_path)(tokens()).logits
    assert torch.equal(found, (two if stop == 3 else one)(tokens()).logits)
    assert torch.equal(load(make_tiny_llama(), save(two, tmp_path))(tokens()).logits, two(tokens()).logits)


def factor(folder, change):
    tensors = load_file(folder / WEIGHTS)
    key = next(iter(tensors))
    tensors[key] = change(tensors[key])
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.double().fill_(1e39), "not finite"),
        (lambda t: t.bool(), "holds bool"),
        (lambda t: t.int(), "holds int32"),
        (lambda t: t.to(torch.complex64), "holds complex64"),
        (lambda t: t.to(torch.float8_e4m3fn), "holds float8_e4m3fn"),
    ],
)
def test_what_is_no_ordinary_number_is_refused(tmp_path, change, words):
    factor(save(randomise(inject(make_tiny_llama(), Q)), tmp_path), change)
    model = make_tiny_llama()
    with pytest.raises(CheckpointError, match=words):
        load(model, tmp_path)
    assert not lora_layers(model)


def test_half_precision_factors_load(tmp_path):
    factor(save(randomise(inject(make_tiny_llama(), Q)), tmp_path), lambda t: t.half())
    assert lora_layers(load(make_tiny_llama(), tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000, "[]", "3", '{"r": 1' + "0" * 400 + "}", '{"lora_alpha": 1' + "0" * 400 + "}", '{"lora_alpha": 1e308}',
        '{"target_modules": 5}', '{"target_modules": [["q_proj"]]}', '{"modules_to_save": ["("]}', '{"layers_to_transform": true}',
        '{"layers_to_transform": ["1"]}', '{"use_rslora": "false"}', '{"rank_pattern": 3}', '{"rank_pattern": {"q": "2"}}',
        '{"lora_dropout": true}', '{"task_type": 3}', '{"init_lora_weights": 1}', '{"init_lora_weights": "pissa"}',
    ],
)  # fmt: skip
def test_a_configuration_that_is_none_is_refused_in_words(tmp_path, content):
    save(inject(make_tiny_llama(), Q), tmp_path)
    (tmp_path / CONFIG).write_text(content)
    with pytest.raises(CheckpointError, match=CONFIG) as refused:
        load(make_tiny_llama(), tmp_path)
    assert len(str(refused.value)) < 1000


def test_a_file_in_place_of_the_folder_and_enormous_ones_are_refused(tmp_path):
    save(inject(make_tiny_llama(), Q), tmp_path)
    with pytest.raises(CheckpointError, match="name the folder it is in"):
        load(make_tiny_llama(), tmp_path / WEIGHTS)
    os.truncate(tmp_path / WEIGHTS, 6 * 2**30)  # takes no room
    with pytest.raises(CheckpointError, match="damaged"):
        load(make_tiny_llama(), tmp_path)
    os.truncate(tmp_path / CONFIG, 6 * 2**30)
    with pytest.raises(CheckpointError, match="no adapter's configuration"):
        load(make_tiny_llama(), tmp_path)


def test_pefts_defaults_count_where_a_file_says_nothing():
    assert Config.from_dict({"target_modules": ["q"]}).lora_alpha == peft.LoraConfig().lora_alpha == 8
    assert Config.from_dict({"target_modules": ["q"]}).use_rslora is False


@pytest.mark.parametrize(
    "key", ["target_modules", "exclude_modules", "rank_pattern", "alpha_pattern", "modules_to_save", "layers_pattern"]
)
@pytest.mark.parametrize("pattern", ["(.+)+!", "(.*)*x{3}", "(a|aa)*!", "((x{1,50}){1,50}){1,50}!", r"(.)\1", ".*" * 30 + "!", "(.*){9}!"])  # fmt: skip
def test_patterns_that_never_end_are_refused_at_once(key, pattern):
    value = (
        {pattern: 2}
        if key.endswith("k_pattern") or key.startswith("alpha")
        else pattern
        if key.endswith("get_modules")
        else [pattern]
    )
    value = pattern if key in ("target_modules", "exclude_modules") else value
    with pytest.raises(ConfigError, match="pattern"):
        Config.from_dict({key: value, "layers_to_transform": [0]})


@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.(q_proj|v_proj)", r"model\.layers\.(0|1|2)\..*", r"^(?!.*vision).*(q|k|v|o)_proj$", r".*layers\.([0-9]|1[0-9])\..*_proj",
        r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.mlp\.(?:up|down)_proj)",
    ],
)  # fmt: skip
def test_patterns_that_people_use_are_taken(pattern):
    assert Config(target_modules=pattern).target_modules == pattern


# -- tied and resized tables -------------------------------------------------------------------------------------------
def bart():
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(0)
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes |= {
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "d_model": 16,
        "vocab_size": 32,
        "max_position_embeddings": 32,
    }
    return BartForConditionalGeneration(BartConfig(**sizes, forced_eos_token_id=2)).eval()


def test_an_encoder_decoder_can_be_untied_merged_and_read_again(tmp_path):
    model = randomise(inject(bart(), LoRAConfig(r=2, target_modules=["lm_head", "q_proj"])))
    expected = model(tokens(), decoder_input_ids=tokens(seed=4)).logits
    merge(untie(model))
    unload(model).save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(tokens(), decoder_input_ids=tokens(seed=4)).logits, expected, rtol=1e-4, atol=1e-4)


def test_rows_of_new_tokens_travel_with_the_adapter(tmp_path):
    make_tiny_llama().save_pretrained(tmp_path / "base")

    def with_new_tokens(seed):
        model = type(make_tiny_llama()).from_pretrained(tmp_path / "base").eval()
        torch.manual_seed(seed)
        model.resize_token_embeddings(40, mean_resizing=False)
        return model

    model, x = randomise(inject(with_new_tokens(0), Q)), tokens(vocabulary=40)
    folder = save(model, tmp_path / "adapter")
    with pytest.warns(UserWarning, match="new tokens: their rows, from 32 on"):
        other = load(with_new_tokens(1), folder)
    assert torch.equal(other(x).logits, model(x).logits)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(with_new_tokens(0), folder)
    with pytest.raises(CheckpointError, match="resize it first"):
        load(type(model).from_pretrained(tmp_path / "base"), folder)


@pytest.mark.parametrize("commit", [None, "c0ffee"])
def test_a_base_known_by_its_name_on_the_hub_has_its_rows_in_the_hub_s_cache(tmp_path, monkeypatch, commit):
    """As transformers leaves it: a name in the model's configuration, and the files in a snapshot."""
    from huggingface_hub import constants

    repository = tmp_path / "models--someone--tiny"
    make_tiny_llama().save_pretrained(repository / "snapshots" / "c0ffee")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c0ffee")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = make_tiny_llama()
    model.config._name_or_path, model.config._commit_hash = "someone/tiny", commit
    assert rows_of_file(model) == 32
    model.resize_token_embeddings(40, mean_resizing=False)
    assert rows_of_file(model) == 32 and resized(model)[0] == 32
    for other in ("someone/else", "no name at all", "", None, 7):
        model.config._name_or_path = other
        assert rows_of_file(model) is None


def test_a_new_head_that_is_saved_is_no_other_base(tmp_path):
    model = inject(make_tiny_llama(), LoRAConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]))
    fresh, other = make_tiny_llama(), make_tiny_llama(seed=1)
    nn.init.normal_(fresh.lm_head.weight)  # as the head of a classifier is, each time it is made
    folder = save(randomise(model), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(fresh, folder)
    with pytest.warns(UserWarning, match="other weights"):
        load(other, folder)


# -- PEFT's folders ----------------------------------------------------------------------------------------------------
def classifier():
    from transformers import LlamaForSequenceClassification

    config = make_tiny_llama().config
    config.num_labels = 2
    torch.manual_seed(0)
    return LlamaForSequenceClassification(config).eval()


def tied():
    return make_tiny_llama(tied=True)


PEFTS = {
    "tied head": (tied, {"target_modules": ["lm_head", "q_proj"]}),
    "tied head and embedding": (tied, {"target_modules": ["lm_head", "embed_tokens"]}),
    "ensure_weight_tying": (tied, {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}),
    "ensure_weight_tying, in full": (tied, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    "classifier": (classifier, {"target_modules": ["q_proj"], "task_type": "SEQ_CLS"}),
    "classifier all-linear": (classifier, {"target_modules": "all-linear", "task_type": "SEQ_CLS"}),
    "rank above a side": (make_tiny_llama, {"target_modules": ["q_proj"], "r": 20}),
    "init False": (make_tiny_llama, {"target_modules": ["q_proj"], "init_lora_weights": False}),
    "init orthogonal": (make_tiny_llama, {"target_modules": ["q_proj"], "init_lora_weights": "orthogonal"}),
    "every …norm": (make_tiny_llama, {"target_modules": ["q_proj"], "modules_to_save": ["norm"]}),
    "head and layers": (make_tiny_llama, {"target_modules": ["q_proj", "lm_head"], "layers_to_transform": [0]}),
    "layers_pattern": (make_tiny_llama, {"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": ["layers"]}),
    "idle pattern": (make_tiny_llama, {"target_modules": ["q_proj"], "rank_pattern": {"zz": 3}}),
}  # fmt: skip


@pytest.mark.parametrize("case", PEFTS)
@pytest.mark.filterwarnings("ignore")
def test_pefts_folders_are_read_and_ours_of_the_same_adapter_by_peft(case, tmp_path):
    make, settings = PEFTS[case]
    theirs = peft.get_peft_model(make(), peft.LoraConfig(**{"r": 2, **settings}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in (p for p in theirs.parameters() if p.requires_grad):
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    theirs.eval().save_pretrained(tmp_path / "theirs")
    ours, x = load(make(), tmp_path / "theirs").eval(), tokens()
    torch.testing.assert_close(ours(x).logits, theirs(x).logits, rtol=0, atol=1e-5)
    again = peft.PeftModel.from_pretrained(make(), save(ours, tmp_path / "ours")).eval()
    torch.testing.assert_close(again(x).logits, ours(x).logits, rtol=0, atol=1e-5)
    assert not torch.allclose(ours(x).logits, make()(x).logits, atol=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_pefts_linear_combination_is_not_the_sum(tmp_path):
    theirs = peft.get_peft_model(make_tiny_llama(), peft.LoraConfig(r=2, target_modules=["q_proj"]), adapter_name="a")
    theirs.add_adapter("b", peft.LoraConfig(r=2, target_modules=["q_proj"]))
    torch.manual_seed(0)
    with torch.no_grad():
        for n, p in theirs.named_parameters():
            if "lora_" in n:
                nn.init.normal_(p)
    theirs.add_weighted_adapter(["a", "b"], [0.5, 0.5], "c", combination_type="linear")
    layer = theirs.base_model.model.model.layers[0].self_attn.q_proj
    wanted = 0.5 * layer.get_delta_weight("a") + 0.5 * layer.get_delta_weight("b")
    assert (layer.get_delta_weight("c") - wanted).norm() > 0.3 * wanted.norm()


def test_a_copy_of_a_model_with_held_statistics_is_held_by_itself():
    model = inject(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), LoRAConfig(r=2))
    twin = copy.deepcopy(model).train()
    assert not twin[1].training and twin[0].training
    twin(torch.randn(5, 4))
    assert not twin[1].running_mean.any()
