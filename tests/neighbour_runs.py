"""What the tests of LoRA's neighbours share: tiny models, random values, twenty steps beside a reference, a run with the trainer."""

import torch
from conftest import make_tiny_llama
from helpers import tokens
from torch import nn

from lora_edu.adapters import attach, audit
from lora_edu.training import TrainConfig, Trainer, causal_lm_loss


def llama(dtype=torch.float64, **overrides) -> nn.Module:
    """As everywhere, with larger weights: of the usual 0.02 a model so small hardly hears its own attention."""
    return make_tiny_llama(dtype=dtype, **{"initializer_range": 0.3} | overrides)


def gpt2(dtype=torch.float64, **overrides) -> nn.Module:
    """Two layers, biases everywhere, no dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(
        vocab_size=32, n_positions=24, n_embd=8, n_layer=2, n_head=2, initializer_range=0.3, **off, **overrides
    )
    model = GPT2LMHeadModel(config).to(dtype).eval()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():  # its biases begin at 0, where a mistake with them would not be seen
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.copy_(torch.randn(p.shape, generator=generator) * 0.2)
    return model


MODELS = {"llama": llama, "gpt2": gpt2}


def batch(seed: int = 3, rows: int = 3, length: int = 8) -> dict[str, torch.Tensor]:
    """Padded rows, as `collate` makes them: the first token is never learnt."""
    ids = tokens(rows, length, seed=seed).clamp(min=1)
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        mask[row, length - row :] = 0
    labels = torch.where(mask.bool(), ids, -100)
    labels[:, : 1 + seed % 3] = -100
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


def values(p: torch.Tensor, seed: int, around: float = 0.0, std: float = 0.3) -> None:
    """Random values, the same for the same shape's number and seed whatever holds them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        p.copy_(around + std * torch.randn(p.numel(), generator=generator, dtype=torch.float64).view(p.shape))


def twenty_steps(
    ours: nn.Module, theirs: nn.Module, mine: dict, other: dict, rate: float = 1e-2, skip: int = 0
) -> None:
    """Both trained side by side with AdamW: the same loss, gradients and weights to 1e-9 after each step. transformers' own loss rounds
    to float32. `skip`: so many positions stand in front of theirs."""
    assert mine.keys() == other.keys() and mine
    optimizers = [torch.optim.AdamW(list(params.values()), lr=rate) for params in (mine, other)]
    before = {key: p.detach().clone() for key, p in mine.items()}
    ours.train(), theirs.train()
    for step in range(20):
        losses = []
        for model, optimizer, first in zip((ours, theirs), optimizers, (0, skip)):
            optimizer.zero_grad()
            inputs = batch(seed=step)
            labels = inputs.pop("labels")[:, 1:]
            logits = model(**inputs).logits[:, first:-1]
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
            loss.backward()
            losses.append(loss.item())
        assert abs(losses[0] - losses[1]) < 1e-9
        for key in mine:
            torch.testing.assert_close(mine[key].grad, other[key].grad, rtol=0, atol=1e-9)
        for optimizer in optimizers:
            optimizer.step()
    for key in mine:
        torch.testing.assert_close(mine[key], other[key], rtol=0, atol=1e-9)
        assert not torch.equal(mine[key], before[key])
    ours.eval(), theirs.eval()


class Rows(list):
    """Examples of a run: rows of tokens, half prompt and half answer."""

    def __init__(self, count: int = 12) -> None:
        super().__init__(tokens(count, 8, seed=5).clamp(min=1))


def collate(rows) -> dict[str, torch.Tensor]:
    ids = torch.stack(rows)
    labels = ids.clone()
    labels[:, :3] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def trainer(model: nn.Module, steps: int = 5, **config) -> Trainer:
    settings = {
        "learning_rate": 0.05,
        "max_steps": steps,
        "batch_size": 4,
        "precision": "fp32",
        "scheduler": "constant",
    }
    return Trainer(model, Rows(), causal_lm_loss, TrainConfig(**settings | config), collate=collate, progress=False)


def attached(make, method, dtype=torch.float32, **more) -> nn.Module:
    torch.manual_seed(7)
    model = attach(make(dtype), method, **more)
    assert audit(model).trainable > 0
    return model
