"""Concurrent requests answered together: one call of the model for many callers."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

Answer = dict[str, np.ndarray]


class BusyError(Exception):
    """More rows are waiting than the queue may hold."""


class _Waiting(NamedTuple):
    rows: np.ndarray
    future: asyncio.Future


class Batcher:
    """Gathers the rows of concurrent callers into batches for one function.

    A batch is begun as soon as the function is free; what arrives meanwhile forms the next one.
    Rows of one caller stay together and in order.

    Args:
      function: rows [n,...] -> {name: [n,...]}; run in a thread.
      pool: where it runs; of one thread, so that batches do not compete.
      max_rows: of one batch; a caller with more gets a batch of its own.
      max_waiting: rows that may wait in all.
      observe: told the rows of every batch.
    """

    def __init__(
        self,
        function: Callable[[np.ndarray], Mapping[str, np.ndarray]],
        pool: ThreadPoolExecutor,
        max_rows: int = 32,
        max_waiting: int = 1024,
        observe: Callable[[int], None] = lambda rows: None,
    ):
        self._function, self._pool = function, pool
        self._max_rows, self._max_waiting, self._observe = max_rows, max_waiting, observe
        self._queue: deque[_Waiting] = deque()
        self.waiting = 0
        self._worker: asyncio.Task | None = None

    async def __call__(self, rows: np.ndarray) -> Answer:
        """Returns the answers to these rows.

        Raises:
          BusyError: too many rows are waiting.
          Exception: what the function raised on these rows alone.
        """
        if self._queue and self.waiting + len(rows) > self._max_waiting:
            raise BusyError
        future = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(rows, future))
        self.waiting += len(rows)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    def _next(self) -> list[_Waiting]:
        """Takes the callers of the next batch, whose rows have the same shape, off the queue."""
        taken: list[_Waiting] = []
        count = 0
        while self._queue:
            first = self._queue[0]
            fits = count + len(first.rows) <= self._max_rows
            if taken and not (fits and first.rows.shape[1:] == taken[0].rows.shape[1:]):
                break
            self._queue.popleft()
            self.waiting -= len(first.rows)
            if first.future.cancelled():  # the caller has given up
                continue
            taken.append(first)
            count += len(first.rows)
        return taken

    async def _work(self) -> None:
        while taken := self._next():
            try:
                answer = await self._run([waiting.rows for waiting in taken])
            except Exception as error:
                await self._one_by_one(taken, error)
                continue
            begin = 0
            for waiting in taken:
                end = begin + len(waiting.rows)
                if not waiting.future.done():
                    waiting.future.set_result({n: x[begin:end] for n, x in answer.items()})
                begin = end

    async def _one_by_one(self, taken: list[_Waiting], error: Exception) -> None:
        """Finds out whose rows made the batch fail; the others get their answers."""
        for waiting in taken:
            if waiting.future.done():
                continue
            if len(taken) == 1:
                waiting.future.set_exception(error)
                continue
            try:
                answer = await self._run([waiting.rows])
            except Exception as own:
                waiting.future.set_exception(own)
            else:
                if not waiting.future.done():
                    waiting.future.set_result(answer)

    async def _run(self, rows: list[np.ndarray]) -> Answer:
        stacked = np.concatenate(rows) if len(rows) > 1 else rows[0]
        self._observe(len(stacked))
        loop = asyncio.get_running_loop()
        return dict(await loop.run_in_executor(self._pool, self._function, stacked))
