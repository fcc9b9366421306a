"""How the server ends: SIGTERM loses no request that has arrived."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="needs aiohttp: pip install 'adios_tf[serve]'")
ROOT = Path(__file__).resolve().parents[2]
CLIENTS = 12


@pytest.fixture
def start(tiny_export):
    """Returns a function that starts the program and returns (process, port)."""
    started = []

    def begin(*flags):
        command = [sys.executable, "-m", "adios_tf.programs.serve", f"--model={tiny_export}"]
        process = subprocess.Popen(
            [*command, "--port=0", *flags],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, int(re.search(r":(\d+)/", process.stdout.readline())[1])

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def half_a_request(port, body):
    """Sends the headers and half the body; returns the connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("POST", "/v1/models/adios:predict")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[: len(body) // 2])
    return connection


def test_sigterm_answers_what_has_arrived_or_is_arriving(start):
    process, port = start("--read_timeout=60")
    images = np.random.default_rng(0).random((8, 32, 32, 3)).round(2).tolist()
    body = json.dumps({"signature_name": "masks", "instances": images}).encode()
    answers, sent = [], threading.Barrier(CLIENTS + 1)

    def ask():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/v1/models/adios:predict", body)
        sent.wait()
        try:
            response = connection.getresponse()
            answers.append((response.status, len(json.loads(response.read())["predictions"])))
        except (OSError, http.client.HTTPException, KeyError) as error:
            answers.append((None, repr(error)))

    kept = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    kept.request("GET", "/healthz")
    kept.getresponse().read()
    arriving = half_a_request(port, body)
    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    sent.wait()
    time.sleep(0.1)  # the bodies are in the server's sockets
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    for connection in (kept, http.client.HTTPConnection("127.0.0.1", port, timeout=60)):
        connection.request("POST", "/v1/models/adios:predict", body)
        response = connection.getresponse()
        assert response.status == 503
        assert response.headers["Connection"] == "close"
        assert json.loads(response.read()) == {"error": "the server is stopping"}
    for thread in threads:
        thread.join()
    assert process.poll() is None
    arriving.send(body[len(body) // 2 :])
    assert arriving.getresponse().status == 200
    assert answers == [(200, 8)] * CLIENTS
    assert process.wait(40) == 0
    assert time.monotonic() - asked < 30
    assert process.stderr.read() == ""


@pytest.mark.slow
def test_a_request_that_never_ends_does_not_keep_the_process(start):
    process, port = start("--read_timeout=60", "--stop_timeout=2")
    held = half_a_request(port, b"x" * 100)
    time.sleep(0.2)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 1
    assert 1.5 < time.monotonic() - asked < 10
    held.close()
    assert process.stderr.read() == "stopped after 2 s with requests unanswered\n"
