import asyncio
import contextlib
import http.client
import importlib.util
import json
import threading
from pathlib import Path

import keras
import pytest

from adios_tf import pretrained
from adios_tf.encoders import build_encoder
from adios_tf.exporting.saved_model import save_model
from adios_tf.nets import build_unet

SIDE = 16


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory):
    """A SavedModel of a small encoder, a masker whose masks are sharp, and a classifier."""
    keras.utils.set_random_seed(0)
    unet = build_unet(SIDE, 3, base=8)
    images = keras.Input((SIDE, SIDE, 3))
    sharp = keras.layers.Rescaling(40.0)(unet(images))
    masker = keras.Model(images, keras.layers.Softmax()(sharp))
    encoder = build_encoder("convnet_small", SIDE, width=0.5)
    features = keras.Input(encoder.output_shape[1:])
    classifier = keras.Model(features, keras.layers.Dense(4)(features))
    info = {"image_size": SIDE, "mean": [0.5] * 3, "std": [0.25] * 3, "dataset": "shapes"}
    model = pretrained.PretrainedModel(info, encoder, masker=masker, classifier=classifier)
    return save_model(model, tmp_path_factory.mktemp("models") / "tiny" / "3")


class Running:
    """A server in a thread of its own."""

    def __init__(self, server):
        self.server, started = server, threading.Event()

        def ready(port):
            self.port = port
            started.set()

        from adios_tf.exporting.server import serve

        async def main():
            self._task = asyncio.current_task()
            self._loop = asyncio.get_running_loop()
            await serve(server, "127.0.0.1", 0, ready)

        def run():
            with asyncio.Runner() as runner, contextlib.suppress(asyncio.CancelledError):
                runner.run(main())

        self._thread = threading.Thread(target=run)
        self._thread.start()
        assert started.wait(30)

    def stop(self):
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def ask(self, method, path, body=None, headers=()):
        """Returns (status, answer)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        text = response.read()
        connection.close()
        kind = response.headers.get_content_type()
        return response.status, json.loads(text) if kind == "application/json" else text.decode()

    def predict(self, body, path="/v1/models/tiny:predict"):
        return self.ask("POST", path, body)


@pytest.fixture(scope="module")
def serving():
    """Returns a function that serves a `Server` until the tests of the module are over."""
    running = []

    def start(server):
        running.append(Running(server))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture(scope="session")
def chromium():
    """The module that drives the browser; skips where there is none."""
    spec = importlib.util.spec_from_file_location("chromium", Path(__file__).parent / "chromium.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if module.find() is None:
        pytest.skip("needs Chromium, which is not installed")
    return module
