"""A conversation as the model's own chat template writes it, and its tokens. Chapter 05.

Templates come with the model, so they are somebody else's programs: jinja's sandbox keeps them from the machine, and a time limit from
running for ever. What a user wrote is text: it is never read as one of the model's special tokens, which would end a turn or begin another.
"""

import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from lora_edu.data.rows import Message, check_text
from lora_edu.errors import DataError, cut, shown

T = TypeVar("T")

PLAIN_TEMPLATE = (
    "{% for m in messages %}{% if m['content'] %}{{ m['role'] + ':\n' + m['content'] + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
)
"""For a base model whose tokenizer has no chat template: `tokenizer.chat_template = PLAIN_TEMPLATE`.

The line break after a role is a token of its own in every tokenizer. A blank would not be: " Paris" is one token in most.
"""

TIME_LIMIT = 5.0  # seconds for one conversation; a usual template takes less than a thousandth of one


def render(messages: Sequence[Message], tokenizer: Any, *, for_answer: bool = False) -> str:
    """The conversation as the model's template writes it; `for_answer` opens the assistant's turn.

    Raises `DataError` if there is no template, if it refuses the conversation or fails at it, or takes longer than `TIME_LIMIT`.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            "the tokenizer has no chat template; set tokenizer.chat_template (lora_edu.data.PLAIN_TEMPLATE is a plain one)"
        )
    from jinja2 import TemplateError

    for message in messages:
        check_text(message["content"], message["role"])
    turns = [dict(message) for message in messages]
    try:
        text = _within(
            TIME_LIMIT,
            lambda: tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=for_answer),
        )
    except TemplateError as error:
        if turns and turns[0] == {"role": "system", "content": ""}:  # no system role here: an empty one may go
            return render(messages[1:], tokenizer, for_answer=for_answer)
        raise DataError(f"the model's chat template refuses this conversation: {cut(str(error))}") from None
    except _TooLong:
        raise DataError(
            f"the model's chat template has not finished after {TIME_LIMIT:.0f} s; set another: tokenizer.chat_template = PLAIN_TEMPLATE"
        ) from None
    except Exception as error:  # a TypeError, a division by zero: whatever its author did not think of
        raise DataError(
            f"the model's chat template fails at this conversation ({type(error).__name__}: {cut(str(error))}); "
            "mend it, or set another: tokenizer.chat_template = PLAIN_TEMPLATE"
        ) from None
    return text


def prompt_ids(messages: Sequence[Message], tokenizer: Any) -> list[int]:
    """Token ids of everything before the answer, the assistant's turn opened: what generation starts from.

    Text that reads like a special token ("<|im_end|>") is written in the tokens of ordinary text: special tokens are the template's
    alone. Raises `DataError` as `render` does, and for a template or a tokenizer with which that cannot be done.
    """
    for message in messages:
        check_text(message["content"], message["role"])
    unsafe = {i: m["content"] for i, m in enumerate(messages) if special_tokens_in(m["content"], tokenizer)}
    if not unsafe:
        return text_ids(render(messages, tokenizer, for_answer=True), tokenizer)
    everything = "".join(m["content"] for m in messages)
    mark = next(c for c in map(chr, range(0xE000, 0xF900)) if c not in everything)  # a character for private use
    marked = [m | {"content": f"{mark}{i}{mark}"} if i in unsafe else m for i, m in enumerate(messages)]
    pieces = render(marked, tokenizer, for_answer=True).split(mark)
    if len(pieces) % 2 == 0 or not set(pieces[1::2]) <= set(map(str, unsafe)):
        raise DataError(
            f"the text holds {shown(special_tokens_in(next(iter(unsafe.values())), tokenizer)[0])}, a special token of the model, and the "
            "chat template changes the text, so that it cannot be kept apart: write it differently"
        )
    ids: list[int] = []
    for number, piece in enumerate(pieces):
        ids += _plain_ids(unsafe[int(piece)], tokenizer) if number % 2 else text_ids(piece, tokenizer)
    return ids


def text_ids(text: str, tokenizer: Any) -> list[int]:
    """Token ids of a text that may hold special tokens; none is added, because the template writes them."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _plain_ids(text: str, tokenizer: Any) -> list[int]:
    """Token ids of a text in which nothing is special."""
    ids = list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    if special_ids(tokenizer).intersection(ids) - {tokenizer.unk_token_id}:
        raise DataError(
            f"the text holds {shown(special_tokens_in(text, tokenizer)[0])}, a special token that this tokenizer cannot write as plain "
            "text: remove it or write it differently"
        )
    return ids


# --- special tokens ----------------------------------------------------------------------------------------------------


def special_ids(tokenizer: Any) -> set[int]:
    """The ids of every special token, those too that have no role of their own (the default model has 17, and names 3)."""
    return {*_added_specials(tokenizer, len(tokenizer)), *tokenizer.all_special_ids}


@lru_cache(maxsize=8)
def _added_specials(tokenizer: Any, size: int) -> frozenset[int]:
    return frozenset(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)


def special_tokens_in(text: str, tokenizer: Any) -> list[str]:
    """The special tokens that this tokenizer would make of a user's text, as it is written."""
    found = special_ids(tokenizer).intersection(text_ids(text, tokenizer)) - {tokenizer.unk_token_id}
    names = sorted(tokenizer.convert_ids_to_tokens(i) for i in found)
    # Unknown characters give the same id as the unknown token itself: only the text tells them apart.
    return names + [tokenizer.unk_token] * (bool(tokenizer.unk_token) and tokenizer.unk_token in text)


# --- a time limit --------------------------------------------------------------------------------------------------------


class _TooLong(BaseException):
    """Raised inside work that takes too long. Not an Exception: the work cannot catch it by accident."""


def _within(seconds: float, work: Callable[[], T]) -> T:
    """work(), or _TooLong in this thread after `seconds`. It reaches Python code alone: one call into C runs to its end."""
    lock, state = threading.Lock(), {"done": False, "fired": False}
    thread = ctypes.c_ulong(threading.get_ident())

    def fire() -> None:
        with lock:
            if not state["done"]:
                state["fired"] = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_TooLong))

    timer = threading.Timer(seconds, fire)
    timer.daemon = True
    timer.start()
    try:
        result = work()
        _settle(lock, state)
        return result
    except _TooLong:
        raise
    except BaseException:
        _settle(lock, state)
        raise
    finally:
        timer.cancel()


def _settle(lock: threading.Lock, state: dict[str, bool]) -> None:
    """From here on nothing is fired; what was fired and has not arrived, arrives here."""
    with lock:
        state["done"] = True
    while state["fired"]:
        time.sleep(0.001)
