"""The plan for one session: which replicas it should have, and what becomes of them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from podbay_session_manager.machine import ReplicaPhase, SessionState
from podbay_session_manager.model_gate import Gate, gate
from podbay_session_manager.placement import gpu_type_of
from podbay_session_manager.plan_input import NodeRecord, Plan, Scene, StartReplica
from podbay_session_manager.plan_replica import retire_failing, retire_replica, step_replica
from podbay_session_manager.policy import BLAMELESS
from podbay_session_manager.records import Reason, ReplicaRecord, SessionRecord
from podbay_session_manager.texts import (
    crash_loop_message,
    evidence_of,
    failing_message,
    failure_message,
    model_failed_message,
)

__all__ = ["MOVABLE", "SessionPass"]

_P = ReplicaPhase
_NONE: Final[frozenset[str]] = frozenset()
_QUOTA_LIMIT: Final = Reason.QUOTA_LIMIT.camel

MOVABLE: Final = frozenset({_P.STARTING, _P.PROBING, _P.READY, _P.UNREADY})
"""The phases of a replica that another one can take the place of."""


class SessionPass:
    """The plan for one session.

    Args:
        session: The session, as it is stored.
        scene: What is seen, when, and how patient to be.
        plan: Where what changes goes.
        new_id: Makes the ids of new replicas.
    """

    def __init__(
        self,
        session: SessionRecord,
        scene: Scene,
        plan: Plan,
        new_id: Callable[[], str],
    ) -> None:
        self.session = session
        self.waiting: list[ReplicaRecord] = []
        """The replicas that are to be placed now."""
        self._stored = session
        self._scene = scene
        self._now = scene.now
        self._policy = scene.policy
        self._plan = plan
        self._new_id = new_id
        self._before = scene.world.replicas.get(session.id, {})
        self._replicas = dict(self._before)

    @property
    def replicas(self) -> Mapping[str, ReplicaRecord]:
        """The session's replicas as far as they are planned, by id."""
        return self._replicas

    @property
    def moves(self) -> bool:
        """Whether replicas may be moved to other nodes."""
        return self._wanted()

    def advance(self) -> None:
        """Take the session and its replicas one step further, up to what waits for a place."""
        self._expire()
        self._step_all()
        if self.session.state is SessionState.ACTIVE:
            self._fail_or_fill()
        if self.session.state is SessionState.ENDING and (
            self._stored.state is SessionState.ACTIVE
        ):
            # What was decided in this pass takes effect in this pass.
            self._step_live()

    def let_in(self, gpu_type: str) -> None:
        """Let the session count against its account's quota from now on.

        Args:
            gpu_type: The type of GPUs that it keeps to; "" where that is left open.
        """
        session = self.session
        waited = session.status_reason == _QUOTA_LIMIT
        if session.reserved and not waited and gpu_type in ("", session.gpu_type):
            return
        self.session = replace(
            session,
            reserved=True,
            gpu_type=gpu_type or session.gpu_type,
            status_reason=None if waited else session.status_reason,
            status_message=None if waited else session.status_message,
        )

    def wait_for_nodes(self) -> None:
        """Take note that it is not the quota any more that the session waits for."""
        if self.session.status_reason == _QUOTA_LIMIT:
            self.session = replace(self.session, status_reason=None, status_message=None)

    def keep_out(self, message: str) -> None:
        """Let the session wait for its account's quota, and say what that lacks."""
        self.session = replace(
            self.session, reserved=False, status_reason=_QUOTA_LIMIT, status_message=message
        )

    def place(self, replica: ReplicaRecord, node: NodeRecord, gpus: tuple[str, ...]) -> None:
        """Start a waiting replica on a node, with GPUs that are its alone."""
        started = replica.moved(
            _P.STARTING,
            self._now,
            deadline=self._now + self._policy.start_limit,
            reason=Reason.NONE,
            message="",
        )
        self._replicas[replica.id] = replace(
            started,
            node=node.name,
            driver=node.driver,
            gpus=gpus,
            gpu_type=gpu_type_of(node, gpus),
        )
        self._plan.actions.append(StartReplica(replica.id, self.session.id, node.driver))
        self._plan.wake(started.deadline)
        if self.session.status == "Created":
            self.session = replace(self.session, status="Admitted")

    def look_again(self, at: float) -> None:
        """Leave a waiting replica as it is, up to a time: a node may answer before."""
        self._plan.wake(at)

    def wait(self, replica: ReplicaRecord, reason: Reason, message: str) -> None:
        """Let a replica wait for room, and say why."""
        if (reason, message) != (replica.reason, replica.message):
            self._replicas[replica.id] = replace(replica, reason=reason, message=message)
        before = self.predecessor(replica)
        if before is not None and (before.driver, before.node) in self._scene.draining:
            # There is no room to start the new one first.
            self._replicas[before.id] = retire_replica(
                before, self.session, self._scene, self._plan
            )

    def predecessor(self, replica: ReplicaRecord) -> ReplicaRecord | None:
        """Return the older replica at the same index that still runs, if there is one."""
        for other in self._replicas.values():
            if (
                other.index == replica.index
                and other.attempt < replica.attempt
                and other.phase in MOVABLE
            ):
                return other
        return None

    def successor(self, replica: ReplicaRecord) -> ReplicaRecord | None:
        """Return the newer replica at the same index that lives, if there is one."""
        for other in self._replicas.values():
            newer = other.index == replica.index and other.attempt > replica.attempt
            if newer and not other.phase.ended:
                return other
        return None

    def replace_elsewhere(self, replica: ReplicaRecord) -> None:
        """Make the replica that shall take the place of one that runs, on another node."""
        self.waiting.append(self._make(replica.index, replica.attempt + 1))

    def finish(self) -> None:
        """Put what changes into the plan."""
        if self.session.state is SessionState.ENDING:
            self._finish()
        self._prune()
        self._put()

    def _expire(self) -> None:
        session = self.session
        if session.state is not SessionState.ACTIVE or session.expires is None:
            return
        if session.expires > self._now:
            self._plan.wake(session.expires)
            return
        self.session = session.ending(
            self._now,
            ended_reason=Reason.SESSION_EXPIRED,
            status="Terminated",
            status_reason="SessionExpired",
            message="The session reached its expiry. Create a new one, with a later expiry.",
        )

    def _wanted(self) -> bool:
        return self.session.state is SessionState.ACTIVE and not self._scene.world.halting

    def _step_all(self) -> None:
        replaced = self._replaced()
        wanted = self._wanted()
        for replica in self._before.values():
            self._step(replica, wanted=wanted and replica.id not in replaced)
        if wanted and self._scene.world.failing:
            self._replace_failing()
        if not self.session.ever_ready and any(
            replica.ready_at is not None for replica in self._replicas.values()
        ):
            self.session = replace(self.session, ever_ready=True)

    def _replaced(self) -> frozenset[str]:
        """Return the replicas that others have taken the place of."""
        if len(self._before) <= self.session.desired:
            return _NONE
        ready: dict[int, int] = {}
        for replica in self._before.values():
            if replica.phase is _P.READY:
                ready[replica.index] = max(ready.get(replica.index, 0), replica.attempt)
        return frozenset(r.id for r in self._before.values() if r.attempt < ready.get(r.index, 0))

    def _replace_failing(self) -> None:
        """Let a replica end whose calls have failed for long, while others are healthy.

        One at a time, and never the last healthy one: the calls may be to blame.
        """
        failing, limit = self._scene.world.failing, self._policy.failing_limit
        ready = [r for r in self._replicas.values() if r.phase is _P.READY]
        found = [
            r
            for r in ready
            if (told := failing.get(r.id)) is not None
            and told.set_aside
            and told.told - told.since >= limit
        ]
        if not found or all(r.id in failing for r in ready) or self._ends_one_that_fails():
            return
        longest = min(found, key=lambda r: failing[r.id].since)
        message = failing_message(failing[longest.id])
        self._replicas[longest.id] = retire_failing(
            longest, self.session, self._scene, self._plan, message
        )

    def _ends_one_that_fails(self) -> bool:
        return any(
            r.reason is Reason.REPLICA_FAILING and not r.phase.ended
            for r in self._replicas.values()
        )

    def _step_live(self) -> None:
        for replica in list(self._replicas.values()):
            if not replica.phase.ended and replica.phase is not _P.STOPPING:
                self._step(replica, wanted=self._wanted())

    def _step(self, replica: ReplicaRecord, *, wanted: bool) -> None:
        self._replicas[replica.id] = step_replica(
            replica, self.session, self._scene, self._plan, wanted=wanted
        )

    def _fail_or_fill(self) -> None:
        latest = self._latest()
        for replica in latest.values():
            if self._is_final(replica):
                self._fail(replica)
                return
        if self._scene.world.halting:
            return
        held = gate(self.session.service, self._scene.world.models)
        for index in range(self.session.desired):
            last = latest.get(index)
            if last is not None and self._can_stay(last):
                continue
            if last is None or last.phase.ended:
                last = self._next(index, last)
            if last.phase is not _P.PENDING:
                continue
            if held is not None:
                if held.reason is Reason.FETCH_FAILED and not self.session.ever_ready:
                    self._fail_by_model(held)
                    return
                self._await_model(last, held)
            elif last.retry_at is not None and last.retry_at > self._now:
                self._plan.wake(last.retry_at)
            else:
                self.waiting.append(last)

    def _await_model(self, replica: ReplicaRecord, held: Gate) -> None:
        """Let a replica wait for the files of a model: it holds no place on a node meanwhile."""
        if (held.reason, held.message) != (replica.reason, replica.message):
            self._replicas[replica.id] = replace(replica, reason=held.reason, message=held.message)

    def _fail_by_model(self, held: Gate) -> None:
        """Fail: what the replicas wait for will never be there."""
        self.waiting.clear()
        for replica in self._replicas.values():
            if replica.phase is _P.PENDING:
                stopped = replica.moved(
                    _P.STOPPED, self._now, reason=held.reason, message=held.message
                )
                self._replicas[replica.id] = replace(stopped, removed=True)
        self.session = self.session.ending(
            self._now,
            ended_reason=Reason.SESSION_FAILED,
            status="Error",
            status_reason=held.reason.camel,
            message=model_failed_message(held.message, held.model),
            evidence={"reason": held.reason.value, "model": held.model},
        )

    def _can_stay(self, last: ReplicaRecord) -> bool:
        """Give up a move that has no reason any more: its node is not emptied after all."""
        before = self.predecessor(last)
        if before is None or (before.driver, before.node) in self._scene.draining:
            return False
        if last.phase is _P.PENDING:
            self._replicas[last.id] = step_replica(
                last, self.session, self._scene, self._plan, wanted=False
            )
        return True

    def _latest(self) -> dict[int, ReplicaRecord]:
        latest: dict[int, ReplicaRecord] = {}
        for replica in self._replicas.values():
            known = latest.get(replica.index)
            if known is None or replica.attempt > known.attempt:
                latest[replica.index] = replica
        return latest

    def _is_final(self, replica: ReplicaRecord) -> bool:
        if replica.phase is not _P.FAILED or replica.reason in BLAMELESS:
            return False
        if self.session.ever_ready:
            # Only people can bring that process back, and they do so soon or never.
            gone = replica.reason is Reason.MOCK_PROCESS_ENDED
            return gone and replica.failures + 1 >= self._policy.orphan_attempts
        return replica.failures + 1 >= self._policy.attempts_for(replica.reason)

    def _fail(self, replica: ReplicaRecord) -> None:
        self.session = self.session.ending(
            self._now,
            ended_reason=Reason.SESSION_FAILED,
            status="Error",
            status_reason=replica.reason.camel,
            message=failure_message(self.session, replica),
            evidence=evidence_of(replica),
        )
        # Its other replicas are given up in this pass: what was about to start does not.
        self._plan.actions = [
            action
            for action in self._plan.actions
            if not (isinstance(action, StartReplica) and action.session_id == self.session.id)
        ]

    def _next(self, index: int, last: ReplicaRecord | None) -> ReplicaRecord:
        """Make the replica that follows at an index."""
        if last is None:
            return self._make(index, 1)
        if last.phase is not _P.FAILED:
            return self._make(index, last.attempt + 1)
        if last.reason in BLAMELESS:
            return self._make(index, last.attempt + 1, failures=last.failures)
        since, policy = last.transition_at, self._policy
        fails = last.reason is Reason.REPLICA_FAILING
        long = policy.failing_stable_after if fails else policy.stable_after
        stable = last.ready_at is not None and since - last.ready_at >= long
        failures = 0 if stable else last.failures + 1
        if failures == 0:
            return self._make(index, last.attempt + 1)
        pause = policy.backoff(failures)
        self._replicas[last.id] = replace(last, retry_at=since + pause)
        made = self._make(index, last.attempt + 1, failures=failures, retry_at=since + pause)
        if failures < policy.crash_loop:
            return made
        message = crash_loop_message(last, failures, pause)
        looping = replace(made, reason=Reason.CRASH_LOOP, message=message)
        self._replicas[made.id] = looping
        return looping

    def _make(
        self, index: int, attempt: int, *, failures: int = 0, retry_at: float | None = None
    ) -> ReplicaRecord:
        replica = ReplicaRecord(
            id=self._new_id(),
            session_id=self.session.id,
            index=index,
            attempt=attempt,
            driver=self.session.driver,
            created_at=self._now,
            transition_at=self._now,
            retry_at=retry_at,
            failures=failures,
        )
        self._replicas[replica.id] = replica
        return replica

    def _finish(self) -> None:
        if all(r.phase.ended and r.removed for r in self._replicas.values()):
            self.session = self.session.ended()

    def _prune(self) -> None:
        """Keep the last few ended replicas of each index, so that a crash loop stays small."""
        by_index: dict[int, list[ReplicaRecord]] = {}
        for replica in self._replicas.values():
            if replica.phase.ended and replica.removed:
                by_index.setdefault(replica.index, []).append(replica)
        for ended in by_index.values():
            ended.sort(key=lambda r: r.attempt)
            for replica in ended[: -self._policy.kept_replicas]:
                self._plan.forgotten[replica.id] = self.session.id
                del self._replicas[replica.id]

    def _put(self) -> None:
        if self.session != self._stored:
            self._plan.sessions[self.session.id] = self.session
        for replica in self._replicas.values():
            if self._before.get(replica.id) != replica:
                self._plan.replicas[replica.id] = replica
