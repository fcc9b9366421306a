"""Loads adios-serve with right requests and faults, and writes the counts into docs/reliability.md.

    python tests/faults/server_load_program.py --state=DIR [--minutes=30] [--session=5]
        [--page=docs/reliability.md]

Clients compare every answer with a direct call of the SavedModel, while others send slow headers,
half bodies, garbage and floods of connections, and versions come and go. Each session of so many
minutes starts a server and ends with SIGTERM under load. Started again with the same --state it
goes on. Exit code 1 if an answer was wrong or lost, a fault was answered otherwise than
documented, or the server's log has a traceback.
"""

import argparse
import base64
import collections
import contextlib
import http.client
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

from adios_tf import cli

cli.quiet_tensorflow()
import keras
import numpy as np
import tensorflow as tf
from outcomes import PAGE, write_rows
from PIL import Image

from adios_tf import pretrained
from adios_tf.encoders import build_encoder
from adios_tf.exporting.saved_model import save_model
from adios_tf.nets import build_unet
from adios_tf.reporting.tables import append_jsonl, read_jsonl

SIDE, READ_SECONDS, CONNECTIONS, BODY_MB = 16, 6.0, 64, 0.5
MODEL = "/v1/models/load"
REFUSED = (429, 503)
HEAD = b"POST /v1/models/load:predict HTTP/1.1\r\nHost: x\r\n"


def export(folder, seed):
    keras.utils.set_random_seed(seed)
    encoder = build_encoder("convnet_small", SIDE, width=0.5)
    images, features = keras.Input((SIDE, SIDE, 3)), keras.Input(encoder.output_shape[1:])
    masks = keras.layers.Softmax()(
        keras.layers.Rescaling(40.0)(build_unet(SIDE, 3, base=8)(images))
    )
    info = {"image_size": SIDE, "mean": [0.5] * 3, "std": [0.25] * 3, "dataset": "shapes"}
    head = keras.Model(features, keras.layers.Dense(4)(features))
    model = pretrained.PretrainedModel(
        info, encoder, masker=keras.Model(images, masks), classifier=head
    )
    save_model(model, folder)


class Requests:
    """Right requests, and what each of the models answers when it is called without a server."""

    def __init__(self, templates):
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 256, (6, 5, 7, 3), np.uint8)
        images = [Image.fromarray(c).resize((24 + 3 * n, 20)) for n, c in enumerate(coarse)]
        files = []
        for image in images:
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            files.append(buffer.getvalue())
        levels = [np.asarray(image) for image in images]
        rows = [{"b64": base64.b64encode(file).decode()} for file in files]
        numbers = [(level[None] / 255).round(4).astype("f4") for level in levels]
        self.cases = []  # (path, body, [answer of each model])
        models = [tf.saved_model.load(str(folder)).signatures for folder in templates]
        for n, file in enumerate(files):
            both = tf.constant([file, files[n - 1]])
            for name, output in (("embed_bytes", "features"), ("masks_bytes", "masks")):
                body = {"signature_name": name, "instances": [rows[n], rows[n - 1]]}
                self._add(":predict", body, [m[name](bytes=both)[output] for m in models], output)
            one = tf.constant(numbers[n])
            body = {"inputs": {"images": numbers[n].round(4).tolist()}}
            self._add(
                ":predict", body, [m["serving_default"](images=one)["features"] for m in models]
            )
            body = {"signature_name": "classify_bytes", "examples": [{"bytes": rows[n]}]}
            found = [m["classify_bytes"](bytes=both[:1])["probabilities"] for m in models]
            self._add(":classify", body, found)

    def _add(self, verb, body, expected, output=None):
        expected = [values.numpy() for values in expected]
        self.cases.append((verb, json.dumps(body).encode(), expected, output))


def values(answer, output):
    """The numbers of an answer, whatever its form."""
    if "predictions" in answer:
        return [row[output] for row in answer["predictions"]]
    if "outputs" in answer:
        return answer["outputs"]
    return [[score for _, score in row] for row in answer["results"]]


class Session:
    """One server, its clients and its faults."""

    def __init__(self, state, templates, requests, seed):
        self.templates, self.cases, self.seed = templates, requests.cases, seed
        self.models, self.log_file = state / "models", state / f"server{seed}.log"
        shutil.rmtree(self.models, ignore_errors=True)
        shutil.copytree(templates[0], self.models / "1")
        self.version, self.over, self.stopping = 1, threading.Event(), float("inf")
        self.lock = threading.Lock()
        self.counts, self.wrong = collections.Counter(), []
        self.faults = collections.defaultdict(lambda: [0, 0])  # kind: [trials, as documented]
        command = [sys.executable, "-m", "adios_tf.programs.serve", f"--model={self.models}"]
        flags = {
            "name": "load",
            "port": 0,
            "read_timeout": READ_SECONDS,
            "max_connections": CONNECTIONS,
            "max_body_mb": BODY_MB,
            "poll_seconds": 0.5,
            "max_waiting": 64,
            "stop_timeout": 60.0,
        }
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *(f"--{name}={value}" for name, value in flags.items())],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def started(self):
        self.port = int(self.until(lambda: re.search(r"//[^/]+:(\d+)/", self.log()), 600)[1])
        return self

    def log(self):
        return self.log_file.read_text(errors="replace")

    def until(self, true, seconds=120):
        end = time.monotonic() + seconds
        while not (found := true()):
            if time.monotonic() > end or self.process.poll() is not None:
                raise TimeoutError(f"never came true; the log ends: {self.log()[-500:]}")
            time.sleep(0.05)
        return found

    def count(self, name):
        with self.lock:
            self.counts[name] += 1

    # ------------------------------------------------------------------ right requests

    def client(self, seed):
        rng = random.Random(seed)
        kept = None
        while not self.over.is_set():
            verb, body, expected, output = rng.choice(self.cases)
            connection = kept or http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            begun = time.monotonic()
            try:
                connection.request("POST", MODEL + verb, body)
                response = connection.getresponse()
                answer, status = json.loads(response.read()), response.status
            except (OSError, http.client.HTTPException, ValueError) as error:
                late = begun > self.stopping
                self.count("after SIGTERM: no connection" if late else "lost")
                if not late:
                    self.wrong.append(f"lost: {error!r}")
                connection.close()
                kept = None
                time.sleep(0.05)
                continue
            if status == 200:
                got = np.array(values(answer, output))
                right = any(
                    got.shape == known.shape and np.allclose(got, known, atol=1e-4)
                    for known in expected
                )
                self.count("right" if right else "wrong")
                if not right:
                    self.wrong.append(f"wrong: {verb} {body[:60]}")
            elif status in REFUSED and "error" in answer:
                self.count(f"refused {status}")
                time.sleep(0.02)
            else:
                self.count("wrong")
                self.wrong.append(f"wrong: status {status} {answer}")
            keep = rng.random() < 0.7 and not response.will_close
            kept = connection if keep else connection.close()
        if kept:
            kept.close()

    # ------------------------------------------------------------------ faults

    def say(self, data, then=b"", pause=0.0):
        """Sends bytes; returns (status, error) of the answer, or (None, "") without one."""
        got = b""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
                connection.sendall(data)
                if then:
                    time.sleep(pause)
                    connection.sendall(then)
                while more := connection.recv(1 << 16):
                    got += more
        except OSError:  # it may hang up while the rest is still sent
            pass
        if not got:
            return None, ""
        head, _, body = got.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)["error"]

    def slow_headers(self, rng):
        return self.say(HEAD[: rng.randrange(1, len(HEAD))])[0] in (408, 503)

    def slow_body(self, rng):
        return self.say(HEAD + b"Content-Length: 1000\r\nConnection: close\r\n\r\n{")[0] in (
            408,
            503,
        )

    def large_headers(self, rng):
        line = b"X-%d: " % rng.randrange(99) + b"x" * 6000 + b"\r\n"
        return self.say(HEAD + line * 8 + b"\r\n")[0] in (431, 503, None)

    def large_body(self, rng):
        body = b"x" * int(2**20 * BODY_MB * rng.uniform(1.1, 3))
        head = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        return self.say(head, body)[0] in (413, 503, None)

    def garbage(self, rng):
        return self.say(rng.randbytes(rng.randrange(1, 3000)) + b"\r\n\r\n")[0] in (400, 431, 503)

    def bad_chunks(self, rng):
        head = HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        return self.say(head, rng.choice([b"zz\r\n", b"5\r\nabcdefgh\r\n"]), 0.1)[0] in (400, 503)

    def hung_up(self, rng):
        """A client that goes away inside its request, or before its answer."""
        _, body, *_ = rng.choice(self.cases)
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
            connection.sendall(request[: rng.choice([len(request), rng.randrange(len(request))])])
        return True

    def flood(self, rng):
        """Connections beyond the bound, which send nothing."""
        opened = []
        try:
            for _ in range(CONNECTIONS + CONNECTIONS // 2):
                opened.append(socket.create_connection(("127.0.0.1", self.port), timeout=30))
            told = opened[-1].recv(1000)
            return told.startswith(b"HTTP/1.1 503 ")
        finally:
            for connection in opened:
                connection.close()

    def new_version(self, rng):
        """A whole version: it is served soon, and the folder before may go."""
        number = self.version + 1
        fresh = self.models / f"{number}.new"
        shutil.copytree(self.templates[number % 2], fresh)
        fresh.rename(self.models / str(number))
        self.until(lambda: f"version {number} is served" in self.log())
        shutil.rmtree(self.models / str(self.version))
        self.version = number
        return True

    def broken_version(self, rng):
        """A damaged version: named in one line, and the one before goes on."""
        number = self.version + 1
        folder = self.models / str(number)
        shutil.copytree(self.templates[number % 2], folder)
        file = rng.choice(sorted(path for path in folder.glob("variables/*")))
        if rng.random() < 0.5:
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size // 2)])
        said = f"version {number} is left out"
        before = self.log().count(said)
        self.until(lambda: self.log().count(said) > before)
        time.sleep(1.5)  # three more looks, which must not name it again
        shutil.rmtree(folder)
        states = json.loads(self.get(MODEL))["model_version_status"]
        serves = [s["version"] for s in states if s["state"] == "AVAILABLE"]
        return self.log().count(said) == before + 1 and serves == [str(self.version)]

    KINDS = (
        *(slow_headers, slow_body, large_headers, large_body, garbage, bad_chunks),
        *(hung_up, hung_up, flood),
    )

    def faulty(self, seed, kinds):
        rng = random.Random(seed)
        while not self.over.is_set() and self.stopping == float("inf"):
            kind = rng.choice(kinds)
            try:
                fine = kind(self, rng)
            except (OSError, TimeoutError, ValueError, http.client.HTTPException) as error:
                if self.stopping < float("inf"):
                    return
                fine = False
                self.wrong.append(f"{kind.__name__}: {error!r}")
            else:
                if not fine and self.stopping < float("inf"):
                    return
            with self.lock:
                self.faults[kind.__name__][0] += 1
                self.faults[kind.__name__][1] += bool(fine)
            if not fine:
                self.wrong.append(f"{kind.__name__}: otherwise than documented")
            self.over.wait(rng.uniform(0, 0.5))

    # ------------------------------------------------------------------ the whole

    def get(self, path):
        while True:
            with contextlib.closing(
                http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            ) as connection:
                connection.request("GET", path)
                response = connection.getresponse()
                text = response.read().decode()
            if response.status == 200:  # not 503, in a flood
                return text
            time.sleep(0.2)

    def memory_mb(self):
        """By the server's own metrics."""
        metrics = self.get("/monitoring/prometheus/metrics")
        return int(re.search(r"resident_memory_bytes (\d+)", metrics)[1]) / 2**20

    def run(self, seconds):
        people = [
            threading.Thread(target=self.client, args=(100 * self.seed + n,)) for n in range(5)
        ]
        versions = (Session.new_version, Session.broken_version)
        for n, kinds in enumerate((Session.KINDS, Session.KINDS, versions)):
            people.append(threading.Thread(target=self.faulty, args=(1000 * self.seed + n, kinds)))
        begun = time.monotonic()
        for person in people:
            person.start()
        memory = []
        while time.monotonic() < begun + seconds:
            time.sleep(min(5, seconds / 4))
            memory.append(self.memory_mb())
        self.stopping = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(90)
        stopped = time.monotonic() - self.stopping
        self.over.set()
        for person in people:
            person.join()
        text = self.log()
        return {
            "seconds": seconds,
            "counts": dict(self.counts),
            "faults": dict(self.faults),
            "memory": [memory[0], memory[-1]],
            "code": code,
            "stopped": stopped,
            "tracebacks": text.count("Traceback"),
            "wrong": self.wrong[:10],
        }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30, help="in all, those so far included")
    parser.add_argument("--session", type=float, default=5, help="minutes of one server")
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    given.state.mkdir(parents=True, exist_ok=True)
    templates, record = [given.state / "a", given.state / "b"], given.state / "sessions.jsonl"
    for seed, folder in enumerate(templates):
        if not folder.exists():
            export(folder, seed)
    requests = Requests(templates)
    while (left := 60 * given.minutes - sum(s["seconds"] for s in read_jsonl(record))) > 1:
        session = Session(given.state, templates, requests, len(read_jsonl(record)))
        try:
            found = session.started().run(min(left, 60 * given.session))
        finally:
            session.process.kill()
        append_jsonl(record, found)
        print(json.dumps(found), flush=True)
    sys.exit(write_page(given.page, read_jsonl(record)))


def write_page(page, sessions):
    """Writes the rows; returns 1 if something went wrong."""
    counts, faults = collections.Counter(), collections.defaultdict(lambda: [0, 0])
    for session in sessions:
        counts.update(session["counts"])
        for kind, (trials, fine) in session["faults"].items():
            faults[kind] = [faults[kind][0] + trials, faults[kind][1] + fine]
    refused = sum(count for name, count in counts.items() if name.startswith("refused"))
    before = refused + counts["right"] + counts["wrong"] + counts["lost"]
    told = ", ".join(
        f"{name.removeprefix('refused ')} {count:,} times"
        for name, count in sorted(counts.items())
        if name.startswith("refused")
    )
    outcome = f"{counts['right']:,} right, {counts['wrong']} wrong, {counts['lost']} lost"
    rows = [("right requests meanwhile", before, f"{outcome}; refused with {told or 'nothing'}")]
    for kind, (trials, fine) in faults.items():
        rows.append((kind.replace("_", " "), trials, f"{fine} answered as documented"))
    ended = sum(session["code"] == 0 for session in sessions)
    longest = max(session["stopped"] for session in sessions)
    outcome = f"{ended} ended with exit code 0, after {longest:.0f} s at most"
    rows.append(("SIGTERM under load", len(sessions), outcome))
    memory = [max(session["memory"][n] for session in sessions) for n in (0, 1)]
    tracebacks = sum(session["tracebacks"] for session in sessions)
    outcome = f"{tracebacks} tracebacks in the log; memory at most {memory[0]:,.0f} MB at a"
    outcome += f" session's start, {memory[1]:,.0f} MB at its end"
    rows.append(("minutes of load", round(sum(s["seconds"] for s in sessions) / 60), outcome))
    write_rows(page, "server_load_program.py", rows)
    otherwise = any(trials != fine for trials, fine in faults.values())
    failed = counts["wrong"] or counts["lost"] or tracebacks or ended < len(sessions) or otherwise
    return int(bool(failed))


if __name__ == "__main__":
    main()
