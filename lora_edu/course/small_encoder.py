"""A small encoder with a head, in BERT's architecture, taught by masked words within seconds. Chapter 12.

It reads what people say to a smart home, by whole words: a vocabulary of what stands in the task's training sentences. First it guesses masked words of
these sentences, without labels (as BERT was pretrained: Devlin et al. 2019); then it can be given a new head and few labels. It is a model
to look inside, not one to use: 2 blocks of width 64.
"""

import copy
import re
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from lora_edu.tasks import get_task

PAD, UNKNOWN, START, MASK = range(4)
LENGTH, HIDDEN = 20, 0.15  # words a sentence, and the share of them that is masked


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+|\d+", text.lower())


@cache
def vocabulary() -> dict[str, int]:
    """word → number, of every word in the training sentences; 0 to 3 are padding, unknown, start and mask."""
    found = sorted({word for row in get_task("intents").splits().train for word in _words(row.meta["input"])})
    return {word: number for number, word in enumerate(found, 4)}


def encoded(texts: list[str]) -> Tensor:
    """Word numbers (n, LENGTH), a start in front and padding behind."""
    known, ids = vocabulary(), torch.full((len(texts), LENGTH), PAD)
    for row, text in enumerate(texts):
        numbers = [START, *(known.get(word, UNKNOWN) for word in _words(text))][:LENGTH]
        ids[row, : len(numbers)] = torch.tensor(numbers)
    return ids


@cache
def sentences(part: str) -> tuple[Tensor, Tensor]:
    """Of "train", "valid" or "test": word numbers (n, LENGTH) and labels (n,), which of the ten intents."""
    task = get_task("intents")
    rows = getattr(task.splits(), part)
    return encoded([row.meta["input"] for row in rows]), torch.tensor([task.labels.index(row.answer) for row in rows])


def _config() -> BertConfig:
    config = BertConfig(
        vocab_size=len(vocabulary()) + 4, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=LENGTH, pad_token_id=PAD,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    config.num_labels = len(get_task("intents").labels)
    return config


@cache
def guesser(steps: int = 400) -> BertForMaskedLM:
    """The encoder with BERT's own head, after `steps` batches of 32 training sentences with masked words. About ten CPU seconds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForMaskedLM(_config())
        ids, _ = sentences("train")
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for _ in range(steps):
            some = ids[torch.randint(len(ids), (32,))]
            hidden = (torch.rand(some.shape) < HIDDEN) & (some > MASK)
            logits = model(some.masked_fill(hidden, MASK), attention_mask=some != PAD).logits
            loss = F.cross_entropy(logits[hidden], some[hidden])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def with_head(seed: int) -> BertForSequenceClassification:
    """A copy of the taught encoder, with a head for the ten intents that is drawn with `seed`: no two people's are alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(_config())  # its pooler is drawn anew, too: masked words never used one
        model.bert.load_state_dict(copy.deepcopy(guesser().bert.state_dict()), strict=False)
    return model.eval()


def teach(model: nn.Module, lr: float = 3e-3, steps: int = 150, seed: int = 0) -> nn.Module:
    """Trains what trains in `model` on labelled sentences, in place: AdamW, batches of 32."""
    (ids, labels), generator = sentences("train"), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    for _ in range(steps):
        some = torch.randint(len(ids), (32,), generator=generator)
        loss = F.cross_entropy(model(ids[some], attention_mask=ids[some] != PAD).logits, labels[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@torch.no_grad()
def right(model: nn.Module, part: str = "test") -> float:
    """The share of sentences of which `model` names the intent; what always says the commonest is right in a tenth to a fifth."""
    ids, labels = sentences(part)
    return float((model(ids, attention_mask=ids != PAD).logits.argmax(1) == labels).float().mean())
