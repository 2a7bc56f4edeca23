"""Should one fine-tune at all? A prompt, a prompt with examples, and an adapter on one task: `python benchmarks/should_you.py`. Chapter 13.

The task is reminders: a sentence becomes JSON with three slots. Its first 32 test rows are asked plainly, with an instruction that names the slots,
with 2 and with 8 worked examples before the question (each three draws of training rows, one draw for all questions), and plainly of the adapter of
chapter 07 (`three_adapters`, seed 0). Nothing is chosen by these rows. The answers themselves are kept, so that the chapter scores and reads them,
with the tokens of a question. In lora_edu/experiments/stored/should_you.json, written after each way: a stop costs one. About five CPU minutes.
"""

import json
import random
import time
from collections.abc import Sequence

from lora_edu.adapters import fingerprint, load
from lora_edu.data import Row, prompt_ids
from lora_edu.evaluation import generate
from lora_edu.experiments import environment
from lora_edu.experiments.stored_results import FOLDER
from lora_edu.models import load_base
from lora_edu.tasks import get_task

TASK = get_task("reminders")
ROWS, SHOTS, DRAWS = 32, (2, 8), (0, 1, 2)
INSTRUCTION = (
    'Write the reminder as a JSON object with the keys "who", "what" and "when", and nothing else.\nThe reminder: '
)
PATH = FOLDER / "should_you.json"


def shown_first(row: Row, examples: Sequence[Row]) -> Row:
    """`row` asked after worked examples: turns of a conversation in which the assistant has answered before."""
    turns = [message for example in examples for message in example.messages[1:]]
    return Row((row.messages[0], *turns, *row.messages[1:]))


def told(row: Row) -> Row:
    """`row` asked with an instruction, instead of the two words that the task's own rows end in."""
    return Row.chat(INSTRUCTION + row.meta["input"], row.answer, TASK.system)


def main() -> None:
    model, tokenizer = load_base(device="cpu")
    rows, train = TASK.splits().test[:ROWS], TASK.splits().train
    about = {"command": "python benchmarks/should_you.py", "fingerprint": fingerprint(model), "task": TASK.name}
    about |= {"rows": ROWS, "instruction": INSTRUCTION, "adapter": "three_adapters/reminders"}
    found = json.loads(PATH.read_text("utf-8")) if PATH.exists() else {}
    ways = found["ways"] if about.items() <= found.get("about", {}).items() else {}
    asked = {"plain 0": rows, "instruction 0": [told(row) for row in rows]}
    for shots in SHOTS:
        for draw in DRAWS:
            examples = random.Random(f"{shots} {draw}").sample(train, shots)
            asked[f"{shots} examples {draw}"] = [shown_first(row, examples) for row in rows]
    asked["fine-tuned 0"] = rows
    for name, prompts in asked.items():
        if name in ways:
            continue
        if name == "fine-tuned 0":
            load(model, FOLDER / "three_adapters" / "reminders")
        began = time.process_time()
        answers = generate(model, tokenizer, prompts, TASK.max_new_tokens)
        seconds = round(time.process_time() - began, 1)
        tokens = sum(len(prompt_ids(list(row.messages[:-1]), tokenizer)) for row in prompts) / ROWS
        ways[name] = {"answers": answers, "prompt_tokens": round(tokens, 1), "cpu_seconds": seconds}
        result = {"about": about | environment(), "ways": ways}
        PATH.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        scores = {metric: round(score.value, 3) for metric, score in TASK.score(answers, rows).items()}
        print(name, scores, ways[name]["prompt_tokens"], seconds, answers[:2], flush=True)


if __name__ == "__main__":
    main()
