"""Tells drivers what was planned: bounded, once at a time for each replica, and never in vain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from podbay_kit.tasks import TaskSet
from podbay_session_manager.drivers.contract import (
    DriverUnreachableError,
    LaunchSpec,
    NotPermittedError,
    ObservedReplica,
    ReplicaDriver,
    ReplicaStillRunningError,
    StartFailedError,
)
from podbay_session_manager.live_state import LiveState
from podbay_session_manager.machine import ReplicaPhase
from podbay_session_manager.plan_input import Action, RemoveReplica, StartReplica, StopReplica
from podbay_session_manager.policy import Policy
from podbay_session_manager.records import Reason

__all__ = ["Actor"]

_LOG = logging.getLogger(__name__)
_CALL_SECONDS = 30.0


class Actor:
    """Carries out actions in tasks.

    Args:
        state: What is stored; a start is carried out only while it is still wanted.
        drivers: The drivers that are on, by name.
        policy: How patient to be.
        tasks: Where its tasks run.
        on_done: Called when something was carried out.
    """

    def __init__(
        self,
        state: LiveState,
        drivers: Mapping[str, ReplicaDriver],
        policy: Policy,
        tasks: TaskSet,
        on_done: Callable[[], None],
    ) -> None:
        self._state = state
        self._drivers = drivers
        self._policy = policy
        self._tasks = tasks
        self._on_done = on_done
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._starting: set[str] = set()
        self._busy: set[tuple[type, str]] = set()
        self._failed: dict[str, dict[str, ObservedReplica]] = {}

    @property
    def starting(self) -> frozenset[str]:
        """The replicas whose start is on its way."""
        return frozenset(self._starting)

    def failed_starts(self, driver: str) -> Mapping[str, ObservedReplica]:
        """Return the replicas that a driver could not start, as ended ones, until removed."""
        return self._failed.get(driver, {})

    def act(self, actions: Iterable[Action]) -> None:
        """Begin to carry out actions; those that are under way already are left out."""
        for action in actions:
            key = (type(action), action.replica_id)
            driver = self._drivers.get(action.driver)
            if key in self._busy or driver is None:
                continue
            self._busy.add(key)
            if isinstance(action, StartReplica):
                self._starting.add(action.replica_id)
            self._tasks.spawn(
                f"{type(action).__name__}-{action.replica_id}",
                self._carry_out(driver, action, key),
            )

    async def _carry_out(
        self, driver: ReplicaDriver, action: Action, key: tuple[type, str]
    ) -> None:
        done = False
        try:
            if not driver.permitted():
                raise NotPermittedError
            match action:
                case StartReplica():
                    await self._start(driver, action)
                    done = True
                case StopReplica():
                    async with asyncio.timeout(_CALL_SECONDS):
                        await driver.stop(action.replica_id, action.grace)
                case RemoveReplica():
                    async with asyncio.timeout(_CALL_SECONDS):
                        await driver.remove(action.replica_id)
                    self._failed.get(action.driver, {}).pop(action.replica_id, None)
                    done = True
        except (DriverUnreachableError, ReplicaStillRunningError, TimeoutError) as error:
            # The next pass sees what is, and tells it again.
            _LOG.warning("%s of %s: %s", type(action).__name__, action.replica_id, error)
        finally:
            self._busy.discard(key)
            self._starting.discard(action.replica_id)
            if done:
                self._on_done()

    async def _start(self, driver: ReplicaDriver, action: StartReplica) -> None:
        # Of each driver, so that one node's slow starts hold up no other node.
        slots = self._slots.setdefault(driver.name, asyncio.Semaphore(driver.starts_at_once))
        async with slots:
            replica = self._state.replica(action.session_id, action.replica_id)
            session = self._state.sessions.get(action.session_id)
            if replica is None or session is None or replica.phase is not ReplicaPhase.STARTING:
                return
            spec = LaunchSpec(
                replica.id,
                session.id,
                session.service,
                session.serving,
                replica.node,
                replica.gpus,
            )
            try:
                await _start(driver, spec, self._policy.start_limit)
            except StartFailedError as error:
                _LOG.info("%s did not start %s: %s", driver.name, replica.id, error.message)
                self._fail(action, error.reason, error.message)
            except (DriverUnreachableError, TimeoutError):
                raise
            except Exception:  # noqa: BLE001 # logged, and told as the failure of this start
                _LOG.exception("the driver %s failed to start %s", driver.name, replica.id)
                self._fail(
                    action,
                    Reason.START_FAILED,
                    f"The driver {driver.name!r} failed in a way that it did not expect. The "
                    "session manager's log has the details.",
                )

    def _fail(self, action: StartReplica, reason: Reason, message: str) -> None:
        failed = self._failed.setdefault(action.driver, {})
        failed[action.replica_id] = ObservedReplica(
            replica_id=action.replica_id,
            session_id=action.session_id,
            running=False,
            reason=reason,
            message=message,
        )


async def _start(driver: ReplicaDriver, spec: LaunchSpec, limit: float) -> None:
    """Start a replica; give up where it takes longer than the limit and comes no further.

    Raises:
        TimeoutError: It was given up. What the driver began is in its list, or will be.
    """
    loop = asyncio.get_running_loop()
    start = loop.create_task(driver.start(spec), name=f"start-{spec.replica_id}")
    try:
        until = loop.time() + limit
        while not start.done():
            await asyncio.wait({start}, timeout=until - loop.time())
            progress = driver.progress(spec.replica_id)
            if progress is not None:
                until = max(until, progress.moved_at + limit)
            if loop.time() >= until and not start.done():
                raise TimeoutError(f"no end of the start within {limit:g} s")
        await start
    finally:
        start.cancel()
