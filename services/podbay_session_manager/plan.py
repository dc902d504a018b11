"""The plan: what should be, against what is stored, against what is seen. Pure.

`plan_pass` looks at every session that has not ended and says which records change and what the
drivers are told. Nothing is told before the change is stored, and everything may be told again:
a session manager that dies anywhere in between goes on from what is stored and what is seen.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace

from podbay_session_manager.machine import ReplicaPhase, SessionState
from podbay_session_manager.plan_input import (
    NodeRecord,
    Plan,
    RemoveReplica,
    StartReplica,
    StopReplica,
    World,
)
from podbay_session_manager.plan_replica import step_replica
from podbay_session_manager.policy import Policy
from podbay_session_manager.records import Reason, ReplicaRecord, SessionRecord
from podbay_session_manager.texts import evidence_of, failure_message

__all__ = ["plan_pass"]

_P = ReplicaPhase
_LEFTOVER_GRACE = 10.0


def _new_id() -> str:
    return uuid.uuid4().hex


def plan_pass(
    world: World, now: float, policy: Policy, *, new_id: Callable[[], str] = _new_id
) -> Plan:
    """Say what to store and what to do.

    Args:
        world: What is wanted, stored and seen.
        now: The time, in seconds since 1970.
        policy: How patient to be.
        new_id: Makes the ids of new replicas.
    """
    plan = Plan()
    for session in world.sessions.values():
        _SessionPass(session, world, now, policy, plan, new_id).run()
    _remove_leftovers(world, plan)
    return plan


class _SessionPass:
    """The plan for one session."""

    def __init__(
        self,
        session: SessionRecord,
        world: World,
        now: float,
        policy: Policy,
        plan: Plan,
        new_id: Callable[[], str],
    ) -> None:
        self._stored = session
        self._session = session
        self._world = world
        self._now = now
        self._policy = policy
        self._plan = plan
        self._new_id = new_id
        self._before = world.replicas.get(session.id, {})
        self._replicas = dict(self._before)

    def run(self) -> None:
        """Plan the session and put what changes into the plan."""
        self._expire()
        self._step_all()
        if self._session.state is SessionState.ACTIVE:
            self._fail_or_fill()
        if self._session.state is SessionState.ENDING:
            # What was decided in this pass takes effect in this pass.
            if self._stored.state is SessionState.ACTIVE:
                self._step_live()
            self._finish()
        self._prune()
        self._put()

    def _expire(self) -> None:
        session = self._session
        if session.state is not SessionState.ACTIVE or session.expires is None:
            return
        if session.expires > self._now:
            self._plan.wake(session.expires)
            return
        self._session = session.ending(
            self._now,
            ended_reason=Reason.SESSION_EXPIRED,
            status="Terminated",
            status_reason="SessionExpired",
            message="The session reached its expiry. Create a new one, with a later expiry.",
        )

    def _wanted(self) -> bool:
        return self._session.state is SessionState.ACTIVE and not self._world.halting

    def _step_all(self) -> None:
        for replica in self._before.values():
            self._step(replica)
        if any(replica.ready_at is not None for replica in self._replicas.values()):
            self._session = replace(self._session, ever_ready=True)

    def _step_live(self) -> None:
        for replica in list(self._replicas.values()):
            if not replica.phase.ended and replica.phase is not _P.STOPPING:
                self._step(replica)

    def _step(self, replica: ReplicaRecord) -> None:
        self._replicas[replica.id] = step_replica(
            replica,
            self._session,
            self._world,
            self._now,
            self._policy,
            self._plan,
            wanted=self._wanted(),
        )

    def _fail_or_fill(self) -> None:
        latest = self._latest()
        for replica in latest.values():
            if self._is_final(replica):
                self._fail(replica)
                return
        if self._world.halting:
            return
        for index in range(self._session.desired):
            last = latest.get(index)
            if last is None or last.phase.ended:
                last = self._next(index, last)
            if last.phase is _P.PENDING:
                self._place(last)

    def _latest(self) -> dict[int, ReplicaRecord]:
        latest: dict[int, ReplicaRecord] = {}
        for replica in self._replicas.values():
            known = latest.get(replica.index)
            if known is None or replica.attempt > known.attempt:
                latest[replica.index] = replica
        return latest

    def _is_final(self, replica: ReplicaRecord) -> bool:
        if replica.phase is not _P.FAILED:
            return False
        if self._session.ever_ready:
            # Only people can bring that process back, and they do so soon or never.
            gone = replica.reason is Reason.MOCK_PROCESS_ENDED
            return gone and replica.failures + 1 >= self._policy.orphan_attempts
        return replica.failures + 1 >= self._policy.attempts_for(replica.reason)

    def _fail(self, replica: ReplicaRecord) -> None:
        self._session = self._session.ending(
            self._now,
            ended_reason=Reason.SESSION_FAILED,
            status="Error",
            status_reason=replica.reason.camel,
            message=failure_message(self._session, replica),
            evidence=evidence_of(replica),
        )
        # Its other replicas are given up in this pass: what was about to start does not.
        self._plan.actions = [
            action
            for action in self._plan.actions
            if not (isinstance(action, StartReplica) and action.session_id == self._session.id)
        ]

    def _next(self, index: int, last: ReplicaRecord | None) -> ReplicaRecord:
        """Make the replica that follows at an index."""
        failures = 0
        since = self._now
        if last is not None and last.phase is _P.FAILED:
            since = last.transition_at
            stable = (
                last.ready_at is not None and since - last.ready_at >= self._policy.stable_after
            )
            failures = 0 if stable else last.failures + 1
        retry_at = since + self._policy.backoff(failures) if failures else None
        if last is not None and retry_at is not None:
            self._replicas[last.id] = replace(last, retry_at=retry_at)
        replica = ReplicaRecord(
            id=self._new_id(),
            session_id=self._session.id,
            index=index,
            attempt=1 if last is None else last.attempt + 1,
            driver=self._session.driver,
            created_at=self._now,
            transition_at=self._now,
            retry_at=retry_at,
            failures=failures,
        )
        self._replicas[replica.id] = replica
        return replica

    def _place(self, replica: ReplicaRecord) -> None:
        """Start a waiting replica where it is its turn and a node takes it."""
        if replica.retry_at is not None and replica.retry_at > self._now:
            self._plan.wake(replica.retry_at)
            return
        node = _free_node(self._world.nodes, replica.driver)
        if node is None:
            message = _why_no_node(self._world.nodes, replica.driver)
            if message != replica.message:
                waiting = replace(replica, reason=Reason.NO_NODE_AVAILABLE, message=message)
                self._replicas[replica.id] = waiting
            return
        started = replica.moved(
            _P.STARTING,
            self._now,
            deadline=self._now + self._policy.start_limit,
            reason=Reason.NONE,
            message="",
        )
        self._replicas[replica.id] = replace(started, node=node.name)
        self._plan.actions.append(StartReplica(replica.id, self._session.id, replica.driver))
        self._plan.wake(started.deadline)
        if self._session.status == "Created":
            self._session = replace(self._session, status="Admitted")

    def _finish(self) -> None:
        if all(r.phase.ended and r.removed for r in self._replicas.values()):
            self._session = self._session.ended()

    def _prune(self) -> None:
        """Keep the last few ended replicas of each index, so that a crash loop stays small."""
        by_index: dict[int, list[ReplicaRecord]] = {}
        for replica in self._replicas.values():
            if replica.phase.ended and replica.removed:
                by_index.setdefault(replica.index, []).append(replica)
        for ended in by_index.values():
            ended.sort(key=lambda r: r.attempt)
            for replica in ended[: -self._policy.kept_replicas]:
                self._plan.forgotten[replica.id] = self._session.id
                del self._replicas[replica.id]

    def _put(self) -> None:
        if self._session != self._stored:
            self._plan.sessions[self._session.id] = self._session
        for replica in self._replicas.values():
            if self._before.get(replica.id) != replica:
                self._plan.replicas[replica.id] = replica


def _free_node(nodes: Iterable[NodeRecord], driver: str) -> NodeRecord | None:
    for node in nodes:
        if node.driver == driver and not node.cordoned and not node.unreachable:
            return node
    return None


def _why_no_node(nodes: Iterable[NodeRecord], driver: str) -> str:
    mine = [node for node in nodes if node.driver == driver]
    if not mine:
        return (
            f"No node takes it: the driver {driver!r} is not on. Start the session manager with "
            f"--drivers {driver}."
        )
    states = "; ".join(
        f"{n.name} is cordoned (podbay node uncordon {n.name})"
        if n.cordoned
        else f"{n.name} cannot be reached: {n.unreachable}"
        for n in mine
    )
    return f"No node takes it: {states}."


def _remove_leftovers(world: World, plan: Plan) -> None:
    """Stop and remove what a driver holds and no record speaks of."""
    for driver, listed in world.observed.items():
        if listed is None:
            continue
        for seen in listed.values():
            if seen.replica_id in world.replicas.get(seen.session_id, {}):
                continue
            if seen.running:
                plan.actions.append(StopReplica(seen.replica_id, driver, _LEFTOVER_GRACE))
            else:
                plan.actions.append(RemoveReplica(seen.replica_id, driver))
