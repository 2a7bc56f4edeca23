"""Chapter 16: solutions, stubs and planted bugs."""

from collections import defaultdict
from statistics import mean, median

import torch
from kit import Answers
from torch import nn


class Repaired(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        n_out, n_in = base_layer.weight.shape
        self.base_layer = base_layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, n_in) / n_in**0.5)
        self.B = nn.Parameter(torch.zeros(n_out, r))
        self.scale = lora_alpha / r
        self.kept = None

    def forward(self, x):
        y = self.base_layer(x)
        return y if self.kept is not None else y + self.scale * (x @ self.A.T @ self.B.T)

    @torch.no_grad()
    def merge(self):
        if self.kept is not None:
            raise RuntimeError("merged already")
        self.kept = self.base_layer.weight.clone()
        self.base_layer.weight += self.delta()

    def delta(self):
        return self.scale * (self.B @ self.A)

    @torch.no_grad()
    def unmerge(self):
        if self.kept is None:
            raise RuntimeError("not merged")
        self.base_layer.weight.copy_(self.kept)
        self.kept = None


class Stub(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        n_in = base_layer.in_features
        self.base_layer = ...
        self.A = nn.Parameter(torch.randn(r, n_in) / n_in**0.5)
        self.B = ...
        self.scale = ...
        self.kept = None

    def forward(self, x):
        y = self.base_layer(x)
        return y if self.kept is not None else y + self.scale * (x @ self.A.T @ self.B.T)

    @torch.no_grad()
    def merge(self):
        self.kept = self.base_layer.weight.clone()
        delta = ...
        self.base_layer.weight += delta


class NotFrozen(Repaired):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__(base_layer, r, lora_alpha)
        base_layer.requires_grad_(True)


class BothRandom(Repaired):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__(base_layer, r, lora_alpha)
        nn.init.normal_(self.B)


class Upside(Repaired):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__(base_layer, r, lora_alpha)
        self.scale = r / lora_alpha


class AlphaAlone(Repaired):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__(base_layer, r, lora_alpha)
        self.scale = lora_alpha


class Turned(Repaired):
    def delta(self):
        return (self.scale * (self.B @ self.A)).T.reshape_as(self.base_layer.weight)


class Unscaled(Repaired):
    def delta(self):
        return self.B @ self.A


class NoMerge(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        n_out, n_in = base_layer.weight.shape
        self.base_layer = base_layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, n_in) / n_in**0.5)
        self.B = nn.Parameter(torch.zeros(n_out, r))
        self.scale = lora_alpha / r

    def forward(self, x):
        return self.base_layer(x) + self.scale * (x @ self.A.T @ self.B.T)


RIGHT_LAWS = {"a": 1, "b": 6, "c": 3, "d": 7, "e": 4, "f": 5}


def assert_loaded(model, tensors):
    there = {name: p for name, p in model.named_parameters() if "lora_" in name}
    assert there.keys() == tensors.keys(), f"without a partner: {there.keys() ^ tensors.keys()}"
    for name, p in there.items():
        assert torch.equal(p, tensors[name]), f"{name} holds other numbers than the file"


def assert_loaded_stub(model, tensors): ...


def factors(model):
    return {name: p for name, p in model.named_parameters() if "lora_" in name}


def names_only(model, tensors):
    assert factors(model).keys() == tensors.keys()


def one_way(model, tensors):
    there = factors(model)
    for name, tensor in tensors.items():
        assert name in there and torch.equal(there[name], tensor)


def other_way(model, tensors):
    for name, p in factors(model).items():
        assert name in tensors and torch.equal(p, tensors[name])


def whole_model(model, tensors):
    for name, p in model.named_parameters():
        assert name in tensors and torch.equal(p, tensors[name])


def known_ones_only(model, tensors):
    for name, p in factors(model).items():
        if name in tensors:
            assert torch.equal(p, tensors[name])


def says_so(model, tensors):
    there = factors(model)
    return there.keys() == tensors.keys() and all(torch.equal(there[k], v) for k, v in tensors.items())


def by_size(model, tensors):
    there = factors(model)
    assert there.keys() == tensors.keys()
    for name, p in there.items():
        assert p.shape == tensors[name].shape and abs(p.norm() - tensors[name].norm()) < 1e-3


def raises_something(model, tensors):
    for name, p in factors(model).items():
        if not torch.equal(p, tensors.pop(name)):
            raise ValueError(name)


def key_error(model, tensors):
    for name, p in factors(model).items():
        if not torch.equal(p, tensors[name]):
            raise ValueError(name)


# 16.3, right in other styles
def by_state_dict(model, tensors):
    state = {k: v for k, v in model.state_dict().items() if "lora_" in k}
    assert sorted(state) == sorted(tensors)
    assert all(v.shape == tensors[k].shape and bool((v == tensors[k]).all()) for k, v in state.items())


def raised_by_hand(model, tensors):
    if not says_so(model, tensors):
        raise AssertionError("the adapter in the model is not that of the file")


def with_a_subclass(model, tensors):
    class NotLoaded(AssertionError):
        pass

    if not says_so(model, tensors):
        raise NotLoaded


def by_testing(model, tensors):
    there = factors(model)
    assert set(there) == set(tensors)
    for name in there:
        torch.testing.assert_close(there[name].detach(), tensors[name], rtol=0, atol=0)


def gathered(runs, key):
    found = defaultdict(lambda: defaultdict(list))
    for run in runs:
        found[run["method"]][run["rate"]].append(run[key])
    return found


def compare(runs):
    valid, test = gathered(runs, "valid"), gathered(runs, "test")
    answer = {}
    for method, rates in valid.items():
        best = min(rates, key=lambda rate: mean(rates[rate]))
        answer[method] = mean(test[method][best])
    return answer


def compare_stub(runs): ...


def choosing(how, key="valid", report="test", tell=mean):
    def compare(runs):
        chosen, told = gathered(runs, key), gathered(runs, report)
        return {m: tell(told[m][how(rates, chosen)]) for m, rates in chosen.items()}

    return compare


def lowest(rates, every):
    return min(rates, key=lambda rate: mean(rates[rate]))


def common(rates, every):
    return min(rates, key=lambda rate: mean(x for m in every for x in every[m][rate]))


def per_seed(runs):
    found = {}
    for method in {run["method"] for run in runs}:
        own = [run for run in runs if run["method"] == method]
        best = [min((r for r in own if r["seed"] == s), key=lambda r: r["valid"]) for s in {r["seed"] for r in own}]
        found[method] = mean(run["test"] for run in best)
    return found


def luckiest(runs):
    best = {}
    for run in sorted(runs, key=lambda run: -run["valid"]):
        best[run["method"]] = run["test"]
    return best


def all_rates(runs):
    return {m: mean(x for each in rates.values() for x in each) for m, rates in gathered(runs, "test").items()}


# 16.4, right in other styles
def in_tensors(runs):
    found = {}
    for method in dict.fromkeys(run["method"] for run in runs):
        rates = sorted({run["rate"] for run in runs if run["method"] == method})
        table = torch.tensor(
            [
                [[r[k] for r in runs if (r["method"], r["rate"]) == (method, x)] for k in ("valid", "test")]
                for x in rates
            ]
        )  # (rates, 2, seeds)
        means = table.mean(2)
        found[method] = means[means[:, 0].argmin(), 1]
    return found


def by_sorting(runs):
    groups = {}
    for run in runs:
        groups.setdefault((run["method"], run["rate"]), []).append((run["valid"], run["test"]))
    rows = sorted(
        ((sum(v for v, _ in g) / len(g), k[0], sum(t for _, t in g) / len(g)) for k, g in groups.items()), reverse=True
    )
    return {method: test for _, method, test in rows}


def sorted_in_place(runs):
    runs.sort(key=lambda run: run["valid"])
    return compare(runs)


ANSWERS = {
    "16.1": Answers(
        Repaired,
        Stub,
        {
            "law 3": NotFrozen,
            "law 1": BothRandom,
            "law 2": Upside,
            "law 5 is broken": Turned,
            "law 5 cannot be judged": NoMerge,
        },
    ),
    "16.2": Answers(
        RIGHT_LAWS,
        dict.fromkeys(RIGHT_LAWS, ...),
        {
            "another law for a": RIGHT_LAWS | {"a": 2},
            "another law for b": RIGHT_LAWS | {"b": 7},
            "another law for c": RIGHT_LAWS | {"c": 4},
            "another law for d": RIGHT_LAWS | {"d": 6},
            "f is no law": RIGHT_LAWS | {"f": 10},
            "other keys": {"a": 1},
        },
    ),
    "16.3": Answers(
        assert_loaded,
        assert_loaded_stub,
        {
            "a load that changed nothing is not noticed": names_only,
            "a factor for which the file has no tensor is not noticed": one_way,
            "a tensor that finds no place is not noticed": other_way,
            "a sound load is accused": whole_model,
            "a prefix before every key is not noticed": known_ones_only,
            "it returns, and does not assert": says_so,
            "a transposed tensor is not noticed": by_size,
            "it changes what it was given": raises_something,
            "another error than an assertion's": key_error,
        },
    ),
    "16.4": Answers(
        compare,
        compare_stub,
        {
            "the validation loss is reported": choosing(lowest, report="valid"),
            "the rate is chosen on the test rows": choosing(lowest, key="test"),
            "one rate for all methods": choosing(common),
            "each seed has a rate of its own": per_seed,
            "the luckiest run alone is reported": luckiest,
            "the best seed stands for all": choosing(lowest, tell=min),
            "all rates are averaged": all_rates,
            "the highest loss is chosen": choosing(lambda rates, _: max(rates, key=lambda x: mean(rates[x]))),
            "the median, not the mean": choosing(lowest, tell=median),
            "a sum, not a mean": choosing(lowest, tell=sum),
            "an input is changed in place": sorted_in_place,
        },
    ),
}
