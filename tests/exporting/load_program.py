"""Loads a server: many clients, mixed requests, every answer checked.

    python tests/exporting/load_program.py --model=EXPORT [--seconds=30] [--clients=16]

Starts bin/serve.py on a free port and prints one line per kind of request with the number of
answers and their latencies, and the server's memory over time. Ends with 1 where an answer was
wrong or missing, or memory grew.
"""

import argparse
import base64
import http.client
import io
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
BODY = 1 << 20
READ_SECONDS = 2
MEMORY_SLACK = 0.1  # by which the last third may lie above the middle third


def picture(seed):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3)).astype("u1"))
    image = coarse.resize((40 + 7 * seed, 90 - 5 * seed), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG" if seed % 2 else "PNG")
    return buffer.getvalue()


class Load:
    """The clients and what they found."""

    def __init__(self, port, seconds):
        self.port, self.end = port, time.monotonic() + seconds
        self.files = [picture(seed) for seed in range(8)]
        self.latencies, self.wrong, self.sent = defaultdict(list), [], defaultdict(int)
        self.expected = [self.ask(self.body([file]))[1]["predictions"][0] for file in self.files]

    @staticmethod
    def body(files, signature="embed_bytes"):
        instances = [{"b64": base64.b64encode(file).decode()} for file in files]
        return json.dumps({"signature_name": signature, "instances": instances}).encode()

    def ask(self, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", "/v1/models/adios:predict", body)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def same(self, row, index):
        there = np.allclose(row["features"], self.expected[index]["features"], atol=1e-4)
        return row["ok"] and there

    def good(self, rng):
        chosen = [rng.randrange(len(self.files)) for _ in range(rng.randint(1, 4))]
        status, answer = self.ask(self.body([self.files[n] for n in chosen]))
        rows = answer.get("predictions", [])
        fits = [self.same(row, n) for row, n in zip(rows, chosen, strict=True)]
        return status == 200 and all(fits)

    def corrupt(self, rng):
        n = rng.randrange(len(self.files))
        cut = self.files[n][: rng.randrange(1, len(self.files[n]) // 2)]
        status, answer = self.ask(self.body([cut, self.files[n], b""]))
        first, second, third = answer["predictions"]
        zero = not np.any(first["features"]) and not np.any(third["features"])
        return (
            status == 200 and not first["ok"] and not third["ok"] and zero and self.same(second, n)
        )

    def nonsense(self, rng):
        status, answer = self.ask(rng.choice([b"{", b'{"instances": 1}', b"\xff" * 100]))
        return status == 400 and "\n" not in answer["error"]

    def oversized(self, rng):
        status, answer = self.ask(b"x" * (2 * BODY))
        return status == 413 and "larger" in answer["error"]

    def slow(self, rng):
        """Sends half a request and waits to be told off."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            head = (
                b"POST /v1/models/adios:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
            )
            connection.sendall(head + b"{")
            return b" 408 " in connection.recv(1000)

    def trickling(self, rng):
        """Sends a good request in small pieces, in time."""
        n = rng.randrange(len(self.files))
        body = self.body([self.files[n]])
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            head = (
                f"POST /v1/models/adios:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
            )
            connection.sendall(head.encode() + b"\r\nConnection: close\r\n\r\n")
            for part in range(4):
                time.sleep(READ_SECONDS / 10)
                step = -(-len(body) // 4)
                connection.sendall(body[part * step : (part + 1) * step])
            text = b""
            while got := connection.recv(1 << 16):
                text += got
        row = json.loads(text.split(b"\r\n\r\n", 1)[1])["predictions"][0]
        return self.same(row, n)

    def client(self, seed):
        rng = random.Random(seed)
        kinds = ["good"] * 8 + ["corrupt"] * 3 + ["nonsense", "oversized", "slow", "trickling"]
        while time.monotonic() < self.end:
            kind = rng.choice(kinds)
            self.sent[kind] += 1
            begin = time.perf_counter()
            try:
                right = getattr(self, kind)(rng)
            except Exception as error:
                right = False
                self.wrong.append(f"{kind}: {error!r}")
            else:
                if not right:
                    self.wrong.append(f"{kind}: wrong answer")
            self.latencies[kind].append(time.perf_counter() - begin)


def memory_mb(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def start(model):
    command = [sys.executable, ROOT / "bin" / "serve.py", f"--model={model}", "--port=0"]
    limits = [f"--max_body_mb={BODY / 2**20}", f"--read_timeout={READ_SECONDS}"]
    process = subprocess.Popen([*command, *limits], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    line = process.stdout.readline()
    port = re.search(r":(\d+)/", line)
    if port is None:
        sys.exit(f"the server did not start: {line}")
    return process, int(port[1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--clients", type=int, default=16)
    given = parser.parse_args()
    process, port = start(given.model)
    try:
        warm = Load(port, min(5, given.seconds / 3))
        run(warm, given.clients)
        load = Load(port, given.seconds)
        memory = []
        watch = threading.Thread(target=sample, args=(process, load.end, memory))
        watch.start()
        run(load, given.clients)
        watch.join()
        alive = process.poll() is None
    finally:
        process.terminate()
        process.wait(20)
    third = len(memory) // 3
    middle, last = np.median(memory[third : 2 * third]), np.median(memory[2 * third :])
    print(f"{'kind':<10} {'sent':>6} {'answered':>9} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8}")
    for kind, values in sorted(load.latencies.items()):
        p50, p95, p99 = 1000 * np.percentile(values, [50, 95, 99])
        counts = f"{load.sent[kind]:>6} {len(values):>9}"
        print(f"{kind:<10} {counts} {p50:>8.0f} {p95:>8.0f} {p99:>8.0f}")
    total = sum(map(len, load.latencies.values()))
    print(f"{given.clients} clients, {given.seconds:g} s, {total / given.seconds:.0f} requests/s")
    print(f"memory {memory[0]:.0f} MB at first, {middle:.0f} MB midway, {last:.0f} MB at last")
    print(f"wrong or lost: {len(load.wrong)}")
    for line in load.wrong[:10]:
        print(line)
    flat = last <= middle * (1 + MEMORY_SLACK)
    lost = any(load.sent[kind] != len(load.latencies[kind]) for kind in load.sent)
    sys.exit(0 if alive and flat and not lost and not load.wrong else 1)


def run(load, clients):
    threads = [threading.Thread(target=load.client, args=(seed,)) for seed in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def sample(process, end, memory):
    while time.monotonic() < end:
        memory.append(memory_mb(process))
        time.sleep(0.25)


if __name__ == "__main__":
    main()
