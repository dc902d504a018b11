import asyncio
import threading
from concurrent.futures import Future

import pytest

from podbay_kit.replica_server.threads import ThreadPool


@pytest.fixture
def pool():
    pool = ThreadPool(2, "test-pool")
    yield pool
    pool.close()


def test_results_and_exceptions_come_back(pool: ThreadPool) -> None:
    assert pool.submit(divmod, 7, 2).result(20) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 7, 0).result(20)
    with pytest.raises(SystemExit):
        pool.submit(exit, 3).result(20)


async def test_an_iterator_that_ends_too_early_is_an_error_and_not_a_hang(pool: ThreadPool) -> None:
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        await asyncio.wait_for(pool.run(next, iter([])), 20)


def test_no_more_threads_than_allowed_and_all_of_them_are_used(pool: ThreadPool) -> None:
    together = threading.Barrier(2)
    release = threading.Event()
    names: set[str] = set()

    def call(first: bool) -> None:
        names.add(threading.current_thread().name)
        if first:
            together.wait(20)
            release.wait(20)

    running = [pool.submit(call, True) for _ in range(2)]
    waiting = [pool.submit(call, False) for _ in range(5)]
    assert pool.busy
    assert not any(future.done() for future in waiting)
    release.set()
    for future in running + waiting:
        future.result(20)
    assert names == {"test-pool-1", "test-pool-2"}


def test_threads_do_not_hold_up_the_end_of_the_process(pool: ThreadPool) -> None:
    assert pool.submit(lambda: threading.current_thread().daemon).result(20)


async def test_a_cancel_drops_a_call_that_waits() -> None:
    pool = ThreadPool(1, "test-one")
    release = threading.Event()
    called = threading.Event()
    running = pool.submit(release.wait, 20)
    waiting = asyncio.ensure_future(pool.run(called.set))
    await asyncio.sleep(0)  # it is in the queue
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)  # the cancel has reached the queue
    release.set()
    running.result(20)
    pool.submit(int).result(20)  # the queue is through
    assert not called.is_set()
    pool.close()


def test_a_closed_pool_ends_what_it_took_and_takes_no_more() -> None:
    pool = ThreadPool(1, "test-closed")
    futures: list[Future[int]] = [pool.submit(int, "7") for _ in range(3)]
    pool.close()
    pool.close()
    assert [future.result(20) for future in futures] == [7, 7, 7]
    with pytest.raises(RuntimeError):
        pool.submit(int)


def test_a_pool_without_threads_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ThreadPool(0, "none")
