"""GaLore: full fine-tuning whose optimiser lives in a few directions of each gradient. Chapter 10.

Of a matrix's gradient G (m, n) the r leading singular directions of its shorter side are taken anew every T steps, P (r, n) where m ≥ n,
P (m, r) else; AdamW's moments are those of the projected gradient R = G Pᵀ (m, r) or Pᵀ G (r, n), and the step N they give goes back through P:
W ← W − η·a·N P, or η·a·P N. The weights themselves are whole, and change by more than rank r as P changes: not an adapter, nothing can be
switched off. Kept: 2·r·max(m, n) + r·min(m, n) numbers a matrix instead of 2·m·n.
Source: Zhao et al. 2024, GaLore (arXiv 2403.03507), algorithm 2.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.errors import TrainingError


class GaLore(torch.optim.Optimizer):
    """AdamW in r directions for every matrix that has more; plain AdamW (torch's arithmetic) for vectors and small matrices.

    rank, every, scale   r, T and a. Raises TrainingError where no matrix that trains has a smaller side above r.
    """

    def __init__(
        self, groups: Iterable[Any], rank: int, every: int = 200, scale: float = 0.25, *, lr: float,
        betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        self.rank, self.every, self.scale = rank, every, scale
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        if not any(self.projects(p) for group in self.param_groups for p in group["params"]):
            raise TrainingError(
                f"GaLore trains whole matrices in {rank} directions, and nothing that trains here has more: train the model in full, or use a "
                "smaller galore_rank"
            )

    def projects(self, p: nn.Parameter) -> bool:
        """Whether the moments of `p` are kept in r directions."""
        return p.ndim == 2 and min(p.shape) > self.rank

    def state_like(self, p: nn.Parameter) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """{key: (dtype, shape)} of what is kept of `p` after a step."""
        if not self.projects(p):
            moment, more = (p.dtype, tuple(p.shape)), {}
        else:
            (m, n), r = p.shape, self.rank
            moment = p.dtype, ((m, r) if m >= n else (r, n))
            more = {"projection": (p.dtype, (r, n) if m >= n else (m, r))}
        return {"exp_avg": moment, "exp_avg_sq": moment, "step": (torch.float32, ()), **more}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of all that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step(p, group)
        return loss

    def _step(self, p: nn.Parameter, group: dict[str, Any]) -> None:
        state, gradient = self.state[p], p.grad
        assert gradient is not None
        if not state:
            state.update(
                {
                    key: torch.zeros(shape, dtype=dtype, device=p.device)
                    for key, (dtype, shape) in self.state_like(p).items()
                }
            )
            state["step"] = torch.zeros((), dtype=torch.float32)
        right = p.ndim == 2 and p.shape[0] >= p.shape[1]
        if self.projects(p):
            if int(state["step"]) % self.every == 0:
                state["projection"].copy_(_directions(gradient, self.rank, right))
            P = state["projection"]
            gradient = gradient @ P.T if right else P.T @ gradient
        beta1, beta2 = group["betas"]
        state["step"] += 1
        t = float(state["step"])
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        change = (mean / (1 - beta1**t)) / ((square / (1 - beta2**t)).sqrt() + group["eps"])
        if self.projects(p):
            change = self.scale * (change @ P if right else P @ change)
        p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * change)


def _directions(gradient: Tensor, r: int, right: bool) -> Tensor:
    """The r leading singular vectors of the shorter side: (r, n) on the right, (m, r) on the left."""
    U, _, Vh = torch.linalg.svd(gradient.to(torch.promote_types(gradient.dtype, torch.float32)), full_matrices=False)
    return (Vh[:r] if right else U[:, :r]).to(gradient.dtype)
