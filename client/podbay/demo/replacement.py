"""The fourth part of the demo: a replica is killed while calls run."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

from podbay.demo.completions import PROMPT
from podbay.demo.scene import POLL_SECONDS, READY_SECONDS, DemoFailedError, Running, Scene
from podbay.errors import PodbayError

__all__ = ["kill_one"]

# The pace of the calls: steady traffic that leaves the machine time to start a replica.
_PAUSE_SECONDS = 0.005
_MAX_IN_FLIGHT = 8
_BEFORE_SECONDS = 0.5
_AFTER_SECONDS = 0.5
# What a call may fail with that the killed replica worked on.
_HONEST = frozenset({"REPLICA_CONNECTION_LOST"})


@dataclass
class _Traffic:
    """Calls in a loop, counted."""

    running: Running
    succeeded: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    trouble: Exception | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="demo-traffic", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _bodies(self) -> Iterator[dict[str, str]]:
        while not self._stop.wait(_PAUSE_SECONDS):
            yield PROMPT

    def _run(self) -> None:
        try:
            for result in self.running.calls.infer_many(
                self._bodies(), max_in_flight=_MAX_IN_FLIGHT, ordered=False
            ):
                if result.error is None:
                    self.succeeded += 1
                else:
                    self.failed[_reason(result.error)] += 1
        except Exception as error:  # noqa: BLE001 # told by the main thread
            self.trouble = error


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, PodbayError) else type(error).__name__


def kill_one(scene: Scene, running: Running) -> None:
    """Kill one replica of a session under traffic, and see another take its place.

    Raises:
        DemoFailedError: Calls failed for another reason than the kill, or no replica came.
    """
    scene.show.heading("4. One replica is killed while calls run")
    before = scene.client.inferencesessions.status(running.session.id)
    victim = next((r for r in before.replicas if r.process_id and r.phase == "Ready"), None)
    if victim is None or victim.process_id is None:
        raise DemoFailedError("no ready replica has a process to kill")
    old = {replica.process_id for replica in before.replicas}
    with _Traffic(running) as traffic:
        time.sleep(_BEFORE_SECONDS)
        calls_before = traffic.succeeded
        scene.show.line(f"{calls_before} calls have succeeded; kill -9 {victim.process_id}")
        os.kill(victim.process_id, signal.SIGKILL)
        killed = time.monotonic()
        new = _new_replica(scene, running, old, len(before.replicas))
        took = time.monotonic() - killed
        scene.show.line(f"a new replica is ready after {took:.1f} s: process {new}")
        time.sleep(_AFTER_SECONDS)
    if traffic.trouble is not None:
        raise DemoFailedError(f"the calls broke off: {traffic.trouble}")
    _judge(scene, traffic, calls_before)


def _new_replica(scene: Scene, running: Running, old: set[int | None], replicas: int) -> int:
    """Wait until as many replicas as before are ready, and return the process that is new."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        status = scene.client.inferencesessions.status(running.session.id)
        scene.remember(status)
        ready = {r.process_id for r in status.replicas if r.phase == "Ready" and r.process_id}
        if ready - old and len(ready) >= replicas:
            return (ready - old).pop()
        time.sleep(POLL_SECONDS)
    raise DemoFailedError(
        f"no new replica took the place of the killed one in {READY_SECONDS:.0f} s"
    )


def _judge(scene: Scene, traffic: _Traffic, calls_before: int) -> None:
    after = traffic.succeeded - calls_before
    failed = sum(traffic.failed.values())
    scene.show.line(f"calls since the kill: {after} succeeded, {failed} failed")
    for reason, count in traffic.failed.items():
        scene.show.line(f"{count} with {reason}: the killed replica was working on them")
    other = {reason: n for reason, n in traffic.failed.items() if reason not in _HONEST}
    if other:
        raise DemoFailedError(f"calls failed for reasons that the kill does not explain: {other}")
    if failed > _MAX_IN_FLIGHT:
        raise DemoFailedError(f"{failed} calls failed, and {_MAX_IN_FLIGHT} were in flight")
    if not after:
        raise DemoFailedError("no call succeeded after the kill")
    scene.show.good("calls went on, and a new replica took the place of the killed one")
