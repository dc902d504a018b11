"""The loop that makes what is as it should be: look, plan, store, act."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial

from podbay_kit.errors import ServiceError
from podbay_kit.quotas import Quota
from podbay_kit.tasks import TaskSet
from podbay_session_manager.actor import Actor
from podbay_session_manager.clock_jumps import JumpWatch, moved_along
from podbay_session_manager.driver_set import DriverSet
from podbay_session_manager.drivers.contract import ObservedReplica, ReplicaDriver
from podbay_session_manager.halting import awaited_drivers
from podbay_session_manager.live_state import LiveState
from podbay_session_manager.logs import read_tail
from podbay_session_manager.machine import ReplicaPhase, SessionState
from podbay_session_manager.model_gate import ModelState, models_of
from podbay_session_manager.model_states import ModelStates
from podbay_session_manager.node_book import NodeBook
from podbay_session_manager.node_rules import with_silence
from podbay_session_manager.observer import Observer, Sight
from podbay_session_manager.plan import plan_pass
from podbay_session_manager.plan_input import World
from podbay_session_manager.policy import Policy
from podbay_session_manager.probe import Prober, ProbeTarget
from podbay_session_manager.records import ReplicaRecord

__all__ = ["Reconciler"]

_LOG = logging.getLogger(__name__)
_TIMER_SECONDS = 1.0
_TAIL_SECONDS = 2.0
# Hints that come together are looked at together.
_COALESCE_SECONDS = 0.003
# So long a halt waits for a driver that says that it does not reach what it holds.
_REACH_SECONDS = 3.0
_PROBED = frozenset({ReplicaPhase.PROBING, ReplicaPhase.READY, ReplicaPhase.UNREADY})

Observed = dict[str, dict[str, ObservedReplica] | None]


class Reconciler:
    """Brings what runs to what is wanted, on hints and on a timer.

    Args:
        state: What is wanted and stored.
        drivers: The drivers that are on, by name.
        nodes: The nodes.
        policy: How patient to be.
        ask_model: Asks where a model stands; raises OSError where that is not known now.
        quotas: Gives how much accounts may have now.
    """

    def __init__(
        self,
        state: LiveState,
        drivers: DriverSet,
        nodes: NodeBook,
        policy: Policy,
        ask_model: Callable[[str], Awaitable[ModelState]],
        quotas: Callable[[], Mapping[str, Quota]] = dict,
    ) -> None:
        self._quotas = quotas
        self._state = state
        self._drivers = drivers
        self._nodes = nodes
        self._policy = policy
        self._jumps = JumpWatch()
        self._hinted = asyncio.Event()
        self._tasks = TaskSet()
        self._observer = Observer(drivers, self.hint)
        self._prober = Prober(self.hint)
        self._models = ModelStates(ask_model, state.clock, self.hint)
        self._actor = Actor(state, drivers, policy, self._tasks, self.hint)
        # Since when all replicas shall end, on the monotonic clock; None where they need not.
        self._halting_since: float | None = None
        self._halted = asyncio.Event()
        self._world: World | None = None
        self.passed = asyncio.Event()
        """Set after the next pass, and then replaced by another one."""

    @property
    def world(self) -> World:
        """What was seen last, with what is wanted and stored now."""
        seen = self._world or World({}, {}, {})
        return replace(
            seen,
            sessions=self._state.sessions,
            replicas=self._state.replicas,
            nodes=self._nodes.as_of(self._state.clock.now().timestamp()),
            models=self._models.of(self._awaited_models()),
            quotas=self._quotas(),
        )

    def hint(self) -> None:
        """Ask for a pass soon: something may have changed."""
        self._hinted.set()

    def start(self) -> None:
        """Begin to reconcile, in the background."""
        self._drivers.listen(self._follow)
        self._tasks.spawn_forever("reconcile", self.run)

    async def run(self) -> None:
        """Reconcile on hints and on a timer, for ever."""
        while True:
            pause = _TIMER_SECONDS
            try:
                wake_at = await self.reconcile_once()
            except ServiceError as error:
                # The store is busy or full: nothing was decided, so nothing is lost.
                _LOG.warning("a pass was given up: %s", error)
            else:
                pause = self._pause(wake_at)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hinted.wait()
            await asyncio.sleep(_COALESCE_SECONDS)

    async def reconcile_once(self) -> float | None:
        """Look, plan, store, act; return when the next deadline passes.

        Raises:
            ServiceError: STORE_UNAVAILABLE; nothing was decided.
        """
        self._hinted.clear()
        await self._nodes.refresh()
        await self._models.follow(self._awaited_models())
        sight = await self._observer.look(self._actor.starting)
        observed = self._take_note(sight)
        tails = await self._tails(observed)
        async with self._state.deciding:
            # What a driver told is worth nothing once another one reaches its node.
            for name, driver in sight.sources.items():
                if not self._drivers.holds(driver):
                    observed[name] = None
            now = await self._time_of_day()
            world = self._world = World(
                sessions=self._state.sessions,
                replicas=self._state.replicas,
                observed=observed,
                probes=self._prober.states,
                tails=tails,
                # What was on its way when the drivers were asked may not be in their answers.
                starting=sight.starting | self._actor.starting,
                underway=sight.underway,
                drained=self._state.announcer.drained,
                failing=self._state.reports.as_of(now, self._state.clock.monotonic()),
                nodes=with_silence(self._nodes.as_of(now), observed, sight.silent, now),
                models=self._models.of(self._awaited_models()),
                halting=self._halting_since is not None,
                quotas=self._quotas(),
            )
            plan = plan_pass(world, now, self._policy)
            if plan.decides:
                await self._state.commit(
                    sessions=plan.sessions.values(),
                    replicas=plan.replicas.values(),
                    forgotten=plan.forgotten,
                )
                # One change makes the next possible; there is nothing to wait for.
                self.hint()
        self._actor.act(plan.actions)
        self._follow_up(now)
        if self._halting_since is not None and world.halting and not plan.actions:
            self._see_whether_halted(observed, sight.unreachable, self._halting_since)
        passed, self.passed = self.passed, asyncio.Event()
        passed.set()
        return plan.wake_at

    async def halt(self) -> None:
        """End all replicas, and return when none is left. Sessions stay as they are.

        What a driver holds that cannot be reached is left after a few seconds; the log tells of it.
        """
        self._halting_since = self._state.clock.monotonic()
        self._halted.clear()
        self.hint()
        await self._halted.wait()

    async def close(self) -> None:
        """Stop reconciling; replicas go on where their driver lets them."""
        await self._prober.close()
        await self._models.close()
        await self._tasks.close()
        await self._observer.close()

    def _awaited_models(self) -> frozenset[str]:
        """Return the models whose files replicas mount that are still to be placed."""
        found: set[str] = set()
        for session in self._state.sessions.values():
            models = models_of(session.service)
            if not models or session.state is not SessionState.ACTIVE:
                continue
            placed = [
                replica
                for replica in self._state.replicas[session.id].values()
                if not replica.phase.ended and replica.phase is not ReplicaPhase.PENDING
            ]
            if len(placed) < session.desired:
                found.update(models)
        return frozenset(found)

    async def _time_of_day(self) -> float:
        """Return the time; where it was set meanwhile, first move along what waits for a time."""
        clock = self._state.clock
        now, monotonic = clock.now().timestamp(), clock.monotonic()
        jump = self._jumps.jump(now, monotonic)
        if jump:
            _LOG.warning("the time of day was set by %+.0f s; deadlines are moved along", jump)
            await self._state.commit(
                replicas=moved_along(
                    (
                        replica
                        for replicas in self._state.replicas.values()
                        for replica in replicas.values()
                    ),
                    jump,
                )
            )
        self._jumps.accept(now, monotonic)
        return now

    def _take_note(self, sight: Sight) -> Observed:
        """Note which drivers reach their nodes, and return what each holds."""
        for name, why in sight.unreachable.items():
            self._nodes.mark_unreachable(name, why)
        observed: Observed = dict.fromkeys([*sight.unreachable, *sight.silent])
        for name, listed in sight.listed.items():
            self._nodes.mark_unreachable(name, "")
            observed[name] = {**self._actor.failed_starts(name), **listed}
        return observed

    async def _tails(self, observed: Observed) -> dict[str, tuple[str, ...]]:
        """Read the last log lines of the replicas that may be found to have failed."""
        now = self._state.clock.now().timestamp()
        failing = [
            replica
            for replicas in self._state.replicas.values()
            for replica in replicas.values()
            if _may_fail(replica, observed.get(replica.driver), now)
            or self._state.reports.failing(replica.id)
        ]
        tails = await asyncio.gather(
            *(self._tail(replica.driver, replica.id) for replica in failing)
        )
        return {replica.id: tail for replica, tail in zip(failing, tails, strict=True)}

    async def _tail(self, name: str, replica_id: str) -> tuple[str, ...]:
        driver = self._drivers.get(name)
        if driver is None:
            return ()
        try:
            async with asyncio.timeout(_TAIL_SECONDS):
                return await read_tail(driver, replica_id)
        except TimeoutError:
            return ()

    def _follow_up(self, now: float) -> None:
        """Probe what runs."""
        targets: dict[str, ProbeTarget] = {}
        for session_id, replicas in self._state.replicas.items():
            path = self._state.sessions[session_id].serving.readiness_path
            for replica in replicas.values():
                if replica.phase in _PROBED and replica.port:
                    targets[replica.id] = ProbeTarget(
                        replica.host, replica.port, path, replica.ready_at is not None
                    )
        self._prober.follow(targets)
        self._state.announcer.table.expire(now)

    def _see_whether_halted(
        self, observed: Observed, unreachable: Mapping[str, str], since: float
    ) -> None:
        """End a halt once no driver that can be reached holds a replica, or may."""
        patient = self._state.clock.monotonic() < since + _REACH_SECONDS
        awaited = partial(
            awaited_drivers,
            self.world,
            starting=[name for name, driver in self._drivers.items() if driver.starting],
            unheard=[
                name
                for name in self._drivers
                if observed.get(name) is None and name not in unreachable
            ],
        )
        if awaited(given_up=() if patient else unreachable):
            return
        for name in awaited(given_up=()):
            _LOG.warning("what runs by the driver %s is left: %s", name, unreachable[name])
        self._halted.set()

    def _pause(self, wake_at: float | None) -> float:
        """Return the seconds until the next pass is due without a hint."""
        pause = _TIMER_SECONDS
        if wake_at is not None:
            pause = min(pause, max(0.0, wake_at - self._state.clock.now().timestamp()))
        announcer = self._state.announcer
        if announcer.waiting:
            if self._state.settle():
                return 0.0
            now = self._state.clock.monotonic()
            given_up = announcer.acks.next_change(now)
            if given_up is not None:
                pause = min(pause, max(0.0, given_up - now))
        return pause

    def _follow(self, driver: ReplicaDriver) -> None:
        self._tasks.spawn(f"hints-{driver.name}", self._forward_hints(driver))

    async def _forward_hints(self, driver: ReplicaDriver) -> None:
        while self._drivers.holds(driver):
            await driver.changed.wait()
            driver.changed.clear()
            self.hint()


def _may_fail(
    replica: ReplicaRecord, listed: Mapping[str, ObservedReplica] | None, now: float
) -> bool:
    if replica.phase.ended or replica.phase is ReplicaPhase.PENDING or listed is None:
        return False
    seen = listed.get(replica.id)
    if seen is None:
        return replica.phase is not ReplicaPhase.STARTING
    late = replica.deadline is not None and now >= replica.deadline
    return not seen.running or (late and replica.phase in _PROBED)
