"""Small reports for the tests of the written page, and a page of HTML taken apart."""

from html.parser import HTMLParser

import numpy as np

from lora_edu.data import Row
from lora_edu.evaluation import Report, Score, share, token_mean, token_perplexity

ROWS = [Row.chat(f"question {n}", f"answer {n}") for n in range(10)]
TEXTS = [Row.text("one passage"), Row.text("and another")]
EVIL = '</td><script>alert("x")</script><img src=https://example.org/x.png onerror=alert(1)>'


def report(right, task="a task", evil=False, general=False):
    said = [f"answer {n}" if n < right else (EVIL if evil else "no") for n in range(10)]
    hits = share([n < right for n in range(10)])
    name = "trivia" if general else "exact match"
    scores = {name: hits, "loss": Score(np.array([[float(n + 1), 2.0] for n in range(10)]), token_mean)}
    if general:
        scores["perplexity"] = Score(np.array([[10.0 + right, 5], [12.0 + right, 5]]), token_perplexity)
    return Report(
        task,
        "test",
        name,
        [*ROWS, *(TEXTS if general else [])],
        said,
        scores,
        {"majority": {name: share([True] + [False] * 9)}},
    )


class Page(HTMLParser):
    """Tags with their attributes, and whether they close."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data
