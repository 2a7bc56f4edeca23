"""Tiny random models of every family that is written as GGUF, with a byte-level BPE tokenizer that knows a few merges."""

import torch
from tiny_package import SPECIAL, TEMPLATE
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lora_edu.serving import LlamaCpp

SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
MERGES = ["t h", "Ġ t", "Ġt h", "Ġ Ġ", "Ċ Ċ", "1 2", "Ġ 1", "e r", "h e", "' s", "' S", "ĠĠ ĠĠ"]
CUTS = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama-bpe": lambda: _split(SPLIT),
    "qwen2": lambda: _split(SPLIT.replace("{1,3}", "")),
}
SHAPE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
CUT = {"llama": "llama-bpe", "mistral": "gpt-2", "qwen2": "qwen2", "qwen3": "qwen2"}
PROMPTS = ["hello there", "the other's 12 things", "zq", " 1 2 12", "<|im_start|>user\nwho?<|im_end|>\n"]
ENDS = [0, 2]  # <|endoftext|>, <|im_end|>
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

SETTINGS = {
    "plain": {"r": 4, "lora_alpha": 8},
    "rslora": {"r": 4, "lora_alpha": 8, "use_rslora": True},
    "alpha_pattern": {"r": 4, "lora_alpha": 4, "alpha_pattern": {"q_proj": 16, "down_proj": 1}},
    "rank_pattern": {"r": 4, "lora_alpha": 4, "rank_pattern": {"k_proj": 7, "o_proj": 1}},
    "all": {"r": 4, "lora_alpha": 3, "use_rslora": True, "rank_pattern": {"q_proj": 6}, "alpha_pattern": {"v_proj": 9}},
    "pissa": {"r": 4, "lora_alpha": 8, "variant": "pissa"},
}


def _split(regex):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(regex), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def bpe_tokenizer(cut: str = "gpt-2", ignore_merges: bool | None = None, template: str | None = TEMPLATE):
    """Three special tokens, a token a byte, a dozen merges; text is cut as `cut` says."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIAL, *alphabet, *(merge.replace(" ", "") for merge in MERGES)]
    backend = Tokenizer(
        models.BPE(
            {token: number for number, token in enumerate(tokens)},
            [tuple(merge.split()) for merge in MERGES],
            ignore_merges=cut == "llama-bpe" if ignore_merges is None else ignore_merges,
        )
    )
    backend.pre_tokenizer, backend.decoder = CUTS[cut](), decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=SPECIAL[1], eos_token=SPECIAL[2], pad_token=SPECIAL[0]
    )
    tokenizer.chat_template = template
    return tokenizer


def tiny(family: str, tokenizer, seed: int = 0, spread: float = 4.0, **overrides):
    """A random model whose likeliest next token differs from place to place: its weights are `spread` times what a new model's are."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = CONFIG_MAPPING[family](**(SHAPE | {"vocab_size": len(tokenizer)} | overrides))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(spread)
            elif name.endswith("bias"):
                parameter.normal_(std=0.3)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def greedy(model, ids: list[int], new_tokens: int = 16) -> list[int]:
    """The likeliest continuation in transformers, without the token that ends it: llama.cpp knows both by their names."""
    with torch.no_grad():
        out = model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=new_tokens, do_sample=False,
            pad_token_id=0, eos_token_id=ENDS,
        )[0, len(ids) :].tolist()  # fmt: skip
    return out[:-1] if out[-1] in ENDS else out


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def answers(path, tokenizer, prompts=PROMPTS, **options):
    with LlamaCpp(path, **options) as engine:
        return [engine.greedy(ids_of(tokenizer, text), 16) for text in prompts]


def ours(model, tokenizer, prompts=PROMPTS):
    return [greedy(model, ids_of(tokenizer, text)) for text in prompts]
