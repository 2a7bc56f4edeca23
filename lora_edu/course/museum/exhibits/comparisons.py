"""Comparisons: what a table of scores says, and how often the instrument is wrong. Chapter 16; the page Choosing, chapters 08 and 09."""

import torch
import torch.nn.functional as F
from torch import nn

from lora_edu.course.museum.specimen import exhibit


def _loss(s, rate_B, steps=20):
    """The loss that a LoRA pair with scale s reaches with Adam, A's rate .01, B's rate as given; the same task and start every time."""
    draw = torch.Generator().manual_seed(torch.initial_seed() % 2**31)
    x = torch.randn(64, 8, generator=draw)
    target = x @ torch.randn(8, 2, generator=draw) @ torch.randn(2, 8, generator=draw) / 4
    A, B = nn.Parameter(torch.randn(2, 8, generator=draw) / 3), nn.Parameter(torch.zeros(8, 2))
    optimizer = torch.optim.Adam([{"params": [A], "lr": 0.01}, {"params": [B], "lr": rate_B}], eps=1e-30)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.mse_loss(s * x @ A.T @ B.T, target)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@exhibit(
    "one-learning-rate", room="comparisons", title="A method with a larger scale “wins”, at one learning rate",
    breaks="law 4: s and B's rate are one knob", repair="Compare each at its own best rate, chosen on validation rows.",
)  # fmt: skip
class OneLearningRate:
    @staticmethod
    def broken():
        return _loss(1, 0.004), _loss(4, 0.004)

    @staticmethod
    def sound():
        rates = [0.001 * 4**k for k in range(7)]
        return tuple(min(_loss(s, rate) for rate in rates) for s in (1, 4))

    @staticmethod
    def holds(losses):
        one, four = losses
        assert abs(one / four - 1) < 0.01, f"losses {one:.3f} and {four:.3f}, of what is one method (law 4)"


def _scores(settings, rows):
    """Shares of right answers of settings that are all right in 70 % of cases."""
    return (torch.rand(settings, rows) < 0.7).float().mean(dim=1)


@exhibit(
    "chosen-on-test", room="comparisons", title="The best of twenty settings, and its score, both from the test rows",
    breaks="the page Choosing: rows that chose do not score", repair="Choose on validation rows; the test rows speak once, of the chosen one.",
)  # fmt: skip
class ChosenOnTest:
    @staticmethod
    def broken():
        return [float(_scores(20, 100).max()) for _ in range(300)]

    @staticmethod
    def sound():
        return [float(_scores(20, 100)[_scores(20, 100).argmax()]) for _ in range(300)]  # test[valid.argmax()]

    @staticmethod
    def holds(reported):
        mean = sum(reported) / len(reported)
        assert abs(mean - 0.7) < 0.015, f"all settings are right in 70 % of cases; reported are {mean:.0%} on average"


def _fitted(rows, steps, noise=0.0):
    """The loss on fresh rows after so many steps of SGD over so many rows."""
    teacher = torch.arange(8.0)[:, None] / 8
    x = torch.randn(rows, 8)
    w = torch.zeros(8, 1)
    for step in range(steps):
        batch = x[torch.arange(8 * step, 8 * step + 8) % rows]
        w = w - 0.05 * batch.T @ (batch @ (w - teacher)) / 8
    fresh = torch.randn(500, 8)
    return float((fresh @ (w - teacher)).square().mean())


@exhibit(
    "data-or-steps", room="comparisons", title="Four times the rows, as many epochs: “the data did it”",
    breaks="chapter 06: one thing is changed at a time", repair="The same number of steps on both sides.",
)  # fmt: skip
class DataOrSteps:
    @staticmethod
    def broken():
        return _fitted(40, 5 * 40 // 8), _fitted(160, 5 * 160 // 8)  # five epochs each

    @staticmethod
    def sound():
        return _fitted(40, 25), _fitted(160, 25)  # 25 steps each

    @staticmethod
    def holds(losses):
        few, many = losses
        ratio = few / many
        assert 0.2 < ratio < 5, f"{ratio:,.0f} times the loss with fewer rows: the other run took four times the steps"


def _interval(scores):
    half = 1.96 * scores.std(dim=-1) / scores.shape[-1] ** 0.5
    return scores.mean(dim=-1) - half, scores.mean(dim=-1) + half


@exhibit(
    "overlapping-intervals", room="comparisons", title="“The intervals overlap, so there is no difference”",
    breaks="the page Choosing: the same rows are compared row by row", repair="One interval, of the differences row by row.",
)  # fmt: skip
class OverlappingIntervals:
    @staticmethod
    def broken():
        def differ(one, other):
            (low, high), (least, most) = _interval(one), _interval(other)
            return (high < least) | (most < low)

        return differ

    @staticmethod
    def sound():
        def differ(one, other):
            low, high = _interval(other - one)
            return (low > 0) | (high < 0)

        return differ

    @staticmethod
    def holds(differ):
        rows = torch.randn(400, 60)  # 400 experiments of 60 rows: some rows are hard for everyone
        one, same, better = (rows + 0.2 * torch.randn(400, 60) + gain for gain in (0, 0, 0.15))
        missed, alarms = 1 - differ(one, better).float().mean(), differ(one, same).float().mean()
        assert missed < 0.2, f"a real gain is missed in {missed:.0%} of experiments"
        assert alarms < 0.1, f"a gain is seen where there is none in {alarms:.0%}"


def _best_of(many, level):
    """In which of 400 worlds, where all methods are alike, the best of so many is told from the reference at that level (in sigmas)."""
    worlds, rows, right = 400, 1319, 0.48
    sigma = (right * (1 - right) / rows) ** 0.5
    scores = right + sigma * torch.randn(worlds, many + 1)
    return (scores[:, 1:].amax(dim=1) - scores[:, 0]) / (sigma * 2**0.5) > level


@exhibit(
    "best-of-sixty-two", room="comparisons", title="The best of 62 methods is better than the reference, with a 95 % interval",
    breaks="the page Choosing: the best of many looks better than it is", repair="Ask for more of the best of many: 0.05 / 62 in place of 0.05.",
)  # fmt: skip
class BestOfSixtyTwo:
    @staticmethod
    def broken():
        return _best_of(62, 1.96)

    @staticmethod
    def sound():
        return _best_of(62, 3.36)  # the normal quantile of 1 − 0.05 / 62 / 2

    @staticmethod
    def holds(announced):
        share = announced.float().mean()
        assert share < 0.1, f"all methods are alike, and in {share:.0%} of worlds a winner is announced"
