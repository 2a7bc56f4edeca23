"""Chapter 04: solutions, stubs and planted bugs."""

from kit import Answers

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
TARGETS = {
    "attention": ATTENTION,
    "late down": r".*\.2\d\.mlp\.down_proj",
    "even MLPs": r".*\.\d?[02468]\.mlp\.(gate|up|down)_proj",
}


def impostors(model, targets):
    should = {f"{path}.{factor}.default" for path in targets for factor in ("lora_A", "lora_B")}
    return should ^ {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def impostors_stub(model, paths):
    should = ...
    does = ...
    return should ^ does


def overlooks(part):
    return lambda model, paths: {name for name in impostors(model, paths) if part not in name}


def repairs(model, paths):
    found = impostors(model, paths)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in factors(paths))
    return found


def trusts_any_name(model, targets):
    """Takes a factor of whatever adapter for one of the default adapter."""
    inside = {name for name in trains(model) if ".lora_" in name and name.split(".lora_")[0] in targets}
    return (trains(model) - inside) | (factors(targets) - trains(model))


def trains(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def factors(targets):
    return {f"{path}.{factor}.default" for path in targets for factor in ("lora_A", "lora_B")}


def count_only(model, targets):
    numbers = {name: parameter.numel() for name, parameter in model.named_parameters()}
    same = sum(numbers[n] for n in trains(model)) == sum(numbers[n] for n in factors(targets))
    return set() if same else trains(model) ^ factors(targets)


def frozen_is_fine(model, targets):
    return trains(model) - factors(targets)


def trusts_any_adapter(model, targets):
    return {name for name in trains(model) if "lora_" not in name} | (factors(targets) - trains(model))


def trusts_the_path(model, targets):
    inside = {name for name in trains(model) if any(name.startswith(f"{path}.") for path in targets)}
    return (trains(model) - inside) | (factors(targets) - trains(model))


def only_the_base(model, targets):
    """Looks at adapters only, so that a weight of the base never comes up."""
    return {name for name in trains(model) ^ factors(targets) if "lora_" in name or "base_layer" in name}


def rank(n_out, n_in):
    return (n_out * n_in - 1) // (n_out + n_in)


def growth(shapes, tokens, r_from, r_to):
    more = r_to - r_from
    return 16 * more * sum(n_out + n_in for n_out, n_in in shapes) + 4 * more * tokens * len(shapes)


def growth_stub(shapes, tokens, r_from, r_to):
    trained = ...
    remembered = ...
    return trained + remembered


def sides(shapes):
    return sum(n_out + n_in for n_out, n_in in shapes)


ANSWERS = {
    "04.2": Answers(
        TARGETS,
        dict.fromkeys(TARGETS),
        {
            "matrices are missing": TARGETS | {"attention": ["q_proj", "v_proj"]},
            "too many layers": TARGETS | {"late down": r".*\.2\d?\.mlp\.down_proj"},
            "the expression does not match whole names": TARGETS | {"late down": r"2\d\.mlp\.down_proj"},
            "more than matrices is matched": TARGETS | {"even MLPs": r".*\.\d?[02468]\.mlp.*"},
            "an expression in a list": TARGETS | {"late down": [r".*\.2\d\.mlp\.down_proj"]},
            "the expression is broken": TARGETS | {"late down": r"*.2\d.mlp.down_proj"},
            "the expression matches no name": TARGETS | {"late down": r".*\.2\d\.down_proj"},
            "no name of the list is there": TARGETS | {"attention": ["q_porj"]},
            "neither a list of names nor an expression": TARGETS | {"late down": 29},
            "nothing is named": TARGETS | {"attention": ""},
            "too many kinds of matrix": TARGETS | {"attention": r".*(q_proj|k_proj|v_proj|o_proj|lm_head)"},
            "other layers": TARGETS | {"even MLPs": r".*\.\d?[13579]\.mlp\.(gate|up|down)_proj"},
            "other kinds of matrix": TARGETS | {"late down": r".*\.2\d\.mlp\.up_proj"},
            "other keys": {"attention": ATTENTION},
        },
    ),
    "04.3": Answers(
        impostors,
        impostors_stub,
        {
            "the right number is taken for the right names": count_only,
            "a factor that does not train is overlooked": frozen_is_fine,
            "an adapter on another layer is trusted": trusts_any_adapter,
            "what trains and should not is never reported": lambda model, targets: factors(targets) - trains(model),
            "inside an adapted layer is overlooked": trusts_the_path,
            "a weight of the base is overlooked": only_the_base,
            "a sound parameter is accused": lambda model, targets: trains(model),
            "no such parameter": lambda model, targets: set(targets),
            "another adapter of the layer is trusted": trusts_any_name,
            "norms are overlooked": overlooks("norm"),
            "an MLP's weight is overlooked": overlooks("mlp"),
            "the embeddings are overlooked": overlooks("embed"),
            "the model is changed": repairs,
            "not a set of names": lambda model, targets: len(trains(model)) == len(factors(targets)),
        },
    ),
    "04.1": Answers(
        rank,
        lambda n_out, n_in: ...,
        {
            "equal is not fewer": lambda n_out, n_in: n_out * n_in // (n_out + n_in),
            "rounded up": lambda n_out, n_in: -(-n_out * n_in // (n_out + n_in)),
            "A is forgotten": lambda n_out, n_in: (n_out * n_in - 1) // n_out,
            "B is forgotten": lambda n_out, n_in: (n_out * n_in - 1) // n_in,
            "largest rank, useful or not": lambda n_out, n_in: min(n_out, n_in),
            "less than the shorter side": lambda n_out, n_in: min(n_out, n_in) - 1,
            "at least 1": lambda n_out, n_in: max(1, rank(n_out, n_in)),
            "one too few": lambda n_out, n_in: rank(n_out, n_in) - 1,
            "rounded to the nearest": lambda n_out, n_in: round(n_out * n_in / (n_out + n_in)),
            "half the shorter side": lambda n_out, n_in: min(n_out, n_in) // 2,
            "another rank": lambda n_out, n_in: rank(n_out, n_in) + (n_out == 6),
            "not a whole number": lambda n_out, n_in: n_out * n_in / (n_out + n_in),
        },
    ),
    "04.4": Answers(
        growth,
        growth_stub,
        {
            "what is remembered is forgotten": lambda s, t, a, b: 16 * (b - a) * sides(s),
            "once for all matrices": lambda s, t, a, b: (b - a) * (16 * sides(s) + 4 * t),
            "once for all tokens": lambda s, t, a, b: (b - a) * (16 * sides(s) + 4 * len(s)),
            "AdamW keeps two numbers": lambda s, t, a, b: (b - a) * (8 * sides(s) + 4 * t * len(s)),
            "four bytes a trained number": lambda s, t, a, b: (b - a) * (12 * sides(s) + 4 * t * len(s)),
            "for the sides, not for the area": lambda s, t, a, b: (
                (b - a) * (16 * sum(m * n for m, n in s) + 4 * t * len(s))
            ),
            "A is forgotten": lambda s, t, a, b: (b - a) * (16 * sum(m for m, _ in s) + 4 * t * len(s)),
            "B is forgotten": lambda s, t, a, b: (b - a) * (16 * sum(n for _, n in s) + 4 * t * len(s)),
            "not the growth": lambda s, t, a, b: growth(s, t, 0, b),
            "the wrong way round": lambda s, t, a, b: growth(s, t, b, a),
            "the four bytes of each number of A x": lambda s, t, a, b: (b - a) * (16 * sides(s) + t * len(s)),
            "half of it": lambda s, t, a, b: growth(s, t, a, b) // 2,
            "what trains is forgotten": lambda s, t, a, b: (b - a) * 4 * t * len(s),
            "what is remembered is B's output": lambda s, t, a, b: (
                (b - a) * sum(16 * (m + n) + 4 * t * m for m, n in s)
            ),
            "numbers, not bytes": lambda s, t, a, b: (b - a) * sides(s),
            "only the optimiser is counted": lambda s, t, a, b: 8 * (b - a) * sides(s),
            "too many": lambda s, t, a, b: (b - a) * (20 * sides(s) + 4 * t * len(s)),
            "another number of bytes": lambda s, t, a, b: growth(s, t, 0, b - a) + 1,
        },
    ),
}
