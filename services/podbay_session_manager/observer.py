"""Asks all drivers what they hold, without waiting for those that do not answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from podbay_session_manager.driver_set import DriverSet
from podbay_session_manager.drivers.contract import (
    DriverUnreachableError,
    ObservedReplica,
    ReplicaDriver,
)

__all__ = ["Observer", "Sight"]

_LOG = logging.getLogger(__name__)
_LIST_SECONDS: Final = 10.0
# So long one pass waits for the slowest driver; a node that hangs must not hold up the others.
_PATIENCE_SECONDS: Final = 0.5


@dataclass(slots=True)
class Sight:
    """What was seen in one look."""

    listed: dict[str, dict[str, ObservedReplica]] = field(default_factory=dict)
    """What each driver that answered holds, by the replica's id."""
    unreachable: dict[str, str] = field(default_factory=dict)
    """Why a driver could not tell."""
    silent: dict[str, float] = field(default_factory=dict)
    """For how many seconds drivers have not answered that have not yet."""
    starting: frozenset[str] = frozenset()
    """The replicas whose start was on its way when the drivers were asked."""
    underway: frozenset[str] = frozenset()
    """The replicas whose start went on in their driver then, or does so now."""
    sources: dict[str, ReplicaDriver] = field(default_factory=dict)
    """The drivers that answered."""


@dataclass(slots=True)
class _Look:
    driver: ReplicaDriver
    task: asyncio.Task[Sequence[ObservedReplica] | str]
    starting: frozenset[str]
    underway: frozenset[str]
    begun: float
    late: bool = False


class Observer:
    """Looks at what runs.

    Args:
        drivers: The drivers.
        on_news: Called when one that did not answer in time has answered.
    """

    def __init__(self, drivers: DriverSet, on_news: Callable[[], None]) -> None:
        self._drivers = drivers
        self._on_news = on_news
        self._looks: dict[str, _Look] = {}

    async def look(self, starting: frozenset[str]) -> Sight:
        """Ask every driver, and wait a little for the answers.

        Args:
            starting: The replicas whose start is on its way now.
        """
        self._ask(starting)
        # Those that are late already are not waited for again.
        awaited = [look.task for look in self._looks.values() if not look.late]
        if awaited:
            await asyncio.wait(awaited, timeout=_PATIENCE_SECONDS)
        sight = Sight()
        before = set(starting)
        underway: set[str] = set()
        for name, look in list(self._looks.items()):
            if not look.task.done():
                sight.silent[name] = asyncio.get_running_loop().time() - look.begun
                if not look.late:
                    look.late = True
                    look.task.add_done_callback(lambda _: self._on_news())
                continue
            del self._looks[name]
            before |= look.starting
            underway.update(look.underway, look.driver.starting)
            sight.sources[name] = look.driver
            found = look.task.result()
            if isinstance(found, str):
                sight.unreachable[name] = found
            else:
                sight.listed[name] = {seen.replica_id: seen for seen in found}
        sight.starting = frozenset(before)
        sight.underway = frozenset(underway)
        return sight

    async def close(self) -> None:
        """Stop asking."""
        for look in self._looks.values():
            look.task.cancel()
        await asyncio.gather(*(look.task for look in self._looks.values()), return_exceptions=True)
        self._looks.clear()

    def _ask(self, starting: frozenset[str]) -> None:
        for name, look in list(self._looks.items()):
            if not self._drivers.holds(look.driver):
                look.task.cancel()
                del self._looks[name]
        for name, driver in self._drivers.items():
            if name not in self._looks:
                loop = asyncio.get_running_loop()
                task = loop.create_task(_list(driver), name=f"list-{name}")
                going = frozenset(driver.starting)
                self._looks[name] = _Look(driver, task, starting, going, loop.time())


async def _list(driver: ReplicaDriver) -> Sequence[ObservedReplica] | str:
    try:
        async with asyncio.timeout(_LIST_SECONDS):
            return await driver.list()
    except TimeoutError:
        return f"it did not answer within {_LIST_SECONDS:g} s"
    except DriverUnreachableError as error:
        return str(error) or "it cannot be reached"
    except Exception:  # noqa: BLE001 # logged; one driver's defect is no other's
        _LOG.exception("the driver %s failed to tell what it holds", driver.name)
        return "its driver failed in a way that it did not expect; the log has the details"
