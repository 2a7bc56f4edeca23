"""A variant of LoRA beside PEFT's, in float64: the same base, the same values, step by step."""

import peft
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lora_edu.adapters import load, merge, save, unload, unmerge, variant_loss

NEAR = 1e-9


class Net(nn.Module):
    """Rectangular layers of each kind, with and without a bias: (7 → 10), Conv1D (10 → 6), (6 → 9)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(7, 10), Conv1D(6, 10), nn.Linear(6, 9, bias=False)
        nn.init.normal_(self.middle.weight, std=0.4)  # Conv1D's own start is nearly 0

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.middle(torch.tanh(self.first(x)))))  # (..., 7) → (..., 9)


LAYERS = ["first", "middle", "last"]


def net(dtype: torch.dtype = torch.float64) -> Net:
    torch.manual_seed(0)
    return Net().to(dtype).eval()


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + seed)
    x, wanted = (torch.randn(5, n, generator=generator, dtype=torch.float64) for n in (7, 9))
    return x, wanted


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """{PEFT's key: parameter} of what trains, in either library."""
    found = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            found[name.removeprefix("base_model.model.").replace(".default", "").removesuffix(".weight")] = p
    return found


def fill(model: nn.Module, seed: int = 1) -> None:
    """Random values in all that trains, drawn in the order of PEFT's keys, so that two models get the same; lengths about 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, p in sorted(trained(model).items()):
            middle = 1.0 if key.endswith("magnitude_vector") else 0.0
            p.copy_(middle + 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))


def pair(theirs_config, folder, make=net):
    """(ours, PEFT's): PEFT's with random values, ours loaded from its folder."""
    theirs = peft.get_peft_model(make(), theirs_config).double()
    fill(theirs)
    theirs.save_pretrained(folder)
    return load(make(), folder, trainable=True).double(), theirs


def _short(key: str, words: tuple[str, str]) -> str:
    """One name for a tensor in either library; one that layers share stands under different paths."""
    for word in filter(None, words):
        key = key.replace(f".{word}", ".")
    return "vector_bank" if key.endswith("vector_bank") else key


def largest(one, other) -> float:
    assert one.keys() == other.keys() and one
    return max(float((one[key].detach().flatten() - other[key].detach().flatten()).abs().max()) for key in one)


def train_both(ours, theirs, steps: int = 20, penalty=None, after=None, data=batch, words=("", "")) -> dict[str, float]:
    """The largest differences over `steps` AdamW steps: of losses, of gradients, and of the weights at the end.

    penalty(theirs): PEFT's term of the loss; after(model, step): what either does after a step.
    """
    mine, other = ({_short(k, words): p for k, p in trained(model).items()} for model in (ours, theirs))
    start = {key: p.detach().clone() for key, p in mine.items()}
    optimizers = [torch.optim.AdamW(list(params.values()), lr=1e-2) for params in (mine, other)]
    found = {"loss": 0.0, "gradients": 0.0}
    for model in (ours, theirs):
        model.train()
    for step in range(steps):
        losses = []
        for model, optimizer in zip((ours, theirs), optimizers):
            torch.manual_seed(step)  # the same dropout masks
            optimizer.zero_grad()
            x, wanted = data(step)
            loss = F.mse_loss(model(x), wanted)
            term = variant_loss(model) if model is ours else penalty and penalty(theirs)
            loss = loss if term is None else loss + term
            loss.backward()
            losses.append(loss.item())
        found["loss"] = max(found["loss"], abs(losses[0] - losses[1]))
        gradients = [{k: p.grad for k, p in params.items()} for params in (mine, other)]
        found["gradients"] = max(found["gradients"], largest(*gradients))
        for model, optimizer in zip((ours, theirs), optimizers):
            optimizer.step()
            if after:
                after(model, step)
    found["weights"] = largest(mine, other)
    assert min((start[key] - p).abs().max() for key, p in mine.items()) > 1e-4  # all of it trained
    for model in (ours, theirs):
        model.eval()
    return found


def agreed(found: dict[str, float]) -> None:
    """All of these differences are rounding; `pytest -rP` shows them."""
    print(", ".join(f"{what} {value:.0e}" for what, value in found.items()))
    assert max(found.values()) < NEAR, found


def outputs(*models, data=batch) -> list[Tensor]:
    with torch.no_grad():
        return [model(data(50)[0]) for model in models]


def merged_apart(ours, theirs, make=net, changed=3, data=batch) -> dict[str, float]:
    """The largest difference of the merged weights; merge and unmerge of ours in between change nothing."""
    [before] = outputs(ours, data=data)
    merge(ours)
    merged = float((outputs(ours, data=data)[0] - before).abs().max())
    unmerge(ours)
    assert torch.equal(outputs(ours, data=data)[0], before)
    merge(ours)
    plain, reference = unload(ours).state_dict(), theirs.merge_and_unload().state_dict()
    original = make().state_dict()
    assert sum(not torch.equal(plain[key], original[key]) for key in plain) >= changed
    return {"merged output": merged, "merged weights": largest(plain, reference)}


def folders_apart(ours, folder, make=net, data=batch) -> dict[str, float]:
    """What PEFT and we make of the folder that we write: the largest difference of the outputs."""
    save(ours, folder)
    theirs = peft.PeftModel.from_pretrained(make(), folder).double().eval()
    mine = load(make(), folder).double().eval()
    ours, theirs, mine, base = outputs(ours, theirs, mine, make(), data=data)
    assert float((ours - base).abs().max()) > 1e-2
    return {"PEFT reads it": float((ours - theirs).abs().max()), "we read it": float((ours - mine).abs().max())}
