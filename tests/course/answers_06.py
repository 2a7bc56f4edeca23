"""Chapter 06: solutions, stubs and planted bugs."""

import difflib
import math
import re
import string

import numpy as np
import torch
from kit import Answers

from lora_edu.course.clinic.runs import SOUND


def where_to_stop(losses, patience, *, tie=False, previous=False):
    best = 0
    for i, loss in enumerate(losses):
        if loss < losses[best] or (tie and loss == losses[best]) or (previous and i and loss < losses[i - 1]):
            best = i
        if i - best >= patience:
            return i, best
    return len(losses) - 1, best


def as_numpy(losses, patience):
    return tuple(np.array(where_to_stop(losses, patience)))


def as_tensors(losses, patience):
    return torch.tensor(where_to_stop(losses, patience))


def starting_at(first):
    def stop(losses, patience):
        lowest, best, waited = first, 0, 0
        for i, loss in enumerate(losses):
            lowest, best, waited = (loss, i, 0) if loss < lowest else (lowest, best, waited + 1)
            if waited >= patience:
                return i, best
        return len(losses) - 1, best

    return stop


def with_a_counter(losses, patience, how=""):
    """The rule with a counter; `how` is a way to get it wrong."""
    lowest, best, waited = math.inf, 0, 0
    for i, loss in enumerate(losses):
        if loss < lowest:
            lowest, best, waited = loss, i, waited if how == "added up" else 0
        elif not (how == "equal passes" and loss == lowest):
            waited += 1
        if how == "falls" and i and loss < losses[i - 1]:
            waited = 0
        if waited >= patience:
            return i, best
    return len(losses) - 1, best


def only_clear_falls(least):
    def stop(losses, patience):
        best = 0
        for i, loss in enumerate(losses):
            best = i if loss < losses[best] - least else best
            if i - best >= patience:
                return i, best
        return len(losses) - 1, best

    return stop


def emptied(losses, patience):
    found = where_to_stop(losses, patience)
    losses.clear()
    return found


def variant(function, **how):
    return lambda *inputs: function(*inputs, **how)


def length_of_update(A, B, s):
    return abs(s) * ((B.T @ B) * (A @ A.T)).sum().clamp_min(0).sqrt().item()


def without_a_sign(A, B, s):
    return s * ((B.T @ B) * (A @ A.T)).sum().sqrt()


def by_rows(A, B, s):
    return s * math.sqrt(sum(float((row @ A).square().sum()) for row in B))


def in_two_blocks(A, B, s):
    size = max(1, len(B) - 1)
    return s * math.sqrt(sum(float((B[i : i + size] @ A).square().sum()) for i in range(0, len(B), size)))


def in_numpy(A, B, s):
    a, b = A.numpy(), B.numpy()
    return s * np.sqrt(np.sum((b.T @ b) * (a @ a.T)))


def of_small_traces(A, B, s):
    a, b = A.detach().numpy().astype(float), B.detach().numpy().astype(float)
    return abs(s) * math.sqrt(np.trace((b.T @ b) @ (a @ a.T)))


def by_qr(A, B, s):
    return s * (torch.linalg.qr(B).R @ torch.linalg.qr(A.T).R.T).norm()


def by_qr_in_numpy(A, B, s):
    return s * np.linalg.norm(np.linalg.qr(B.numpy())[1] @ np.linalg.qr(A.numpy().T)[1].T)


def by_qr_of_scipy(A, B, s):
    from scipy.linalg import qr  # the import takes more memory than the product

    return s * np.linalg.norm(qr(B.numpy(), mode="economic")[1] @ qr(A.numpy().T, mode="economic")[1].T)


def by_einsum(A, B, s):
    return s * torch.einsum("or,oq,ri,qi->", B, B, A, A).sqrt().reshape(1, 1)


def by_einsum_of_small(A, B, s):
    return s * torch.einsum("rq,rq->", torch.einsum("or,oq->rq", B, B), torch.einsum("ri,qi->rq", A, A)).sqrt()


def by_singular_values(A, B, s):
    _, S, Vh = torch.linalg.svd(B, full_matrices=False)
    return s * (S[:, None] * Vh @ A).norm()


def by_rows_in_numpy(A, B, s):
    a = A.numpy()
    return s * math.sqrt(sum(float(((row @ a) ** 2).sum()) for row in B.numpy()))


def in_lists(A, B, s):
    def gram(rows):
        return [sum(x * y for x, y in zip(one, other)) for one in rows for other in rows]

    return s * math.sqrt(sum(a * b for a, b in zip(gram(A.tolist()), gram(B.T.tolist()))))


def built_in_numpy(A, B, s):
    return s * np.linalg.norm(B.detach().numpy() @ A.detach().numpy())


def built_and_wrapped(A, B, s):
    return s * torch.from_numpy(np.matmul(B.numpy(), A.numpy())).pow(2).sum().sqrt()


def built_in_lists(A, B, s):
    rows = [(row @ A).tolist() for row in B]
    return s * math.sqrt(sum(x * x for row in rows for x in row))


def two_blocks_in_numpy(A, B, s):
    return s * math.hypot(*(np.linalg.norm(part.numpy() @ A.numpy()) for part in B.chunk(2)))


def plain(text):
    return " ".join(re.findall(r"\w+", text.lower()))


def leaks(train, held_out):
    known = {plain(text) for text in train}
    return [text for text in held_out if plain(text) in known]


def leaks_by(form):
    return lambda train, held_out: [text for text in held_out if form(text) in {form(each) for each in train}]


def leaks_where(alike):
    return lambda train, held_out: [text for text in held_out if any(alike(plain(text), plain(each)) for each in train)]


def diagnose(chart, healthy):
    first, last, usual = chart.readings[0], chart.readings[-1], healthy.readings[0]
    if not chart.names:
        return "frozen adapter"
    if last["base"] != chart.base_before:
        return "trainable base"
    if first["tokens"] != usual["tokens"]:
        return "prompt in the loss" if first["tokens"] > usual["tokens"] else "EOS masked"
    if first["norm_B"] > 3 * usual["norm_B"]:
        return "learning rate too high"
    if first["norm_delta_W"] > 3 * usual["norm_delta_W"]:
        return "α not divided by r"
    if last["grad_B"] > 10 * first["grad_B"]:
        return "no zero_grad"
    return "leaking split" if last["held_out"] < math.log(8) / 13 else SOUND


def by_the_curve(chart, healthy):
    return "no zero_grad" if chart.losses[-1] > 1 else SOUND


def hasty(chart, healthy):
    found = diagnose(chart, healthy)
    return "leaking split" if found == SOUND else found


def confuses_scale_and_rate(chart, healthy):
    found = diagnose(chart, healthy)
    return "learning rate too high" if found == "α not divided by r" else found


ANSWERS = {
    "06.1": Answers(
        where_to_stop,
        lambda losses, patience: ...,
        {
            "an equal value counts": variant(where_to_stop, tie=True),
            "one evaluation too many": lambda losses, patience: where_to_stop(losses, patience + 1),
            "the last weights are kept": lambda losses, patience: (where_to_stop(losses, patience)[0],) * 2,
            "patience starts anew": variant(where_to_stop, previous=True),
            "it never stops": lambda losses, patience: (len(losses) - 1, losses.index(min(losses))),
            "stopped too early": lambda losses, patience: where_to_stop(losses, max(0, patience - 1)),
            "another step": lambda losses, patience: (0, 0),
            "swapped": lambda losses, patience: where_to_stop(losses, patience)[::-1],
            "counted from 1": lambda losses, patience: tuple(i + 1 for i in where_to_stop(losses, patience)),
            "the losses are changed": emptied,
            "not two indices": lambda losses, patience: where_to_stop(losses, patience)[0],
            "a small fall": only_clear_falls(1e-3),
            "do not stand in a row": variant(with_a_counter, how="added up"),
            "the best comes after": lambda losses, patience: (
                where_to_stop(losses, patience)[0],
                losses.index(min(losses)),
            ),
        },
    ),
    "06.2": Answers(
        length_of_update,
        lambda A, B, s: ...,
        {
            "the big matrix is built": lambda A, B, s: abs(s) * (B @ A).norm().item(),
            "lengths do not multiply": lambda A, B, s: abs(s) * (A.norm() * B.norm()).item(),
            "the scale is forgotten": lambda A, B, s: length_of_update(A, B, 1.0),
            "squared, without the root": lambda A, B, s: length_of_update(A, B, s) ** 2,
            "a large part": in_two_blocks,
            "the scale is not squared": lambda A, B, s: math.sqrt(abs(s)) * length_of_update(A, B, 1.0),
            "the scale is squared": lambda A, B, s: s**2 * length_of_update(A, B, 1.0),
            "and the scale is not": lambda A, B, s: s * length_of_update(A, B, 1.0) ** 2,
            "only the largest direction": lambda A, B, s: (
                s * torch.linalg.matrix_norm(torch.linalg.qr(B).R @ torch.linalg.qr(A.T).R.T, 2)
            ),
            "divided by r once more": lambda A, B, s: length_of_update(A, B, s / len(A)),
            "multiplied by r": lambda A, B, s: length_of_update(A, B, s * len(A)),
            "it raises an error": lambda A, B, s: (A.T @ B.T @ A).trace(),
            "not a number": lambda A, B, s: A @ A.T,
        },
    ),
    "06.3": Answers(
        leaks,
        lambda train, held_out: ...,
        {
            "only exact copies": lambda train, held_out: [text for text in held_out if text in train],
            "once for each twin": lambda train, held_out: [
                text for text in held_out for each in train if plain(text) == plain(each)
            ],
            "beyond ASCII": leaks_by(
                lambda text: " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())
            ),
            "digits are lost": leaks_by(lambda text: " ".join(re.findall(r"[^\W\d]+", text.lower()))),
            "capitals still count": leaks_by(lambda text: " ".join(re.findall(r"\w+", text))),
            "spaces still count": leaks_by(lambda text: re.sub(r"[^\w ]", "", text.lower())),
            "some punctuation still counts": leaks_by(lambda text: " ".join(re.sub("[?!.,“”…]", " ", text.lower()).split())),
            "a part of a text": leaks_where(lambda a, b: a in b),
            "glued": leaks_by(lambda text: "".join(c for c in text.lower() if c.isalnum())),
            "other alphabets": leaks_by(lambda text: " ".join(re.findall("[a-z0-9]+", text.lower()))),
            "alike": leaks_where(lambda a, b: difflib.SequenceMatcher(None, a, b).ratio() > 0.93),
            "a repeated text": lambda train, held_out: list(dict.fromkeys(leaks(train, held_out))),
            "another order": lambda train, held_out: sorted(leaks(train, held_out)),
            "punctuation still counts": leaks_by(lambda text: text.lower().replace(" ", "").replace("?", "")),
            "texts of the wrong side": lambda train, held_out: leaks(held_out, train),
            "texts in another form": lambda train, held_out: [plain(text) for text in leaks(train, held_out)],
            "an innocent text": leaks_by(lambda text: tuple(sorted(plain(text).split()))),
            "not texts": lambda train, held_out: [held_out.index(text) for text in leaks(train, held_out)],
            "not a list": lambda train, held_out: len(leaks(train, held_out)),
        },
    ),
    "06.4": Answers(
        diagnose,
        lambda chart, healthy: ...,
        {
            "a sick run is called sound": lambda chart, healthy: SOUND,
            "a sound run is called sick": hasty,
            "one disease is taken for another": confuses_scale_and_rate,
            "not a disease": lambda chart, healthy: diagnose(chart, healthy).upper(),
            "it raises an error": lambda chart, healthy: chart.readings[0]["loss_of_test"],
        },
    ),
}  # fmt: skip
