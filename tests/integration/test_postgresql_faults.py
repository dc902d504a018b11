"""PostgreSQL that restarts, crashes and refuses, and writers that are paused."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
import sqlalchemy as sa

from podbay.v1 import errors_pb2
from podbay_kit import storage_migrations
from podbay_kit.errors import ServiceError
from podbay_kit.storage import Database, DatabaseUnusableError, migrate
from podbay_kit.storage_urls import postgresql_url
from tests.support.eventually import eventually
from tests.support.postgresql import PostgreSQL, running_postgresql

pytestmark = pytest.mark.needs_postgresql

PACKAGE = "podbay_session_manager"
COUNT = sa.text("SELECT revision FROM resource_counter")
STEP = sa.text("UPDATE resource_counter SET revision = revision + 1")


@pytest.fixture(scope="module")
def durable() -> Iterator[PostgreSQL]:
    """A server that these tests may stop, and that syncs what it commits."""
    with running_postgresql(durable=True) as server:
        yield server


@pytest.fixture
def url(durable: PostgreSQL, request: pytest.FixtureRequest) -> str:
    made = postgresql_url(durable.url(schema=f"t{abs(hash(request.node.name))}"), "sessions")
    migrate(made, PACKAGE)
    return made


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    made = Database(url)
    await made.write(lambda c: c.execute(sa.text("INSERT INTO resource_counter VALUES (1, 0, 0)")))
    yield made
    await made.close()


async def count(database: Database) -> int:
    return int(await database.read(lambda c: c.execute(COUNT).scalar_one()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["restart", "crash"])
async def test_what_was_answered_is_there_after_a_restart_and_nothing_twice(
    durable: PostgreSQL, database: Database, number: int
) -> None:
    answered = unknown = 0
    going = True

    async def write() -> None:
        nonlocal answered, unknown
        while going:
            try:
                await database.write(lambda c: c.execute(STEP))
                answered += 1
            except ServiceError as error:
                assert error.reason == errors_pb2.ERROR_REASON_STORE_UNAVAILABLE
                assert error.retry_after is not None
                unknown += "may have been" in error.message

    async def read() -> None:
        last = 0
        while going:
            try:
                now = await count(database)
            except ServiceError as error:
                assert error.reason == errors_pb2.ERROR_REASON_STORE_UNAVAILABLE
            else:
                assert now >= last, "a revision was taken back"
                last = now

    working = [asyncio.create_task(write()) for _ in range(4)]
    working.append(asyncio.create_task(read()))
    for _ in range(2):
        before = answered
        await eventually(lambda before=before: answered > before + 20, "writes")
        await asyncio.to_thread(durable.stop, number)
        await asyncio.to_thread(durable.start)
        before = answered
        await eventually(lambda before=before: answered > before + 20, "writes again")
    going = False
    await asyncio.gather(*working)
    assert answered <= await count(database) <= answered + unknown


async def test_a_short_restart_fails_nothing_that_waits(
    durable: PostgreSQL, database: Database
) -> None:
    await database.write(lambda c: c.execute(STEP))
    # All connections of the pool are dead afterwards.
    await asyncio.gather(*(count(database) for _ in range(8)))
    await asyncio.to_thread(durable.stop)
    await asyncio.to_thread(durable.start)
    got = await asyncio.gather(
        *(count(database) for _ in range(8)), database.write(lambda c: c.execute(STEP))
    )
    assert {1, 2} >= set(got[:8])
    assert await count(database) == 2


_HOLD = """
import asyncio, sys, threading
import sqlalchemy as sa
from podbay_kit.storage import Database

def hold(connection):
    connection.execute(sa.text("UPDATE resource_counter SET revision = revision + 1000"))
    print("holds", flush=True)
    sys.stdin.readline()

async def main():
    database = Database(sys.argv[1])
    try:
        await database.write(hold)
    except Exception as error:
        print(type(error).__name__, error.metadata["store"], flush=True)
    else:
        print("committed", flush=True)
    await database.close()

asyncio.run(main())
"""


def holder(url: str) -> subprocess.Popen[str]:
    """Start a process that holds a writing transaction until it is sent a line."""
    return subprocess.Popen(
        [sys.executable, "-c", _HOLD, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


async def test_a_paused_writer_holds_up_others_for_a_moment_and_commits_nothing(
    url: str, database: Database
) -> None:
    paused = holder(url)
    try:
        assert paused.stdout is not None
        assert await asyncio.to_thread(paused.stdout.readline) == "holds\n"
        os.kill(paused.pid, signal.SIGSTOP)
        # The server ends the transaction of the other one meanwhile.
        await database.write(lambda c: c.execute(STEP))
        os.kill(paused.pid, signal.SIGCONT)
        said, _ = await asyncio.to_thread(paused.communicate, "go on\n")
    finally:
        if paused.poll() is None:
            paused.kill()
        paused.wait()
    assert said.startswith("ServiceError ")
    assert await count(database) == 1


async def test_a_busy_database_is_told(url: str, database: Database, durable: PostgreSQL) -> None:
    def wait(connection: sa.Connection) -> None:
        connection.execute(sa.text("SET LOCAL statement_timeout = '10ms'"))
        connection.execute(sa.text("SELECT pg_sleep(60)"))

    with pytest.raises(ServiceError) as caught:
        await database.read(wait)
    assert caught.value.metadata == {"store": "57014"}
    assert "took too long" in caught.value.message
    assert await count(database) == 0


async def test_a_reader_cannot_write_and_sees_one_moment(database: Database) -> None:
    def twice(connection: sa.Connection) -> list[int]:
        first = connection.execute(COUNT).scalar_one()
        asyncio.run_coroutine_threadsafe(step(), loop).result(30)
        return [first, connection.execute(COUNT).scalar_one()]

    async def step() -> None:
        await database.write(lambda c: c.execute(STEP))

    loop = asyncio.get_running_loop()
    assert await database.read(twice) == [0, 0]
    assert await count(database) == 1
    with pytest.raises(ServiceError) as caught:
        await database.read(lambda c: c.execute(STEP))
    assert caught.value.metadata == {"store": "25006"}


def test_at_the_start_it_says_what_is_wrong_and_no_secret(
    durable: PostgreSQL, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(storage_migrations, "_PATIENCE_SECONDS", 0.0)
    good = durable.url()
    secret = "pa%40ss-of-nobody"
    with psycopg.connect(good, autocommit=True) as connection:
        connection.execute("CREATE ROLE weak LOGIN PASSWORD 'weak-password'")
        connection.execute("CREATE DATABASE latin ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
    host = good.partition("@")[2]
    cases = {
        f"postgresql://podbay:{secret}@{host}": "does not take the password",
        f"postgresql://nobody:{secret}@{host}": "does not take the password",
        durable.url("nowhere"): "does not exist. Make it: createdb",
        durable.url("latin"): "is encoded in LATIN1",
        f"postgresql://weak:weak-password@{host}": "GRANT CREATE ON DATABASE",
        f"postgresql://podbay:{secret}@127.0.0.1:1/x": "cannot be reached",
    }
    caplog.set_level(logging.DEBUG)
    for text, words in cases.items():
        with pytest.raises(DatabaseUnusableError, match=words) as caught:
            migrate(postgresql_url(text, "registry"), PACKAGE)
        told = f"{caught.value}{caplog.text}"
        for password in (secret, "pa@ss-of-nobody", "weak-password", durable.password):
            assert password not in told
        assert "127.0.0.1" in str(caught.value)


_BEGIN = """
import sys
from podbay_kit.storage import migrate
print("begins", flush=True)
migrate(sys.argv[1], sys.argv[2])
"""


def test_a_server_that_comes_up_late_is_waited_for(durable: PostgreSQL) -> None:
    durable.stop()
    made = postgresql_url(durable.url(schema="late"), "registry")
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", _BEGIN),
            *(made, "podbay_registry"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    durable.start()
    process.communicate()
    assert process.returncode == 0
