"""Text that is sent as it is certain: never half a character, never the beginning of a stop text."""

import pytest
import torch
from tiny_package import vocabulary

from lora_edu.serving.decoding import Chooser, TextStream
from lora_edu.serving.engine import Question

TEXT = "naïve 李白 🙂 end"


@pytest.fixture(scope="module")
def tokenizer(model_folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_folder)


def pieces(tokenizer, ids, stop=()):
    stream, found = TextStream(tokenizer, stop), []
    for token in ids:
        found.append(stream.push(token))
        if stream.stopped:
            break
    return [*found, stream.finish()]


def test_no_piece_cuts_a_character(tokenizer):
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    found = pieces(tokenizer, ids)
    assert len(ids) > len(TEXT) and "".join(found) == TEXT  # a token a byte
    assert all("\ufffd" not in piece for piece in found)


def test_bytes_that_are_no_text_come_out_as_the_decoder_has_them(tokenizer):
    ids = tokenizer("a李b", add_special_tokens=False)["input_ids"]
    broken = [*ids[:2], *ids[4:], ids[1]]
    assert "".join(pieces(tokenizer, broken)) == tokenizer.decode(broken) and "\ufffd" in tokenizer.decode(broken)
    random = torch.randint(3, len(vocabulary()), (200,), generator=torch.Generator().manual_seed(0)).tolist()
    assert "".join(pieces(tokenizer, random)) == tokenizer.decode(random)


@pytest.mark.parametrize(("stop", "expected"), [
    (("end",), "naïve 李白 🙂 "), (("白 🙂", "zzz"), "naïve 李"), (("e 李白 🙂!",), TEXT), (("nd?",), TEXT), (("n",), ""), (("d", "en"), "naïve 李白 🙂 "),
])  # fmt: skip
def test_stop_texts(tokenizer, stop, expected):
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    found = pieces(tokenizer, ids, stop)
    assert "".join(found) == expected
    sent = ""
    for piece in found:  # what was sent is never taken back
        sent += piece
        assert expected.startswith(sent)


def test_drawing_follows_the_probabilities():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    draw = Chooser(Question((1,), temperature=0.7, seed=1))
    counts = torch.bincount(torch.tensor([draw(logits) for _ in range(4000)]), minlength=4) / 4000
    assert torch.allclose(counts, torch.softmax(logits / 0.7, 0), atol=0.03)
    top = Chooser(Question((1,), temperature=0.7, top_p=0.9, seed=1))
    assert {top(logits) for _ in range(400)} == {1, 2}  # 2 has .74, 1 has .18: together they reach .9
