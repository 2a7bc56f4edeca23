"""Chapter 10: solutions, stubs and planted bugs."""

import numpy as np
import torch
from kit import Answers


def row_lengths(W, A, B, s):
    mixed = ((W @ A.T) * B).sum(1)
    update = (B @ (A @ A.T) * B).sum(1)
    return (W.square().sum(1) + 2 * s * mixed + s**2 * update).sqrt()


def lengths(w=1.0, wu=2.0, u=1.0, power=(1, 2), root=0.5):
    def measured(W, A, B, s):
        mixed, update = ((W @ A.T) * B).sum(1), (B @ (A @ A.T) * B).sum(1)
        return (w * W.square().sum(1) + wu * s ** power[0] * mixed + u * s ** power[1] * update).clamp(min=0) ** root

    return measured


def by_einsum(W, A, B, s):
    gram = torch.einsum("ri,qi->rq", A, A)
    squares = (W * W).sum(-1) + 2 * s * torch.einsum("oi,ri,or->o", W, A, B)
    return torch.sqrt(squares + s * s * torch.einsum("or,rq,oq->o", B, gram, B))


def in_numpy(W, A, B, s):
    W, A, B = (each.numpy() for each in (W, A, B))
    both = np.linalg.norm(W, axis=1) ** 2 + 2 * s * ((W @ A.T) * B).sum(1)
    return np.sqrt(both + s**2 * ((B @ (A @ A.T)) * B).sum(1))


def by_qr(W, A, B, s):
    """Along A's rows, and what of W lies outside of them."""
    Q, R = torch.linalg.qr(A.T)  # (in, r), (r, r)
    inside = W @ Q + s * B @ R.T  # (out, r)
    return (inside.square().sum(1) + W.square().sum(1) - (W @ Q).square().sum(1)).sqrt()


def gap_left(ours, theirs, at):
    a, b = (losses.mean(1).nan_to_num(float("inf")) for losses in (ours, theirs))
    return (b.min() - a.min()) / (b[at] - a[at])


def of_means(share):
    """A slip that is said of the two curves of means (rates,)."""

    def left(ours, theirs, at):
        a, b = (losses.mean(1).nan_to_num(float("inf")) for losses in (ours, theirs))
        return share(a, b, at)

    return left


def blind(ours, theirs, at):
    a, b = (losses.nanmean(1) for losses in (ours, theirs))
    return (b.min() - a.min()) / (b[at] - a[at])


def best_seed(ours, theirs, at):
    a, b = (losses.nan_to_num(float("inf")) for losses in (ours, theirs))
    return (b.min() - a.min()) / (b.mean(1)[at] - a.mean(1)[at])


def gap_in_numpy(ours, theirs, at):
    a, b = (np.asarray(losses.mean(1)) for losses in (ours, theirs))
    return (np.nanmin(b) - np.nanmin(a)) / (b[at] - a[at])


def gap_by_hand(ours, theirs, at):
    means = [[sum(row) / len(row) for row in losses.tolist()] for losses in (ours, theirs)]
    best = [min(m for m in each if m == m) for each in means]
    return (best[1] - best[0]) / (means[1][at] - means[0][at])


def as_plain(A, B, A0, B0):
    return torch.cat([A, A0]), torch.cat([B, -B0], dim=1)


ANSWERS = {
    "10.1": Answers(
        row_lengths,
        lambda W, A, B, s: ...,
        {
            "the root is missing": lengths(root=1),
            "the mixed term counts once": lengths(wu=1),
            "the mixed term is missing": lengths(wu=0),
            "the update's own length is missing": lengths(u=0),
            "s is not squared": lengths(power=(1, 1)),
            "s is missing": lengths(power=(0, 0)),
            "s is missing in the mixed term": lengths(power=(0, 2)),
            "only W is measured": lengths(wu=0, u=0),
            "only the update is measured": lengths(w=0, wu=0),
            "the update is subtracted": lengths(wu=-2),
            "the sum of absolute values": lambda W, A, B, s: (W + s * B @ A).abs().sum(1),
            "the mean of squares": lambda W, A, B, s: (W + s * B @ A).square().mean(1).sqrt(),
            "A's rows are taken for lengths of 1": lambda W, A, B, s: (
                (W.square().sum(1) + 2 * s * ((W @ A.T) * B).sum(1) + s**2 * B.square().sum(1)).clamp(min=0).sqrt()
            ),
            "B A is built": lambda W, A, B, s: (W + s * B @ A).norm(dim=1),
            "other lengths": lambda W, A, B, s: 3 * row_lengths(W, A, B, s),
        },
    ),
    "10.2": Answers(
        gap_left,
        lambda ours, theirs, at: ...,
        {
            "both at the best rate of ours": of_means(lambda a, b, at: (b[a.argmin()] - a.min()) / (b[at] - a[at])),
            "both at the best rate of theirs": of_means(lambda a, b, at: (b.min() - a[b.argmin()]) / (b[at] - a[at])),
            "the share is turned upside down": of_means(lambda a, b, at: (b[at] - a[at]) / (b.min() - a.min())),
            "the sign is turned round": of_means(lambda a, b, at: (a.min() - b.min()) / (b[at] - a[at])),
            "a gap and not a share": of_means(lambda a, b, at: b.min() - a.min()),
            "the best seed is taken": best_seed,
            "the share that is gone": of_means(lambda a, b, at: 1 - (b.min() - a.min()) / (b[at] - a[at])),
            "a diverged rate wins": blind,
            "another share": lambda *given: 2 * gap_left(*given),
        },
    ),
    "10.3": Answers(
        as_plain,
        lambda A, B, A0, B0: (..., ...),
        {
            "the start is added, not taken away": lambda A, B, A0, B0: (torch.cat([A, A0]), torch.cat([B, B0], dim=1)),
            "the start is left out": lambda A, B, A0, B0: (A, B),
            "the change has its sign turned": lambda A, B, A0, B0: (torch.cat([A, A0]), torch.cat([-B, B0], dim=1)),
            "factors are subtracted": lambda A, B, A0, B0: (A - A0, B - B0),
            "A of one meets B of the other": lambda A, B, A0, B0: (torch.cat([A0, A]), torch.cat([B, -B0], dim=1)),
            "A and B are exchanged": lambda *given: as_plain(*given)[::-1],
            "the whole matrix is given": lambda A, B, A0, B0: (B @ A - B0 @ A0, torch.eye(len(B))),
            "another change": lambda A, B, A0, B0: (torch.cat([A, A0]), 2 * torch.cat([B, -B0], dim=1)),
        },
    ),
}

RIGHT = {  # in other styles
    "10.1": [
        by_einsum,
        in_numpy,
        by_qr,
        lambda *given: row_lengths(*given).tolist(),
        lambda W, A, B, s: row_lengths(W.double(), A.double().requires_grad_(), B.double(), s),
    ],
    "10.2": [
        gap_in_numpy,
        gap_by_hand,
        lambda *given: gap_left(*given).item(),
        lambda *given: [gap_left(*given)][0].numpy(),
    ],
    "10.3": [
        lambda A, B, A0, B0: [torch.vstack([A0, A]), torch.hstack([-B0, B])],
        lambda A, B, A0, B0: (torch.cat([A, -A0]), torch.cat([B, B0], dim=1)),
        lambda A, B, A0, B0: [each.tolist() for each in as_plain(A, B, A0, B0)],
        lambda A, B, A0, B0: (np.concatenate([A, A0]), np.concatenate([B, -B0.numpy()], axis=1)),
    ],
}


def hidden(W, A, B, s):
    """B A as a batch of one, inside of `einsum`."""
    mixed = torch.einsum("or,ri,oi->o", B, A, W)
    return (W.square().sum(1) + 2 * s * mixed + s**2 * ((B @ (A @ A.T)) * B).sum(1)).sqrt()


def bare(wu=2.0, u=1.0):
    """Roots of squares that may be below 0: nan."""
    return lambda W, A, B, s: (
        W.square().sum(1) + wu * s * ((W @ A.T) * B).sum(1) + u * s**2 * (B @ (A @ A.T) * B).sum(1)
    ).sqrt()


def masked(ours, theirs, at):
    kept = ~(ours.isnan().any(1) | theirs.isnan().any(1))
    a, b = ours.mean(1), theirs.mean(1)
    return (b[kept].min() - a[kept].min()) / (b[at] - a[at])


def by_pythons_min(ours, theirs, at):
    a, b = ours.mean(1).tolist(), theirs.mean(1).tolist()
    return (min(b) - min(a)) / (b[at] - a[at])


def each_seed(ours, theirs, at):
    a, b = (losses.nan_to_num(float("inf")) for losses in (ours, theirs))
    return (b.amin(0).mean() - a.amin(0).mean()) / (b.mean(1)[at] - a.mean(1)[at])


MORE_WRONG = [
    ("10.1", lambda W, A, B, s: torch.addmm(W, B, A, alpha=s).norm(dim=1), "B A is built"),
    ("10.1", lambda W, A, B, s: (W + (B[:, :, None] * A).sum(1) * s).norm(dim=1), "B A is built"),
    ("10.1", lambda W, A, B, s: (W / s + B @ A).norm(dim=1) * s, "B A is built"),
    ("10.1", lambda W, A, B, s: (W.T / s + A.T @ B.T).norm(dim=0) * s, "B A is built"),
    ("10.1", lambda W, A, B, s: (2 * W + (2 * s * B) @ A).norm(dim=1) / 2, "B A is built"),
    ("10.1", hidden, "B A is built"),
    ("10.1", bare(u=0), "the update's own length is missing"),
    ("10.1", bare(wu=4), "other lengths"),
    ("10.1", lambda W, A, B, s: torch.full((len(W),), torch.nan), "other lengths"),
    ("10.1", lambda W, A, B, s: row_lengths(W, A, B, s).sum(), "wrong shape"),
    ("10.1", lambda W, A, B, s: (W + s * B @ A).norm(dim=0), "wrong shape"),
    ("10.1", lambda W, A, B, s: "long", "not a tensor"),
    ("10.2", masked, "left out for both"),
    ("10.2", by_pythons_min, "a diverged rate is not left out"),
    ("10.2", lambda ours, theirs, at: gap_left(ours.nan_to_num(0), theirs.nan_to_num(0), at), "another share"),
    (
        "10.2",
        lambda *given: (lambda a, b, at: (b.min() - a.min()) / (b[at] - a[at]))(
            given[0].mean(1), given[1].mean(1), given[2]
        ),
        "a diverged rate is not left out",
    ),
    ("10.2", each_seed, "a rate of its own"),
    ("10.2", lambda *given: 100 * gap_left(*given), "a percentage"),
    ("10.2", lambda *given: 1, "the headline's own gap"),
    ("10.2", lambda *given: "1", "not a number"),
    ("10.2", lambda ours, theirs, at: ours, "not a number"),
    ("10.3", lambda A, B, A0, B0: (A0, B0), "the start alone"),
    ("10.3", lambda A, B, A0, B0: (torch.cat([A, -A0]), torch.cat([B, -B0], dim=1)), "the start is added"),
    ("10.3", lambda A, B, A0, B0: torch.cat([A, A0]), ""),
    ("10.3", lambda A, B, A0, B0: (torch.cat([A, A0]), torch.cat([B, -B0])), ""),
    ("10.3", lambda A, B, A0, B0: ("A", "B"), ""),
]
