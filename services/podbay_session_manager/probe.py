"""Readiness probes: does a replica answer GET on its readiness path with 2xx?

Quick while it starts, so that a session is ready the moment it can be; slow while it serves, to
notice one that stopped answering.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from podbay_kit.tasks import TaskSet
from podbay_session_manager.plan_input import ProbeState

__all__ = ["ProbeTarget", "Prober", "probe_once"]

_TIMEOUT: Final = 1.0
_FIRST_PAUSE: Final = 0.02
_LAST_PAUSE: Final = 0.25
_GROWTH: Final = 1.5
_ALIVE_PAUSE: Final = 2.0
_RETRY_PAUSE: Final = 0.5
_MAX_LINE: Final = 4096

_REFUSED: Final = "nothing listens there (connection refused)"
# What tells nothing of whether something listens.
_NOT_THROUGH: Final = "the connection failed"


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """What to ask."""

    host: str
    port: int
    path: str
    serving: bool
    """Whether the replica was ready before."""


async def probe_once(
    target: ProbeTarget,
    before: ProbeState,
    timeout: float = _TIMEOUT,  # noqa: ASYNC109 # the end of the time is an answer
) -> ProbeState:
    """Ask once.

    Args:
        target: What to ask.
        before: What was known before.
        timeout: How long an answer may take, in seconds.

    Returns:
        What is known now.
    """
    try:
        async with asyncio.timeout(timeout):
            seen = await _meet(target)
    except TimeoutError:
        seen = f"no answer within {timeout:g} s"
        silences = before.silences + 1
        return replace(before, answered=False, silences=silences, seen=seen, refused=False)
    if seen:
        return replace(
            before,
            answered=False,
            failures=before.failures + 1,
            seen=seen,
            refused=seen == _REFUSED,
            listened=before.listened or not seen.startswith((_REFUSED, _NOT_THROUGH)),
        )
    return ProbeState(answered=True, listened=True)


async def _meet(target: ProbeTarget) -> str:
    """Return an empty text for 2xx, else what was met, for people."""
    try:
        return await _ask(target)
    except TimeoutError:
        raise  # an OSError, too
    except ConnectionRefusedError:
        return _REFUSED
    except ConnectionError:
        return "the connection was closed without an answer"
    except OSError as error:
        return f"{_NOT_THROUGH} ({error.strerror})"


async def _ask(target: ProbeTarget) -> str:
    reader, writer = await asyncio.open_connection(target.host, target.port, limit=_MAX_LINE)
    try:
        writer.write(
            f"GET {target.path} HTTP/1.1\r\nHost: {target.host}:{target.port}\r\n"
            "User-Agent: podbay-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode()
        )
        try:
            line = await reader.readline()
        except ValueError:
            return "an answer that is not HTTP"
        return _judge(line)
    finally:
        # Not waited for: the answer's body is of no interest, and the peer may be slow to close.
        writer.transport.abort()


def _judge(line: bytes) -> str:
    if not line:
        return "the connection was closed without an answer"
    parts = line.split(None, 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or not parts[1].isdigit():
        return "an answer that is not HTTP"
    status = int(parts[1])
    return "" if 200 <= status < 300 else f"HTTP status {status}"


class Prober:
    """Probes the replicas that it is given, each in a task of its own.

    Args:
        on_change: Called where a replica's answer differs in a way that matters to a plan.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._tasks = TaskSet()
        self._running: dict[str, tuple[ProbeTarget, asyncio.Task[None]]] = {}
        self._states: dict[str, ProbeState] = {}

    @property
    def states(self) -> Mapping[str, ProbeState]:
        """What is known of each replica that is probed."""
        return self._states

    def follow(self, targets: Mapping[str, ProbeTarget]) -> None:
        """Probe these replicas and no others.

        Args:
            targets: What to ask, by the replica's id.
        """
        for replica_id in self._running.keys() - targets.keys():
            self._running.pop(replica_id)[1].cancel()
            self._states.pop(replica_id, None)
        for replica_id, target in targets.items():
            known = self._running.get(replica_id)
            if known is not None and _address(known[0]) == _address(target):
                continue
            if known is not None:
                known[1].cancel()
            task = self._tasks.spawn(f"probe-{replica_id}", self._probe(replica_id, target))
            self._running[replica_id] = (target, task)

    async def close(self) -> None:
        """Stop probing."""
        await self._tasks.close()

    async def _probe(self, replica_id: str, target: ProbeTarget) -> None:
        pause = _FIRST_PAUSE
        serving = target.serving
        while True:
            before = self._states.get(replica_id, ProbeState())
            state = await probe_once(target, before)
            answered = state.answered
            self._states[replica_id] = state
            if state.answered != before.answered or (serving and not answered):
                self._on_change()
            serving = serving or answered
            if answered:
                pause = _ALIVE_PAUSE
            elif serving:
                pause = _RETRY_PAUSE if before.answered or before.failures < 3 else _ALIVE_PAUSE
            else:
                pause = min(pause * _GROWTH, _LAST_PAUSE)
            await asyncio.sleep(pause)


def _address(target: ProbeTarget) -> tuple[str, int, str]:
    return target.host, target.port, target.path
