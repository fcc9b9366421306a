"""An export over HTTP: TensorFlow Serving's REST API, and a page to look at masks.

Needs aiohttp (`pip install 'adios_tf[serve]'`).
"""

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from aiohttp import hdrs, http_exceptions, web

from adios_tf.errors import UserError
from adios_tf.exporting import rest
from adios_tf.exporting.batching import Batcher, BusyError
from adios_tf.exporting.connections import MAX_HEADERS, Connection, error_response
from adios_tf.exporting.limits import Limits
from adios_tf.exporting.metrics import Metrics, resident_bytes
from adios_tf.exporting.reference_set import ReferenceSet, data_uri
from adios_tf.exporting.versions import Embed, Version, Versions, load_version
from adios_tf.reporting.panels import color_labels, segmentation

# The page loads nothing from elsewhere, and other pages may not read what it shows.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_LISTENING_ON = 0.5  # seconds after SIGTERM in which new connections are told 503, at least
_LAST_SECONDS = 2.0  # for those answers to be sent
_SHOWN_SIDE = 160  # pixels to which the page's pictures are blown up, at least


class Server:
    """One model behind HTTP.

    Args:
      model: folder of a SavedModel written by bin/export.py, or of numbered folders of them.
      name: what the API calls it.
      limits: see `Limits`.
      reference: embeds the set in which the page looks up neighbors, once per version.
      poll_seconds: between two looks for a new version.

    Raises:
      UserError: no such SavedModel.
    """

    def __init__(
        self,
        model: Path | str,
        name: str = "adios",
        limits: Limits | None = None,
        reference: Callable[[Embed], ReferenceSet] | None = None,
        poll_seconds: float = 2.0,
    ):
        self.name, self.limits = name, limits or Limits()
        self._most = int(self.limits.max_body_mb * 2**20)
        self.metrics = Metrics()
        self.draining = False
        self.manager: web.Server | None = None  # of the connections
        self._poll_seconds = poll_seconds
        self._pool = ThreadPoolExecutor(1, "model")
        rules = (self.limits.batch_size, self.limits.max_waiting, self.metrics.batches.add)
        self.versions = Versions(
            model,
            lambda folder: load_version(
                folder, lambda call: Batcher(call, self._pool, *rules), reference
            ),
        )

    def application(self) -> web.Application:
        """Returns the aiohttp application."""
        app = web.Application(client_max_size=self._most, middlewares=[self._observed])
        model = f"/v1/models/{self.name}"
        for base in (model, model + "/versions/{version:[0-9]{1,18}}"):
            app.router.add_get(base, self._status)
            app.router.add_get(f"{base}/metadata", self._metadata)
            app.router.add_post(f"{base}:predict", self._predict)
            app.router.add_post(f"{base}:classify", self._predict)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/monitoring/prometheus/metrics", self._metrics)
        app.router.add_post("/look", self._look)
        app.router.add_get(r"/{file:(page\.(js|css))?}", _page)
        app.cleanup_ctx.append(self._watching)
        return app

    async def _watching(self, _: web.Application) -> AsyncIterator[None]:
        watch = asyncio.create_task(self.versions.watch(self._poll_seconds))
        yield
        watch.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    @web.middleware
    async def _observed(self, request: web.Request, handler: Callable) -> web.StreamResponse:
        """Counts requests; answers 503 to what comes once the server is stopping."""
        connection, begun, status = request.protocol, time.perf_counter(), 499
        try:
            # A connection that was open before and has had no answer may have sent its request.
            connection.request = request
            if self.draining and (connection.late or connection.answered):
                response = error_response(503, "the server is stopping", {"Retry-After": "1"})
            elif sum(len(name) + len(value) for name, value in request.raw_headers) > MAX_HEADERS:
                response = error_response(431, "the headers are larger than this server takes")
            else:
                response = await _errors_as_json(request, handler)
            status = response.status
        finally:  # 499: the client has gone away
            resource = request.match_info.route.resource
            route = resource.canonical if resource else "none"
            method = request.method if request.method in hdrs.METH_ALL else "other"
            self.metrics.requests[route, method, status] += 1
            if request.method == "POST":
                self.metrics.seconds.add(time.perf_counter() - begun)
        connection.answered = True
        if self.draining:
            response.force_close()
        return response

    # ------------------------------------------------------------------ TensorFlow Serving's API

    def _version(self, request: web.Request) -> Version:
        number, version = self.versions.current
        asked = request.match_info.get("version")
        if asked is not None and int(asked) != number:
            raise web.HTTPNotFound(text=f"version {asked} is not served: {number} is")
        return version

    async def _status(self, request: web.Request) -> web.Response:
        asked = int(request.match_info.get("version", -1))
        states = {n: s for n, s in [*self.versions.states.items()] if asked in (-1, n)}
        if not states:
            raise web.HTTPNotFound(text=f"there is no version {asked}")
        return web.json_response(rest.status(states))

    async def _metadata(self, request: web.Request) -> web.Response:
        self._version(request)
        number, version = self.versions.current
        return web.json_response(rest.metadata(self.name, str(number), version.signatures))

    async def _predict(self, request: web.Request) -> web.Response:
        version, classify = self._version(request), request.path.endswith(":classify")
        body = await self._body(request)
        # Parsing and writing megabytes of numbers would hold up all other connections.
        parsed = await asyncio.to_thread(
            rest.parse, body, version.signatures, self.limits, classify
        )
        answer = await self._answer(version, parsed.signature, parsed.rows)
        text = await asyncio.to_thread(rest.encode, answer, parsed.key)
        return web.Response(body=text, content_type="application/json")

    async def _health(self, _: web.Request) -> web.Response:
        batches = self.metrics.batches
        return web.json_response(
            {"status": "ok", "images": int(batches.total), "batches": sum(batches.counts)}
        )

    async def _metrics(self, _: web.Request) -> web.Response:
        number, version = self.versions.current
        text = self.metrics.text(
            {
                "adios_images_total": self.metrics.batches.total,
                "adios_queue_images": sum(b.waiting for b in version.batchers.values()),
                "adios_connections": len(self.manager.connections) if self.manager else 0,
                "adios_model_version": number,
                "process_resident_memory_bytes": resident_bytes(),
            }
        )
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _body(self, request: web.Request) -> bytes:
        if (request.content_length or 0) > self._most:
            raise web.HTTPRequestEntityTooLarge(self._most, request.content_length)
        seconds = self.limits.read_timeout

        def late() -> None:
            if not request.content.is_eof():  # else it is here, and only the server was slow
                text = f"the body did not arrive within {seconds:g} s"
                request.content.set_exception(web.HTTPRequestTimeout(text=text))

        timer = asyncio.get_running_loop().call_later(seconds, late)
        try:
            return await request.read()
        finally:
            timer.cancel()

    async def _answer(
        self, version: Version, signature: str, rows: np.ndarray
    ) -> dict[str, np.ndarray]:
        try:
            return await asyncio.wait_for(
                version.batchers[signature](rows), self.limits.answer_timeout
            )
        except TimeoutError as error:
            raise web.HTTPGatewayTimeout(
                text=f"no answer within {self.limits.answer_timeout:g} s"
            ) from error
        except BusyError as error:
            raise web.HTTPTooManyRequests(
                text="too many images are waiting: try again", headers={"Retry-After": "1"}
            ) from error
        except tf.errors.InvalidArgumentError as error:
            raise UserError(rest.reason(error)) from error

    # ------------------------------------------------------------------ the page

    async def _look(self, request: web.Request) -> web.Response:
        """An image file as body -> everything that the page shows of it."""
        _, version = self.versions.current
        file, _ = await asyncio.to_thread(rest.decodable, await self._body(request))
        rows = np.array([file], object)
        embedded = await self._answer(version, "embed_bytes", rows)
        if not embedded["ok"][0]:
            raise UserError("this is no image that can be read: take a JPEG, PNG, GIF, BMP or WebP")
        shown: dict[str, Any] = {}
        if "masks_bytes" in version.signatures:
            found = await self._answer(version, "masks_bytes", rows)
            shown |= await asyncio.to_thread(_pictures, found["masks"][0], found["occluded"][0])
        if version.reference is not None:
            features = embedded["features"][0]
            shown["neighbors"] = await asyncio.to_thread(version.reference.neighbors, features)
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


async def _page(request: web.Request) -> web.FileResponse:
    file = request.match_info["file"] or "index.html"
    return web.FileResponse(Path(__file__).with_name("page") / file, headers=_HEADERS)


async def _errors_as_json(request: web.Request, handler: Callable) -> web.StreamResponse:
    """Every error is `{"error": "one line"}`, as TensorFlow Serving's are."""
    try:
        return await handler(request)
    except UserError as error:
        return error_response(413 if isinstance(error, rest.TooLargeError) else 400, str(error))
    except web.HTTPRequestEntityTooLarge as error:
        return error_response(413, "the body is larger than this server takes", error.headers)
    except web.HTTPException as error:
        text = error.text or error.reason
        if error.status == 404 and request.match_info.http_exception:
            text = f"there is nothing at {request.path}"
        return error_response(error.status, text, error.headers)
    except (web.RequestPayloadError, http_exceptions.HttpProcessingError) as error:
        response = error_response(400, f"the body cannot be read ({error})")
        response.force_close()
        return response
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception:
        logging.exception("request %s %s failed", request.method, request.path)
        return error_response(500, "the server failed at this request; its log says why")


async def serve(server: Server, host: str, port: int, ready: Callable[[int], None]) -> None:
    """Serves until it is canceled or told to stop; `ready` is told the port once it listens.

    On SIGTERM it answers what has arrived or is arriving, everything newer with 503, and returns.
    What lasts longer than `limits.stop_timeout` is cut off: the process ends with exit code 1.

    Raises:
      UserError: the port is taken or not allowed.
    """
    runner = web.AppRunner(
        server.application(), handler_cancellation=True, shutdown_timeout=_LAST_SECONDS
    )
    await runner.setup()
    manager, loop, stop = runner.server, asyncio.get_running_loop(), asyncio.Event()
    assert manager is not None
    server.manager = manager

    def refused(status: int) -> None:
        server.metrics.requests["none", "none", status] += 1

    def accept() -> Connection:
        return Connection(manager, server.limits, server.draining, refused)

    if threading.current_thread() is threading.main_thread():
        loop.add_signal_handler(signal.SIGTERM, stop.set)
    listener = None
    try:
        try:
            listener = await loop.create_server(accept, host, port)
        except OSError as error:
            raise UserError(
                f"cannot listen on {host}:{port} ({error.strerror or error}): take another --port"
            ) from error
        ready(listener.sockets[0].getsockname()[1])
        await stop.wait()
        await _drain(server, manager, listener)
    finally:
        if listener is not None:
            listener.close()
        await runner.cleanup()


async def _drain(server: Server, manager: web.Server, listener: asyncio.Server) -> None:
    """Waits until everything that came before the signal is answered, and the answers are sent."""
    seconds = server.limits.stop_timeout

    def cut_off() -> None:
        print(f"stopped after {seconds:g} s with requests unanswered", file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, cut_off)
    timer.daemon = True
    timer.start()
    server.draining = True
    loop = asyncio.get_running_loop()
    least = loop.time() + _LISTENING_ON
    while loop.time() < least or any(c.busy() and not c.late for c in manager.connections):
        await asyncio.sleep(0.02)
    listener.close()
    most = loop.time() + _LAST_SECONDS
    while loop.time() < most and any(c.busy() for c in manager.connections):
        await asyncio.sleep(0.02)
