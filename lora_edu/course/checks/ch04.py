"""Exercises of chapter 04, Into the transformer."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.injection import inject
from lora_edu.adapters.targets import plan
from lora_edu.course.exercises import Wrong, as_number, attempt, generator, register
from lora_edu.errors import LoRAEduError
from lora_edu.training.memory.ledger import predict_memory, sketch

LAYERS = range(30)
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
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
        try:
            config = LoRAConfig(r=1, target_modules=targets_for[key])
            taken = {target.name for target in plan(_shapes_of_the_model(), config)}
        except LoRAEduError as error:
            said = str(error)
            if "also matches what no adapter" in said:
                raise Wrong("more than matrices is matched", f"{key!r}: {said}") from None
            whole = isinstance(targets_for[key], str) and not targets_for[key].startswith((".*", "model", "(", "^"))
            bug = "the expression does not match whole names" if whole else "nothing is matched"
            ends = "" if isinstance(targets_for[key], str) else " (a list holds ends of names, no expressions)"
            raise Wrong(bug, f"{key!r}: {said}{ends}") from None
        if missing := sorted(wanted - taken):
            some = f"{len(missing)} of {len(wanted)} are missing, such as {missing[0]}"
            extra = f", and {len(taken - wanted)} were not asked for" if taken - wanted else ""
            raise Wrong("matrices are missing", f"{key!r}: {some}{extra}")
        if extra_names := sorted(taken - wanted):
            same_kinds = {name.rsplit(".", 1)[1] for name in taken} == {name.rsplit(".", 1)[1] for name in wanted}
            bug = "too many layers" if same_kinds else "too many kinds of matrix"
            raise Wrong(
                bug,
                f"{key!r}: {len(taken)} are taken and {len(wanted)} were asked for; {extra_names[0]} is one too many",
            )


def tiny(lora: LoRAConfig | None, hidden: int = 16, mlp: int = 24, layers: int = 12) -> nn.Module:
    """A Llama's shapes without content. Twelve layers, so that the name of layer 1 is the beginning of layer 10's."""
    from transformers import LlamaConfig

    shape = LlamaConfig(
        vocab_size=32,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    return sketch(shape, lora)


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
    stars=3,
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
def catch_the_impostor(impostors: Callable[[nn.Module, Sequence[str]], Collection[str]]) -> None:
    model, paths = _suspect()
    sound = {f"{path}.{factor}.default" for path in paths for factor in ("lora_A", "lora_B")}
    expected, layer = _let_train(model, sound), "model.layers.{}.self_attn.{}_proj.{}"
    q = [layer.format(i, "q", f"lora_{factor}.default") for i in (0, 1) for factor in "AB"]  # 128 numbers each
    norms = [f"model.layers.{i}.input_layernorm.weight" for i in range(8)]  # 16 each
    for bug, *swapped in (
        ("a sound model is accused",),
        ("any adapter is trusted", layer.format(1, "q", "lora_B.default"), layer.format(10, "q", "lora_A.default")),
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
        if isinstance(got, str | bool | int) or not isinstance(got, Collection):
            raise Wrong("not a set of names", f"`impostors` returned {type(got).__name__}; it should be a set of names")
        if {name for name, parameter in model.named_parameters() if parameter.requires_grad} != trains:
            raise Wrong("the model is changed", "an audit looks on: after it, other parameters train than before")
        _compare({str(name) for name in got}, set(swapped), dict(model.named_parameters()), bug)


def _compare(got: set[str], wanted: set[str], parameters: Mapping[str, nn.Parameter], bug: str) -> None:
    if got == wanted:
        return
    if unknown := sorted(got - set(parameters)):
        raise Wrong("no such parameter", f"`{unknown[0]}` is no parameter of the model: is it a module's path?")
    if extra := sorted(got - wanted):
        right = "trains, and it should" if parameters[extra[0]].requires_grad else "does not train, and it should not"
        raise Wrong("a sound parameter is accused", f"`{extra[0]}` {right}")
    missing = sorted(wanted - got, key=lambda name: parameters[name].requires_grad)
    if not got:
        raise Wrong(
            "the right number is taken for the right names",
            f"as many numbers train as should, but `{missing[0]}` does not train and `{missing[-1]}` does; nothing was reported",
        )
    if not parameters[missing[0]].requires_grad:
        raise Wrong("a factor that does not train is overlooked", f"`{missing[0]}` should train and is frozen")
    raise Wrong(bug, f"`{missing[-1]}` trains, and should not")


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
    for n_out, n_in in [(30, 40), (10, 5), (6, 3), (192, 576), (4, 4), (1, 7), (1536, 576), (4096, 11008), *random]:
        full, pair = n_out * n_in, n_out + n_in
        wanted = (full - 1) // pair
        got = as_number(attempt(function, n_out, n_in), "`largest_useful_rank`")
        if got != int(got):
            raise Wrong(
                "not a whole number", f"for a {n_out} × {n_in} layer it returned {got!r}; a rank is a whole number"
            )
        if got == wanted:
            continue
        bugs = {
            "equal is not fewer": full // pair,
            "rounded up": -(-full // pair),
            "one factor is forgotten": (full - 1) // n_in,
            "one factor is forgotten, the other one": (full - 1) // n_out,
            "that is the largest rank, useful or not": min(n_out, n_in),
        }
        bug = next((bug for bug, wrong in bugs.items() if got == wrong), "another rank")
        raise Wrong(
            bug,
            f"for a {n_out} × {n_in} layer you say {got:g}: the adapter then has {int(got) * pair:,} numbers, the weight {full:,}",
        )


@cache
def _growths() -> list[tuple[list[tuple[int, int]], int, tuple[int, int], int]]:
    """Shapes of the adapted matrices, tokens, the two ranks, and by how many bytes the ledger grows between them."""
    cases: list[tuple[list[tuple[int, int]], int, tuple[int, int], int]] = []
    for names, hidden, layers, batch, length, ranks in (
        (("q_proj", "v_proj"), 16, 2, 2, 8, (1, 5)),
        ((*ATTENTION, *MLP), 32, 3, 3, 5, (2, 8)),
        (("down_proj",), 16, 4, 1, 40, (3, 4)),
    ):
        configs = [LoRAConfig(r=r, target_modules=names) for r in ranks]
        before, after = (predict_memory(tiny(config, hidden, layers=layers), batch, length).total for config in configs)
        shapes = [target.shape for target in plan(tiny(None, hidden, layers=layers), configs[0])]
        cases.append((shapes, batch * length, ranks, after - before))
    return cases


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
def growth(function: Callable[[Sequence[tuple[int, int]], int, int, int], float]) -> None:
    for shapes, tokens, ranks, wanted in _growths():
        got = as_number(attempt(function, tuple(shapes), tokens, *ranks), "`growth`")
        if got == wanted:
            continue
        more = ranks[1] - ranks[0]
        numbers, remembered = more * sum(map(sum, shapes)), 4 * more * tokens
        bugs = {
            "what is remembered is forgotten": 16 * numbers,
            "A x is counted once for all matrices": 16 * numbers + remembered,
            "A x is counted once for all tokens": 16 * numbers + 4 * more * len(shapes),
            "AdamW keeps two numbers for each that trains": 8 * numbers + remembered * len(shapes),
            "four bytes a trained number are missing": 12 * numbers + remembered * len(shapes),
            "an adapter pays for the sides, not for the area": 16 * more * sum(n_out * n_in for n_out, n_in in shapes)
            + remembered * len(shapes),
            "A is forgotten": 16 * more * sum(n_out for n_out, _ in shapes) + remembered * len(shapes),
            "B is forgotten": 16 * more * sum(n_in for _, n_in in shapes) + remembered * len(shapes),
            "only the optimiser is counted": 8 * numbers,
            "numbers, not bytes": numbers,
            "the whole cost at the new rank, not the growth": wanted * ranks[1] / more,
        }
        bug = next((bug for bug, wrong in bugs.items() if got == wrong), "another number of bytes")
        raise Wrong(
            bug,
            f"{len(shapes)} matrices, {tokens} tokens, r = {ranks[0]} → {ranks[1]}: the ledger grows by {wanted:,} bytes, you say {got:,}",
        )
