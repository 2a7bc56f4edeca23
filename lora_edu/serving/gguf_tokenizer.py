"""A byte-level BPE tokenizer into a GGUF file, and llama.cpp asked whether it makes the same tokens of the same text. Chapter 15.

How text is cut before merges apply is a name in the file ("gpt-2", "qwen2", …), and llama.cpp takes any name it knows: a wrong one
changes the tokens of some texts, without a word. So the name is taken from the tokenizer's own rules, and the result is compared.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from lora_edu.errors import ExportError, shown
from lora_edu.serving.llama_cpp import LlamaCpp

_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# How a tokenizer cuts text (what stands in its tokenizer.json) → what llama.cpp calls that. Source: llama.cpp's src/llama-vocab.cpp.
_CUTS = {
    ("bytes by GPT-2's rule",): "gpt-2",
    ("single digits", "bytes by GPT-2's rule"): "smollm",
    (_LLAMA3, "bytes"): "llama-bpe",
    (_LLAMA3.replace("{1,3}", ""), "bytes"): "qwen2",
    (_TEKKEN, "bytes"): "tekken",
}
_WHOLE_WORDS_FIRST = ("llama-bpe", "tekken")  # llama.cpp takes a word that is a token whole, before any merge


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer."""

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    special: dict[str, int]  # bos, eos, unk, pad
    adds_bos: bool
    adds_eos: bool
    template: str | None


def vocabulary(tokenizer: Any, rows: int) -> Vocabulary:
    """The tokenizer for a model whose embedding has `rows` rows; rows without a token get a name that no text makes.

    Raises ExportError for a tokenizer that is no byte-level BPE, or does what a GGUF file cannot say.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ExportError(
            f"{type(tokenizer).__name__} is no tokenizer of the tokenizers library, and is not written as GGUF here"
        )
    content = json.loads(backend.to_str())
    model = content["model"]
    _check_model(type(tokenizer).__name__, content)
    pre = _cut(content)
    if bool(model.get("ignore_merges")) != (pre in _WHOLE_WORDS_FIRST):
        raise ExportError(
            f"ignore_merges={model.get('ignore_merges')} does not go with {pre!r}, for which llama.cpp assumes the other"
        )
    ids = {number: token for token, number in tokenizer.get_vocab().items()}
    if ids and max(ids) >= rows:
        raise ExportError(
            f"the tokenizer's last token has the number {max(ids)} and the model {rows} rows of embeddings: resize_token_embeddings first"
        )
    added = {each["id"]: each for each in content["added_tokens"]}
    tokens, types = [], []
    for number in range(rows):
        token, kind = ids.get(number), gguf.TokenType.NORMAL
        if token is None:
            token, kind = f"[PAD{number}]", gguf.TokenType.UNUSED
        elif number in added:
            kind = gguf.TokenType.CONTROL if added[number]["special"] else gguf.TokenType.USER_DEFINED
        tokens.append(token)
        types.append(int(kind))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    names = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unk_token_id", "pad": "pad_token_id"}
    special = {key: found for key, name in names.items() if (found := getattr(tokenizer, name, None)) is not None}
    plain, full = (tokenizer("a", add_special_tokens=with_special).input_ids for with_special in (False, True))
    before, after = full[: full.index(plain[0])], full[full.index(plain[0]) + len(plain) :]
    if before not in ([], [special.get("bos")]) or after not in ([], [special.get("eos")]):
        raise ExportError(
            f"the tokenizer puts {before} before a text and {after} after it: a GGUF file knows bos and eos alone"
        )
    template = tokenizer.chat_template
    return Vocabulary(
        pre, tokens, types, merges, special, bool(before), bool(after), template if isinstance(template, str) else None
    )


def write_vocabulary(writer: gguf.GGUFWriter, found: Vocabulary) -> None:
    """The tokenizer's keys."""
    writer.add_tokenizer_model("gpt2")  # what llama.cpp calls every byte-level BPE
    writer.add_tokenizer_pre(found.pre)
    writer.add_token_list(found.tokens)
    writer.add_token_types(found.types)
    writer.add_token_merges(found.merges)
    add = {
        "bos": writer.add_bos_token_id, "eos": writer.add_eos_token_id, "unk": writer.add_unk_token_id, "pad": writer.add_pad_token_id,
    }  # fmt: skip
    for key, number in found.special.items():
        add[key](number)
    writer.add_add_bos_token(found.adds_bos)
    writer.add_add_eos_token(found.adds_eos)
    writer.add_add_space_prefix(False)
    if found.template is not None:
        writer.add_chat_template(found.template)


def _check_model(kind: str, content: dict[str, Any]) -> None:
    model, normalizer = content["model"], content.get("normalizer")
    if model["type"] != "BPE":
        raise ExportError(f"{kind} is a {model['type']} tokenizer: only byte-level BPE is written as GGUF here")
    if model.get("byte_fallback"):
        raise ExportError(
            f"{kind} is a BPE over characters with byte fallback (SentencePiece): only byte-level BPE is written as GGUF here"
        )
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ExportError(
            f"{kind} marks parts of words (continuing_subword_prefix, end_of_word_suffix), which a GGUF file cannot say"
        )
    if normalizer and normalizer["type"] not in ("NFC",):  # NFC leaves text as keyboards make it alone
        raise ExportError(
            f"{kind} normalises text by {normalizer['type']}, which llama.cpp does not do for this kind of tokenizer"
        )
    for each in content["added_tokens"]:
        if marks := [mark for mark in ("lstrip", "rstrip", "single_word") if each.get(mark)]:
            raise ExportError(
                f"{kind}: the token {each['content']!r} has {', '.join(marks)}, which a GGUF file cannot say"
            )


def _cut(content: dict[str, Any]) -> str:
    """What llama.cpp calls the rules by which this tokenizer cuts text before merging."""
    outer = content.get("pre_tokenizer") or {"type": "none at all"}
    steps = []
    for step in outer["pretokenizers"] if outer["type"] == "Sequence" else [outer]:
        if step["type"] == "ByteLevel" and not step.get("add_prefix_space"):
            steps.append("bytes by GPT-2's rule" if step.get("use_regex", True) else "bytes")
        elif step["type"] == "Digits" and step.get("individual_digits"):
            steps.append("single digits")
        elif step["type"] == "Split" and step["behavior"] == "Isolated" and not step.get("invert"):
            steps.append(step["pattern"].get("Regex", ""))
        else:
            steps.append(step["type"])
    if tuple(steps) not in _CUTS:
        raise ExportError(
            f"the tokenizer cuts text by {shown(steps)}, for which no name of llama.cpp's is known here: known are {', '.join(_CUTS.values())}"
        )
    return _CUTS[tuple(steps)]


# -- whether llama.cpp makes the same tokens -------------------------------------------------------------------------------
def probes(tokenizer: Any) -> list[str]:
    """About a hundred texts on which rules of cutting differ: spaces, digits, contractions, line breaks, scripts, code, special tokens."""
    parts = [
        "Hello, world!", "I'll say it's DON'T or we'VE", "a  b   c", "  12", "x = 3.14159;", "1234567890", "год 2024", "½ and ²", "\n\n1",
        "a\n\n\nb", "\ttab\t\tab", "line\r\nend\r\n", "trailing   ", "   leading", "中文，测试。", "日本語テスト", "한국어 시험", "العربية", "हिन्दी",
        "naïve café", "🙂🙂 👩‍👩‍👧", "def f(x):\n    return x**2", "<html> & <b>", "https://x.org/a?b=1", "...!!!???", "it’s “quoted” — so", "_under_score",
        "CamelCaseWORDs", "e\u00a0f\u2003g", "", " ", "\n", "#1: 50% off $9.99",
    ]  # fmt: skip
    texts = parts + [first + second for first, second in zip(parts, parts[7:] + parts[:7])]
    special = [str(token) for token in tokenizer.all_special_tokens][:3]
    return texts + [f"{token}user\n{text}{token}" for token in special for text in parts[:12]]


def verify_tokens(path: Path, tokenizer: Any, texts: Sequence[str] | None = None) -> int:
    """Have llama.cpp load the GGUF file and make tokens of about a hundred texts; returns their number. Chapter 15.

    Raises ExportError that quotes the first text on which the two differ, and where xllamacpp is not installed.
    """
    texts = probes(tokenizer) if texts is None else texts
    with LlamaCpp(path) as engine:
        for text in texts:
            ours, theirs = tokenizer(text, add_special_tokens=False).input_ids, engine.tokens(text)
            if ours != theirs:
                raise ExportError(
                    f"llama.cpp makes other tokens of {shown(text, 60)}: {shown(theirs, 60)}, and the tokenizer {shown(ours, 60)}"
                )
    return len(texts)
