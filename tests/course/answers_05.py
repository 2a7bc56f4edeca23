"""Chapter 05: solutions, stubs and planted bugs."""

import torch
from kit import Answers

IGNORE = -100


def shifted_labels(ids, prompt_length):
    return [IGNORE] * (prompt_length - 1) + ids[prompt_length:] + [IGNORE]


def shifted_labels_stub(ids, prompt_length): ...


def in_place(ids, prompt_length):
    for t in range(prompt_length):
        ids[t] = IGNORE
    return [*ids[1:], IGNORE]


def pad_batch(
    rows,
    prompt_lengths,
    pad,
    by_value=False,
    learn_padding=False,
    keep_prompt=False,
    left=False,
    value_mask=False,
    shift=0,
):
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, pad if learn_padding else IGNORE)
    for i, (row, prompt) in enumerate(zip(rows, prompt_lengths)):
        at = longest - len(row) if left else 0
        start = 0 if keep_prompt else prompt
        ids[i, at : at + len(row)] = torch.tensor(row)
        mask[i, at : at + len(row)] = 1
        labels[i, :prompt] = IGNORE
        labels[i, at + start : at + len(row)] = torch.tensor(row[start:])
    if by_value:
        labels[labels == pad] = IGNORE
    if value_mask:
        mask = (ids != pad).long()
    return ids, mask, labels.roll(-shift, dims=1)


def pads_in_place(rows, prompt_lengths, pad):
    made = pad_batch(rows, prompt_lengths, pad)
    for row in rows:
        row.extend([pad] * (made[0].shape[1] - len(row)))
    return made


def pad_batch_stub(rows, prompt_lengths, pad): ...


def train_by_hand(model, batches, loss_sum, lr):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0)
    losses = []
    for batch in batches:
        total, count = loss_sum(model, batch)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append((total / count).item())
    return losses


def train_by_hand_stub(model, batches, loss_sum, lr):
    weights = ...
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0)
    losses = []
    for batch in batches:
        total, count = loss_sum(model, batch)
        ...
        optimizer.step()
        ...
        losses.append(total.item() / count)
    return losses


def loop(
    keep=False,
    by=lambda total, count, batch: total / count,
    early=False,
    make=None,
    thaw=False,
    item=True,
    skip=0,
    log=None,
    everything=False,
):
    """`train_by_hand` with something wrong."""

    def train_by_hand(model, batches, loss_sum, lr):
        if thaw:
            model.requires_grad_(True)
        weights = [p for p in model.parameters() if p.requires_grad or everything]
        optimizer = make(weights, lr) if make else torch.optim.AdamW(weights, lr=lr, weight_decay=0)
        losses = []
        for batch in batches[skip:]:
            total, count = loss_sum(model, batch)
            by(total, count, batch).backward()
            if early:
                optimizer.zero_grad()
            optimizer.step()
            if not keep:
                optimizer.zero_grad()
            losses.append((log or (lambda t, c: t / c))(total, count))
        return [loss.item() for loss in losses] if item else losses

    return train_by_hand


def accumulate(model, micro_batches, loss_sum):
    total, count = 0.0, 0
    for batch in micro_batches:
        loss, tokens = loss_sum(model, batch)
        loss.backward()
        total, count = total + loss.item(), count + tokens
    for p in model.parameters():
        if p.grad is not None:
            p.grad /= count
    return total / count


def accumulate_stub(model, micro_batches, loss_sum): ...


def two_passes(model, micro_batches, loss_sum):
    """Right as well: the labels are counted first, then every micro-batch's share is handed to backward."""
    count = sum(int((batch["labels"][:, 1:] != IGNORE).sum()) for batch in micro_batches)
    mean = 0.0
    for batch in micro_batches:
        share = loss_sum(model, batch)[0] / count
        share.backward()
        mean += share.item()
    return mean


def backward_of(share, returned=None):
    """`accumulate` that hands another share of each micro-batch's loss to backward."""

    def accumulate(model, micro_batches, loss_sum):
        sums = []
        tokens = sum(int((batch["labels"][:, 1:] != IGNORE).sum()) for batch in micro_batches)
        for batch in micro_batches:
            loss, count = loss_sum(model, batch)
            share(loss, count, len(micro_batches), tokens).backward()
            sums.append((loss.item(), count))
        return returned(sums) if returned else sum(loss for loss, _ in sums) / tokens

    return accumulate


def forgets(model, micro_batches, loss_sum):
    for batch in micro_batches:
        model.zero_grad()
        loss, count = loss_sum(model, batch)
        (loss / count).backward()
    return (loss / count).item()


def all_at_once(model, micro_batches, loss_sum):
    from lora_edu.course.checks import ch05

    longest = max(batch["labels"].shape[1] for batch in micro_batches)
    rows = sum(len(batch["labels"]) for batch in micro_batches)
    ids, labels = torch.zeros(rows, longest, dtype=torch.long), torch.full((rows, longest), ch05.IGNORE)
    at = 0
    for batch in micro_batches:
        n, length = batch["labels"].shape
        ids[at : at + n, :length], labels[at : at + n, :length] = batch["input_ids"], batch["labels"]
        at += n
    loss, count = loss_sum(model, {"input_ids": ids, "labels": labels})
    (loss / count).backward()
    return (loss / count).item()


def steps(model, micro_batches, loss_sum):
    mean = accumulate(model, micro_batches, loss_sum)
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    return mean


def keeps_all(model, micro_batches, loss_sum):
    sums = [loss_sum(model, batch) for batch in micro_batches]
    mean = sum(total for total, _ in sums) / sum(count for _, count in sums)
    mean.backward()
    return mean.item()


def keeps_the_running_sum(model, micro_batches, loss_sum):
    """No list, and every graph behind one tensor all the same."""
    total, count = torch.zeros(()), 0
    for batch in micro_batches:
        loss, tokens = loss_sum(model, batch)
        total, count = total + loss, count + tokens
    (total / count).backward()
    return (total / count).item()


def counts_first(model, micro_batches, loss_sum):
    """Right as well: a first pass asks for the counts alone and lets its graphs go."""
    count = 0
    for batch in micro_batches:
        _, tokens = loss_sum(model, batch)
        count += tokens
    mean = 0.0
    for batch in micro_batches:
        total, _ = loss_sum(model, batch)
        (total / count).backward()
        mean += total.item() / count
    return mean


def clears(model, micro_batches, loss_sum):
    mean = accumulate(model, micro_batches, loss_sum)
    model.zero_grad()
    return mean


ANSWERS = {
    "05.1": Answers(
        shifted_labels,
        shifted_labels_stub,
        {
            "not shifted": lambda ids, p: [IGNORE] * p + ids[p:],
            "shifted the wrong way": lambda ids, p: [IGNORE] * (p + 1) + ids[p:-1],
            "shifted by two": lambda ids, p: [*([IGNORE] * p + ids[p:])[2:], IGNORE, IGNORE],
            "the first token of the answer is never learnt": lambda ids, p: [IGNORE] * p + ids[p + 1 :] + [IGNORE],
            "the answer's end is masked": lambda ids, p: (
                [IGNORE] * (p - 1) + [IGNORE if i == 2 else i for i in ids[p:]] + [IGNORE]
            ),
            "the prompt is learnt too": lambda ids, p: [*ids[1:], IGNORE],
            "one label too few": lambda ids, p: [IGNORE] * (p - 1) + ids[p:],
            "wrapped round": lambda ids, p: [IGNORE] * (p - 1) + ids[p:] + ids[:1],
            "a token of the prompt is learnt": lambda ids, p: [IGNORE] * (p - 2) + ids[p - 1 :] + [IGNORE],
            "changed in place": in_place,
            "not a list of labels": lambda ids, p: [label + 0.0 for label in shifted_labels(ids, p)],
            "nothing is learnt": lambda ids, p: [IGNORE] * len(ids),
        },
    ),
    "05.4": Answers(
        pad_batch,
        pad_batch_stub,
        {
            "the end of the answer is masked": lambda r, p, pad: pad_batch(r, p, pad, by_value=True),
            "the padding is learnt": lambda r, p, pad: pad_batch(r, p, pad, learn_padding=True),
            "the prompt is learnt": lambda r, p, pad: pad_batch(r, p, pad, keep_prompt=True),
            "padded on the left": lambda r, p, pad: pad_batch(r, p, pad, left=True),
            "the attention mask goes by value": lambda r, p, pad: pad_batch(r, p, pad, value_mask=True),
            "the labels are shifted": lambda r, p, pad: pad_batch(r, p, pad, shift=1),
            "not three tensors": lambda r, p, pad: pad_batch(r, p, pad)[0],
            "not a rectangle": lambda r, p, pad: (r, r, r),
            "the rows are changed in place": pads_in_place,
        },
    ),
    "05.2": Answers(
        train_by_hand,
        train_by_hand_stub,
        {
            "the old gradients are kept": loop(keep=True),
            "the sum is trained": loop(by=lambda total, count, batch: total),
            "another optimiser": loop(make=lambda weights, lr: torch.optim.SGD(weights, lr=lr)),
            "weights decay": loop(make=lambda weights, lr: torch.optim.AdamW(weights, lr=lr)),
            "divided by the number of rows": loop(by=lambda total, count, batch: total / len(batch["input_ids"])),
            "a frozen weight has changed": loop(thaw=True),
            "nothing has moved": loop(early=True),
            "the list keeps every graph": loop(item=False),
            "other losses": loop(log=lambda total, count: total),
            "another run": loop(skip=1),
            "not the gradient of the mean": loop(by=lambda total, count, batch: total / count / 5),
            "divided by another number than that of the tokens": loop(by=lambda total, count, batch: total / 10),
            "the optimiser is given what is frozen": loop(everything=True),
        },
    ),
    "05.3": Answers(
        accumulate,
        accumulate_stub,
        {
            "the mean of the means": backward_of(lambda loss, count, n, tokens: loss / count / n),
            "the sum of the means": backward_of(lambda loss, count, n, tokens: loss / count),
            "the sum is not divided": backward_of(lambda loss, count, n, tokens: loss),
            "divided by the number of micro-batches": backward_of(lambda loss, count, n, tokens: loss / n),
            "only the last micro-batch is left": forgets,
            "all rows at once": all_at_once,
            "a step is taken": steps,
            "no gradient is left": clears,
            "the loss is the sum": backward_of(
                lambda loss, count, n, tokens: loss / tokens, lambda sums: sum(loss for loss, _ in sums)
            ),
            "no loss is returned": lambda *given: [accumulate(*given)],
            "every graph is kept": keeps_all,
        },
    ),
}
