"""A server of the tiny model: in this process, for httpx, or as a process of its own, for real clients."""

import asyncio
import os
import queue
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx

from lora_edu.models import load_base
from lora_edu.serving import Limits, TorchEngine
from lora_edu.serving.catalogue import Catalogue
from lora_edu.serving.running import bind, make_server
from lora_edu.serving.server import create_app

LIMITS = Limits(context=64, answer_tokens=32, default_tokens=8, body_bytes=20_000)
ADAPTERS = ("small", "wide", "dora", "ia3")


def make_catalogue(model_folder, adapters, names=ADAPTERS, limits=LIMITS, **more):
    catalogue = Catalogue("tiny", TorchEngine(*load_base(model_folder, device="cpu"), limits), **more)
    for name in names:
        catalogue.add(name, adapters[name])
    return catalogue


class Client:
    """Requests to an application in this process."""

    def __init__(self, app, **headers):
        self.app, self.headers = app, headers

    def __call__(self, method, path, **options):
        async def one():
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost", headers=self.headers
            ) as client:
                return await client.request(method, path, timeout=60, **options)

        return asyncio.run(one())

    def chat(self, model="tiny", content="hi", **more):
        body = {"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0} | more
        return self("POST", "/v1/chat/completions", json=body)


@contextmanager
def held(engine):
    """Within the block the engine begins no batch: what is asked waits."""
    hold, began = threading.Event(), threading.Event()

    def job(model):
        began.set()
        hold.wait(60)

    thread = threading.Thread(target=lambda: engine.work(job))
    thread.start()
    began.wait(60)
    try:
        yield
    finally:
        hold.set()
        thread.join()


def collect(engine, questions):
    """All answers (text, tokens, finish) of questions that are asked at once and so share batches."""
    found = [queue.SimpleQueue() for _ in questions]
    with held(engine):
        for question, pieces in zip(questions, found):
            engine.submit(question, pieces.put)
    return [gathered(pieces) for pieces in found]


def gathered(pieces):
    text = ""
    while (piece := pieces.get(timeout=60)).finish is None:
        text += piece.text
    return text + piece.text, piece.tokens, piece.finish


def until(true, seconds=60.0):
    """Wait for `true()`; the limit is for a test that would hang, no measurement."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@contextmanager
def process(*arguments, **environment):
    """`lora-edu serve` as a process on a free port; yields (address, process). What it printed is in `process.said`."""
    command = [sys.executable, "-m", "lora_edu", "serve", "--port", "0", "--threads", "1", *map(str, arguments)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | environment
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    server.said = []
    reader = threading.Thread(target=lambda: [server.said.append(line) for line in server.stdout], daemon=True)
    reader.start()
    try:
        until(lambda: server.poll() is not None or any("Serving" in line for line in server.said), 120)
        line = next((line for line in server.said if "Serving" in line), None)
        assert line is not None, "".join(server.said)
        yield line.split(" on ")[1].strip(), server
    finally:
        server.kill() if server.poll() is None else None
        server.wait()
        reader.join(timeout=10)
        server.stdout.close()


@contextmanager
def live(catalogue, api_key=None, drain_seconds=30.0):
    """The application behind a real uvicorn, in a thread of this process; yields (address, server)."""
    place = bind("127.0.0.1", 0)
    server = make_server(create_app(catalogue, api_key), catalogue.close, drain_seconds)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{place.getsockname()[1]}", server
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        place.close()
        assert not thread.is_alive()
