"""A room: a small server on the teacher's machine that counts a class's predictions, and the line in a notebook that joins it.

The room's code is on the wall, names are nowhere: a voter is a number that their browser or kernel drew by chance. Histograms are shown
to who holds the teacher's key, which only the teacher's terminal shows.
"""

import hmac
import html
import json
import secrets
import urllib.error
import urllib.request
from typing import Any

from lora_edu.course import predictions
from lora_edu.course.card import Card
from lora_edu.course.classroom.ballots import Box, as_html, locked
from lora_edu.course.classroom.roster import ClassroomError
from lora_edu.course.predictions import letter

_LETTERS = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"  # none that is taken for another
_MOST_BYTES = 4_000  # of a vote
_STYLE = (
    "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>Predictions</title>"
    "<style>body{font:18px/1.5 sans-serif;max-width:45em;margin:1.5em auto;padding:0 1em;color-scheme:light dark}table{width:100%}"
    "td{padding:.2em .4em}label{display:block;padding:.4em 0}"
    "button,input,select{font:inherit}</style>"
)
_VOTE = """
<script>
const form = document.forms[0], said = document.getElementById("said");
let voter = localStorage.getItem("voter");
if (!voter) { voter = Array.from(crypto.getRandomValues(new Uint8Array(8)), b => b.toString(16).padStart(2, "0")).join(""); localStorage.setItem("voter", voter); }
form.onsubmit = async event => {
  event.preventDefault();
  const answer = new FormData(form).get("answer");
  const reply = await fetch(location.pathname + "/vote", {method: "POST", headers: {"Content-Type": "application/json"},
    body: JSON.stringify({question: form.dataset.question, voter, answer})});
  const text = await reply.json();
  said.textContent = reply.ok ? "Locked. The first answer counts." : text.error;
};
</script>"""


def new_code(length: int = 5) -> str:
    """A room's code: letters and figures that nobody mistakes on a wall."""
    return "".join(secrets.choice(_LETTERS) for _ in range(length))


def create_room(box: Box, code: str, key: str, asked: str) -> Any:
    """The room as an ASGI application (Starlette's, which FastAPI brings). `asked`: the question that it starts with."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route

    now = {"question": asked}

    def here(request: Request) -> bool:
        return hmac.compare_digest(request.path_params["code"].upper().encode(), code.encode())

    def mine(request: Request) -> bool:
        return here(request) and hmac.compare_digest(request.query_params.get("key", "").encode(), key.encode())

    async def page(request: Request) -> Response:
        if not here(request):
            return HTMLResponse(_STYLE + "<p>No such room: look at the code on the wall.", 404)
        question = box.known[now["question"]]
        field = "".join(
            f"<label><input type='radio' name='answer' value='{letter(i)}' required> {letter(i)}) {html.escape(option)}</label>"
            for i, option in enumerate(question.options)
        )
        field = (
            field
            or f"<label>A number <input name='answer' required inputmode='decimal'> {html.escape(question.unit)}</label>"
        )
        form = f"<form data-question='{html.escape(question.id)}'>{field}<button>Lock my answer</button></form>"
        return HTMLResponse(
            f"{_STYLE}<h1>{html.escape(question.text)}</h1>{form}<p id='said' role='status'></p>{_VOTE}"
        )

    async def vote(request: Request) -> Response:
        if not here(request):
            return JSONResponse({"error": "no such room"}, 404)
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > _MOST_BYTES:
                return JSONResponse({"error": "too long for a vote"}, 413)
        try:
            told = json.loads(body)
            box.vote(told["question"], told["voter"], told["answer"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return JSONResponse(
                {"error": "a vote is {question, voter, answer}, and its answer one of the question's"}, 400
            )
        return JSONResponse({"locked": True})

    async def show(request: Request) -> Response:
        if not mine(request):
            return HTMLResponse(
                _STYLE + "<p>Only the teacher sees this: the address with its key stands in the terminal.", 403
            )
        chosen = request.query_params.get("question", now["question"])
        if chosen in box.known:
            now["question"] = chosen
        question = box.known[now["question"]]
        options = "".join(
            f"<option{' selected' if id == question.id else ''}>{html.escape(id)}</option>" for id in sorted(box.known)
        )
        choose = f"<form><input type='hidden' name='key' value='{html.escape(key)}'><select name='question'>{options}</select> <button>Ask this</button></form>"
        count = len(box.votes.get(question.id, {}))
        if "bars" not in request.query_params:  # first the discussion: how many have voted, and not what
            again = f"<p><a href='?key={html.escape(key)}&bars'>Show the histogram</a> · <a href='?key={html.escape(key)}'>Refresh</a></p>"
            return HTMLResponse(f"{_STYLE}{choose}<h2>{html.escape(question.text)}</h2><p>{locked(count)}</p>{again}")
        return HTMLResponse(
            f"{_STYLE}{choose}{as_html(question, box.bars(question.id))}<p><a href='?key={html.escape(key)}&bars'>Refresh</a></p>"
        )

    return Starlette(
        routes=[Route("/{code}", page), Route("/{code}/vote", vote, methods=["POST"]), Route("/{code}/show", show)]
    )


def join(address: str) -> Card:
    """Send each prediction that is locked from now on in this kernel to the room at `address` (http://…:8700/K7QDX), without a name.

    Raises:
        ClassroomError: nobody answers there, or the room has another code.
    """
    address = address.rstrip("/")
    if not address.startswith(("http://", "https://")):
        raise ClassroomError(f"{address!r} is no room's address: it begins with http:// and ends in the room's code")
    try:
        with urllib.request.urlopen(address, timeout=5):
            pass
    except (OSError, ValueError) as error:
        raise ClassroomError(f"no room answers at {address} ({error}): look at the address on the wall") from None
    voter = secrets.token_hex(8)

    def tell(question: str, answer: Any) -> None:
        body = json.dumps({"question": question, "voter": voter, "answer": answer}).encode()
        request = urllib.request.Request(f"{address}/vote", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=5):
                pass
        except (OSError, ValueError) as error:
            print(f"Your answer is locked here, but the room did not take it ({error}).")

    predictions.on_lock[:] = [tell]
    return Card("Joined. Each prediction that you lock goes to the room, without your name.")
