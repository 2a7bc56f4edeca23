"""What is wrong with a folder, by its files and by what PEFT makes of it; and with a merge, by the weights. Chapter 17, exercise 17.3."""

import contextlib
import io
import json
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from lora_edu.course.blank_page import Page
from lora_edu.course.checks.judged_page import (
    Adapted,
    Settings,
    adapted,
    called,
    logits,
    merged_reference,
    targets,
    tiny,
    whole,
)
from lora_edu.course.exercises import Wrong, close, shown, told
from lora_edu.course.lawbook.diagnosis import COARSE, name_scale
from lora_edu.course.lawbook.probe import Case
from lora_edu.course.lawbook.probe import tensors as tensors_of

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def judge_folder(page: Page, settings: Settings, seed: int, ids: Tensor) -> None:
    """Raises: Wrong, where a file is missing, its keys, shapes or numbers are others, or PEFT makes another model of it."""
    made = adapted(page, settings, seed)
    before = logits(made.model, ids)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        called(page, "save", made.model, folder, list(settings.names), settings.r, settings.alpha)
        if not close(logits(made.model, ids), before, 1e-5):
            raise Wrong("saving changes the model", "after `save` the model says something else than before")
        tensors, config = _files(folder)
        read = _read_by_peft(folder)
        _judge_keys(tensors, made, ids, read)
        _judge_digits(tensors, made)
        if not isinstance(read, Exception):
            _judge_layers(read, config, settings)
            if close(logits(read, ids), before, 1e-4):
                return  # the same model is the same model, however scale and factors share it out
        _judge_tensors(tensors, made)
        _judge_config(config, settings)
        if isinstance(read, Exception):
            raise Wrong("PEFT cannot load the folder", told(read))
    raise Wrong(
        "PEFT reads another model",
        f"with {settings} PEFT loads the folder, and its model says something else than yours",
    )


def _files(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors.torch import load_file

    there = sorted(path.name for path in folder.rglob("*") if path.is_file())
    pickled = [name for name in there if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    if WEIGHTS not in there and pickled:
        raise Wrong(
            "a pickle",
            f"the folder holds {pickled[0]}: opening a pickle can run code. Write {WEIGHTS} with safetensors",
        )
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise Wrong(f"{name} is missing", f"the folder holds {', '.join(there) or 'nothing'}")
    try:
        tensors = load_file(folder / WEIGHTS)
    except Exception as error:
        raise Wrong(f"{WEIGHTS} cannot be read", told(error)) from None
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
    except ValueError as error:
        raise Wrong(f"{CONFIG} cannot be read", told(error)) from None
    if not isinstance(config, dict):
        raise Wrong(f"{CONFIG} cannot be read", f"it holds {shown(config)}, and should hold an object: {{…}}")
    return tensors, config


def _read_by_peft(folder: Path) -> Any:
    """PEFT's model of the folder, or the error that it raises."""
    from peft import PeftModel

    with quiet():
        try:
            return PeftModel.from_pretrained(tiny(), folder).eval()
        except Exception as error:
            return error


def _judge_keys(tensors: dict[str, Tensor], made: Adapted, ids: Tensor, read: Any) -> None:
    want = {f"{PREFIX}{path}.lora_{slot}.weight" for path in targets(made.settings) for slot in "AB"}
    lost, extra = want - tensors.keys(), tensors.keys() - want
    if not lost and not extra:
        return
    key = min(extra, key=len) if extra else ""
    if lost and extra and not isinstance(read, Exception) and len(lost) == len(want):
        silent = close(logits(read, ids), logits(tiny(), ids), 1e-5)
        why = f"your keys are like `{shown(key)}`, PEFT's like `{min(want, key=len)}`"
        if silent:
            raise Wrong(
                "keys that PEFT leaves out in silence",
                f"PEFT loads the folder with a warning at most, and answers as the base alone: {why}",
            )
        raise Wrong("other keys than PEFT's", why)
    if extra and not lost:
        raise Wrong(
            "more than the adapter is saved",
            f"the file holds {len(extra)} tensors that are neither A nor B, as `{shown(key)}`",
        )
    if lost and not extra:
        raise Wrong(
            "a factor is left out of the file",
            f"`{min(lost, key=len)}` is not in it: PEFT starts such a one anew, with a warning at most",
        )
    raise Wrong("other keys than PEFT's", f"the file holds `{shown(key)}` and lacks `{min(lost, key=len)}`")


def _judge_digits(tensors: dict[str, Tensor], made: Adapted) -> None:
    for path, factors in made.values().items():
        for slot, want in zip("AB", factors):
            got = tensors[key := f"{PREFIX}{path}.lora_{slot}.weight"]
            if got.is_floating_point() and got.element_size() < want.element_size():
                raise Wrong(
                    "saved in half precision",
                    f"`{key}` is {got.dtype}, and the factor is {want.dtype}: digits are lost",
                )


def _judge_layers(read: Any, config: dict[str, Any], settings: Settings) -> None:
    has = {
        path.removeprefix(PREFIX) for path, module in read.named_modules() if len(getattr(module, "lora_A", None) or ())
    }
    said = f"`target_modules` is {shown(config.get('target_modules'))}"
    if lost := sorted(targets(settings).keys() - has):
        raise Wrong(
            "target_modules: PEFT puts its adapter on other layers", f"with {settings} {said}, and {lost[0]} gets none"
        )
    if more := sorted(has - targets(settings).keys()):
        raise Wrong(
            "target_modules: PEFT puts its adapter on more layers",
            f"with {settings} {said}: {more[0]} gets one too, which is not in your file and starts anew",
        )


def _judge_tensors(tensors: dict[str, Tensor], made: Adapted) -> None:
    for path, (A, B) in made.values().items():
        for slot, want, other in (("A", A, B), ("B", B, A)):
            key = f"{PREFIX}{path}.lora_{slot}.weight"
            got = tensors[key]
            if got.shape != want.shape:
                shapes = f"`{key}` has shape {tuple(got.shape)}, and PEFT wants {tuple(want.shape)}"
                if got.shape in (other.shape, other.T.shape):
                    raise Wrong("A and B are swapped in the file", shapes)
                raise Wrong("a factor is transposed in the file", shapes)
            if not got.is_floating_point() or not close(got.to(want.dtype), want, 1e-5):
                scale = float((got.float() * want).sum() / want.square().sum())
                if abs(scale) > 1e-6 and close(got.float(), scale * want, 1e-3):
                    raise Wrong(
                        "the scale is saved in the factors",
                        f"`{key}` is {scale:.3g} × the factor, and PEFT multiplies by α/r again",
                    )
                raise Wrong("other numbers are saved", f"`{key}` does not hold the factor that the model has")


def _judge_config(config: dict[str, Any], settings: Settings) -> None:
    if str(config.get("peft_type", "")).upper() != "LORA":
        raise Wrong("the config does not say LORA", f"`peft_type` is {shown(config.get('peft_type'))}")
    for key, want, default in (("r", settings.r, 8), ("lora_alpha", settings.alpha, 8)):
        if config.get(key, default) != want:
            said = shown(config[key]) if key in config else f"not there, so PEFT takes {default},"
            raise Wrong(f"{key} is another in the config", f"`{key}` is {said} and should be {want:g}")
    if config.get("use_rslora"):
        raise Wrong("the config says rsLoRA", "`use_rslora` makes PEFT multiply by α/√r")


def judge_merge(page: Page, settings: Settings, seed: int, ids: Tensor) -> None:
    """Raises: Wrong, where the merged model says something else, the weights are others, or a second merge adds once more."""
    made = adapted(page, settings, seed)
    before, values = logits(made.model, ids), made.values()
    merged = _merged(page, made.model, settings)
    after = logits(merged, ids)
    shares = _in_the_weights(merged, values, settings)
    still = [path for path, share in shares.items() if share is not None and abs(share) < 1e-4]
    if len(still) == len(shares):
        raise Wrong("merge does nothing", "after `merge` the weights are still W₀")
    if still:
        raise Wrong("merge leaves a layer out", f"with {settings} the weights of {still[0]} are still W₀ after `merge`")
    if not close(after, before, 1e-4):
        _say_merge(shares, before, after, values, settings, ids)
    if any(not p.is_leaf for p in merged.parameters()):
        raise Wrong(
            "the merged weight hangs on A and B", "it has kept the graph that leads to them: merge in `torch.no_grad()`"
        )
    if _listens(merged, made, ids, after):
        raise Wrong(
            "merge does nothing",
            "after `merge` the output still depends on A and B: they are added beside W₀ as before",
        )
    try:
        again = logits(_merged(page, merged, settings), ids)
    except Wrong:
        return  # it refuses, and that is an answer too
    if not close(again, after, 1e-4):
        raise Wrong(
            "a second merge adds once more",
            "merge twice, and s·B A is in the weights twice: take the adapter out, or remember that it is in",
        )


def _say_merge(
    shares: dict[str, float | None],
    before: Tensor,
    after: Tensor,
    values: dict[str, tuple[Tensor, Tensor]],
    settings: Settings,
    ids: Tensor,
) -> None:
    """Raises: Wrong, that names why a merged model says something else."""
    if float((after - before).norm()) < COARSE * float(before.norm()):
        raise Wrong(
            "precision lost in the merge",
            f"with {settings} the output is the right one but for rounding: is something cast to 16 bits?",
        )
    known = [share for share in shares.values() if share is not None]
    share = known[0] if len(known) == len(shares) and max(known) - min(known) < 1e-3 else None
    if share is not None and abs(share - 1) < 1e-3:
        twice = close(after, logits(merged_reference(values, 2 * settings.scale), ids), 1e-3)
        raise Wrong(
            "after the merge the adapter is still added: counted twice" if twice else "another output after the merge",
            f"with {settings} the weights are W₀ + s·B A, as they should be, and the output is not that of these weights",
        )
    if share is not None:
        bug = name_scale(share * settings.scale, Case(r=settings.r, alpha=settings.alpha))
        raise Wrong(f"in merge: {bug}", f"with {settings} {share:.3g} × s·B A went into the weights")
    raise Wrong(
        "another weight than W₀ + s·B A", f"with {settings} the merged model says something else than before the merge"
    )


def _merged(page: Page, model: Any, settings: Settings) -> Any:
    return whole(called(page, "merge", model), model, settings)


def _held(model: Any, paths: Iterable[str]) -> dict[str, list[Tensor]]:
    """path: the tensors that lie there, whether parameter, buffer or attribute; none where the path leads nowhere."""
    now = dict(model.named_modules())
    at = {path: next((name for name in now if name == path or name.endswith(f".{path}")), None) for path in paths}
    return {
        path: [tensor for _, tensor in tensors_of(now[name]).values()] if name is not None else []
        for path, name in at.items()
    }


def _in_the_weights(
    model: Any, values: dict[str, tuple[Tensor, Tensor]], settings: Settings
) -> dict[str, float | None]:
    """path: how many times s·B A went into the weight; None where there is no such mixture, or no weight. A copy of W₀ may lie beside it."""
    base, found = tiny(), {}
    for path, held in _held(model, values).items():
        A, B = values[path]
        W0, BA = base.get_submodule(path).weight.detach(), settings.scale * B @ A
        shares = []
        for W in (t.detach() if t.shape == W0.shape else t.detach().T for t in held if t.dim() == 2):
            if W.shape == W0.shape:
                change = W.to(W0.dtype) - W0
                share = float((change * BA).sum() / BA.square().sum())
                if float((change - share * BA).norm()) <= 1e-3 * float(BA.norm()):
                    shares.append(share)
        found[path] = max(shares, key=lambda share: (abs(share - 1) < 1e-3, abs(share)), default=None)
    return found


def _listens(model: Any, made: Adapted, ids: Tensor, says: Tensor) -> bool:
    """Whether the output depends on A and on B, each by itself; where one of the two is zero, as after some merges, it does not on the other."""
    held = _held(model, made.factors)
    first: dict[int, Tensor] = {}
    second: dict[int, Tensor] = {}
    for path, (out, n_in) in targets(made.settings).items():
        A, _, B, _ = made.factors[path]
        r = made.settings.r
        first |= {id(t): t for t in [A, *held[path]] if tuple(t.shape) in ((r, n_in), (n_in, r))}
        second |= {id(t): t for t in [B, *held[path]] if tuple(t.shape) in ((r, out), (out, r))}
    return all(_heard(model, factors.values(), ids, says) for factors in (first, second))


def _heard(model: Any, factors: Iterable[Tensor], ids: Tensor, says: Tensor) -> bool:
    kept = [(t, t.detach().clone()) for t in factors]
    for t, _ in kept:
        t.data.add_(1.0)
    heard = not close(logits(model, ids), says, 1e-4)
    for t, was in kept:
        t.data.copy_(was)
    return heard
