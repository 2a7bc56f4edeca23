"""What the server counts, for Prometheus. Nothing of a request is in it, no text and no name. Chapter 15."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "lora_edu_requests", "HTTP requests answered", ("route", "status"), registry=self.registry
        )
        self.answers = Counter(
            "lora_edu_answers", "Answers, by why they ended", ("engine", "finish"), registry=self.registry
        )
        self.tokens = Counter("lora_edu_tokens", "Tokens read and written", ("engine", "kind"), registry=self.registry)
        self.seconds = Histogram(
            "lora_edu_answer_seconds", "Seconds from a question to its last token", ("engine",), buckets=SECONDS, registry=self.registry
        )  # fmt: skip
        self._gauges = {
            name: Gauge(f"lora_edu_{name}", words, labels, registry=self.registry)
            for name, words, labels in (
                ("waiting", "Questions that wait", ("engine",)),
                ("running", "Questions that are being answered", ("engine",)),
                ("adapters", "Adapters that are served", ()),
            )
        }

    def watch(self, name: str, value: Callable[[], float], *labels: str) -> None:
        """Ask `value` for the gauge `name` whenever the numbers are read."""
        gauge = self._gauges[name]
        (gauge.labels(*labels) if labels else gauge).set_function(value)

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)
