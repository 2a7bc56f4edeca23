"""Saving and exports: what a reload or another program loses without a word. Chapter 16; chapter 07 §4 and chapter 15."""

from types import SimpleNamespace

import torch
from safetensors.torch import save
from torch import nn

from lora_edu.course.museum.specimen import exhibit


def _model():
    """A base with an adapter, whose factors are trained (not zero)."""
    model = nn.ModuleDict(
        {"q": nn.Linear(8, 8), "q_lora_A": nn.Linear(8, 2, False), "q_lora_B": nn.Linear(2, 8, False)}
    )
    return model


def _answer(model, x):
    return model["q"](x) + model["q_lora_B"](model["q_lora_A"](x))


def _reloaded(saved, load):
    """(the output before saving, the output of a model with the same base and other factors, after load)."""
    one, other, x = _model(), _model(), torch.randn(5, 8)
    other["q"].load_state_dict(one["q"].state_dict())
    for part in ("q_lora_A", "q_lora_B"):
        nn.init.zeros_(other[part].weight)
    load(other, saved(one))
    return SimpleNamespace(before=_answer(one, x), after=_answer(other, x), base=other["q"](x))


@exhibit(
    "wrong-prefix", room="saving", title="Keys with a prefix that the model does not know, loaded with strict=False",
    breaks="law 7", repair="A key that finds no place is an error that names it.",
)  # fmt: skip
class WrongPrefix:
    @staticmethod
    def broken():
        def saved(model):
            return {f"model.{key}": each for key, each in model.state_dict().items() if "lora" in key}

        return _reloaded(saved, lambda model, tensors: model.load_state_dict(tensors, strict=False))

    @staticmethod
    def sound():
        def saved(model):
            return {key: each for key, each in model.state_dict().items() if "lora" in key}

        def load(model, tensors):
            unknown = model.load_state_dict(tensors, strict=False).unexpected_keys
            if unknown:
                raise KeyError(f"no place for {unknown}")

        return _reloaded(saved, load)

    @staticmethod
    def holds(made):
        silent = torch.equal(made.after, made.base)
        assert torch.equal(made.after, made.before), "the reloaded model answers otherwise" + (
            ": as the base does, to the last bit" if silent else ""
        )


@exhibit(
    "layer-lost-in-the-file", room="saving", title="A wrapped model's own save: the base's key has another name now",
    breaks="laws 6 and 7", repair="Save the adapter under its own names, and let the base's file be.",
)  # fmt: skip
class LayerLostInTheFile:
    @staticmethod
    def broken():
        wrapped = nn.ModuleDict({"q_proj": nn.ModuleDict({"A": nn.Linear(8, 2, False), "B": nn.Linear(2, 8, False)})})
        plain = nn.ModuleDict({"q_proj": nn.Linear(8, 8, False)})  # what reads the file
        return plain.load_state_dict(wrapped.state_dict(), strict=False)

    @staticmethod
    def sound():
        plain = nn.ModuleDict({"q_proj": nn.Linear(8, 8, False)})
        return plain.load_state_dict(nn.ModuleDict({"q_proj": nn.Linear(8, 8, False)}).state_dict(), strict=False)

    @staticmethod
    def holds(found):
        assert not found.missing_keys, f"missing {found.missing_keys}, unexpected {found.unexpected_keys}"


@exhibit(
    "whole-model-saved", room="saving", title="“Without an export the model cannot leave”: the whole merged model is written",
    breaks="law 6 asks for less", repair="The two factors are the adapter; anyone with the same base has the model.",
)  # fmt: skip
class WholeModelSaved:
    @staticmethod
    def broken():
        layer, A, B = nn.Linear(256, 256), torch.randn(2, 256), torch.randn(256, 2)
        return {"weight": layer.weight.detach() + B @ A, "bias": layer.bias.detach()}

    @staticmethod
    def sound():
        return {"A": torch.randn(2, 256), "B": torch.randn(256, 2)}

    @staticmethod
    def holds(tensors):
        file = save(tensors)
        size = len(file)
        assert size < 0.1 * 4 * 256 * 257, f"{size:,} bytes, where two factors take {4 * 2 * 512:,} and a header"


def _reader(config, tensors):
    """A program that scales by α / (rows of A), and by nothing else, as llama.cpp's reader does."""
    return config["lora_alpha"] / len(tensors["A"]) * tensors["B"] @ tensors["A"]


@exhibit(
    "scale-lost-in-export", room="saving", title="An rsLoRA adapter, read by a program that knows only α/r",
    breaks="law 6", repair="Fold the scale into B, and write α = r.",
)  # fmt: skip
class ScaleLostInExport:
    @staticmethod
    def broken():
        A, B, s = torch.randn(16, 8), torch.randn(8, 16), 32 / 16**0.5
        return s * B @ A, _reader({"lora_alpha": 32, "use_rslora": True}, {"A": A, "B": B})

    @staticmethod
    def sound():
        A, B, s = torch.randn(16, 8), torch.randn(8, 16), 32 / 16**0.5
        return s * B @ A, _reader({"lora_alpha": 16}, {"A": A, "B": s * B})

    @staticmethod
    def holds(made):
        trained, read = made
        ratio = float(read.norm() / trained.norm())
        assert abs(ratio - 1) < 1e-4, f"the change that is read is {ratio:.2f} times the one that was trained"


@exhibit(
    "one-scale-for-all", room="saving", title="Ranks that differ from layer to layer, read with one scale for all",
    breaks="law 6", repair="Fold each layer's scale into its B, and fill up with zeros to one rank.",
)  # fmt: skip
class OneScaleForAll:
    @staticmethod
    def broken():
        factors = [(torch.randn(r, 8), torch.randn(8, r)) for r in (2, 8)]
        return [16 / len(A) * B @ A for A, B in factors], [16 / 8 * B @ A for A, B in factors]  # the file says r = 8

    @staticmethod
    def sound():
        factors = [(torch.randn(r, 8), torch.randn(8, r)) for r in (2, 8)]
        trained = [16 / len(A) * B @ A for A, B in factors]
        filled = [
            (torch.cat([A, torch.zeros(8 - len(A), 8)]), torch.cat([16 / len(A) * B, torch.zeros(8, 8 - len(A))], 1))
            for A, B in factors
        ]
        return trained, [8 / 8 * B @ A for A, B in filled]

    @staticmethod
    def holds(made):
        ratios = [float(read.norm() / trained.norm()) for trained, read in zip(*made)]
        assert all(abs(ratio - 1) < 1e-4 for ratio in ratios), (
            f"read against trained: {ratios[0]:.2f} and {ratios[1]:.2f}"
        )


def _turned(q, place, pairs):
    """q with each pair of entries turned by an angle that grows with the place: rotary positions."""
    out = q.clone()
    for n, (i, j) in enumerate(pairs):
        angle = torch.tensor(place / 10.0**n)
        out[i], out[j] = q[i] * angle.cos() - q[j] * angle.sin(), q[i] * angle.sin() + q[j] * angle.cos()
    return out


@exhibit(
    "heads-not-permuted", room="saving", title="q and k go to a program that pairs neighbours, not halves, for its positions",
    breaks="law 6", repair="Permute the rows of q and k (and of their B) within each head; reading back undoes it.",
)  # fmt: skip
class HeadsNotPermuted:
    @staticmethod
    def broken():
        q, k = torch.randn(2, 8)
        return _score(q, k, HALVES), _score(q, k, NEIGHBOURS)

    @staticmethod
    def sound():
        q, k = torch.randn(2, 8)
        order = [0, 4, 1, 5, 2, 6, 3, 7]  # halves side by side
        return _score(q, k, HALVES), _score(q[order], k[order], NEIGHBOURS)

    @staticmethod
    def holds(made):
        ours, theirs = (float(each) for each in made)
        assert abs(ours - theirs) < 1e-4, f"a score of {ours:.2f} has become {theirs:.2f}, without an error"


HALVES = [(i, i + 4) for i in range(4)]
NEIGHBOURS = [(i, i + 1) for i in range(0, 8, 2)]


def _score(q, k, pairs):
    return _turned(q, 3, pairs) @ _turned(k, 1, pairs)


@exhibit(
    "names-of-another-graph", room="saving", title="An adapter for layers that the other program calls MatMul_46",
    breaks="law 7", repair="Count the tensors that found a place; fewer than the file has is an error.", fails=LookupError,
)  # fmt: skip
class NamesOfAnotherGraph:
    @staticmethod
    def broken():
        graph, adapter = {"MatMul_46": torch.randn(4, 4)}, {"layers.0.q_proj": torch.randn(4, 4)}
        used = [name for name in adapter if name in graph]  # the others: a line in a log
        return adapter, used

    @staticmethod
    def sound():
        graph, adapter = {"layers.0.q_proj": torch.randn(4, 4)}, {"layers.0.q_proj": torch.randn(4, 4)}
        return adapter, [name for name in adapter if name in graph]

    @staticmethod
    def holds(made):
        adapter, used = made
        assert len(used) == len(adapter), f"{len(used)} of {len(adapter)} tensors are applied, and no error is raised"


@exhibit(
    "template-lost", room="saving", title="Trained with a chat template, served without",
    breaks="law 6: the same weights see another input", repair="Ship the template with the weights, and compare token numbers.",
)  # fmt: skip
class TemplateLost:
    @staticmethod
    def broken():
        asked = "What is 2 + 2?"
        return list(f"<user>{asked}<assistant>"), list(asked)  # trained on, served with

    @staticmethod
    def sound():
        template = "<user>{}<assistant>".format
        asked = "What is 2 + 2?"
        return list(template(asked)), list(template(asked))

    @staticmethod
    def holds(made):
        trained, served = made
        assert trained == served, f"{len(trained)} tokens in training, {len(served)} in use"
