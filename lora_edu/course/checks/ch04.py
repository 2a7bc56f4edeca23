"""Exercises of chapter 04, Into the transformer."""

import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.injection import inject
from lora_edu.adapters.targets import plan
from lora_edu.course.checks.ledger_growth import ATTENTION, GROWTH, GROWTH_BUGS, MLP, Shapes, growths, tiny
from lora_edu.course.exercises import Wrong, as_number, attempt, generator, register
from lora_edu.errors import LoRAEduError
from lora_edu.training.memory.ledger import sketch

LAYERS = range(30)
WANTED = {
    "attention": {f"model.layers.{i}.self_attn.{name}" for i in LAYERS for name in ATTENTION},
    "late down": {f"model.layers.{i}.mlp.down_proj" for i in LAYERS if i >= 20},
    "even MLPs": {f"model.layers.{i}.mlp.{name}" for i in LAYERS if i % 2 == 0 for name in MLP},
}


@cache
def _shapes_of_the_model() -> nn.Module:
    return sketch("smollm2-135m")


@register(
    "04.2",
    title="Name the targets",
    stars=2,
    minutes=10,
    task="Give a `target_modules` for each description: *attention* (q, k, v, o of every layer, 120 matrices), *late down* (down of layers "
    "20 to 29, 10 matrices), *even MLPs* (gate, up and down of layers 0, 2, 4 … 28, 45 matrices). A list of suffixes or one regular expression.",
    wants="targets_for",
    shows="Each plan holds exactly the matrices that were asked for.",
    hints=(
        "`plan(model, LoRAConfig(target_modules=…))` shows what yours takes; look at the names it lists, and count them.",
        "For a list, “20.mlp.down_proj” is an end, too, but you would need one for each layer. One regular expression says it at once, and it must match the *whole* name: begin with `.*`.",
        "The twenties are `2` and one more digit: `2\\d`. An even number ends in `[02468]`, and a digit may stand before that: `\\d?`.",
    ),
)
def name_the_targets(targets_for: Mapping[str, Any]) -> None:
    if not isinstance(targets_for, Mapping) or set(targets_for) != set(WANTED):
        raise Wrong("other keys", f"`targets_for` is a dictionary with the keys {list(WANTED)}")
    for key, wanted in WANTED.items():
        taken = _taken(key, _as_targets(key, targets_for[key]), wanted)
        missing, extra = sorted(wanted - taken), sorted(taken - wanted)
        if not missing and not extra:
            continue
        kinds = {name.rpartition(".")[2] for name in extra} - {name.rpartition(".")[2] for name in wanted}
        counts = f"{key!r}: {len(taken)} are taken and {len(wanted)} were asked for"
        if not extra:
            raise Wrong("matrices are missing", f"{counts}; {missing[0]} is missing")
        if not missing:
            bug = "too many kinds of matrix" if kinds else "too many layers"
            raise Wrong(bug, f"{counts}; {extra[0]} is one too many")
        bug = "other kinds of matrix" if kinds else "other layers"
        raise Wrong(bug, f"{counts}; {extra[0]} is taken and {missing[0]} is not")


def _as_targets(key: str, given: Any) -> str | tuple[str, ...]:
    """A string or a tuple of strings; a compiled expression is its text."""
    if isinstance(given, re.Pattern):
        given = given.pattern
    if isinstance(given, str):
        try:
            re.compile(given)
        except re.error as error:
            detail = (
                f"{key!r}: Python cannot read {given!r}: {error}. (In an expression `*` repeats what stands before it.)"
            )
            raise Wrong("the expression is broken", detail) from None
        return given
    names = tuple(given) if isinstance(given, Iterable) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise Wrong("neither a list of names nor an expression", f"{key!r} is {type(given).__name__}")
    return names


def _taken(key: str, targets: str | tuple[str, ...], wanted: Collection[str]) -> set[str]:
    """The names that `targets` takes from the model. Raises: Wrong, where it takes none or something without a weight."""
    if not targets:
        raise Wrong("nothing is named", f"{key!r} is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a name of several that matches nothing: it is missing below
            return {target.name for target in plan(_shapes_of_the_model(), LoRAConfig(r=1, target_modules=targets))}
    except LoRAEduError as error:
        said = f"{key!r}: {error}"
        if "also matches what no adapter" in said:
            raise Wrong("more than matrices is matched", said) from None
        if isinstance(targets, str):
            part = any(re.search(targets, name) for name in wanted)
            bug = "the expression does not match whole names" if part else "the expression matches no name"
            raise Wrong(
                bug, f"{said}. (It must match a name from its first letter to its last)" if part else said
            ) from None
        if any(set(name) & set("*\\[(|?+^$") for name in targets):
            raise Wrong("an expression in a list", f"{said} (a list holds ends of names, no expressions)") from None
        raise Wrong("no name of the list is there", said) from None


@cache
def _suspect() -> tuple[nn.Module, tuple[str, ...]]:
    """A model with two adapters in four layers, and the paths in question, those of the first three. What trains is set anew for each case."""
    kinds = ("q_proj", "v_proj")
    # r = 8, so that A of (8, 16) is as large as W₀ of v, (8, 16), and as eight norms of 16
    config = LoRAConfig(r=8, target_modules=kinds, layers_to_transform=(0, 1, 2, 10))
    model = inject(tiny(config), config, name="other")
    return model, tuple(f"model.layers.{i}.self_attn.{kind}" for i in (0, 1, 2) for kind in kinds)


def _let_train(model: nn.Module, names: Collection[str]) -> int:
    """Exactly these train; returns how many numbers they hold."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@register(
    "04.3",
    title="Catch the impostor",
    stars=2,
    minutes=10,
    task="Complete `impostors(model, paths)`: the names of all parameters whose `requires_grad` is not what it should be. `paths` names the "
    "modules that carry the adapter. Exactly their `lora_A.default` and `lora_B.default` should train (`default` is the adapter's name; a model "
    "may carry several). A set, empty for a sound model.",
    wants="impostors",
    shows="Every impostor had the right number of trainable parameters, and you named both sides: what trains and should not, what "
    "should and does not.",
    hints=(
        "`model.named_parameters()` gives every name with its parameter; `parameter.requires_grad` says whether it trains.",
        "Make the set of names that *should* train from `paths` alone, then the set that *does*. Where do they differ?",
        'A path and its factor: `f"{path}.lora_A.default"`. For sets, `a ^ b` is what lies in one of them and not in both.',
    ),
)
def catch_the_impostor(impostors: Callable[[nn.Module, Sequence[str]], Iterable[str]]) -> None:
    model, paths = _suspect()
    sound = {f"{path}.{factor}.default" for path in paths for factor in ("lora_A", "lora_B")}
    expected, layer = _let_train(model, sound), "model.layers.{}.self_attn.{}_proj.{}"
    q = [layer.format(i, "q", f"lora_{factor}.default") for i in (0, 1) for factor in "AB"]  # 128 numbers each
    norms = [f"model.layers.{i}.input_layernorm.weight" for i in range(8)]  # 16 each
    parameters, found = dict(model.named_parameters()), list[tuple[str, set[str], set[str]]]()
    for bug, *swapped in (
        ("a sound model is accused",),
        ("an adapter on another layer is trusted", layer.format(1, "q", "lora_B.default"), layer.format(10, "q", "lora_A.default")),
        ("a weight of the base inside an adapted layer is overlooked",
         layer.format(2, "v", "lora_A.default"), layer.format(2, "v", "base_layer.weight")),
        ("a weight of the base is overlooked", q[0], layer.format(0, "k", "weight")),
        ("another adapter of the layer is trusted", q[1], layer.format(0, "q", "lora_A.other")),
        ("norms are overlooked", q[2], *norms),
        ("an MLP's weight is overlooked", *q[:3], "model.layers.4.mlp.gate_proj.weight"),
        ("the embeddings are overlooked", *q, "model.embed_tokens.weight"),
    ):  # fmt: skip
        trains = sound ^ set(swapped)
        assert _let_train(model, trains) == expected  # what freezes is as large as what trains instead
        got = attempt(impostors, model, list(paths))
        if isinstance(got, str | bool | int | torch.Tensor) or not isinstance(got, Iterable):
            raise Wrong("not a set of names", f"`impostors` returned {type(got).__name__}; it should be a set of names")
        items = list(got)
        if (other := next((item for item in items if not isinstance(item, str)), None)) is not None:
            raise Wrong("not a set of names", f"`impostors` returned a {type(other).__name__} among the names")
        names = set(items)
        if {name for name, parameter in parameters.items() if parameter.requires_grad} != trains:
            raise Wrong("the model is changed", "an audit looks on: after it, other parameters train than before")
        if unknown := sorted(names - set(parameters)):
            raise Wrong("no such parameter", f"`{unknown[0]}` is no parameter of the model: is it a module's path?")
        if extra := sorted(names - set(swapped)):
            right = (
                "trains, and it should" if parameters[extra[0]].requires_grad else "does not train, and it should not"
            )
            raise Wrong("a sound parameter is accused", f"`{extra[0]}` {right}")
        found.append((bug, names, set(swapped)))
    _judge_reports(found, sound)


def _judge_reports(found: Sequence[tuple[str, set[str], set[str]]], sound: set[str]) -> None:
    """Looks at all cases together, since what is never reported says more than what one case lacks. Raises: Wrong."""
    missing = [(bug, swapped - names) for bug, names, swapped in found if swapped - names]
    if not missing:
        return
    reported = set[str]().union(*(names for _, names, _ in found))
    bug, lacking = missing[0]
    frozen, thawed = sorted(lacking & sound), sorted(lacking - sound)
    if not reported:
        raise Wrong(
            "the right number is taken for the right names",
            f"as many numbers train as should, but `{frozen[0]}` does not train and `{thawed[0]}` does; nothing was reported",
        )
    if not reported - sound:
        bug = "what trains and should not is never reported"
    elif not reported & sound:
        bug = "a factor that does not train is overlooked"
    if thawed and bug != "a factor that does not train is overlooked":
        raise Wrong(bug, f"`{thawed[-1]}` trains, and should not")
    raise Wrong("a factor that does not train is overlooked", f"`{frozen[0]}` should train and is frozen")


@register(
    "04.1",
    title="When is the adapter smaller than the layer?",
    stars=1,
    minutes=6,
    task="Write `largest_useful_rank(n_out, n_in)`: the largest r for which A and B together hold *fewer* numbers than the layer's weight; "
    "0 if there is none.",
    wants="largest_useful_rank",
    shows="Right for wide, tall and square layers, and where the numbers are exactly equal.",
    hints=(
        "A holds r·n_in numbers and B r·n_out; the weight holds n_out·n_in.",
        "Try the layer with 10 outputs and 5 inputs by hand: how many numbers at r = 1, 2, 3, 4?",
        "You look for the largest whole r with r·(n_in + n_out) < n_out·n_in. What if the division leaves no remainder?",
    ),
)
def largest_useful_rank(function: Callable[[int, int], int]) -> None:
    random = torch.randint(1, 400, (12, 2), generator=generator()).tolist()
    layers = [(30, 40), (40, 30), (10, 5), (6, 3), (192, 576), (4, 4), (1, 7), (1536, 576), (4096, 11008), *random]
    answers = [as_number(attempt(function, *layer), "`largest_useful_rank`") for layer in layers]
    for (n_out, n_in), got in zip(layers, answers):
        if got != int(got):
            raise Wrong(
                "not a whole number", f"for a {n_out} × {n_in} layer it returned {got!r}; a rank is a whole number"
            )
    bugs: dict[str, Callable[[int, int], float]] = {
        "equal is not fewer": lambda m, n: m * n // (m + n),
        "at least 1, though even that may be too large": lambda m, n: max(1, (m * n - 1) // (m + n)),
        "rounded up": lambda m, n: -(-m * n // (m + n)),
        "rounded to the nearest": lambda m, n: round(m * n / (m + n)),
        "one too few": lambda m, n: (m * n - 1) // (m + n) - 1,
        "B is forgotten": lambda m, n: (m * n - 1) // n,
        "A is forgotten": lambda m, n: (m * n - 1) // m,
        "that is the largest rank, useful or not": min,
        "less than the shorter side is not yet fewer numbers": lambda m, n: min(m, n) - 1,
        "half the shorter side: right for a square layer only": lambda m, n: min(m, n) // 2,
    }
    _compare_all(
        layers,
        answers,
        lambda m, n: (m * n - 1) // (m + n),
        bugs,
        "another rank",
        lambda layer, got, _: (
            f"for a {layer[0]} × {layer[1]} layer you say {got:g}: the adapter then has "
            f"{int(got) * sum(layer):,} numbers, the weight {layer[0] * layer[1]:,}"
        ),
    )


def _compare_all(
    cases: Sequence[tuple[Any, ...]],
    answers: Sequence[float],
    right: Callable[..., float],
    bugs: Mapping[str, Callable[..., float]],
    unknown: str,
    detail: Callable[[Any, float, float], str],
) -> None:
    """Names the bug that gives *every* answer, so that a coincidence in one case names nothing. Raises: Wrong."""
    wanted = [right(*case) for case in cases]
    if list(answers) == wanted:
        return
    bug = next((bug for bug, wrong in bugs.items() if [wrong(*case) for case in cases] == list(answers)), unknown)
    at = next(i for i, (got, value) in enumerate(zip(answers, wanted)) if got != value)
    raise Wrong(bug, detail(cases[at], answers[at], wanted[at]))


@register(
    "04.4",
    title="What more rank costs",
    stars=3,
    minutes=12,
    task="Write `growth(shapes, tokens, r_from, r_to)`: by how many bytes the four entries of the ledger grow together (fp32, AdamW) when the "
    "rank goes from `r_from` to `r_to`. `shapes` lists (out, in) of every adapted matrix; `tokens` is rows × length.",
    wants="growth",
    shows="Your formula gives the ledger's growth to the byte, on several shapes and batches.",
    hints=(
        "A number that trains takes 4 bytes as a weight, 4 as a gradient and 8 in AdamW. How many more numbers train?",
        "And what is remembered? Of each adapted matrix the backward pass needs A x: r numbers a token, 4 bytes each.",
        "Trained: 16 · (r_to − r_from) · Σ(out + in). Remembered: 4 · (r_to − r_from) · tokens, once for each matrix.",
    ),
)
def growth(function: Callable[[Shapes, int, int, int], float]) -> None:
    cases = [case for case, _ in growths()]
    assert [GROWTH(*case) for case in cases] == [grown for _, grown in growths()]  # the formula is the ledger's
    answers = [as_number(attempt(function, *case), "`growth`") for case in cases]
    _compare_all(
        cases,
        answers,
        GROWTH,
        GROWTH_BUGS,
        "another number of bytes",
        lambda case, got, wanted: (
            f"{len(case[0])} matrices, {case[1]} tokens, r = {case[2]} → {case[3]}: "
            f"the ledger grows by {wanted:,} bytes, you say {got:,}"
        ),
    )
