"""Connections with bounds: how many, how long and how large their headers; errors as JSON."""

import asyncio
import json
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from aiohttp import http_exceptions, web

from adios_tf.exporting.limits import Limits

MAX_HEADERS = 32 * 2**10  # bytes of a request's line and headers; of one of them aiohttp takes 8190
_MOMENT = 1.0  # seconds for a client to read why it is refused
_KEEP_ALIVE = 75.0  # seconds that a connection may rest between two requests


def error_response(status: int, text: str, headers: Any = None) -> web.Response:
    """Returns `{"error": "one line"}`, as TensorFlow Serving words its errors."""
    kept = {k: v for k, v in (headers or {}).items() if k in ("Allow", "Retry-After")}
    return web.json_response({"error": " ".join(text.split())}, status=status, headers=kept)


class Connection(web.RequestHandler):
    """One connection of a client.

    Args:
      manager: aiohttp's server.
      limits: see `Limits`.
      late: whether the server was stopping already when the client came.
      refused: told the status of what is refused before it is a request.
    """

    def __init__(
        self, manager: web.Server, limits: Limits, late: bool, refused: Callable[[int], None]
    ):
        super().__init__(
            manager,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]
            keepalive_timeout=_KEEP_ALIVE,
            lingering_time=limits.read_timeout,
        )
        self.late, self.answered, self.accepted = late, False, False
        self.request: web.BaseRequest | None = None  # the last one
        self._all, self._limits, self._refused = manager, limits, refused
        self._timer: asyncio.TimerHandle | None = None
        self._arrived = 0  # bytes of headers that are not complete

    def _waits(self) -> bool:
        """Whether no request is being worked on, and one would be."""
        return not self._close and self._waiter is not None and not self._waiter.done()

    def busy(self) -> bool:
        """Whether a request is arriving or being answered, or its answer being sent."""
        return self._arrived > 0 or not self._waits()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        others = sum(other.accepted for other in self._all.connections)
        self.accepted = others < self._limits.max_connections
        self._expect_headers(self.accepted)
        if not self.accepted:
            self._refuse(503, "too many connections: try again")

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._waits():
            self._expect_headers(False)
            # What is queued before a body is complete says that the rest of it cannot be read.
            if self._messages and self.request and not self.request.content.is_eof():
                error = web.RequestPayloadError(getattr(self._messages[-1][0], "message", ""))
                self.request.content.set_exception(error)
        elif data:  # aiohttp itself comes without any
            self._arrived += len(data)
            if self._arrived > MAX_HEADERS:
                self._refuse(431, "the headers are larger than this server takes")
            elif self._timer is None:
                self._expect_headers(True)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._expect_headers(False)
        super().connection_lost(exc)

    def _expect_headers(self, expected: bool) -> None:
        """Starts the clock of a request's headers, or stops it."""
        if self._timer is not None:
            self._timer.cancel()
        seconds = self._limits.read_timeout
        text = f"the headers did not arrive within {seconds:g} s"
        self._timer = self._loop.call_later(seconds, self._refuse, 408, text) if expected else None
        self._arrived = self._arrived if expected else 0

    def _refuse(self, status: int, text: str) -> None:
        """Answers a client whose request has not been read, and hangs up a moment later."""
        self._expect_headers(False)
        if self.transport is None:
            return
        self._refused(status)
        self.accepted = False
        self.close()
        body = json.dumps({"error": text})
        self.transport.write(
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
        )
        flood = len(self._all.connections) > 2 * self._limits.max_connections
        self._loop.call_later(0 if flood else _MOMENT, self.transport.abort)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what aiohttp could not read as a request."""
        if isinstance(exc, http_exceptions.LineTooLong):
            status, message = 431, "the request line or a header is longer than this server takes"
        elif isinstance(exc, http_exceptions.HttpProcessingError):
            status, message = 400, f"this is no HTTP request ({exc.message[:200]})"
        elif not isinstance(exc, ConnectionError):
            logging.error("a request failed", exc_info=exc)
        self._refused(status)
        response = error_response(status, message or HTTPStatus(status).phrase)
        response.force_close()
        return response

    def log_exception(self, *args: Any, exc_info: Any = None, **_: Any) -> None:
        """Leaves out the traceback of a body that turned out broken after its answer."""
        logging.info("a connection ended: %r", exc_info)
