"""The fast path: an adapted matrix, and the gated MLP of Llama-shaped models, each as one step of autograd. Chapter 14.

The plain formula of `layers` leaves bookkeeping to autograd, which keeps every operation's inputs. Here the backward pass is written
out, and keeps only what it cannot do without:

  y = x Wᵀ + b + s·(x Aᵀ) Bᵀ        keeps x, the thin x Aᵀ and, where dropout is on, its mask as bits
  y = down(silu(gate(x)) · up(x))   keeps x, gate's output and up's; silu and the product are computed again

In the backward pass thin products stand in the orientation that BLAS likes, Bᵀ dyᵀ (r, n) and not dy B (n, r): up to four times as
fast on a CPU. Nothing is approximated: the output is the plain formula's bit for bit (with dropout off). Under autocast weights and
factors are cast as the plain formula casts them, and a weight's copy is kept for the backward pass, as autocast itself keeps it: to
cast it again costs time, and a base that is loaded in 16 bits is its own copy.

`applies` says where this is right; everywhere else the plain formula runs. `disabled()` switches the fast path off.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function, forward_ad
from torch.nn.modules.module import _has_any_global_hook
from torch.utils.weak import WeakIdKeyDictionary

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
class Part(NamedTuple):
    """One matrix of a fused step: y = x Wᵀ + b + s·B(A drop(x)); A and B are None on a matrix without adapter."""

    W: Tensor  # (out, in), frozen
    b: Tensor | None  # (out,), frozen
    A: Tensor | None = None  # (r, in)
    B: Tensor | None = None  # (out, r)
    s: float = 0.0
    p: float = 0.0  # dropout of the adapter's input


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


# -- the arithmetic, on tensors of one device; n rows of x -------------------------------------------------------------
def autocast_off(x: Tensor) -> Any:
    """Here every cast is written out."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def cast(tensor: Any, dtype: torch.dtype | None) -> Any:
    return tensor if tensor is None or dtype is None else tensor.to(dtype)


_copies: WeakIdKeyDictionary | None = None  # within `copies_kept`: weight → (its version, its copy in another type)


@contextmanager
def copies_kept() -> Iterator[None]:
    """Within the block a frozen weight is cast once and not once a step. The same bits; the copies last as long as the block.

    A weight that is changed in place, or replaced, is cast anew. Each thread's block sees the same copies; the outermost drops them.
    """
    global _copies
    outermost = _copies is None
    if outermost:
        _copies = WeakIdKeyDictionary()
    try:
        yield
    finally:
        if outermost:
            _copies = None


def frozen_cast(W: Any, dtype: torch.dtype | None) -> Any:
    """`cast` of a frozen weight, from the copies where they are kept."""
    copies = _copies
    if copies is None or dtype is None or W.dtype == dtype or W.requires_grad:
        return cast(W, dtype)
    found = copies.get(W)
    if found is None or found[0] != W._version or found[1].dtype != dtype or found[1].device != W.device:
        found = copies[W] = (W._version, W.to(dtype))
    return found[1]


def _part(tensors: Iterable[Any], scales: tuple[float, float], dtype: torch.dtype | None) -> Part:
    W, b, A, B = tensors
    return Part(frozen_cast(W, dtype), cast(b, dtype), cast(A, dtype), cast(B, dtype), *scales)


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])  # (n, d)


def _draw(x: Tensor, p: float) -> Tensor | None:
    """1 where dropout keeps a number of x and 0 elsewhere: the random numbers of `F.dropout` on a CPU, in the same order."""
    return torch.empty_like(x).bernoulli_(1 - p) if p else None


def _pack(kept: Tensor | None) -> Tensor | None:
    """Eight truth values in a byte: one 64-bit product moves the lowest bits of eight bytes next to each other."""
    if kept is None:
        return None
    padded = F.pad(kept.to(torch.bool).reshape(-1), (0, -kept.numel() % 8))
    return (padded.view(torch.int64) * 0x0102040810204080 >> 56).to(torch.uint8)


def _unpack(bits: Tensor | None, x: Tensor) -> Tensor | None:
    """The mask again, in x's shape and dtype."""
    if bits is None:
        return None
    spread = bits.to(torch.int64) * 0x0101010101010101 & (0x8040201008040201 - (1 << 64))  # bit k in byte k
    return spread.view(torch.uint8).clamp_(max=1)[: x.numel()].view(x.shape).to(x.dtype)


def _thin(factor: Tensor, rows: Tensor) -> Tensor:
    """factor @ rowsᵀ, (r, n): as it stands for MKL's wide types, and as (rows @ factorᵀ)ᵀ for oneDNN's half ones, which is faster."""
    return (rows @ factor.T).T if rows.element_size() == 2 else factor @ rows.T


def _add_product_(y: Tensor, thin: Tensor, factor: Tensor, s: float = 1.0) -> None:
    """y += s · thinᵀ @ factor in place: y (n, d), thin (r, n), factor (r, d). These may be wider than y: one rounding, at the end."""
    if factor.dtype == y.dtype:
        y.addmm_(thin.T, factor, alpha=s)
    else:
        y.add_(thin.T @ factor, alpha=s)


def _forward(x: Tensor, m: Part) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """y (..., out) by the plain formula's operations, in place, so that both paths give the same bits; x Aᵀ (n, r); the mask's bits."""
    y = F.linear(x, m.W, m.b).detach()  # never a view: what comes behind, as ReLU(inplace=True), may change it
    if m.A is None or m.B is None:
        return y, None, None
    kept = _draw(x, m.p)
    low = F.linear((x if kept is None else x * kept).to(m.A.dtype), m.A)
    y.add_(F.linear(low, m.B), alpha=m.s / (1 - m.p))  # dropout's 1/(1−p) is left to s
    return y, _flat(low), _pack(kept)


def _backward(dy: Tensor, x: Tensor, m: Part, saved: Any, dx: Tensor | None = None, wanted: bool = True) -> Any:
    """From dy (n, out): dA (r, in), dB (out, r) and, where it is wanted, dx (n, in), added to the one given."""
    if wanted:
        dx = dy @ m.W if dx is None else dx.addmm_(dy, m.W)
    if m.A is None or m.B is None:
        return None, None, dx
    low, bits = saved
    wide, s, kept = dy.to(m.B.dtype), m.s / (1 - m.p), _unpack(bits, x)
    thin = _thin(m.B.T, wide).mul_(s)  # (r, n)
    dA = thin @ _flat(x if kept is None else x * kept).to(m.A.dtype)
    dB = (low.T @ wide).mul_(s).T.contiguous()
    if dx is not None and kept is None:
        _add_product_(dx, thin, m.A)
    elif dx is not None and kept is not None:
        dx.addcmul_((thin.T @ m.A).to(dx.dtype), _flat(kept))
    return dA, dB, dx


def _plain(x: Tensor, m: Part, bits: Tensor | None) -> Tensor:
    """The same step in operations that autograd can follow, for a backward pass that is to be differentiated itself."""
    y = F.linear(x, m.W, m.b)
    if m.A is None or m.B is None:
        return y
    kept = _unpack(bits, x.detach())
    h = x if kept is None else x * kept
    return torch.add(y, F.linear(F.linear(h.to(m.A.dtype), m.A), m.B), alpha=m.s / (1 - m.p)).to(y.dtype)


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


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x, W, b, A, B, s, p, dtype):
        ctx.scales, ctx.dtype = (s, p), dtype
        with autocast_off(x):
            m = _part((W, b, A, B), (s, p), dtype)
            y, *kept = _forward(cast(x, dtype), m)
            ctx.save_for_backward(x, m.W if ctx.needs_input_grad[0] else W, b, A, B, *kept)
        return y

    @staticmethod
    def backward(ctx: Any, dy):
        x, *tensors, low, bits = _saved(ctx)
        with autocast_off(x):
            m, xc = _part(tensors, ctx.scales, ctx.dtype), cast(x, ctx.dtype)
            if torch.is_grad_enabled():
                found = _differentiable(ctx, lambda: _plain(xc, m, bits), x, tensors, dy)
                return *(found.get(i) for i in range(5)), None, None, None
            dA, dB, dx = _backward(_flat(dy), xc, m, (low, bits), wanted=ctx.needs_input_grad[0])
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
            g, *of_gate = _forward(xc, gate)
            u, *of_up = _forward(xc, up)
            y, *of_down = _forward(F.silu(g).mul_(u), down)
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
                    h = F.silu(_plain(xc, gate, of_gate[1])) * _plain(xc, up, of_up[1])
                    return _plain(h, down, of_down[1])

                found = _differentiable(ctx, step, x, (None, None, *tensors), dy)  # numbered as forward's arguments are
                return tuple(found.get(i) for i in range(15))
            a, wanted = F.silu(g), ctx.needs_input_grad[0]
            *d_down, dh = _backward(_flat(dy), a * u, down, of_down)
            dh = dh.view(g.shape)
            du = dh * a
            dg = torch.ops.aten.silu_backward(dh.mul_(u), g)  # dh is ours; g and u may be asked for again
            *d_gate, dx = _backward(_flat(dg), xc, gate, of_gate, wanted=wanted)
            *d_up, dx = _backward(_flat(du), xc, up, of_up, dx, wanted)
        dx, none = None if dx is None else dx.view(x.shape), (None, None)
        return dx, *none, *none, *d_gate, *none, *d_up, *none, *d_down


def _parts(tensors: Any, scales: Any, dtype: torch.dtype | None) -> list[Part]:
    return [_part(tensors[4 * i : 4 * i + 4], scales[i], dtype) for i in range(3)]


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
