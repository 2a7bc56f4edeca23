"""Three rows of made-up words and what two tiny models make of them, for the tests of the token inspector."""

from conftest import make_tiny_llama

from lora_edu.data import Example
from lora_edu.widgets.tokens import TokenInspector, look

PROMPTS, ANSWERS = (5, 9, 3), (4, 2, 14)


class Words:
    """Ids to text: a word for each, with a space before it; 2 ends an answer."""

    def decode(self, ids: list[int]) -> str:
        return "".join("<|im_end|>" if i == 2 else f" w{i}" for i in ids)


def examples() -> list[Example]:
    made = []
    for start, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS)):
        ids = [3 + (start + 5 * t) % 29 for t in range(prompt + answer)]
        ids[-1] = 2
        made.append(Example(ids, [-100] * prompt + ids[prompt:]))
    return made


def token_inspector() -> TokenInspector:
    rows = examples()
    looks = {
        name: look(make_tiny_llama(seed=seed), rows) for name, seed in (("before training", 0), ("after training", 1))
    }
    return TokenInspector(Words(), rows, looks)
