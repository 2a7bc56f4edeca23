"""Real sockets: OpenAI's own client, clients that hang up, a stop under load, and the command as a process."""

import signal
import socket
import threading
from collections import Counter

import httpx
import openai
import pytest
from command_line import run, said
from serving_kit import ADAPTERS, LIMITS, held, live, make_catalogue, process, until

from lora_edu.errors import ServingError
from lora_edu.serving import Question, ask
from lora_edu.serving.running import bind, check_host

KEY = "0123456789abcdef"
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def catalogue(model_folder, adapters):
    return make_catalogue(model_folder, adapters)


@pytest.fixture(scope="module")
def address(catalogue):
    with live(catalogue, KEY) as (address, _):
        yield address


@pytest.fixture
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_openais_client(client):
    assert [model.id for model in client.models.list()] == ["tiny", *ADAPTERS]
    assert client.models.retrieve("small@0.5").id == "small@0.5"
    answer = client.chat.completions.create(model="small@0.5", messages=HI, temperature=0, max_tokens=9)
    assert answer.choices[0].finish_reason in ("length", "stop") and answer.usage.completion_tokens <= 9
    stream = client.chat.completions.create(
        model="small@0.5", messages=HI, temperature=0, max_tokens=9, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == answer.choices[0].message.content and chunks[-1].usage == answer.usage


def test_openais_client_hears_what_is_wrong(client, address):
    with pytest.raises(openai.NotFoundError, match="no model 'nobody'"):
        client.chat.completions.create(model="nobody", messages=HI)
    with pytest.raises(openai.BadRequestError, match="tools is not supported"):
        client.chat.completions.create(
            model="tiny", messages=HI, tools=[{"type": "function", "function": {"name": "f"}}]
        )
    with pytest.raises(openai.AuthenticationError, match="a wrong API key"):
        openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0).models.list()
    with pytest.raises(openai.APIStatusError, match="may have 20,000 bytes"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x" * 90_000}])


class Gate:
    """Lets an engine write `open` tokens, then none until it is told."""

    def __init__(self, engine, monkeypatch, tokens=3):
        self.go, self.left, forward = threading.Event(), tokens, engine._forward

        def slowed(*inputs):
            self.left -= 1
            if self.left < 0:
                self.go.wait(60)
            return forward(*inputs)

        monkeypatch.setattr(engine, "_forward", slowed)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_is_forgotten(model_folder, adapters, monkeypatch, stream):
    catalogue = make_catalogue(model_folder, adapters, ("small",))
    gate = Gate(catalogue.torch, monkeypatch)
    with live(catalogue) as (address, _):
        body = {"model": "small", "messages": HI, "max_tokens": 30, "temperature": 0, "stream": stream}
        place = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
        content = httpx.Request("POST", f"{address}/v1/chat/completions", json=body)
        head = "".join(f"{key}: {value}\r\n" for key, value in content.headers.items())
        place.sendall(f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n".encode() + content.read())
        until(lambda: gate.left < 0)
        place.close()  # in the middle of its answer
        until(lambda: 'finish="cancelled"} 1.0' in httpx.get(f"{address}/metrics").text)
        gate.go.set()
        until(lambda: catalogue.torch.counts() == (0, 0))
        assert gate.left >= -2  # of 30 tokens the engine wrote no more than were under way
        answer = httpx.post(f"{address}/v1/chat/completions", json=body | {"stream": False}, timeout=60)
        assert answer.json()["usage"]["completion_tokens"] > 3


def test_a_stop_under_load_loses_nothing(model_folder, adapters):
    catalogue = make_catalogue(model_folder, adapters)
    body = {"messages": HI, "temperature": 0, "max_tokens": 12}
    got = []

    def one(model, stream):
        response = httpx.post(
            f"{address}/v1/chat/completions", json=body | {"model": model, "stream": stream}, timeout=60
        )
        got.append(
            (
                response.status_code,
                "[DONE]" in response.text if stream else response.json()["choices"][0]["finish_reason"],
            )
        )

    with live(catalogue) as (address, server):
        threads = [
            threading.Thread(target=one, args=(model, i % 2 == 0)) for model in ("tiny", *ADAPTERS) for i in range(2)
        ]
        with held(catalogue.torch):
            for thread in threads:
                thread.start()
            until(lambda: catalogue.torch.counts()[0] == len(threads))
            server.should_exit = True
            until(lambda: catalogue.torch._line.closing)
        for thread in threads:
            thread.join(timeout=60)
    assert Counter(status for status, _ in got) == {200: len(threads)}
    assert all(end in (True, "length", "stop") for _, end in got)
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)


def test_what_cannot_be_finished_in_time_is_told(model_folder, adapters, monkeypatch):
    catalogue = make_catalogue(model_folder, adapters, ("small",))
    gate, got = Gate(catalogue.torch, monkeypatch), []
    with live(catalogue, drain_seconds=0.2) as (address, server):
        body = {"model": "small", "messages": HI, "max_tokens": 30}

        def one(stream):
            got.append(httpx.post(f"{address}/v1/chat/completions", json=body | {"stream": stream}, timeout=60))

        threads = [threading.Thread(target=one, args=(stream,)) for stream in (False, True)]
        for thread in threads:
            thread.start()
        until(lambda: gate.left < 0 and sum(catalogue.torch.counts()) == 2)
        server.should_exit = True
        until(lambda: catalogue.torch._line.closing)
        until(lambda: all(t.cancelled for t in catalogue.torch._line.running))
        gate.go.set()
        for thread in threads:
            thread.join(timeout=60)
    assert sorted((r.status_code, "closing" in r.text) for r in got) == [(200, True), (503, True)]


def test_a_port_that_is_taken_and_addresses_that_are_not_ours():
    with bind("127.0.0.1", 0) as taken, pytest.raises(ServingError, match=r"port \d+ is in use.*another --port"):
        bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ServingError, match=r"no listening on 192\.0\.2\.1"):
        bind("192.0.2.1", 0)
    check_host("127.0.0.1", None)
    check_host("::1", None)
    check_host("0.0.0.0", KEY)
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(ServingError, match="LORA_EDU_API_KEY"):
            check_host(host, None)
    with pytest.raises(ServingError, match="16 ASCII"):
        check_host("127.0.0.1", "short")


def test_the_command_says_what_stops_it(model_folder, adapters, tmp_path, monkeypatch):
    serve = (
        "serve",
        "--model",
        model_folder,
        "--engine",
        "torch",
        "--context",
        "64",
        "--answer-tokens",
        "32",
        "--port",
        "0",
    )
    monkeypatch.delenv("LORA_EDU_API_KEY", raising=False)
    for arguments, words in (
        (("--host", "0.0.0.0"), "LORA_EDU_API_KEY"),
        ((tmp_path / "nothing",), "does not exist"),
        (("--folder", tmp_path / "nothing"), "is no folder"),
        ((f"a.b={adapters['small']}",), "cannot name an adapter"),
        ((f"x={adapters['small']}", f"x={adapters['wide']}"), "served already"),
    ):
        result = run(*serve, *arguments)
        assert result.exit_code == 1 and words in said(result), result.output


def test_without_the_extra_it_names_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = run("serve")
    assert result.exit_code == 1 and "pip install 'lora-edu[serve]'" in said(result)


@pytest.mark.slow
def test_the_process_ends_cleanly_under_load(model_folder, adapters):
    arguments = ("--model", model_folder, "--engine", "torch", "--context", "64", "--answer-tokens", "32")
    with process(f"s={adapters['small']}", *arguments) as (address, server):
        body = {
            "model": "s@0.5",
            "messages": [{"role": "user", "content": "xyzzy"}],
            "temperature": 0,
            "max_tokens": 20,
        }
        answer = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        first = answer.json()["choices"]
        got = []

        def asking():
            with httpx.Client() as client:
                try:
                    while True:
                        got.append(client.post(f"{address}/v1/chat/completions", json=body, timeout=60))
                except httpx.TransportError:  # it takes no connection any more
                    pass

        threads = [threading.Thread(target=asking) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: len(got) > 8)
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) == 0
        for thread in threads:
            thread.join(timeout=60)
    told = [r.json() for r in got if r.status_code != 200]
    assert all(r.json()["choices"] == first for r in got if r.status_code == 200)
    assert all("closing" in each["error"]["message"] for each in told)  # on a connection that stood already
    text = "".join(server.said)
    assert "stopped" in text and "Traceback" not in text and "xyzzy" not in text


@pytest.mark.slow
def test_200_requests_of_8_clients(model_folder, adapters):
    """Three adapters and the base: none is lost, and every answer is the one that is given to it alone."""
    catalogue = make_catalogue(model_folder, adapters, ("small", "wide", "table"), LIMITS)
    models = ["tiny", "small", "wide", "table"]
    questions = [(models[i % 4], [{"role": "user", "content": f"thing {i % 9}"}], 4 + i % 5) for i in range(200)]
    alone = {}
    for model, messages, tokens in questions:
        from lora_edu.data import prompt_ids

        prompt = tuple(prompt_ids([{"role": "system", "content": ""}, *messages], catalogue.torch.tokenizer))
        key = model, messages[0]["content"], tokens
        if key not in alone:
            alone[key] = ask(catalogue.torch, Question(prompt, None if model == "tiny" else model, max_tokens=tokens))
    got = {}
    with live(catalogue) as (address, _):

        def client(number):
            with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
                for i in range(number, 200, 8):
                    model, messages, tokens = questions[i]
                    got[i] = client.chat.completions.create(
                        model=model, messages=messages, max_tokens=tokens, temperature=0
                    )

        threads = [threading.Thread(target=client, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=300)
    assert sorted(got) == list(range(200))
    for i, (model, messages, tokens) in enumerate(questions):
        expected = alone[model, messages[0]["content"], tokens]
        assert (got[i].choices[0].message.content, got[i].choices[0].finish_reason) == (expected.text, expected.finish)
    assert max(catalogue.torch.batches) > 1  # they did share batches
