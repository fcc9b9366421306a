"""An export over HTTP: TensorFlow Serving's REST API, and a page to look at masks.

Needs aiohttp (`pip install 'adios_tf[serve]'`).
"""

import asyncio
import logging
import signal
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from aiohttp import web

from adios_tf.cli import program
from adios_tf.errors import UserError
from adios_tf.exporting import rest
from adios_tf.exporting.batching import Batcher, BusyError
from adios_tf.exporting.reference_set import ReferenceSet, data_uri
from adios_tf.reporting.panels import color_labels, segmentation

# The page loads nothing from elsewhere, and other pages may not read what it shows.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_PAGE = {"": "index.html", "page.js": "page.js", "page.css": "page.css"}
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_SHOWN_SIDE = 160  # pixels to which the page's pictures are blown up, at least


class Limits(NamedTuple):
    """What a request may cost.

    Attributes:
      body: bytes.
      read_seconds: for the body to arrive.
      answer_seconds: for the model to answer.
      request_rows: images in one request.
      batch_rows: images in one call of the model.
      waiting_rows: images that wait, over all requests.
    """

    body: int = 16 * 2**20
    read_seconds: float = 10.0
    answer_seconds: float = 30.0
    request_rows: int = 128
    batch_rows: int = 32
    waiting_rows: int = 1024


class Server:
    """One model behind HTTP.

    Args:
      model: folder of a SavedModel written by bin/export.py.
      name: what the API calls it.
      limits: see `Limits`.

    Raises:
      UserError: no such SavedModel.
    """

    def __init__(self, model: Path | str, name: str = "adios", limits: Limits | None = None):
        self.name, self.limits = name, limits or Limits()
        folder = Path(model).expanduser()
        if not (folder / "saved_model.pb").exists():
            raise UserError(
                f"no SavedModel in {folder}: name a folder written by {program('export')} --out"
            )
        self.version = folder.name if folder.name.isdigit() else "1"
        try:
            self._loaded = tf.saved_model.load(str(folder))
        except (OSError, ValueError, tf.errors.OpError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"cannot read the SavedModel {folder} ({reason})") from error
        self.signatures = rest.signatures_of(self._loaded)
        if "embed_bytes" not in self.signatures:
            raise UserError(f"{folder} has no embed_bytes: export it with {program('export')}")
        self._pool = ThreadPoolExecutor(1, "model")
        self._batchers = {
            key: Batcher(call, self._pool, self.limits.batch_rows, self.limits.waiting_rows)
            for key, call in self.signatures.items()
        }
        self.reference: ReferenceSet | None = None

    def embed(self, files: np.ndarray) -> dict[str, np.ndarray]:
        """Embeds image files [B] of bytes at once, past the queue."""
        return self.signatures["embed_bytes"](files)

    def application(self) -> web.Application:
        """Returns the aiohttp application."""
        app = web.Application(client_max_size=self.limits.body, middlewares=[_errors_as_json])
        model = f"/v1/models/{self.name}"
        for base in (model, f"{model}/versions/{self.version}"):
            app.router.add_get(base, self._status)
            app.router.add_get(f"{base}/metadata", self._metadata)
            app.router.add_post(f"{base}:predict", self._predict)
        app.router.add_get("/healthz", self._health)
        app.router.add_post("/look", self._look)
        for path, file in _PAGE.items():
            app.router.add_get(f"/{path}", _static(file))
        app.on_cleanup.append(self._close)
        return app

    async def _close(self, _: web.Application) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------------ TensorFlow Serving's API

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(rest.status(self.version))

    async def _metadata(self, _: web.Request) -> web.Response:
        return web.json_response(rest.metadata(self.name, self.version, self.signatures))

    async def _predict(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        # Parsing and writing megabytes of numbers would hold up all other connections.
        parsed = await asyncio.to_thread(
            rest.parse, body, self.signatures, self.limits.request_rows
        )
        answer = await self._answer(parsed.signature, parsed.rows)
        text = await asyncio.to_thread(rest.encode, answer, parsed.by_rows)
        return web.Response(body=text, content_type="application/json")

    async def _health(self, _: web.Request) -> web.Response:
        batches = sum(batcher.batches for batcher in self._batchers.values())
        rows = sum(batcher.rows for batcher in self._batchers.values())
        return web.json_response({"status": "ok", "images": rows, "batches": batches})

    async def _body(self, request: web.Request) -> bytes:
        if (request.content_length or 0) > self.limits.body:
            raise web.HTTPRequestEntityTooLarge(self.limits.body, request.content_length)
        try:
            return await asyncio.wait_for(request.read(), self.limits.read_seconds)
        except TimeoutError as error:
            raise web.HTTPRequestTimeout(
                text=f"the body did not arrive within {self.limits.read_seconds:g} s"
            ) from error

    async def _answer(self, signature: str, rows: np.ndarray) -> dict[str, np.ndarray]:
        try:
            return await asyncio.wait_for(
                self._batchers[signature](rows), self.limits.answer_seconds
            )
        except TimeoutError as error:
            raise web.HTTPGatewayTimeout(
                text=f"no answer within {self.limits.answer_seconds:g} s"
            ) from error
        except BusyError as error:
            raise web.HTTPServiceUnavailable(
                text="too many images are waiting: try again", headers={"Retry-After": "1"}
            ) from error
        except tf.errors.InvalidArgumentError as error:
            raise UserError(error.message.splitlines()[0]) from error

    # ------------------------------------------------------------------ the page

    async def _look(self, request: web.Request) -> web.Response:
        """An image file as body -> everything that the page shows of it."""
        file = await asyncio.to_thread(rest.decodable, await self._body(request))
        rows = np.array([file], object)
        embedded = await self._answer("embed_bytes", rows)
        if not embedded["ok"][0]:
            raise UserError("this is no image that can be read: take a JPEG, PNG, GIF, BMP or WebP")
        shown: dict[str, Any] = {}
        if "masks_bytes" in self.signatures:
            found = await self._answer("masks_bytes", rows)
            shown |= await asyncio.to_thread(_pictures, found["masks"][0], found["occluded"][0])
        if self.reference is not None:
            features = embedded["features"][0]
            shown["neighbors"] = await asyncio.to_thread(self.reference.neighbors, features)
        return web.json_response(shown)


def _pictures(masks: np.ndarray, occluded: np.ndarray) -> dict[str, Any]:
    """Pictures of masks [S,S,N] and occluded copies [N,S,S,3], as the page shows them."""
    factor = max(1, -(-_SHOWN_SIDE // masks.shape[0]))

    def uri(pixels: np.ndarray) -> str:
        return data_uri(pixels.repeat(factor, axis=0).repeat(factor, axis=1))

    def levels(values: np.ndarray) -> np.ndarray:
        return np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)

    slots = range(masks.shape[-1])
    return {
        "segments": uri(color_labels(segmentation(masks[None])[0], -1)),
        "masks": [uri(levels(masks[..., n])) for n in slots],
        "occluded": [uri(levels(occluded[n])) for n in slots],
        "coverage": [round(float(masks[..., n].mean()), 4) for n in slots],
    }


def _static(name: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    text = (resources.files("adios_tf.exporting") / "page" / name).read_text()
    kind = _TYPES[Path(name).suffix]

    async def serve(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type=kind, headers=_HEADERS)

    return serve


@web.middleware
async def _errors_as_json(request: web.Request, handler: Callable) -> web.StreamResponse:
    """Every error is `{"error": "one line"}`, as TensorFlow Serving's are."""
    try:
        return await handler(request)
    except UserError as error:
        return _error(400, str(error))
    except web.HTTPRequestEntityTooLarge as error:
        return _error(413, "the body is larger than this server takes", error.headers)
    except web.HTTPException as error:
        text = error.text or error.reason
        if error.status == 404:
            text = f"there is nothing at {request.path}"
        return _error(error.status, text, error.headers)
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception:
        logging.exception("request %s %s failed", request.method, request.path)
        return _error(500, "the server failed at this request; its log says why")


def _error(status: int, text: str, headers: Any = None) -> web.Response:
    kept = {k: v for k, v in (headers or {}).items() if k in ("Allow", "Retry-After")}
    return web.json_response({"error": text}, status=status, headers=kept)


async def serve(server: Server, host: str, port: int, ready: Callable[[int], None]) -> None:
    """Serves until it is canceled or told to stop; `ready` is told the port once it listens.

    On SIGTERM it takes no more connections, answers what has arrived, and returns; that lasts
    no longer than an answer may.

    Raises:
      UserError: the port is taken or not allowed.
    """
    runner = web.AppRunner(
        server.application(), access_log=None, shutdown_timeout=server.limits.answer_seconds
    )
    await runner.setup()
    stop = asyncio.Event()
    if threading.current_thread() is threading.main_thread():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise UserError(
                f"cannot listen on {host}:{port} ({error.strerror or error}): take another --port"
            ) from error
        ready(runner.addresses[0][1])
        await stop.wait()
    finally:
        await runner.cleanup()
