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


def test_sigterm_answers_what_has_arrived(tiny_export):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "adios_tf.programs.serve",
            f"--model={tiny_export}",
            "--port=0",
            "--read_timeout=60",
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        port = int(re.search(r":(\d+)/", process.stdout.readline())[1])
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

        threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        sent.wait()
        time.sleep(0.1)  # the bodies are in the server's sockets
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert answers == [(200, 8)] * CLIENTS
        assert process.wait(40) == 0
        assert time.monotonic() - asked < 40
        assert process.stderr.read() == ""
    finally:
        process.kill()
