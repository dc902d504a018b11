"""Routers that share the limits of replicas, sessions and accounts, whatever ends or comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from podbay.schema.serving import ServingOptions
from podbay.v1 import inference_router_service_pb2 as pb
from tests.support.fake_registry import fake_registry
from tests.support.managers import Member
from tests.support.router_process import RouterProcess
from tests.support.session_manager import until

LIMIT = 8
SESSION_LIMIT = 6
QUOTA = 5
CLIENTS = 16  # at each router: more than the whole limit
SHARE_SECONDS = 5.0
# Tells with each answer how many calls it worked on at that moment, this one among them. It takes
# so long for each that all places are in use at once also where the machine is busy.
REPLICA = """
import http.server, os, threading, time
lock, active = threading.Lock(), 0
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.answer(b"{}")
    def do_POST(self):
        global active
        self.rfile.read(int(self.headers["content-length"]))
        with lock:
            active += 1
            seen = active
        time.sleep(0.1)
        with lock:
            active -= 1
        self.answer(b'{"active": %d}' % seen)
    def answer(self, body):
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


class Seen:
    """What the answers through one router said."""

    def __init__(self) -> None:
        self.answers = 0
        self.most = 0


class Traffic:
    """Calls of many clients at once, through one router to one session."""

    def __init__(self, router: RouterProcess, session: Any) -> None:
        self._stub = router.stub()
        self._request = pb.InferRequest(
            session_id=session.inferencesession.id, endpoint="infer", json=b"{}"
        )
        self._metadata = [("authorization", f"Bearer {session.token}")]
        self.seen = Seen()
        self._stopping = False
        self._tasks = [asyncio.create_task(self._client()) for _ in range(CLIENTS)]

    async def _client(self) -> None:
        while not self._stopping:
            answer = await self._stub.Infer(self._request, metadata=self._metadata, timeout=60)
            self.seen.answers += 1
            self.seen.most = max(self.seen.most, json.loads(answer.items[0].json)["active"])

    def begin_phase(self) -> None:
        self.seen = Seen()

    async def reaches(self, least: int, limit: int) -> None:
        """Wait until the replica has worked on so many calls at once; it is never more."""
        try:
            await until(lambda: self.check(limit).most >= least)
        except AssertionError as error:
            error.add_note(f"{self.seen.most} calls at once, and {self.seen.answers} answers")
            raise

    async def comes_down_to(self, limit: int) -> None:
        """Wait until no more calls run at once than that, as they may from a while ago on."""
        async with asyncio.timeout(30):
            while True:
                self.begin_phase()
                # All that ran when the phase began is over when each client has had two answers.
                await self.goes_on(CLIENTS, 2 * CLIENTS)
                if self.seen.most <= limit:
                    return

    async def goes_on(self, limit: int, answers: int = 100) -> None:
        """Wait for more answers."""
        wanted = self.seen.answers + answers
        await until(lambda: self.check(limit).answers >= wanted, 60)

    def check(self, limit: int) -> Seen:
        """Fail where a call has failed, or the limit did not hold."""
        for task in self._tasks:
            if task.done():
                task.result()
        assert self.seen.most <= limit
        return self.seen

    async def stop(self) -> None:
        """Begin no more calls, and wait for those that run: the replica counts none of them then.

        It works on a call that was cancelled until it is done, when the router has begun others.
        """
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def cancel(self) -> None:
        """End at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def installation(
    folder: Path, *workers: int
) -> AsyncIterator[tuple[list[Member], list[RouterProcess]]]:
    """Run two session managers, and routers of so many processes that know both."""
    async with fake_registry() as (registry, endpoint):
        managers = [Member(name, registry, endpoint, folder / "data") for name in "abc"]
        routers: list[RouterProcess] = []
        options = ("--share-seconds", str(SHARE_SECONDS))
        try:
            for member in managers[:2]:
                await member.launch(*options)
            # The one that stands by first: they have to find the other one.
            known: Any = SimpleNamespace(address=f"{managers[1].address},{managers[0].address}")
            for index, count in enumerate(workers):
                home = folder / f"router-{index}"
                home.mkdir()
                routers.append(RouterProcess(home, known))
                await routers[-1].start("--workers", str(count))
            yield managers, routers
        finally:
            for router in routers:
                await router.stop()
            for member in managers[:2]:
                with contextlib.suppress(ProcessLookupError):
                    member.resume()
                await member.end(signal.SIGKILL)
            await managers[2].launch("--stop-replicas-on-exit")
            await managers[2].end()


@pytest.mark.timeout(600)
async def test_limits_hold_over_routers_whatever_ends(tmp_path: Path) -> None:
    async with installation(tmp_path, 2, 1) as (managers, routers):
        leader, follower = managers[0], managers[1]
        command = [sys.executable, "-S", "-c", REPLICA]
        service = leader.registry.add(
            command=command, serving=ServingOptions(max_concurrency=LIMIT)
        )
        session = await leader.create(service)
        await leader.ready(session.inferencesession.id)
        first = Traffic(routers[0], session)
        second: Traffic | None = None
        try:
            # One router has nearly all of it while the other one wants nothing.
            await first.reaches(LIMIT - 1, LIMIT)
            second = Traffic(routers[1], session)
            await second.goes_on(LIMIT)
            await first.goes_on(LIMIT)
            # Another one leads: no call notices.
            await leader.end(signal.SIGKILL)
            await second.goes_on(LIMIT)
            await until(follower.leads)
            await asyncio.gather(first.goes_on(LIMIT), second.goes_on(LIMIT))
            # What one does not want any more goes to the other one.
            await first.stop()
            second.begin_phase()
            await second.reaches(LIMIT - 1, LIMIT)
            # So does what a dead one had, once it cannot use it any more.
            first = Traffic(routers[0], session)
            await first.goes_on(LIMIT)
            await first.stop()
            await routers[0].stop()
            second.begin_phase()
            await second.reaches(LIMIT, LIMIT)
        finally:
            await first.cancel()
            if second is not None:
                await second.cancel()


@pytest.mark.timeout(600)
async def test_the_limit_of_a_session_holds_and_a_paused_router_asks_first(tmp_path: Path) -> None:
    # One client's connection is at one worker, which can have the whole share of its router.
    async with installation(tmp_path, 1, 2) as (managers, routers):
        leader = managers[0]
        command = [sys.executable, "-S", "-c", REPLICA]
        service = leader.registry.add(
            command=command, serving=ServingOptions(max_in_flight=SESSION_LIMIT)
        )
        session = await leader.create(service)
        await leader.ready(session.inferencesession.id)
        first, second = (Traffic(router, session) for router in routers)
        try:
            await asyncio.gather(first.goes_on(SESSION_LIMIT), second.goes_on(SESSION_LIMIT))
            paused = routers[1].process
            paused.send_signal(signal.SIGSTOP)
            first.begin_phase()
            # It is silent for longer than it may use what it had.
            await first.reaches(SESSION_LIMIT, SESSION_LIMIT)
            paused.send_signal(signal.SIGCONT)
            await asyncio.gather(first.goes_on(SESSION_LIMIT), second.goes_on(SESSION_LIMIT))
        finally:
            await first.cancel()
            await second.cancel()


@pytest.mark.timeout(600)
async def test_the_quota_of_an_account_holds_over_routers_and_workers(tmp_path: Path) -> None:
    async with installation(tmp_path, 2, 2) as (managers, routers):
        leader, follower = managers[0], managers[1]
        leader.registry.set_quota("acme", requests_in_flight=QUOTA)
        command = [sys.executable, "-S", "-c", REPLICA]
        service = leader.registry.add(command=command)
        session = await leader.create(service)
        await leader.ready(session.inferencesession.id)
        traffic: list[Traffic] = []

        def begin(router: RouterProcess) -> Traffic:
            traffic.append(Traffic(router, session))
            return traffic[-1]

        try:
            # All that is wanted is at one worker: it has all but the place of the other router.
            first = begin(routers[0])
            await first.comes_down_to(QUOTA)
            await first.reaches(QUOTA - 1, QUOTA)
            # A second connection, which may be at the other worker, and the other router.
            second, third = begin(routers[0]), begin(routers[1])
            await asyncio.gather(*(each.goes_on(QUOTA) for each in (first, second, third)))
            await leader.end(signal.SIGKILL)
            await until(follower.leads)
            await asyncio.gather(*(each.goes_on(QUOTA) for each in (first, second, third)))
            # What is wanted moves to the other router, but for one place.
            await first.stop()
            await second.stop()
            third.begin_phase()
            await third.reaches(QUOTA - 1, QUOTA)
            # Where the quota changes, what runs goes on, and then the new one holds.
            leader.registry.set_quota("acme", requests_in_flight=2 * QUOTA)
            await third.reaches(2 * QUOTA - 1, 2 * QUOTA)
        finally:
            await asyncio.gather(*(each.stop() for each in traffic))
