"""The texts of a starting kit: protocol, rubric, data sheet, model card, config. Chapter 17."""

PROTOCOL = """# Project: {title}

What lies in `raw.jsonl`: {rows} rows of text, answer and source, {missing} of them without an answer. {source}.

Four to six hours. Work in this order, and write down what you do: the order is the point.

1. **Question.** Who would use this, instead of what? Write into `model_card.md`, before anything is measured, which metric decides, and from which figure on you would use the adapter.
2. **Label.** Write the missing answers. Label 30 of the labelled ones again without looking, and say in `data_sheet.md` how often you agree.
3. **Deduplicate.** The same but for case, spaces and punctuation is the same (`lora_edu.data.normalise`); look at near ones too (`lora_edu.evaluation.leaks`).
4. **Remove personal data.** `lora_edu.data.mask_personal` finds e-mail addresses, telephone numbers, IBANs and card numbers. It does not find names, addresses or what a sentence says of somebody: read your rows.
5. **Split by source** into `train.jsonl`, `valid.jsonl`, `test.jsonl` (`lora_edu.data.split(rows, key=…)`); rows as {{"prompt": …, "completion": …, "source": …}}. Decisions are made on `valid`; `test` is read once.
6. **Baselines.** What is reached without a model: the commonest answer, the answer of the most alike training row (`lora_edu.evaluation.nearest_answers`), copying. And by the base with a good prompt and a few examples.
7. **Train.** `lora-edu train --config config.yaml`. Three seeds if you compare settings.
8. **Measure, once.** `lora-edu eval adapter --data test.jsonl --against-base --general --out eval.json`
9. **Write.** `data_sheet.md` and `model_card.md`; no … is left in them.
10. **Hand in.** `lora-edu report .` grades what can be graded, and writes `report.html`. Then clone your folder elsewhere and run 7 and 8 again: the same figures?

**Or do not fine-tune.** If a baseline or a prompt is good enough, or the data does not carry it, say so in `decision.md`: the figures, the reason, what would have to change. Nothing is trained then, and the project passes.
"""

RUBRIC = """# Rubric

| | 0 | 1 | 2 |
|---|---|---|---|
| **Data** | as it came | doubles and personal data removed | and agreement measured, sheet complete |
| **Split** | by row | by source | and near doubles looked at by eye |
| **Baselines** | none | one without a model | and the base with a good prompt |
| **Figure** | without an interval | with an interval, on rows not seen | and a threshold that was set beforehand |
| **Cost** | not looked at | forgetting measured | and weighed against the gain |
| **Another can repeat it** | no | config, seed and hashes | and somebody did |
| **Conclusion** | more than was measured | what was measured | and what was not |

`lora-edu report` looks at the middle column; the right one needs a reader. A reasoned `decision.md` ("do not fine-tune") counts as Figure, Cost and Conclusion.
"""

DATA_SHEET = """# Data sheet: {title}

- **Why it was gathered:** …
- **What a row is, and how many there are:** …
- **Where it comes from, and under which licence:** …
- **Who labelled it, and how often two labellings agree:** …
- **What was removed:** doubles, personal data (by pattern, and by reading): …
- **How it was split, by which source:** …
- **What it does not hold:** languages, groups, cases: …
"""

MODEL_CARD = """# Model card: {title}

- **Meant for, and not meant for:** …
- **Base, method, settings:** …
- **Metric and threshold, set before measuring:** …
- **Baselines:** …
- **Measured on test rows, with interval:** …
- **What was forgotten:** …
- **Where it fails** (three answers that are wrong): …
- **Would you use it?** …
"""

CONFIG = """# lora-edu train --config config.yaml
data: train.jsonl
out: adapter
r: 8
lora_alpha: 16
target_modules: all-linear
learning_rate: 0.001
epochs: 2
batch_size: 4
seed: 0
"""
