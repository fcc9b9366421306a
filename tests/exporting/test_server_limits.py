"""What the server refuses: each bound has a status, one line of JSON, and no traceback."""

import http.client
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("aiohttp", reason="needs aiohttp: pip install 'adios_tf[serve]'")

from adios_tf.exporting.limits import Limits
from adios_tf.exporting.server import Server

LIMITS = Limits(read_timeout=1.0, max_connections=8, max_megapixels=0.001, max_waiting=1)
POST = b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\n"
CLOSE = b"Connection: close\r\n"
CHUNKED = POST + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n"
IMAGE = np.zeros((1, 2, 2, 3)).tolist()


@pytest.fixture(scope="module")
def running(tiny_export, serving):
    return serving(Server(tiny_export, "tiny", LIMITS))


def exchange(port, *parts, pause=0.05):
    """Sends the parts one after another; returns (status, body) and the seconds it took."""
    begun, got = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        while b"}" not in got and (more := connection.recv(1 << 16)):
            got += more
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"application/json" in head
    return int(head.split()[1]), json.loads(body), time.monotonic() - begun


@pytest.mark.parametrize(
    ("parts", "status", "match"),
    [
        ([b"GARBAGE\r\n\r\n"], 400, "no HTTP request"),
        ([b"GET / HTTP/9\r\n\r\n"], 400, "no HTTP request"),
        ([bytes(range(128, 256)) + b"\r\n\r\n"], 400, "no HTTP request"),
        ([POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n"], 400, "no HTTP request"),
        ([b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n"], 431, "longer than this server takes"),
        ([POST + b"X: " + b"x" * 9000 + b"\r\n\r\n"], 431, "longer than this server takes"),
        ([POST + CLOSE + b"X: %b\r\n" % (b"x" * 7000) * 5 + b"\r\n"], 431, "headers are larger"),
        ([POST] + [b"X: %b\r\n" % (b"x" * 7000)] * 5, 431, "headers are larger"),
        ([CHUNKED, b"zz\r\n"], 400, "cannot be read"),
        ([CHUNKED + b"zz\r\n"], 400, "no HTTP request"),
        (
            [POST + CLOSE + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde"],
            400,
            "cannot be read",
        ),
    ],
)
def test_what_is_not_http_is_told_in_one_line(running, caplog, parts, status, match):
    got, answer, _ = exchange(running.port, *parts)
    assert got == status
    assert match in answer["error"]
    assert "\n" not in answer["error"]
    assert [record for record in caplog.records if record.exc_info] == []


def test_headers_must_arrive_in_time_however_they_trickle(running):
    status, answer, seconds = exchange(running.port, *(POST[n : n + 1] for n in range(36)))
    assert status == 408
    assert "the headers did not arrive within 1 s" in answer["error"]
    assert seconds >= LIMITS.read_timeout
    assert exchange(running.port)[0] == 408  # nothing at all


def test_a_connection_that_rests_between_requests_is_kept(running):
    body = json.dumps({"instances": IMAGE}).encode()

    def look_again():  # as aiohttp does once its buffers are empty
        for connection in running.server.manager.connections:
            connection.data_received(b"")

    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    for _ in range(2):
        connection.request("POST", "/v1/models/tiny:predict", body)
        response = connection.getresponse()
        assert response.status == 200
        response.read()
        running._loop.call_soon_threadsafe(look_again)
        time.sleep(1.5 * LIMITS.read_timeout)
    connection.close()


def test_connections_beyond_the_bound_are_told_so(running, caplog):
    opened = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(40)]
    told = opened[LIMITS.max_connections].recv(1000)
    assert told.startswith(b"HTTP/1.1 503 ")
    assert b"too many connections" in told
    for connection in opened:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset
        connection.close()
    deadline = time.monotonic() + 10
    while running.ask("GET", "/healthz")[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(2 * LIMITS.read_timeout)  # their timers
    assert [record for record in caplog.records if record.exc_info] == []


def test_pixels_of_a_request_are_added_up(running):
    files = [tf.io.encode_png(np.zeros((20, 20, 3), np.uint8)).numpy()] * 3

    def ask(count):
        import base64

        rows = [{"b64": base64.b64encode(file).decode()} for file in files[:count]]
        return running.predict({"signature_name": "embed_bytes", "instances": rows})

    assert ask(2)[0] == 200
    status, answer = ask(3)
    assert status == 413
    assert "more than 1000 pixels together" in answer["error"]


def test_a_full_queue_is_told_429(running, monkeypatch):
    batcher = running.server.versions.current[1].batchers["serving_default"]
    original, gate = batcher._function, threading.Event()
    monkeypatch.setattr(batcher, "_function", lambda rows: gate.wait(20) and original(rows))
    with ThreadPoolExecutor(3) as pool:
        asked = []
        for waiting in (0, 1):
            asked.append(pool.submit(running.predict, {"instances": IMAGE}))
            deadline = time.monotonic() + 10
            while batcher.waiting != waiting or batcher._worker is None:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            time.sleep(0.1)
        status, answer = running.predict({"instances": IMAGE})
        gate.set()
        assert status == 429
        assert "try again" in answer["error"]
        assert [one.result()[0] for one in asked] == [200, 200]


def test_metrics_are_prometheus_text(running):
    before = running.ask("GET", "/monitoring/prometheus/metrics")[1]
    assert running.predict({"instances": IMAGE * 4})[0] == 200
    assert running.predict({})[0] == 400
    after = running.ask("GET", "/monitoring/prometheus/metrics")[1]
    assert after.endswith("\n")
    sample = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+')
    for line in after.splitlines():
        assert line.startswith("# TYPE ") or sample.fullmatch(line), line

    def value(text, name):
        found = [line.split()[-1] for line in text.splitlines() if line.startswith(name + " ")]
        return float(found[0]) if found else 0.0

    def grown(name):
        return value(after, name) - value(before, name)

    requests = 'adios_requests_total{route="/v1/models/tiny:predict",method="POST",status="%d"}'
    assert grown(requests % 200) == 1
    assert grown(requests % 400) == 1
    assert grown("adios_images_total") == 4
    assert grown('adios_batch_images_bucket{le="2"}') == 0
    assert grown('adios_batch_images_bucket{le="4"}') == 1
    assert grown("adios_request_seconds_count") == 2
    assert grown('adios_request_seconds_bucket{le="+Inf"}') == 2
    assert value(after, "adios_queue_images") == 0
    assert value(after, "adios_connections") >= 1
    assert value(after, "adios_model_version") == 3
    assert value(after, "process_resident_memory_bytes") > 1e8
