"""Folders that transformers would read, each with one thing wrong: the refusal names it, and a sound folder is read."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_edu.adapters import LoRAConfig, inject, merge, save, unload
from lora_edu.errors import ModelError
from lora_edu.models import load_base


def rewrite(folder: Path, change) -> None:
    """Change the tensors of the folder."""
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    file.unlink()
    save_file(change(tensors) or tensors, file, metadata={"format": "pt"})


def configure(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def shard(folder: Path, **names) -> None:
    """Two shards and their index in place of the one file; `names` replaces what the index calls a tensor's file."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = sorted(tensors)[::2], sorted(tensors)[1::2]
    files = {}
    for number, half in enumerate(halves):
        save_file(
            {name: tensors[name] for name in half}, folder / f"part-{number}.safetensors", metadata={"format": "pt"}
        )
        files |= {name: f"part-{number}.safetensors" for name in half}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files | names}))


DOWN = "model.layers.1.mlp.down_proj.weight"


# --- weights that are not whole ----------------------------------------------------------------------------------------


def lose(name):
    return lambda folder: rewrite(folder, lambda t: {k: v for k, v in t.items() if k != name})


def give(value, name=DOWN):
    return lambda folder: rewrite(folder, lambda t: t | {name: value(t[name])})


def spoil(value, dtype=torch.float32):
    def change(t):
        t[DOWN][3, 2] = value
        t[DOWN] = t[DOWN].to(dtype)

    return lambda folder: rewrite(folder, change)


def untie(folder):
    """A model that has no head of its own in the folder, and no word that it shares the embedding's."""
    lose("lm_head.weight")(folder)
    configure(folder, tie_word_embeddings=False)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lose(DOWN), rf"not a whole LlamaForCausalLM: 1 weights are missing.*random values: {DOWN}"),
        (lambda folder: rewrite(folder, lambda t: {k.replace("mlp", "ffn"): v for k, v in t.items()}),
         r"6 weights are missing.* and 2 more; 6 tensors in the folder belong nowhere.*ffn"),
        (lambda folder: rewrite(folder, lambda t: {k: v for k, v in t.items() if ".1." not in k}), "9 weights are missing"),
        (lambda folder: configure(folder, num_hidden_layers=3), r"9 weights are missing.*model\.layers\.2\."),
        (lambda folder: configure(folder, num_hidden_layers=1), r"9 tensors in the folder belong nowhere.*model\.layers\.1\."),
        (lambda folder: configure(folder, num_hidden_layers=10**9), "num_hidden_layers = 1000000000, but there are only 21 tensors"),
        (untie, "1 weights are missing.*lm_head.weight"),
        (lambda folder: configure(folder, intermediate_size=12), r"6 have another shape.*down_proj.weight \(16, 24\), not \(16, 12\)"),
        (spoil(float("nan")), rf"not finite numbers.*{DOWN}"),
        (spoil(float("inf")), rf"not finite numbers.*{DOWN}"),
        (spoil(float("-inf"), torch.bfloat16), rf"not finite numbers.*{DOWN}"),
        (give(lambda w: (100 * w).to(torch.int8)), rf"whole numbers \(I8\): {DOWN}"),
        (give(lambda w: w > 0), rf"whole numbers \(BOOL\): {DOWN}"),
    ],
)  # fmt: skip
def test_weights_that_are_not_whole_are_never_filled_in(folder, damage, words):
    damage(folder)
    with pytest.raises(ModelError, match=words):
        load_base(folder, device="cpu")


def test_a_number_too_large_for_the_dtype_is_named(folder):
    spoil(1e6)(folder)
    assert load_base(folder, device="cpu").model.get_parameter(DOWN)[3, 2] == 1e6
    with pytest.raises(ModelError, match=r"too large for the dtype.*"):
        load_base(folder, device="cpu", dtype="float16")


def test_what_transformers_knows_to_be_needless_is_no_fault(folder):
    """A tied head may be there or not; old rotary tables may lie about."""
    configure(folder, tie_word_embeddings=True)
    lose("lm_head.weight")(folder)
    load_base(folder, device="cpu")
    rewrite(folder, lambda t: t | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)})
    rewrite(folder, lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone()})
    assert load_base(folder, device="cpu").model.lm_head.weight is not None
    shard(folder)
    load_base(folder, device="cpu")


# --- models saved with something round them ------------------------------------------------------------------------------


@pytest.mark.parametrize("merged", [True, False])
def test_a_model_saved_with_its_adapters_is_recognised(folder, merged):
    model = inject(load_base(folder, device="cpu").model, LoRAConfig(r=2))
    if merged:
        merge(model)
    model.save_pretrained(folder)
    with pytest.raises(
        ModelError, match=r"still carries its adapters.*base_layer.*merge\(model\), then unload\(model\)"
    ):
        load_base(folder, device="cpu")
    if not merged:
        merge(model)
    unload(model).save_pretrained(folder)  # the remedy
    load_base(folder, device="cpu")


@pytest.mark.parametrize(
    ("prefix", "words"), [("_orig_mod.", "compiled"), ("module.", "DataParallel"), ("base_model.model.", "PEFT")]
)
def test_a_wrappers_names_are_recognised(folder, prefix, words):
    rewrite(folder, lambda t: {prefix + k: v for k, v in t.items()})
    with pytest.raises(ModelError, match=words):
        load_base(folder, device="cpu")


def test_an_adapter_inside_a_base_is_refused_and_apart_it_loads(folder, tmp_path):
    from lora_edu.adapters import load

    model = inject(load_base(folder, device="cpu").model, LoRAConfig(r=2))
    save(model, tmp_path / "adapter")
    for file in (tmp_path / "adapter").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match=r"a base model and an adapter.*load\(model, that folder\)"):
        load_base(folder, device="cpu")
    for file in (tmp_path / "adapter").iterdir():
        (folder / file.name).unlink()
    load(load_base(folder, device="cpu").model, tmp_path / "adapter")


# --- no pickle -----------------------------------------------------------------------------------------------------------


class Runs:
    """Unpickled, it leaves a file behind."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "weights.bin", "adapter_model.bin", "../weights.safetensors", "/tmp/weights.safetensors", "", 7, None, ["a"]]
)  # fmt: skip
@pytest.mark.parametrize("how", ["index", "config"])
def test_nothing_but_safetensors_in_the_folder_is_opened(folder, monkeypatch, name, how):
    for place in (
        folder / "pytorch_model.bin",
        folder / "adapter_model.bin",
        folder / "weights.bin",
        folder.parent / "weights.safetensors",
    ):
        place.write_bytes(pickle.dumps(Runs(folder / "it_ran")))
    if how == "index":
        shard(folder, **{DOWN: name})
    elif name is None:
        pytest.skip("null is what config.json says by default")
    else:
        configure(folder, transformers_weights=name)
    seen = []
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *a, **k: seen.append(a))
    monkeypatch.setattr(torch, "load", lambda *a, **k: seen.append(a))
    with pytest.raises(ModelError, match=r"as weights\. Only files ending in .*safetensors.*pickles"):
        load_base(folder, device="cpu")
    assert not seen and not (folder / "it_ran").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [("pytorch_model.bin", "pickles"), ("consolidated.00.pth", "pickles"), ("m.gguf", "m.gguf"), ("x", "whole")],
)
def test_a_folder_without_safetensors_says_what_it_has(folder, name, words):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(ModelError, match=words):
        load_base(folder, device="cpu")


def test_a_distributed_checkpoint_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "shard-00000-model-00001-of-00001.safetensors")
    with pytest.raises(ModelError, match="distributed checkpoint"):
        load_base(folder, device="cpu")


def test_a_missing_shard_is_named(folder):
    shard(folder)
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks .*part-1\.safetensors.*whole"):
        load_base(folder, device="cpu")


# --- settings ------------------------------------------------------------------------------------------------------------

BROKEN = ["", "{", "[]", "null", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", b"\xff\xfe{}", '"text"']


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_settings_that_are_no_json_object_are_named(folder, name, content):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ModelError, match=rf"{name} (cannot be read as JSON|must hold a JSON object)") as error:
        load_base(folder, device="cpu")
    assert len(str(error.value)) < 1000


WRONG = [
    {"hidden_size": "16"}, {"hidden_size": -16}, {"hidden_size": 0}, {"num_attention_heads": 0}, {"num_attention_heads": 3},
    {"vocab_size": None}, {"hidden_act": "nothing"}, {"hidden_act": 5}, {"model_type": 5}, {"model_type": "nothing"}, {"model_type": None},
    {"rope_parameters": 5}, {"rope_parameters": {"rope_type": "nothing"}}, {"rope_scaling": []}, {"rms_norm_eps": "x"},
    {"num_hidden_layers": "2"}, {"num_hidden_layers": -1}, {"num_hidden_layers": 0}, {"num_hidden_layers": 1.5}, {"architectures": 5}, {"pad_token_id": 10**9},
    {"dtype": "nothing"}, {"dtype": 5}, {"quantization_config": {}}, {"quantization_config": {"quant_method": "nothing"}}, {"quantization_config": 5},
    {"head_dim": 0}, {"num_key_value_heads": 3}, {"max_position_embeddings": "x"}, {"attention_dropout": "x"}, {"tie_word_embeddings": "x"}, {"id2label": 5},
]  # fmt: skip


@pytest.mark.parametrize("values", WRONG, ids=str)
def test_a_wrong_setting_is_a_model_error_or_does_no_harm(folder, values):
    """transformers raises what it likes, or passes over it; then the model must still be able to run."""
    configure(folder, **values)
    try:
        model = load_base(folder, device="cpu", dtype="auto").model
        assert model(torch.tensor([[1, 5, 6]])).logits.isfinite().all()
    except ModelError as error:
        assert len(str(error)) < 1500


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", "{}"), ("tokenizer.json", "[]"), ("tokenizer.json", "x"), ("tokenizer.json", '{"model": {"type": "BPE", "vocab": 5}}'),
        ("tokenizer_config.json", '{"tokenizer_class": 5}'), ("tokenizer_config.json", '{"tokenizer_class": "Nothing"}'),
        ("tokenizer_config.json", '{"eos_token": 5}'), ("tokenizer_config.json", '{"added_tokens_decoder": 5}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}'), ("tokenizer_config.json", '{"extra_special_tokens": 5}'),
        ("tokenizer_config.json", '{"chat_control_tokens": 5}'), ("generation_config.json", '{"eos_token_id": {}}'),
        ("generation_config.json", '{"max_new_tokens": "x"}'), ("generation_config.json", '{"temperature": -1, "do_sample": true}'),
    ],
)  # fmt: skip
def test_a_wrong_tokenizer_is_a_model_error_or_does_no_harm(folder, file, content):
    (folder / file).write_text(content)
    try:
        _, tokenizer = load_base(folder, device="cpu")
        assert isinstance(tokenizer.eos_token_id, int) and isinstance(tokenizer.pad_token_id, int)
    except ModelError as error:
        assert len(str(error)) < 1500


def test_without_its_settings_a_tokenizer_takes_the_end_of_text_from_the_config(folder):
    (folder / "tokenizer_config.json").unlink()
    tokenizer = load_base(folder, device="cpu").tokenizer
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    for number in (None, 10**9, -1):
        configure(folder, eos_token_id=number)
        with pytest.raises(ModelError, match=r"no end-of-text token.*tokenizer_config"):
            load_base(folder, device="cpu")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "gpu"}, "no device 'gpu'"), ({"device": 3.5}, "no device"), ({"device": "cuda:97"}, "no device"), ({"dtype": "int8"}, "floating"),
        ({"dtype": torch.int8}, "floating"), ({"dtype": "bf16"}, "floating"), ({"dtype": 16}, "floating"),
    ],
)  # fmt: skip
def test_a_device_or_dtype_that_is_not_there_is_named(folder, options, words):
    with pytest.raises(ModelError, match=words):
        load_base(folder, **({"device": "cpu"} | options))


def test_a_file_in_place_of_a_folder_is_told_so(folder):
    with pytest.raises(ModelError, match="is a file: give the folder"):
        load_base(folder / "model.safetensors")


def test_other_families_are_whole_too(tmp_path, folder):
    """Conversions of names on the way in (fused experts), tied heads, learned positions: none may count as missing."""
    from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM, OPTConfig, OPTForCausalLM

    small = {
        "vocab_size": 264,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    }
    models = [
        GPT2LMHeadModel(GPT2Config(vocab_size=264, n_embd=16, n_layer=2, n_head=2, n_positions=32, eos_token_id=2)),
        MixtralForCausalLM(
            MixtralConfig(**small, intermediate_size=8, num_key_value_heads=1, num_local_experts=2, eos_token_id=2)
        ),
        OPTForCausalLM(OPTConfig(**small, ffn_dim=8, word_embed_proj_dim=16, eos_token_id=2)),
    ]
    for model in models:
        for old in ("config.json", "generation_config.json", "model.safetensors"):
            (folder / old).unlink(missing_ok=True)
        model.save_pretrained(folder)
        again = load_base(folder, device="cpu").model
        ids = torch.tensor([[1, 5, 6]])
        torch.testing.assert_close(again(ids).logits, model.eval()(ids).logits)
