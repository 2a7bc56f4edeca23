"""Chapter 12's small encoder: what was drawn anew has to be in the adapter's folder, or another's draw makes it another model."""

import warnings

import pytest
import torch
from transformers import BertForMaskedLM

from lora_edu import LoRAConfig
from lora_edu.adapters import inject, load, save
from lora_edu.course import small_encoder
from lora_edu.course.small_encoder import sentences, vocabulary
from tests.helpers import randomise


@pytest.fixture
def drawn(monkeypatch):
    """`with_head` on an encoder that was not taught: what is saved does not depend on it."""
    torch.manual_seed(0)
    body = BertForMaskedLM(small_encoder._config())
    monkeypatch.setattr(small_encoder, "guesser", lambda: body)
    return small_encoder.with_head


@pytest.mark.parametrize(("saved", "same"), [((), False), (("classifier",), False), (("classifier", "pooler"), True)])
def test_only_a_folder_that_holds_all_that_was_drawn_is_the_same_model_on_anothers_draw(drawn, tmp_path, saved, same):
    ids = sentences("valid")[0][:8]
    mine = inject(drawn(0), LoRAConfig(r=2, target_modules=("query", "value"), modules_to_save=saved or None))
    randomise(mine)
    save(mine, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if not same else "error")
        theirs = load(drawn(1), tmp_path)
    with torch.no_grad():
        assert torch.allclose(mine(ids).logits, theirs(ids).logits, atol=1e-5) is same


def test_words_come_from_training_sentences_alone_and_every_part_fits():
    known = vocabulary()
    assert min(known.values()) == 4 and len(set(known.values())) == len(known)
    for part in ("train", "valid", "test"):
        ids, labels = sentences(part)
        assert len(ids) == len(labels) and ids.max() < len(known) + 4 and (ids[:, 0] == small_encoder.START).all()
    assert (sentences("train")[0] != small_encoder.UNKNOWN).all()
    assert (sentences("test")[0] == small_encoder.UNKNOWN).any()
