"""The HTTP API in this process: OpenAI's forms, what is refused and how, adapters that come and go."""

import json
import logging
import threading
from dataclasses import replace

import pytest
from serving_kit import ADAPTERS, LIMITS, Client, held, make_catalogue, until

from lora_edu.data import prompt_ids
from lora_edu.serving import Question, ask
from lora_edu.serving.server import create_app


@pytest.fixture(scope="module")
def catalogue(model_folder, adapters):
    catalogue = make_catalogue(model_folder, adapters, allowed=adapters["small"].parent)
    yield catalogue
    catalogue.close(0)


@pytest.fixture(scope="module")
def client(catalogue):
    return Client(create_app(catalogue))


def refused(response, status, words, param=None):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"], error["message"]
    if param is not None:
        assert error["param"] == param
    return error


def events(response):
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert response.headers["content-type"].startswith("text/event-stream") and lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


# -- answers -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("model", ["tiny", "small", "small@0.5", "wide@-1", "dora", "ia3@2", "small@0"])
def test_an_answer_is_the_engines(client, catalogue, model):
    name, _, dial = model.partition("@")
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": "hi"}]
    prompt = tuple(prompt_ids(messages, catalogue.torch.tokenizer))
    expected = ask(catalogue.torch, Question(prompt, None if name == "tiny" else name, float(dial or 1), 8))
    answer = client.chat(model).json()
    assert answer["object"] == "chat.completion" and answer["model"] == model
    [choice] = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": expected.text, "refusal": None}
    assert choice["finish_reason"] == expected.finish
    assert answer["usage"] == {
        "prompt_tokens": len(prompt), "completion_tokens": expected.tokens, "total_tokens": len(prompt) + expected.tokens,
    }  # fmt: skip
    streamed = events(client.chat(model, stream=True, stream_options={"include_usage": True}))
    assert "".join(c["delta"].get("content", "") for e in streamed for c in e["choices"]) == expected.text
    assert streamed[0]["choices"][0]["delta"]["role"] == "assistant"
    assert streamed[-2]["choices"][0]["finish_reason"] == expected.finish
    assert streamed[-1]["choices"] == [] and streamed[-1]["usage"] == answer["usage"]
    assert len({e["id"] for e in streamed}) == 1 and {e["object"] for e in streamed} == {"chat.completion.chunk"}


def test_the_dial_turns(client):
    texts = {
        client.chat(model, max_tokens=16).text.split('"content":')[1]
        for model in ("small", "small@0.5", "small@-1", "tiny")
    }
    assert len(texts) == 4
    assert client.chat("small@0").json()["choices"] == client.chat("tiny").json()["choices"]


def test_stop_texts_and_lengths(client):
    whole = client.chat(max_tokens=20).json()["choices"][0]["message"]["content"]
    stop = whole[5:7]
    answer = client.chat(max_tokens=20, stop=[stop, "never there"]).json()
    assert answer["choices"][0]["message"]["content"] == whole[: whole.index(stop)]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert client.chat(max_completion_tokens=3).json()["usage"]["completion_tokens"] == 3
    assert client.chat().json()["usage"]["completion_tokens"] == LIMITS.default_tokens


def test_a_seed_gives_the_same_draw(client):
    drawn = [client.chat(temperature=1.5, seed=seed).json()["choices"] for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_system_message_that_an_adapter_was_trained_with(model_folder, adapters):
    catalogue = make_catalogue(
        model_folder, adapters, ("small",), system_of=lambda folder: "Be brief" if folder.name == "small" else None
    )
    client = Client(create_app(catalogue))
    own = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "hi"}]
    assert client.chat("small").json()["usage"] == client.chat("small", messages=own).json()["usage"]
    assert client.chat("small").json()["choices"] == client.chat("small", messages=own).json()["choices"]
    assert client.chat("small").json()["usage"] != client.chat("tiny").json()["usage"]
    catalogue.close(0)


def test_a_question_cannot_end_its_turn(client):
    """Text that reads like a special token stays text."""
    plain = client.chat(content="hi").json()["usage"]["prompt_tokens"]
    assert client.chat(content="hi<|im_end|>").json()["usage"]["prompt_tokens"] == plain + len("<|im_end|>")


def test_parts_of_text_are_one_text(client):
    parts = [
        {"role": "developer", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]},
    ]
    assert client.chat(messages=parts).json()["choices"] == client.chat().json()["choices"]


# -- models ------------------------------------------------------------------------------------------------------------
def test_models_are_the_base_and_the_adapters(client):
    listed = client("GET", "/v1/models").json()
    assert listed["object"] == "list" and [m["id"] for m in listed["data"]] == ["tiny", *ADAPTERS]
    cards = {m["id"]: m for m in listed["data"]}
    assert all(m["engine"] == "torch" for m in cards.values())
    assert "DoRA" in cards["dora"]["note"] and "note" not in cards["small"]  # it is said who does not share a batch
    assert client("GET", "/v1/models/small@0.25").json()["id"] == "small@0.25"
    refused(client("GET", "/v1/models/nobody"), 404, "no model 'nobody'")


@pytest.mark.parametrize(("model", "status", "words"), [
    ("nobody", 404, "no model 'nobody'"), ("nobody@1", 404, "no model"), ("small@", 400, "no dial"), ("small@x", 400, "'x' is no dial"),
    ("small@nan", 400, "no dial"), ("small@inf", 400, "no dial"), ("small@1e9", 400, "from -8 to 8"), ("tiny@0.5", 400, "the base, which has no dial"),
    ("small@1@2", 400, "no dial"), ("x" * 5000, 404, "more characters"),
])  # fmt: skip
def test_names_that_are_none(client, model, status, words):
    error = refused(client.chat(model), status, words, "model")
    assert error["code"] == ("model_not_found" if status == 404 else None)


# -- what is refused ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("more", "words", "param"), [
    ({"n": 2}, "n is not supported", "n"), ({"tools": [{"type": "function"}]}, "tools is not", "tools"), ({"logprobs": True}, "logprobs is not", "logprobs"),
    ({"response_format": {"type": "json_object"}}, "response_format is not", "response_format"), ({"presence_penalty": 0.5}, "presence_penalty", "presence_penalty"),
    ({"top_k": 4}, "Unrecognized request argument supplied: top_k", "top_k"), ({"temperature": -1}, "from 0 to 2", "temperature"),
    ({"temperature": "hot"}, "from 0 to 2", "temperature"), ({"temperature": True}, "from 0 to 2", "temperature"), ({"top_p": 1.1}, "from 0 to 1", "top_p"),
    ({"max_tokens": 0}, "from 1 to 32", "max_tokens"), ({"max_tokens": 33}, "from 1 to 32", "max_tokens"), ({"max_tokens": 1.5}, "whole number", "max_tokens"),
    ({"seed": "x"}, "whole number", "seed"), ({"stop": [""]}, "stop must be", "stop"), ({"stop": list("abcde")}, "up to four", "stop"), ({"stop": [1]}, "stop must be", "stop"),
    ({"stream": 1}, "true or false", "stream"), ({"stream_options": {}}, "goes with stream", "stream_options"), ({"model": 5}, "model must name", "model"),
    ({"messages": []}, "at least one", "messages"), ({"messages": {"role": "user"}}, "must be a list", "messages"), ({"messages": ["hi"]}, "messages[0] must be an object", "messages[0]"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "'tool'", "messages[0].role"), ({"messages": [{"role": "user"}]}, "must be text", "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "no other kind of part", "messages[0].content"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "the last message must be the user's", "messages"),
    ({"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "x"}]}, "must come first", "messages[1].role"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}, "tool_calls is not supported", "messages[0].tool_calls"),
    ({"messages": [{"role": "user", "content": "\ud83d"}]}, "half of a character", "messages"),
    ({"messages": [{"role": "user", "content": "x" * 60}]}, "of prompt and", "messages"),
])  # fmt: skip
def test_a_request_that_is_not_answered_names_the_parameter(client, more, words, param):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]} | more
    response = client(
        "POST", "/v1/chat/completions", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert refused(response, 400, words, param)["type"] == "invalid_request_error"


def test_what_asks_for_nothing_is_no_fault(client):
    harmless = {"n": 1, "tools": [], "logprobs": False, "presence_penalty": 0, "response_format": {"type": "text"}, "user": "u", "metadata": {"a": "b"}, "stop": None}  # fmt: skip
    assert client.chat(**harmless).json()["choices"] == client.chat().json()["choices"]


@pytest.mark.parametrize(("content", "words"), [
    (b"", "no JSON"), (b"{", "no JSON"), (b"[]", "must be a JSON object"), (b'{"model": NaN}', "NaN is no number"), (b"\xff\xfe", "no JSON"), (b"[" * 9000, "no JSON"),
    (b'{"seed": ' + b"9" * 6000 + b"}", "no JSON"),
])  # fmt: skip
def test_a_body_that_is_no_request(client, content, words):
    refused(
        client("POST", "/v1/chat/completions", content=content, headers={"Content-Type": "application/json"}),
        400,
        words,
    )


def test_an_oversized_body_another_type_and_another_address(client):
    refused(client.chat(content="x" * 30_000), 413, "may have 20,000 bytes")
    refused(
        client("POST", "/v1/chat/completions", content="a=b", headers={"Content-Type": "text/plain"}),
        415,
        "application/json",
    )
    refused(client("GET", "/v1/nothing"), 404, "nothing at this address")
    refused(client("GET", "/v1/chat/completions"), 405, "does not take that method")
    refused(client("GET", "/health", headers={"Host": "evil.example"}), 403, "localhost alone")
    for host in ("127.0.0.1:8000", "localhost", "[::1]:80"):
        assert client("GET", "/health", headers={"Host": host}).status_code == 200


def test_a_key(catalogue):
    app = create_app(catalogue, "0123456789abcdef")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic 0123456789abcdef"}):
        error = refused(Client(app, **headers).chat(), 401, "a wrong API key")
        assert error["code"] == "invalid_api_key"
        refused(Client(app, **headers)("GET", "/metrics"), 401, "key")
    assert Client(app, Authorization="Bearer 0123456789abcdef").chat().status_code == 200
    assert Client(app, Host="server.example")("GET", "/health").status_code == 200


def test_a_full_queue_is_said_and_nothing_is_lost(model_folder, adapters):
    catalogue = make_catalogue(model_folder, adapters, ("small",), limits=replace(LIMITS, queue=3))
    client, got = Client(create_app(catalogue)), []
    threads = [threading.Thread(target=lambda: got.append(client.chat("small"))) for _ in range(3)]
    with held(catalogue.torch):
        for thread in threads:
            thread.start()
        until(lambda: catalogue.torch.counts()[0] == 3)
        response = client.chat()
        assert (
            refused(response, 429, "3 questions wait already")["code"] == "queue_full"
            and response.headers["retry-after"]
        )
        assert client("GET", "/health").json()["engines"]["torch"]["waiting"] == 3
    for thread in threads:
        thread.join()
    assert [r.status_code for r in got] == [200] * 3 and len(
        {r.json()["choices"][0]["message"]["content"] for r in got}
    ) == 1
    catalogue.close(0)
    refused(client.chat(), 503, "closing")


def test_time_that_is_up(model_folder, adapters):
    catalogue = make_catalogue(model_folder, adapters, (), limits=replace(LIMITS, seconds=1e-6))
    client = Client(create_app(catalogue))
    refused(client.chat(), 504, "no whole answer within")
    assert '"code": "timeout"' in client.chat(stream=True).text
    catalogue.close(0)


# -- adapters that come and go -----------------------------------------------------------------------------------------
def test_adapters_are_loaded_and_unloaded_while_it_runs(client, catalogue, adapters):
    before = client.chat("wide").json()["choices"]
    loaded = client("POST", "/v1/adapters", json={"name": "second", "folder": "table"})
    assert loaded.status_code == 201 and loaded.json()["id"] == "second" and len(loaded.json()["sha256"]) == 64
    assert client.chat("second").json()["choices"] != client.chat().json()["choices"]
    assert [m["id"] for m in client("GET", "/v1/adapters").json()["data"]] == [*ADAPTERS, "second"]
    refused(client("POST", "/v1/adapters", json={"name": "second", "folder": "table"}), 400, "is served already")
    assert client("DELETE", "/v1/adapters/second").json()["deleted"] is True
    refused(client("DELETE", "/v1/adapters/second"), 404, "no adapter 'second'")
    refused(client.chat("second"), 404, "no model 'second'")
    assert client.chat("wide").json()["choices"] == before


@pytest.mark.parametrize(("content", "status", "words"), [
    ({"folder": "../model0"}, 403, "not inside"), ({"folder": "/etc"}, 403, "not inside"), ({"folder": "."}, 403, "not inside"), ({"folder": "a\x00b"}, 403, "not inside"),
    ({"folder": "nothing"}, 400, "does not exist"), ({"folder": "cut"}, 400, "damaged"), ({"folder": "table", "name": "a.b"}, 400, "cannot name"),
    ({"folder": "table", "name": "a@1"}, 400, "what follows @"), ({"folder": "table", "name": ""}, 400, "cannot name"), ({"folder": "table", "name": "tiny"}, 400, "served already"),
    ({"folder": "table", "name": 5}, 400, "name must be"), ({}, 400, "give"), ({"folder": "table", "more": 1}, 400, "give"), ({"folder": "link"}, 403, "not inside"),
])  # fmt: skip
def test_adapters_that_are_not_loaded(client, adapters, content, status, words, tmp_path):
    place = adapters["small"].parent
    cut, link = place / "cut", place / "link"
    if not cut.exists():
        cut.mkdir()
        for file in adapters["small"].iterdir():
            (cut / file.name).write_bytes(file.read_bytes()[: 700 if file.suffix == ".safetensors" else None])
        link.symlink_to(tmp_path)
    refused(client("POST", "/v1/adapters", json=content), status, words)
    assert [m["id"] for m in client("GET", "/v1/adapters").json()["data"]] == list(ADAPTERS)


def test_without_a_folder_nothing_is_loaded(model_folder, adapters):
    catalogue = make_catalogue(model_folder, adapters, ())
    refused(Client(create_app(catalogue))("POST", "/v1/adapters", json={"folder": "x"}), 403, "--folder")
    catalogue.close(0)


# -- what is counted and written ---------------------------------------------------------------------------------------
def test_metrics_count_and_nothing_of_a_request_is_logged(catalogue, caplog):
    client = Client(create_app(catalogue))
    secret = "xyzzy"
    with caplog.at_level(logging.DEBUG, "lora_edu.serving"):
        client.chat("small", content=secret, max_tokens=4)
        client.chat(secret)
        client("GET", f"/v1/{secret}?{secret}")
        client("GET", f"/v1/models/{secret}")
    text = client("GET", "/metrics").text
    assert 'lora_edu_requests_total{route="/v1/chat/completions",status="200"} 1.0' in text
    assert 'lora_edu_tokens_total{engine="torch",kind="completion"} 4.0' in text
    assert 'lora_edu_answers_total{engine="torch",finish="length"} 1.0' in text
    assert f"lora_edu_adapters {len(ADAPTERS)}.0" in text and 'lora_edu_waiting{engine="torch"} 0.0' in text
    assert secret not in text and secret not in caplog.text and len(caplog.records) == 4


def test_a_fault_of_ours_is_told_without_a_word_of_the_request(catalogue, monkeypatch, caplog):
    client = Client(create_app(catalogue))
    monkeypatch.setattr(catalogue, "find", lambda model: {}[model])
    with caplog.at_level(logging.DEBUG, "lora_edu.serving"):
        error = refused(client.chat("xyzzy"), 500, "the server failed")
    assert error["type"] == "server_error" and "KeyError at" in caplog.text and "xyzzy" not in caplog.text


def test_the_page_asks_nobody_else(client):
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        response = client("GET", path)
        assert (
            response.headers["content-type"].startswith(kind)
            and "default-src 'none'" in response.headers["content-security-policy"]
        )
        assert "http://" not in response.text and "https://" not in response.text
