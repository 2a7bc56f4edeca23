"""The fast path: an adapted matrix, and the gated MLP of Llama-shaped models, each as one step of autograd. Chapter 14.

The plain formula of `layers` leaves bookkeeping to autograd, which keeps every operation's inputs. Here the backward pass is written
out, and keeps only what it cannot do without:

  y = x Wᵀ + b + s·(x Aᵀ) Bᵀ        keeps x, the thin x Aᵀ and, where dropout is on, its mask as bits
  y = down(silu(gate(x)) · up(x))   keeps x, gate's output and up's; silu and the product are computed again

Nothing is approximated: the output is the plain formula's bit for bit (with dropout off). The arithmetic is `arithmetic`'s.

`applies` says where this is right; everywhere else the plain formula runs. `disabled()` switches the fast path off.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function, forward_ad
from torch.nn.modules.module import _has_any_global_hook

from lora_edu.adapters import arithmetic
from lora_edu.adapters.arithmetic import Part, autocast_dtype, autocast_off, cast
from lora_edu.adapters.recognise import is_gated_mlp
from lora_edu.adapters.walk import outside

_on = True
_LINEAR = nn.Linear.forward  # what is written out below; another one put on the class runs itself


def use(on: bool) -> None:
    """From here on the fast path is on (where it applies), or off everywhere."""
    global _on
    _on = on


@contextmanager
def switched(on: bool) -> Iterator[None]:
    """As `use`, within the block."""
    before = _on
    use(on)
    try:
        yield
    finally:
        use(before)


def disabled():
    """Within the block every layer takes the plain path: for tests and benchmarks."""
    return switched(False)


def is_on() -> bool:
    """Whether the fast path is taken where it applies."""
    return _on


# -- where it applies --------------------------------------------------------------------------------------------------
def part(
    base: nn.Module, A: Tensor | None = None, B: Tensor | None = None, s: float = 0.0, p: float = 0.0
) -> Part | None:
    """The frozen linear layer `base` and its adapter as one Part; None when `base` is not exactly that, or something listens to it."""
    if type(base) is not nn.Linear or nn.Linear.forward is not _LINEAR or has_hooks(base):
        return None
    tensors = [t for t in (base.weight, base.bias, A, B) if t is not None]
    if any(type(t) not in (Tensor, nn.Parameter) for t in tensors):  # sharded, quantised …: not what it looks like
        return None
    if base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad):
        return None
    if A is not None and not (A.requires_grad and B is not None and B.requires_grad):  # one alone needs less kept
        return None
    return Part(base.weight, base.bias, A, B, s, p)


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of this module does more than its class's forward: hooks, or a forward put on the instance (but for the one by
    which a loss silences a head in its own thread: to all others it is the class's)."""
    own = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    replaced = "forward" in module.__dict__ and not hasattr(module.__dict__["forward"], "only_some_threads")
    return any(own) or replaced or _has_any_global_hook()


def transformed() -> bool:
    """Whether something else takes the operations apart: the compiler (which fuses by itself), a trace, vmap, jvp, forward mode …

    Or keeps what single operations give, as selective checkpointing does: it must not see one changed in place.
    """
    busy = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()
    return busy or forward_ad._current_level >= 0 or torch._C._len_torch_dispatch_stack() > 0


def applies(x: Tensor, *parts: Part) -> bool:
    """Whether these matrices may be one fused step on `x` now: a plain tensor, a backward pass to come, dtypes that fit."""
    if not (_on and torch.is_grad_enabled()) or all(m.A is None for m in parts):
        return False
    if type(x) not in (Tensor, nn.Parameter) or x.layout != torch.strided or x.is_nested or not x.is_floating_point():
        return False
    if transformed() or not torch.amp.is_autocast_available(x.device.type):
        return False
    if torch.is_autocast_enabled(x.device.type):  # which leaves float64 alone
        return torch.float64 not in (x.dtype, *(m.W.dtype for m in parts))
    return all(m.W.dtype == x.dtype for m in parts)


# -- what the steps share -----------------------------------------------------------------------------------------------
def _saved(ctx: Any) -> Any:
    """What forward saved. Where the gradient is to be differentiated: views of it, at which `_differentiable` stops.

    Beyond them one input may depend on another, as where a layer is called twice.
    """
    views = torch.is_grad_enabled()
    return [t if t is None else t.view_as(t) for t in ctx.saved_tensors] if views else ctx.saved_tensors


def _differentiable(ctx: Any, step: Any, x: Tensor, tensors: Any, dy: Tensor) -> dict[int, Tensor]:
    """Gradients by input number, with a graph of their own (double backward): the step is repeated the plain way."""
    inputs = {i: t for i, t in enumerate((x, *tensors)) if ctx.needs_input_grad[i]}
    with torch.enable_grad():
        found = torch.autograd.grad(step(), list(inputs.values()), dy, create_graph=True)
    return dict(zip(inputs, found))


# -- one matrix --------------------------------------------------------------------------------------------------------
def linear(x: Tensor, m: Part) -> Tensor:
    """x (..., in) → (..., out) through one adapted matrix, as one step of autograd. Ask `applies` first."""
    return _Linear.apply(x, m.W, m.b, m.A, m.B, m.s, m.p, autocast_dtype(x))


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x, W, b, A, B, s, p, dtype):
        ctx.scales, ctx.dtype = (s, p), dtype
        with autocast_off(x):
            m = arithmetic.cast_part((W, b, A, B), (s, p), dtype)
            y, *kept = arithmetic.forward(cast(x, dtype), m)
            ctx.save_for_backward(x, m.W if ctx.needs_input_grad[0] else W, b, A, B, *kept)
        return y

    @staticmethod
    def backward(ctx: Any, dy):
        x, *tensors, low, bits = _saved(ctx)
        with autocast_off(x):
            m, xc = arithmetic.cast_part(tensors, ctx.scales, ctx.dtype), cast(x, ctx.dtype)
            if torch.is_grad_enabled():
                found = _differentiable(ctx, lambda: arithmetic.plain(xc, m, bits), x, tensors, dy)
                return *(found.get(i) for i in range(5)), None, None, None
            dA, dB, dx = arithmetic.backward(arithmetic.flat(dy), xc, m, (low, bits), wanted=ctx.needs_input_grad[0])
        return None if dx is None else dx.view(x.shape), None, None, dA, dB, None, None, None


# -- the gated MLP -----------------------------------------------------------------------------------------------------
GATE_UP_DOWN = ("gate_proj", "up_proj", "down_proj")


class _GatedMLP(Function):
    @staticmethod
    def forward(ctx: Any, x, scales, dtype, *tensors):
        ctx.scales, ctx.dtype = scales, dtype
        with autocast_off(x):
            gate, up, down = _parts(tensors, scales, dtype)
            xc = cast(x, dtype)
            g, *of_gate = arithmetic.forward(xc, gate)
            u, *of_up = arithmetic.forward(xc, up)
            y, *of_down = arithmetic.forward(F.silu(g).mul_(u), down)
            wide = (gate.W, up.W) if ctx.needs_input_grad[0] else tensors[0:8:4]
            kept = (wide[0], *tensors[1:4], wide[1], *tensors[5:8], down.W, *tensors[9:])
            ctx.save_for_backward(x, g, u, *of_gate, *of_up, *of_down, *kept)
        return y

    @staticmethod
    def backward(ctx: Any, dy):
        x, g, u, *rest = _saved(ctx)
        of_gate, of_up, of_down, tensors = rest[:2], rest[2:4], rest[4:6], rest[6:]
        with autocast_off(x):
            gate, up, down = _parts(tensors, ctx.scales, ctx.dtype)
            xc = cast(x, ctx.dtype)
            if torch.is_grad_enabled():

                def step() -> Tensor:
                    h = F.silu(arithmetic.plain(xc, gate, of_gate[1])) * arithmetic.plain(xc, up, of_up[1])
                    return arithmetic.plain(h, down, of_down[1])

                found = _differentiable(ctx, step, x, (None, None, *tensors), dy)  # numbered as forward's arguments are
                return tuple(found.get(i) for i in range(15))
            a, wanted = F.silu(g), ctx.needs_input_grad[0]
            *d_down, dh = arithmetic.backward(arithmetic.flat(dy), a * u, down, of_down)
            dh = dh.view(g.shape)
            du = dh * a
            dg = torch.ops.aten.silu_backward(dh.mul_(u), g)  # dh is ours; g and u may be asked for again
            *d_gate, dx = arithmetic.backward(arithmetic.flat(dg), xc, gate, of_gate, wanted=wanted)
            *d_up, dx = arithmetic.backward(arithmetic.flat(du), xc, up, of_up, dx, wanted)
        dx, none = None if dx is None else dx.view(x.shape), (None, None)
        return dx, *none, *none, *d_gate, *none, *d_up, *none, *d_down


def _parts(tensors: Any, scales: Any, dtype: torch.dtype | None) -> list[Part]:
    return [arithmetic.cast_part(tensors[4 * i : 4 * i + 4], scales[i], dtype) for i in range(3)]


def gated_parts(mlp: Any) -> list[Part] | None:
    """Gate, up and down of an MLP on which `attach` was, if they may be one step; None if the MLP has to run its own forward."""
    if (type(mlp.act_fn) is not nn.SiLU and type(mlp.act_fn).__name__ != "SiLUActivation") or has_hooks(mlp.act_fn):
        return None
    found = [part_of(getattr(mlp, name)) for name in GATE_UP_DOWN]
    parts = [m for m in found if m is not None]
    return parts if len(parts) == 3 and any(m.A is not None for m in parts[:2]) else None  # else x need not be kept


def part_of(module: Any) -> Part | None:
    """A linear layer, or a layer that has an adapter and says itself what it is, as one Part."""
    if type(module) is nn.Linear:
        return part(module)
    return module.fused_part() if hasattr(module, "fused_part") and not has_hooks(module) else None


def forward(self: Any, x: Tensor) -> Tensor:
    """The forward that `attach` puts on an MLP: one fused step where that is right, else what its class says."""
    possible = _on and torch.is_grad_enabled() and not transformed() and is_gated_mlp(type(self))
    parts = gated_parts(self) if possible else None
    if parts is None or not applies(x, *parts):
        return type(self).forward(self, x)
    tensors = (t for m in parts for t in m[:4])
    return _GatedMLP.apply(x, [m[4:] for m in parts], autocast_dtype(x), *tensors)


def attach(model: nn.Module) -> None:
    """Give every gated MLP of `model` the fused forward, on the instance: its class, its name and its children stay as they are."""
    for _, module in outside(model):
        kind: Any = type(module)
        named = all(hasattr(module, name) for name in (*GATE_UP_DOWN, "act_fn"))
        if named and "forward" not in module.__dict__ and is_gated_mlp(kind):
            module.forward = partial(forward, module)  # which, unlike a method, survives pickle


def detach(model: nn.Module) -> None:
    """Take away what `attach` put in."""
    for _, module in outside(model):
        if attached(module):
            del module.forward


def attached(module: nn.Module) -> bool:
    """Whether the module's forward is the one that `attach` puts in."""
    return getattr(module.__dict__.get("forward"), "func", None) is forward
