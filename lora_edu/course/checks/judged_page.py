"""What the blank page of chapter 17 is tried on: a tiny Llama whose layers are all rectangular, with the learner's adapter in it."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.course.blank_page import PARTS, Page
from lora_edu.course.exercises import NotAttempted, Wrong, attempt, is_stub, kind

VOCAB, PAD = 61, 0
IGNORE = -100
Batch = tuple[Tensor, Tensor]  # ids and labels, (B, T) each


@dataclass(frozen=True)
class Settings:
    names: tuple[str, ...] = ("q_proj", "v_proj")
    r: int = 3
    alpha: float = 7.0

    @property
    def scale(self) -> float:
        return self.alpha / self.r

    def __str__(self) -> str:
        return f"{', '.join(self.names)}, r = {self.r}, α = {self.alpha:g}"


def tiny(seed: int = 0) -> Any:
    """A Llama of two layers: q (32, 24), k and v (16, 24), o (24, 32), gate and up (40, 24), down (24, 40). The same for the same seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape: dict[str, Any] = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    shape |= {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 32}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, tie_word_embeddings=False, pad_token_id=PAD, **shape))
        for p in model.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.3)  # transformers' 0.02 would leave all tokens equally likely
    return model.eval()


def batches(draw: torch.Generator, count: int) -> list[Batch]:
    """Rows of prompt, answer and padding at the end; prompt and padding are masked. In every other batch a row has no prompt, and a hole."""
    made = []
    for number in range(count):
        ids = torch.randint(1, VOCAB, (3, 12), generator=draw)
        labels = ids.clone()
        for row, (prompt, length) in enumerate(((0 if number % 2 else 5, 12), (3, 9), (6, 8))):
            ids[row, length:] = PAD
            labels[row, :prompt] = labels[row, length:] = IGNORE
        if number % 2:
            labels[0, 4:7] = IGNORE
        made.append((ids, labels))
    return made


def targets(settings: Settings) -> dict[str, tuple[int, int]]:
    """path: (out, in) of the layers that `names` means."""
    return {
        path: (module.out_features, module.in_features)
        for path, module in tiny().named_modules()
        if isinstance(module, nn.Linear) and path.rpartition(".")[2] in settings.names
    }


def needs(page: Any, *parts: str) -> None:
    """Raises: Wrong where it is no page; NotAttempted that names what is still open."""
    if not all(hasattr(page, part) for part in PARTS):
        raise Wrong("not a page", f"hand over `Page(layer=…, inject=…, …)`; this is {kind(page)}")
    left = [part for part in parts if _open(getattr(page, part))]
    if left:
        raise NotAttempted(*(left if any(not _open(getattr(page, part)) for part in PARTS) else ()))
    for part in parts:
        if not callable(getattr(page, part)) or isinstance(getattr(page, part), nn.Module):
            raise Wrong(
                "not a function",
                f"`{part}` is {kind(getattr(page, part))}: hand over the function (or class) itself, without calling it",
            )
        module = str(getattr(getattr(page, part), "__module__", ""))
        home = module.split(".")[0]
        if home in ("peft", "transformers", "lora_edu") and module != "lora_edu.course.thirty_lines":
            raise Wrong("not written by you", f"`{part}` comes from the package {home}")


def _open(part: Any) -> bool:
    return part is None or part is ... or (inspect.isfunction(part) and is_stub(part))


def called(page: Page, part: str, *values: Any) -> Any:
    """What a part of the page returns, None included; what goes wrong is a sentence. Batches and tensors are copies."""
    function = getattr(page, part)

    def kept(*given: Any) -> Any:
        return SimpleNamespace(value=function(*given))

    kept.__name__ = part
    return attempt(kept, *values).value


@dataclass
class Adapted:
    """The tiny model with the learner's adapter; `factors`: path → (A, how it lies, B, how it lies), True where it is held transposed."""

    model: Any
    settings: Settings
    factors: dict[str, tuple[nn.Parameter, bool, nn.Parameter, bool]]

    def parameters(self) -> list[nn.Parameter]:
        return [p for A, _, B, _ in self.factors.values() for p in (A, B)]

    def values(self) -> dict[str, tuple[Tensor, Tensor]]:
        """path: A (r, in) and B (out, r)."""
        return {
            path: ((A.T if at else A).detach().clone(), (B.T if bt else B).detach().clone())
            for path, (A, at, B, bt) in self.factors.items()
        }

    def fill(self, seed: int) -> None:
        """The same random A and B for the same seed: with B = 0 nothing could be told apart."""
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for path, (out, n_in) in targets(self.settings).items():
                A, at, B, bt = self.factors[path]
                r = self.settings.r
                new_A, new_B = torch.randn(r, n_in, generator=draw) / n_in**0.5, torch.randn(out, r, generator=draw) / 3
                A.copy_(new_A.T if at else new_A)
                B.copy_(new_B.T if bt else new_B)


def adapted(page: Page, settings: Settings, seed: int | None = None) -> Adapted:
    """Inject as the learner does, and find the factors by their shapes. `seed`: fill them. Raises: Wrong, where they are not all there."""
    model = tiny()
    given = dict(model.named_modules())
    got = called(page, "inject", model, list(settings.names), settings.r, settings.alpha)
    model = whole(got, model, settings).eval()  # a layer just made is in train mode
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    now = dict(model.named_modules())
    found, lost = {}, []
    for path, (out, n_in) in targets(settings).items():
        at = next((name for name in now if name == path or name.endswith(f".{path}")), None)
        pair = _pair(now[at], settings.r, out, n_in) if at is not None else None
        if pair is None:
            lost.append(path)
        else:
            found[path] = pair
    for home in {type(module).__module__ for module in now.values()}:
        if home.startswith(("peft.", "lora_edu.adapters")):
            raise Wrong("not written by you", f"after `inject` the model holds layers of {home}")
    if lost:
        _say_lost(lost, found, now, given, settings)
    ids = [id(p) for A, _, B, _ in found.values() for p in (A, B)]
    if len(set(ids)) < len(ids):
        raise Wrong("layers share their factors", "two layers hold the same A or B: make new ones for each layer")
    made = Adapted(model, settings, found)
    if seed is not None:
        made.fill(seed)
    return made


def whole(got: Any, model: Any, settings: Settings) -> Any:
    """What was returned, where it is a model that holds the named layers; else the model that was handed over."""
    names = [f".{name}" for name, _ in got.named_modules()] if isinstance(got, nn.Module) else []
    return got if all(any(name.endswith(f".{path}") for name in names) for path in targets(settings)) else model


def _pair(module: nn.Module, r: int, out: int, n_in: int) -> tuple[nn.Parameter, bool, nn.Parameter, bool] | None:
    shapes = {tuple(p.shape): p for p in module.parameters()}
    A, B = shapes.get((r, n_in)), shapes.get((out, r))
    turned_A, turned_B = shapes.get((n_in, r)), shapes.get((r, out))
    first, second = (A if A is not None else turned_A), (B if B is not None else turned_B)
    return None if first is None or second is None else (first, A is None, second, B is None)


def _say_lost(lost: Sequence[str], found: Any, now: Any, given: Any, settings: Settings) -> None:
    alpha, r = int(settings.alpha), settings.r
    if any(_pair(now[path], alpha, *targets(settings)[path]) for path in lost if path in now):
        raise Wrong("r and α have changed places", f"the factors have {alpha} rows and columns where r = {r}")
    if not found and all(now.get(path) is given[path] for path in lost):
        raise Wrong(
            "nothing is injected", f"after `inject` with {settings} the layers are the same nn.Linear as before"
        )
    if not found:
        raise Wrong(
            "no A and B are found", f"{lost[0]} holds no parameters of the shapes (r, in) and (out, r) with {settings}"
        )
    raise Wrong("a layer is left out", f"with {settings} {lost[0]} got no adapter, and {next(iter(found))} did")


def merged_reference(values: dict[str, tuple[Tensor, Tensor]], scale: float) -> Any:
    """The tiny model with scale · B A added to its weights: what the adapted one has to compute."""
    model = tiny()
    with torch.no_grad():
        for path, (A, B) in values.items():
            model.get_submodule(path).weight.add_(scale * B @ A)
    return model


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits
