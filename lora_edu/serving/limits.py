"""How much one request, and all of them together, may cost. Chapter 15."""

from dataclasses import dataclass, fields

from lora_edu.errors import ServingError


@dataclass(frozen=True)
class Limits:
    """The server's limits; each is checked where the thing it limits comes in, and its number stands in the refusal."""

    body_bytes: int = 1_000_000  # of one request
    body_seconds: float = 20.0  # for a request's body to arrive
    context: int = 2048  # tokens of prompt and answer together
    answer_tokens: int = 512  # largest max_tokens
    default_tokens: int = 256  # max_tokens of a request that names none
    seconds: float = 120.0  # for one answer, waiting included
    queue: int = 64  # questions that wait
    batch: int = 16  # rows that the torch engine decodes together
    adapters: int = 32
    dial: float = 8.0  # largest |dial|
    drain_seconds: float = 30.0  # for what is under way when the server is told to stop

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ServingError(f"the limit {field.name} must be above 0, not {value}")
        if self.answer_tokens >= self.context:
            raise ServingError(
                f"answers of {self.answer_tokens} tokens leave no room for a prompt in a context of {self.context}: "
                "lower answer_tokens, or raise context"
            )
