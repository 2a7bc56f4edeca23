"""Handling a LoRA layer that somebody else wrote: build it, call it, find its factors by their shapes."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

BASE_NAMES = (
    "base_layer",
    "base",
    "linear",
    "layer",
    "original",
    "original_layer",
    "module",
    "linear_layer",
    "base_linear",
)
RANK_NAMES = ("r", "rank", "lora_r", "lora_rank")
ALPHA_NAMES = ("lora_alpha", "alpha", "lora_scale")
DROPOUT_NAMES = ("lora_dropout", "dropout", "p", "dropout_p")
CONVENTION = "`MyLoRALinear(base_layer, r, lora_alpha)`, where base_layer is an nn.Linear"


@dataclass(frozen=True)
class Case:
    """One layer to build. The sizes differ from one another, and α/r from α, 1/r, α/√r and 1, so that no two bugs look alike."""

    n_in: int = 12
    n_out: int = 7
    r: int = 3
    alpha: float = 12.0
    bias: bool = True

    @property
    def scale(self) -> float:
        return self.alpha / self.r

    def __str__(self) -> str:
        return f"in={self.n_in}, out={self.n_out}, r={self.r}, α={self.alpha:g}, {'with' if self.bias else 'no'} bias"


WIDE = Case()
SQUARE = Case(n_in=8, n_out=8, r=3, alpha=15.0)
TALL = Case(n_in=6, n_out=11, r=5, alpha=15.0, bias=False)
# α/r is no whole number here, once above and once below 1. Used after the others: a scale wrong everywhere has its name by then.
FRACTIONS = (Case(n_in=9, n_out=5, r=4, alpha=10.0), Case(n_in=5, n_out=9, r=3, alpha=2.0, bias=False))


@dataclass(frozen=True)
class Finding:
    """A broken law: `what` broke, with what was measured, and what that usually `means` (the bug's name)."""

    what: str
    means: str = ""


class LawBroken(Exception):
    """Carries a Finding out of a check that cannot go on."""

    def __init__(self, what: str, means: str = "") -> None:
        super().__init__(what)
        self.finding = Finding(what, means)


class NotJudged(Exception):
    """The law cannot be judged on this layer; the message says why."""


@dataclass(frozen=True)
class Place:
    """Where a factor lies in a layer: its path, how it is held, and whether it is stored transposed."""

    path: str
    held: str  # "parameter", "buffer" or "plain"
    transposed: bool


@dataclass
class Built:
    """A layer over a base, with copies of what the base held before the layer was built."""

    case: Case
    layer: Any  # the learner's nn.Module, with methods nobody can know here
    base: nn.Linear
    W0: Tensor  # (out, in)
    b: Tensor | None  # (out,)
    drawn_after: Tensor  # what torch draws next once the layer is built

    def __call__(self, x: Tensor) -> Tensor:
        what = f"`forward(x)` with x of shape {tuple(x.shape)} ({self.case})"
        given = x.clone()
        y = call(what, self.layer, given)
        if not torch.equal(given, x):
            raise LawBroken(
                f"{what} changed x itself", "the input is changed in place: write `x = x * …` and not `x *= …`"
            )
        return y

    def expected(self, x: Tensor) -> Tensor:
        """The untouched base's output, computed as nn.Linear does."""
        return nn.functional.linear(x, self.W0, self.b)

    @property
    def weight(self) -> Tensor:
        """The base's own weight, also where `torch.nn.utils.parametrize` has put a computed one in its place."""
        if not parametrize.is_parametrized(self.base, "weight"):
            return self.base.weight
        stored: Any = self.base.parametrizations
        return next(stored["weight"].parameters(recurse=False))

    def train(self, training: bool = True) -> "Built":
        """The layer in train or eval mode, with every dropout module at 0: what is left must be the same in both."""
        self.layer.train(training)
        for module in self.layer.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0
        return self

    def to(self, dtype: torch.dtype) -> "Built":
        call(f"`.to({dtype})` ({self.case})", self.layer.to, dtype)
        self.W0 = self.W0.to(dtype)
        self.b = self.b.to(dtype) if self.b is not None else None
        return self


def call(what: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call into the learner's code: an exception becomes a broken law that names the call."""
    try:
        return function(*args, **kwargs)
    except (Exception, SystemExit) as error:
        raise LawBroken(f"{what} raised {type(error).__name__}: {_first_line(error)}", guess(error)) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["(no message)"])[0]


def guess(error: BaseException) -> str:
    """What an exception in a LoRA layer usually means; "" when there is no telling."""
    text = str(error)
    if isinstance(error, SystemExit):
        return "a layer must not end the program of whoever uses it: raise an error in place of `sys.exit()`"
    if "before Module.__init__() call" in text:
        return "`super().__init__()` is missing: it has to be the first line of `__init__`"
    if isinstance(error, NameError):
        return "a name that is not defined: misspelt, or a variable of another function"
    if "dtype" in text or "scalar type" in text:
        return (
            "a tensor in another dtype: cast on the way (`.half()`), or left behind by `.to()`, "
            "which takes only Parameters and buffers along"
        )
    if any(
        word in text
        for word in ("shapes cannot be multiplied", "must match", "size mismatch", "not compatible", "broadcast")
    ):
        return (
            "transposed product: with A (r, in) and B (out, r) the update is `B @ A`, and a batch takes `x @ A.T @ B.T`"
        )
    if isinstance(error, AttributeError):
        return "a name that `__init__` does not set, or sets under another name"
    if "in-place" in text:
        return "a weight changed outside `torch.no_grad()`"
    return ""


def tensors(layer: nn.Module) -> dict[str, tuple[str, Tensor]]:
    """Every tensor a layer holds: path → (held as, tensor), each tensor once, parameters first."""
    found: dict[str, tuple[str, Tensor]] = {}
    seen: set[int] = set()
    plain = [
        (f"{prefix}.{name}".lstrip("."), value)
        for prefix, module in layer.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor)
    ]
    for held, pairs in (("parameter", layer.named_parameters()), ("buffer", layer.named_buffers()), ("plain", plain)):
        for path, tensor in pairs:
            if id(tensor) not in seen:
                seen.add(id(tensor))
                found[path] = (held, tensor)
    return found


def shares_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def holding_W0(built: Built) -> list[str]:
    """The paths at which a layer just built holds W₀'s numbers."""
    return [
        path for path, (_, t) in tensors(built.layer).items() if t.shape == built.W0.shape and torch.equal(t, built.W0)
    ]


class Subject:
    """A learner's layer class: how to build it and where its factors are."""

    def __init__(self, layer_class: Callable[..., nn.Module]) -> None:
        self.layer_class = layer_class
        self.name = getattr(layer_class, "__name__", type(layer_class).__name__)
        self.arguments = self._read_signature()
        self.A, self.B = self._find_factors()

    def _read_signature(self) -> dict[str, str]:
        """Which of the constructor's parameters is the base, the rank, α and the dropout."""
        try:
            parameters = inspect.signature(self.layer_class).parameters
        except (TypeError, ValueError) as error:
            raise LawBroken(
                f"the constructor of {self.name} cannot be read: {error}", f"the runner builds {CONVENTION}"
            ) from None
        positional = [p for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        shown = f"{self.name}({', '.join(str(p) for p in parameters.values())})"
        if len(positional) < 3 or {"in_features", "out_features"} & set(parameters):
            raise LawBroken(f"the constructor is {shown}", f"another constructor: the runner builds {CONVENTION}")
        names = [p.name for p in positional]
        roles = {"base": next((n for n in BASE_NAMES if n in names), names[0])}
        rest = [n for n in names if n != roles["base"]]
        roles["r"] = next((n for n in RANK_NAMES if n in rest), rest[0])
        rest.remove(roles["r"])
        roles["alpha"] = next((n for n in ALPHA_NAMES if n in rest), rest[0])
        rest.remove(roles["alpha"])
        if dropout := next((n for n in DROPOUT_NAMES if n in rest), None):
            roles["dropout"] = dropout
            rest.remove(dropout)
        if demanded := [n for n in rest if parameters[n].default is inspect.Parameter.empty]:
            raise LawBroken(
                f"the constructor {shown} demands {', '.join(demanded)} too",
                f"another constructor: the runner builds {CONVENTION}",
            )
        self.only_positional = any(p.kind is p.POSITIONAL_ONLY for p in positional)
        return roles

    def build(
        self,
        case: Case,
        *,
        seed: int = 0,
        base_seed: int = 1000,
        dtype: torch.dtype = torch.float32,
        dropout: float = 0.0,
    ) -> Built:
        """A layer in eval mode over a fresh random base, the same on every call; the caller's random numbers are left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(base_seed)
            base = nn.Linear(case.n_in, case.n_out, bias=case.bias, dtype=dtype)
            W0, b = base.weight.detach().clone(), base.bias.detach().clone() if case.bias else None
            torch.manual_seed(seed)
            arguments = {self.arguments["base"]: base, self.arguments["r"]: case.r, self.arguments["alpha"]: case.alpha}
            if "dropout" in self.arguments:
                arguments[self.arguments["dropout"]] = dropout
            what = f"building {self.name}(nn.Linear({case.n_in}, {case.n_out}), r={case.r}, α={case.alpha:g})"
            if self.only_positional:
                layer = call(what, self.layer_class, *arguments.values())
            else:
                layer = call(what, self.layer_class, **arguments)
            drawn_after = torch.rand(4)
        if not isinstance(layer, nn.Module):
            raise LawBroken(
                f"{self.name} built a {type(layer).__name__}",
                "the class does not inherit from nn.Module: write `class MyLoRALinear(nn.Module)`",
            )
        return Built(case, layer.eval(), base, W0, b, drawn_after)

    def _find_factors(self) -> tuple[Place, Place]:
        case = WIDE
        held = {path: pair for path, pair in tensors(self.build(case).layer).items()}
        return self._find(held, "A", (case.r, case.n_in)), self._find(held, "B", (case.n_out, case.r))

    def _find(self, held: dict[str, tuple[str, Tensor]], name: str, shape: tuple[int, int]) -> Place:
        fitting = {path: pair for path, pair in held.items() if tuple(pair[1].shape) in (shape, shape[::-1])}
        named = [path for path in fitting if name.lower() in path.lower().replace("lora", "").replace("default", "")]
        for paths in ([p for p in fitting if fitting[p][0] == "parameter"], list(fitting)):
            chosen = paths if len(paths) == 1 else [p for p in paths if p in named]
            if len(chosen) == 1:
                kind, tensor = fitting[chosen[0]]
                return Place(chosen[0], kind, tuple(tensor.shape) != shape)
        there = ", ".join(f"{path} {tuple(pair[1].shape)}" for path, pair in held.items()) or "none"
        wanted = "(r, in)" if name == "A" else "(out, r)"
        raise LawBroken(
            f"no factor {name} was found: no tensor of shape {wanted} = {shape} in the layer; its tensors are {there}",
            "another shape or name, or made in `forward` and not in `__init__`: keep `self.A = nn.Parameter(…)` of shape (r, in) and `self.B` of shape (out, r), or "
            "`lora_A = nn.Linear(in, r, bias=False)` and `lora_B = nn.Linear(r, out, bias=False)`",
        )

    def raw(self, built: Built, place: Place) -> Tensor:
        """The tensor as the layer holds it."""
        every = dict(built.layer.named_parameters()) | dict(built.layer.named_buffers())
        if place.path in every:
            return every[place.path]
        value: Any = built.layer
        for part in place.path.split("."):
            value = getattr(value, part)
        return value

    def factors(self, built: Built) -> tuple[Tensor, Tensor]:
        """A (r, in) and B (out, r) as they are now, whichever way the layer stores them."""
        A, B = (self.raw(built, place).detach() for place in (self.A, self.B))
        return (A.T if self.A.transposed else A), (B.T if self.B.transposed else B)

    def set_factors(self, built: Built, *, zero_B: bool = False, seed: int = 7) -> tuple[Tensor, Tensor]:
        """Fill A and B with random numbers (B with zeros if asked), so that B A is as large as W₀; returns them."""
        rng = torch.Generator().manual_seed(seed)
        case = built.case
        A = torch.randn(case.r, case.n_in, generator=rng, dtype=torch.float64)
        B = torch.randn(case.n_out, case.r, generator=rng, dtype=torch.float64) / (
            case.scale * math.sqrt(case.r * case.n_in)
        )
        B = torch.zeros_like(B) if zero_B else B
        with torch.no_grad():
            self.raw(built, self.A).data.copy_(A.T if self.A.transposed else A)
            self.raw(built, self.B).data.copy_(B.T if self.B.transposed else B)
        return self.factors(built)

    @property
    def registered(self) -> bool:
        return self.A.held == self.B.held == "parameter"
