"""A tokenizer of a few words, with a chat template."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<s>system\nBe kind<e>\n{% endif %}"
    "<s>{{ m['role'] }}\n{{ m['content'] }}<e>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def make_tokenizer(template: str | None = CHATML, pad: str = "<e>") -> PreTrainedTokenizerFast:
    """One token a character: every property of masking shows, and nothing has to be downloaded."""
    letters = [chr(i) for i in range(32, 127)] + ["\n", "é", "李"]
    vocabulary = {token: i for i, token in enumerate(["<e>", "<s>", "<pad>", "?u", *letters])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?u"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<e>", bos_token="<s>", pad_token=pad, unk_token="?u"
    )
    tokenizer.chat_template = template
    return tokenizer
