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


def relabelled(labels=lambda labels, rows, prompts: labels, mask=lambda mask, rows, prompts: mask):
    def pad(rows, prompt_lengths, pad):
        ids, attention, given = pad_batch(rows, prompt_lengths, pad)
        return ids, mask(attention, rows, prompt_lengths), labels(given, rows, prompt_lengths)

    return pad


def from_prompt(mask, prompts):
    for row, prompt in zip(mask, prompts):
        row[:prompt] = 0
    return mask


def off_by(labels, prompts, more):
    for row, prompt in zip(labels, prompts):
        row[: prompt + more] = IGNORE
    return labels


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
    order=lambda batches: batches,
    log=None,
    everything=False,
    inside=False,
    cut=None,
    epochs=1,
    retain=False,
    first=False,
    returned=lambda losses: losses,
):
    """`train_by_hand` with something wrong."""

    def train_by_hand(model, batches, loss_sum, lr):
        if thaw:
            model.requires_grad_(True)
        weights = [p for p in model.parameters() if p.requires_grad or everything]

        def new():
            return make(weights, lr) if make else torch.optim.AdamW(weights, lr=lr, weight_decay=0)

        optimizer, losses = new(), []
        for batch in order(batches) * epochs:
            if inside:
                optimizer = new()
            total, count = loss_sum(model, batch)
            if first:
                optimizer.step()
                optimizer.zero_grad()
            by(total, count, batch).backward(retain_graph=retain)
            if early:
                optimizer.zero_grad()
            if cut:
                cut(weights)
            if not first:
                optimizer.step()
            if not keep and not first:
                optimizer.zero_grad()
            losses.append((log or (lambda t, c: t / c))(total, count))
        return returned([loss.item() for loss in losses] if item else losses)

    return train_by_hand


def returns_inside(model, batches, loss_sum, lr):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0)
    losses = []
    for batch in batches:
        total, count = loss_sum(model, batch)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append((total / count).item())
        return losses


def steps_once(model, batches, loss_sum, lr):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0)
    losses = []
    for batch in batches:
        total, count = loss_sum(model, batch)
        (total / count).backward()
        losses.append((total / count).item())
    optimizer.step()
    optimizer.zero_grad()
    return losses


def never_steps(model, batches, loss_sum, lr):
    losses = []
    for batch in batches:
        total, count = loss_sum(model, batch)
        (total / count).backward()
        model.zero_grad()
        losses.append((total / count).item())
    return losses


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


def all_positions(skip):
    def accumulate(model, micro_batches, loss_sum):
        every = sum(batch["labels"][:, skip:].numel() for batch in micro_batches)
        share = backward_of(lambda loss, count, n, tokens: loss / every)
        return share(model, micro_batches, loss_sum)

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


def retains(model, micro_batches, loss_sum):
    """`backward()` for each, and every graph kept all the same."""
    total, count = torch.zeros(()), 0
    for batch in micro_batches:
        loss, tokens = loss_sum(model, batch)
        loss.backward(retain_graph=True)
        total, count = total + loss, count + tokens
    for p in model.parameters():
        if p.grad is not None:
            p.grad /= count
    return (total / count).item()


def divides_inside(by):
    """`p.grad` divided at every micro-batch, by what `by(own tokens, tokens so far)` gives."""

    def accumulate(model, micro_batches, loss_sum):
        total, count = 0.0, 0
        for batch in micro_batches:
            loss, tokens = loss_sum(model, batch)
            loss.backward()
            total, count = total + loss.item(), count + tokens
            for p in model.parameters():
                if p.grad is not None:
                    p.grad /= by(tokens, count)
        return total / count

    return accumulate


def running_count(model, micro_batches, loss_sum):
    total, count = 0.0, 0
    for batch in micro_batches:
        loss, tokens = loss_sum(model, batch)
        count += tokens
        (loss / count).backward()
        total += loss.item()
    return total / count


def thaws(model, micro_batches, loss_sum):
    model.requires_grad_(True)
    return accumulate(model, micro_batches, loss_sum)


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
            "masked with another number": lambda ids, p: [max(label, -1) for label in shifted_labels(ids, p)],
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
            "the padding is not the token that was given": lambda r, p, pad: (
                pad_batch(r, p, 0)[0],
                *pad_batch(r, p, pad)[1:],
            ),
            "the padding is attended to": relabelled(mask=lambda mask, r, p: torch.ones_like(mask)),
            "the attention mask is the wrong way round": relabelled(mask=lambda mask, r, p: 1 - mask),
            "only the answer is attended to": relabelled(mask=lambda mask, r, p: from_prompt(mask, p)),
            "masked with another number": relabelled(lambda labels, r, p: labels.clamp(min=0)),
            "the first token of the answer is masked": relabelled(lambda labels, r, p: off_by(labels, p, 1)),
            "a token of the prompt is learnt": lambda r, p, pad: pad_batch(r, [n - 1 for n in p], pad),
            "nothing is masked": lambda r, p, pad: (*pad_batch(r, p, pad)[:2], pad_batch(r, p, pad)[0]),
            "nothing is learnt": relabelled(lambda labels, r, p: torch.full_like(labels, IGNORE)),
            "shifted the wrong way": lambda r, p, pad: pad_batch(r, p, pad, shift=-1),
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
            "another learning rate": loop(make=lambda weights, lr: torch.optim.AdamW(weights, weight_decay=0)),
            "another setting of AdamW": loop(
                make=lambda weights, lr: torch.optim.AdamW(weights, lr=lr, weight_decay=0, betas=(0.5, 0.9))
            ),
            "a part of what trains is left out": loop(
                make=lambda weights, lr: torch.optim.AdamW(weights[1:], lr=lr, weight_decay=0)
            ),
            "divided by the number of rows": loop(by=lambda total, count, batch: total / len(batch["input_ids"])),
            "what was frozen is thawed": loop(thaw=True),
            "nothing has moved": loop(early=True),
            "a loss in the list carries its graph": loop(item=False),
            "the losses are sums": loop(log=lambda total, count: total),
            "the losses are divided twice": loop(log=lambda total, count: total / count / count),
            "the losses add up": loop(returned=lambda losses: torch.tensor(losses).cumsum(0).tolist()),
            "other losses": loop(returned=lambda losses: [loss + 1 for loss in losses]),
            "another number of losses": loop(returned=lambda losses: losses[-1:]),
            "no list of losses": loop(returned=lambda losses: losses[-1]),
            "a batch is left out": loop(order=lambda batches: batches[1:]),
            "the batches come in another order": loop(order=lambda batches: batches[::-1]),
            "the batches are gone through more than once": loop(epochs=2),
            "the loop ends after its first batch": returns_inside,
            "one step for all batches": steps_once,
            "a new optimiser for every step": loop(inside=True),
            "a step comes before its gradient": loop(first=True),
            "the gradients are clipped": loop(cut=lambda weights: torch.nn.utils.clip_grad_norm_(weights, 0.3)),
            "the loss is climbed": loop(by=lambda total, count, batch: -total / count),
            "divided by the tokens twice": loop(by=lambda total, count, batch: total / count**2),
            "not the gradient of the mean": loop(by=lambda total, count, batch: total / count / 5),
            "divided by another number than that of the tokens": loop(
                by=lambda total, count, batch: total / (3 + count)
            ),
            "another gradient": loop(cut=lambda weights: weights[0].grad.zero_()),
            "the optimiser is given what is frozen": loop(everything=True),
            "every graph is kept": loop(retain=True, item=False, returned=lambda losses: [x.item() for x in losses]),
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
            "every graph is kept by `retain_graph`": retains,
            "what was frozen is thawed": thaws,
            "a micro-batch is left out": lambda model, micro, loss_sum: accumulate(model, micro[1:], loss_sum),
            "divided by the tokens so far": running_count,
            "divided again at every micro-batch, by the tokens so far": divides_inside(lambda own, so_far: so_far),
            "divided again at every micro-batch, by its own tokens": divides_inside(lambda own, so_far: own),
            "divided by all tokens, the masked ones too": all_positions(0),
            "divided by all positions, the masked ones too": all_positions(1),
            "the loss is the mean of the means": backward_of(
                lambda loss, count, n, tokens: loss / tokens,
                lambda sums: sum(loss / count for loss, count in sums) / len(sums),
            ),
        },
    ),
}
