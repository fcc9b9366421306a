import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from adios_tf.exporting.batching import Batcher, BusyError


@pytest.fixture
def pool():
    with ThreadPoolExecutor(1) as pool:
        yield pool


def rows(*values):
    return np.array(values, np.float64)[:, None]


class Doubling:
    """Doubles; waits for a start sign, keeps the batches' sizes, fails at rows of 13."""

    def __init__(self):
        self.sizes, self.gate = [], threading.Event()

    def __call__(self, values):
        self.gate.wait(5)
        self.sizes.append(len(values))
        if 13 in values:
            raise ValueError("thirteen")
        return {"double": 2 * values}


def test_concurrent_callers_share_batches_and_get_their_own_rows(pool):
    function = Doubling()

    async def main():
        batcher = Batcher(function, pool, max_rows=8)
        calls = [asyncio.ensure_future(batcher(rows(n, n + 0.5))) for n in range(10)]
        await asyncio.sleep(0.05)
        function.gate.set()
        return await asyncio.gather(*calls)

    answers = asyncio.run(main())
    for n, answer in enumerate(answers):
        np.testing.assert_array_equal(answer["double"], rows(2 * n, 2 * n + 1))
    assert sum(function.sizes) == 20
    assert len(function.sizes) <= 4
    assert max(function.sizes) <= 8


def test_one_callers_bad_rows_do_not_harm_the_others(pool):
    function = Doubling()
    function.gate.set()

    async def main():
        batcher = Batcher(function, pool)
        calls = [batcher(rows(n)) for n in (12, 13, 14)]
        return await asyncio.gather(*calls, return_exceptions=True)

    first, bad, last = asyncio.run(main())
    assert first["double"] == 24
    assert last["double"] == 28
    assert str(bad) == "thirteen"


def test_rows_of_other_shapes_get_a_batch_of_their_own(pool):
    function = Doubling()
    function.gate.set()

    async def main():
        batcher = Batcher(function, pool)
        return await asyncio.gather(batcher(np.ones((2, 3))), batcher(np.ones((1, 4))))

    assert [a["double"].shape for a in asyncio.run(main())] == [(2, 3), (1, 4)]


def test_a_large_caller_is_not_split_and_a_full_queue_says_so(pool):
    function = Doubling()

    async def main():
        batcher = Batcher(function, pool, max_rows=4, max_waiting=6)
        running = asyncio.ensure_future(batcher(rows(1)))
        await asyncio.sleep(0.05)
        large = asyncio.ensure_future(batcher(rows(*range(6))))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await batcher(rows(7))
        function.gate.set()
        return await asyncio.gather(running, large)

    assert [len(a["double"]) for a in asyncio.run(main())] == [1, 6]
    assert function.sizes == [1, 6]


def test_a_caller_that_gave_up_costs_nothing(pool):
    function = Doubling()

    async def main():
        batcher = Batcher(function, pool)
        first = asyncio.ensure_future(batcher(rows(1)))
        await asyncio.sleep(0.05)
        second = asyncio.ensure_future(batcher(rows(2)))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        function.gate.set()
        await first
        return await batcher(rows(3))

    assert asyncio.run(main())["double"] == 6
    assert function.sizes == [1, 1]
